"""The `probe` command: one look at a target's headers, as a person or as a script reads them.

Data goes to standard output, talk to standard error.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import click

from probe.advice import EXIT_INTERRUPTED, EXIT_SETTINGS, advice, exit_code
from probe.client import Client
from probe.identity import token_provider
from probe.prompts import numbered
from probe.record import ObservedCall, encode
from probe.request import TokenProvider
from probe.simulated import Simulator
from probe.target import SettingsError, Target, configured
from probe.transport import Timeouts

_EPILOG = """\b
Exit codes: 0 answered, 2 a setting is wrong, 3 cannot reach the target, 4 refused (key, deployment, request),
5 a broken reply or server error, 6 throttled, 130 interrupted."""


@click.command(epilog=_EPILOG, context_settings={"auto_envvar_prefix": "HEADROOM_PROBE", "show_default": True})
@click.argument("target", required=False)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: one record a call")
@click.option("--input-tokens", default=32, type=click.IntRange(8, 1_000_000), help="size of the prompt")
@click.option("--max-tokens", default=32, type=click.IntRange(1, 1_000_000), help="the most the answer may be")
@click.option("--timeout", default=60.0, type=click.FloatRange(0.1, 86_400), help="seconds after which to give up")
def look(target: str | None, output: str, input_tokens: int, max_tokens: int, timeout: float) -> NoReturn:
    """Make one streaming and one other call to TARGET and show every header that comes back.

    TARGET is a name from targets.toml; without it, the target of AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_API_KEY,
    AZURE_OPENAI_DEPLOYMENT and OPENAI_API_VERSION. Where none is configured, the simulator is started and called.

    \b
    probe                 the configured target, or the simulator
    probe apim            the target of this name
    probe -o json | jq    the records themselves
    """
    prompt = numbered(1, input_tokens, max_tokens)
    with ExitStack() as stack:
        try:
            chosen = _choose(_targets(stack), target)
            token = None if chosen.api_key is not None else token_provider()
        except SettingsError as error:
            _say(str(error))
            sys.exit(EXIT_SETTINGS)
        client = _client(timeout, token)
        stack.callback(client.close)
        codes = []
        for stream in (True, False):
            call = client.observe(chosen, prompt, stream=stream)
            _show(call, output)
            if mend := advice(call, chosen):
                _say(mend)
            codes.append(exit_code(call))
            if client.interrupt is not None:
                break
    sys.exit(max(codes))


def main() -> None:
    try:
        look()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _client(timeout: float, token: TokenProvider | None) -> Client:
    return Client(
        timeouts=Timeouts(connect=min(10.0, timeout), first_byte=timeout, idle=timeout, total=timeout), token=token
    )


def _targets(stack: ExitStack) -> dict[str, Target]:
    found = configured()
    if found:
        return found
    _say("no endpoint configured: starting the simulator (set AZURE_OPENAI_ENDPOINT to call a real one)")
    folder = stack.enter_context(TemporaryDirectory(prefix="headroom-"))
    simulator = Simulator(Path(folder))
    stack.callback(simulator.stop)
    return simulator.targets


def _choose(found: dict[str, Target], name: str | None) -> Target:
    if name is None:
        first, *others = found.values()
        if others:
            _say(f"calling {first.name}; also there: {', '.join(other.name for other in others)}")
        return first
    if name not in found:
        raise SettingsError(f"no target {name!r}; there are: {', '.join(found)}")
    return found[name]


def _show(call: ObservedCall, output: str) -> None:
    if output == "json":
        click.echo(encode(call))
        return
    from rich.console import Console

    from probe.render import render_call

    render_call(call, Console())


def _say(message: str) -> None:
    print(f"probe: {message}", file=sys.stderr, flush=True)
