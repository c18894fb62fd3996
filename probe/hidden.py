"""`probe --sdk`: what the official SDK's `with_raw_response` shows of a call, beside what went over the wire for it.

`with_raw_response` gives an application the status and the headers of the last try, and how many there were before it;
an exception gives not even that. A witness at the SDK's HTTP client has every try (`probe.sdk`).
"""

from collections.abc import Iterator
from contextlib import ExitStack

import click
import msgspec
from rich.console import Console

from probe.advice import EXIT_BROKEN, EXIT_OK, EXIT_REFUSED, EXIT_THROTTLED, EXIT_UNREACHABLE
from probe.application import ApplicationCall, Attempt
from probe.calling import agree, choose, patience, targets
from probe.escaping import json_printable
from probe.identity import sign_in
from probe.listing import show
from probe.look import Settings
from probe.sdk import TRIES, Given, SDKClient
from probe.target import SettingsError


def look(settings: Settings) -> int:
    """Makes the calls, shows them, and returns the exit code. Raises `SettingsError`."""
    if settings.output in ("table", "tsv") or settings.assertions:
        raise SettingsError("--sdk comes as text, or by -o json, jsonl, none and --query; it has nothing to assert")
    with ExitStack() as stack:
        asked = settings.asked
        target = asked.of(choose(targets(stack), settings.target))
        agree([(target, asked.what(), len(asked.streams()) * TRIES)], settings.yes)
        client = SDKClient(token=sign_in([target]), timeout=settings.timeout, raw=True)
        stack.callback(client.close)
        calls = []
        for stream in asked.streams():
            with patience(target, settings.timeout):
                calls.append(client.observe(target, asked.what(), stream=stream))
            _out(settings, calls[-1], client.given)
            if client.interrupt is not None:
                raise client.interrupt
    return max(map(_exit_code, calls))


def _exit_code(call: ApplicationCall) -> int:
    """As a look at the wire would end, by the status that the application was told of."""
    if call.succeeded:
        return EXIT_OK
    if call.status_code is None:
        return EXIT_UNREACHABLE
    if call.status_code == 429:
        return EXIT_THROTTLED
    return EXIT_REFUSED if 400 <= call.status_code < 500 else EXIT_BROKEN


def _out(settings: Settings, call: ApplicationCall, given: Given | None) -> None:
    if settings.output == "text" and settings.query is None:
        _show(Console(), call, given)
    elif settings.output != "none":
        both = {"call": call} if given is None else {"call": call, "with_raw_response": given}
        answer = both if settings.query is None else settings.query(msgspec.to_builtins(both))
        click.echo(json_printable(msgspec.json.encode(answer).decode()))


def _show(console: Console, call: ApplicationCall, given: Given | None) -> None:
    gives = "with_raw_response" if call.error_type is None else "the exception"
    streams = "streaming" if call.request_stream else "not streaming"
    show(console, (f"{call.target}, {streams}", gives, "the wire"), _beside(call, given))
    console.print()
    rows = ((str(number), *_try(one)) for number, one in enumerate(call.attempts, 1))
    show(console, ("try", "sent after, s", "took, s", "came to", "asked to wait", "headers"), rows)
    console.print()
    show(console, (), [("hidden", _hidden(call))])
    console.print()


_NOTHING = "not given"


def _beside(call: ApplicationCall, given: Given | None) -> Iterator[tuple[str, str, str]]:
    """Each thing as the SDK gives it, and as it was."""
    tries = call.attempts
    taken = None if given is None else given.retries_taken
    elapsed = None if given is None else given.elapsed
    yield "result", "an answer" if call.error_type is None else call.error_type, ", ".join(map(_came, tries))
    yield "status_code", _NOTHING if given is None else str(given.status_code), _each(one.status_code for one in tries)
    yield "retries_taken", _NOTHING if taken is None else str(taken), f"{len(tries)} sent"
    yield "headers", _NOTHING if given is None else str(len(given.headers)), _each(len(one.headers) for one in tries)
    yield "request_id", (given and given.request_id) or _NOTHING, _each(_id(one) for one in tries)
    whole = "" if call.duration is None else f"{call.duration:.3f} s, {call.hidden_waiting:.3f} s of it between tries"
    yield "elapsed", _NOTHING if elapsed is None else f"{elapsed:.3f} s", whole
    yield "usage", f"{call.input_tokens} + {call.output_tokens} tokens" if call.input_tokens is not None else "none", ""
    yield "finish_reason", ", ".join(call.finish_reasons) or "none", ""


def _each(values: Iterator[object]) -> str:
    return ", ".join("none" if value is None else str(value) for value in values)


def _id(one: Attempt) -> str | None:
    return next((value for name, value in one.headers if name.lower() == "x-request-id"), None)


def _came(one: Attempt) -> str:
    return one.error_type or str(one.status_code)


def _try(one: Attempt) -> tuple[str, str, str, str, str]:
    wait = "" if one.retry_after is None else f"{one.retry_after:g} s"
    return f"{one.start:.3f}", f"{one.duration:.3f}", _came(one), wait, str(len(one.headers))


def _hidden(call: ApplicationCall) -> str:
    if not call.hidden:
        return "nothing: one try, and what came of it"
    names = {name.lower() for one in call.hidden for name, _ in one.headers}
    only = sorted(names - {name.lower() for name, _ in call.attempts[-1].headers})
    headers = f"; headers that only they had: {', '.join(only)}" if only else ""
    reasons = ", ".join(one.reason for one in call.hidden)
    return f"{len(call.hidden)} failed tries ({reasons}), {call.hidden_waiting:.2f} s of waiting between tries{headers}"
