"""The plain look: a streaming call and another one, shown to a person or handed to a script."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Literal

import click
import msgspec

from probe.advice import EXIT_EXPECTATION, EXIT_INTERRUPTED, EXIT_OK, advice, exit_code
from probe.assertions import Assertion
from probe.calling import agree, choose, client_for, patience, say, targets
from probe.client import Client
from probe.escaping import printable
from probe.output import Form, Output, Query
from probe.record import ObservedCall
from probe.settings import Asked
from probe.target import SettingsError, Target


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said, apart from the mode."""

    target: str | None
    asked: Asked
    output: Form | Literal["text"]
    query: Query | None
    assertions: tuple[Assertion, ...]
    timeout: float
    yes: bool = False


def look(settings: Settings) -> int:
    """Makes the calls, shows them, and returns the exit code. Raises `SettingsError`."""
    with ExitStack() as stack:
        target = settings.asked.of(choose(targets(stack), settings.target))
        agree([(target, settings.asked.what(), len(settings.asked.streams()))], settings.yes)
        client = client_for([target], settings.timeout, stack)
        screen = shown_by(settings)
        calls = []
        for call in made(client, target, settings):
            screen.add(call)
            if mend := advice(call, target):
                say(mend)
            calls.append(call)
        screen.close()
    return judged(calls, settings.assertions)


def made(client: Client, target: Target, settings: Settings) -> Iterator[ObservedCall]:
    """A call of each kind that is asked for, until one is interrupted."""
    for stream in settings.asked.streams():
        with patience(target, settings.timeout):
            call = client.observe(target, settings.asked.what(), stream=stream)
        yield call
        if client.interrupt is not None:
            return


def not_sent(settings: Settings, form: Literal["request", "curl"]) -> int:
    """Prints the calls instead of making them."""
    from probe.offline import curl, request_text

    with ExitStack() as stack:
        target = settings.asked.of(choose(targets(stack), settings.target))
        shown = request_text if form == "request" else curl
        prompt = settings.asked.what()
        click.echo("\n\n".join(shown(target, prompt, stream=stream) for stream in settings.asked.streams()))
    return EXIT_OK


class Screen:
    """Sheets on the terminal, one after the other, as calls come in."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console()
        self._above: ObservedCall | None = None

    def add(self, call: ObservedCall) -> None:
        from probe.render import render_call
        from probe.seen import remember

        if self._above is not None:
            click.echo()
        render_call(call, self._console, above=self._above, news=remember(call))
        self._above = call

    def close(self) -> None:
        pass


def shown_by(settings: Settings) -> Screen | Output:
    if settings.output == "text":
        return Screen() if settings.query is None else Output("json", settings.query)
    return Output(settings.output, settings.query)


def judged(calls: Sequence[ObservedCall], assertions: Sequence[Assertion]) -> int:
    """The exit code of these calls. With assertions they alone decide, unless the user broke off."""
    codes = [exit_code(call) for call in calls]
    if EXIT_INTERRUPTED in codes or not assertions:
        return max(codes)
    failed = [line for assertion in assertions for line in _failures(assertion, calls)]
    for line in failed:
        say(f"assertion failed: {line}")
    return EXIT_EXPECTATION if failed else EXIT_OK


def _failures(assertion: Assertion, calls: Sequence[ObservedCall]) -> Iterator[str]:
    """A line for each call that it does not hold for, with what was there instead."""
    judging = [call for call in calls if assertion.applies_to(call)]
    if not judging:
        yield f"{printable(assertion.text)}: no call streamed"
    for call in judging:
        verdict = assertion.judge(call)
        if not verdict.held:
            values = ", ".join(f"{name} was {_shown(value)}" for name, value in verdict.values.items())
            problem = f" ({verdict.problem})" if verdict.problem and "observed" not in verdict.problem else ""
            kind = "streaming" if call.request_stream else "not streaming"
            yield printable(f"{assertion.text}: {call.target}, {kind}: {values}{problem}")


def _shown(value: object) -> str:
    if value is None:
        return "not observed"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def checked_query(text: str | None) -> Query | None:
    from probe.output import query

    try:
        return None if text is None else query(text)
    except ValueError as error:
        raise SettingsError(f"--query {text!r}: {error}") from None


def checked_assertion(text: str) -> Assertion:
    try:
        return Assertion(text)
    except ValueError as error:
        raise SettingsError(f"--assert {text!r}: {error}") from None
