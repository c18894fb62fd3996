"""The `probe` command: one look at a target's headers, as a person or as a script reads them.

Data goes to standard output, talk to standard error.

Looking is what `probe` does when no other command is named: `probe west` is `probe look west`, and the longer form
reaches a target that is named like a command. A command of another module is a line of `_ELSEWHERE`.

What a command needs is imported when it runs, so that `--help` and completion answer at once.
"""

import sys
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from probe.record import ObservedCall

_EPILOG = """\b
Exit codes: 0 answered, 2 a setting is wrong, 3 cannot reach the target, 4 refused (key, deployment, request),
5 a broken reply or server error, 6 throttled, 130 interrupted."""

_DEFAULT = "look"
# Where each command lives, and what `probe --help` says of it without importing it.
_ELSEWHERE: dict[str, tuple[str, str]] = {
    "access": ("probe.access:access", "how a target is protected, and a gate for pipelines"),
}


class _Probe(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_ELSEWHERE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, _, name = _ELSEWHERE[cmd_name][0].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in _ELSEWHERE or args[0] in self.commands)
        return super().parse_args(ctx, args if named else [_DEFAULT, *args])

    def invoke(self, ctx: click.Context) -> object:
        from probe.advice import EXIT_INTERRUPTED, EXIT_SETTINGS
        from probe.calling import say
        from probe.target import SettingsError

        try:
            return super().invoke(ctx)
        except SettingsError as error:
            say(str(error))
            sys.exit(EXIT_SETTINGS)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)


class _DefaultContext(click.Context):
    @property
    def command_path(self) -> str:
        return self.parent.command_path if self.parent else super().command_path


class _Look(click.Command):
    """The default command, which speaks of itself as `probe` and lists its sisters."""

    context_class = _DefaultContext

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        if _ELSEWHERE:
            with formatter.section("Commands"):
                formatter.write_dl([(name, meaning) for name, (_, meaning) in _ELSEWHERE.items()])


@click.group(cls=_Probe)
def probe() -> None:
    pass


@probe.command(
    _DEFAULT,
    cls=_Look,
    epilog=_EPILOG,
    context_settings={"auto_envvar_prefix": "HEADROOM_PROBE", "show_default": True},
)
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
    from probe.advice import advice, exit_code
    from probe.calling import choose, client_for, say, targets
    from probe.prompts import numbered

    prompt = numbered(1, input_tokens, max_tokens)
    with ExitStack() as stack:
        chosen = choose(targets(stack), target)
        client = client_for([chosen], timeout, stack)
        codes = []
        above = None
        for stream in (True, False):
            call = client.observe(chosen, prompt, stream=stream)
            _show(call, output, above)
            above = call
            if mend := advice(call, chosen):
                say(mend)
            codes.append(exit_code(call))
            if client.interrupt is not None:
                break
    sys.exit(max(codes))


def main() -> None:
    probe(prog_name="probe")


def _show(call: "ObservedCall", output: str, above: "ObservedCall | None") -> None:
    from probe.record import encode

    if output == "json":
        click.echo(encode(call))
        return
    from rich.console import Console

    from probe.render import render_call
    from probe.seen import remember

    if above is not None:
        click.echo()
    render_call(call, Console(), above=above, news=remember(call))
