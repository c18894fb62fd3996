"""`probe --sdk`: a call through the official SDK, as the application gets it, beside what went over the wire for it.

`with_raw_response` gives an application the status and the headers of the last try alone; a witness at the SDK's HTTP
client has them all (`probe.sdk`).
"""

from collections.abc import Iterator
from contextlib import ExitStack

from rich.console import Console

from probe.advice import EXIT_BROKEN, EXIT_OK
from probe.application import ApplicationCall, Attempt
from probe.calling import choose, targets
from probe.identity import sign_in
from probe.listing import show
from probe.sdk import SDKClient
from probe.settings import Asked


def look(name: str | None, asked: Asked, timeout: float) -> int:
    """Makes the calls, shows them, and returns the exit code. Raises `SettingsError`."""
    console = Console()
    with ExitStack() as stack:
        target = asked.of(choose(targets(stack), name))
        client = SDKClient(token=sign_in([target]), timeout=timeout)
        stack.callback(client.close)
        calls = []
        for stream in asked.streams():
            calls.append(client.observe(target, asked.what(), stream=stream))
            _show(console, calls[-1])
            if client.interrupt is not None:
                raise client.interrupt
    return EXIT_OK if all(call.succeeded for call in calls) else EXIT_BROKEN


def _show(console: Console, call: ApplicationCall) -> None:
    show(console, ("what the application gets", ""), _told(call))
    console.print()
    rows = ((str(number), *_try(one)) for number, one in enumerate(call.attempts, 1))
    show(console, ("try", "sent after, s", "took, s", "came to", "asked to wait", "headers"), rows)
    console.print()
    show(console, (), [("hidden", _hidden(call))])
    console.print()


def _told(call: ApplicationCall) -> Iterator[tuple[str, str]]:
    yield call.target, "streaming" if call.request_stream else "not streaming"
    yield "result", "an answer" if call.error_type is None else f"the exception {call.error_type}"
    yield "status_code", "none" if call.status_code is None else str(call.status_code)
    yield "headers", f"{len(call.attempts[-1].headers) if call.attempts else 0}, of the last try"
    yield "usage", f"{call.input_tokens} + {call.output_tokens} tokens" if call.input_tokens is not None else "none"
    yield "finish reasons", ", ".join(call.finish_reasons) or "none"
    if call.duration is not None:
        yield "took", f"{call.duration:.3f} s"


def _try(one: Attempt) -> tuple[str, str, str, str, str]:
    wait = "" if one.retry_after is None else f"{one.retry_after:g} s"
    came = one.error_type or str(one.status_code)
    return f"{one.start:.3f}", f"{one.duration:.3f}", came, wait, str(len(one.headers))


def _hidden(call: ApplicationCall) -> str:
    if not call.hidden:
        return "nothing: one try, and what came of it"
    names = {name.lower() for one in call.hidden for name, _ in one.headers}
    only = sorted(names - {name.lower() for name, _ in call.attempts[-1].headers})
    headers = f"; headers that only they had: {', '.join(only)}" if only else ""
    reasons = ", ".join(one.reason for one in call.hidden)
    return f"{len(call.hidden)} failed tries ({reasons}), {call.hidden_waiting:.2f} s of waiting between tries{headers}"
