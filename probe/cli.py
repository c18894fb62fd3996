"""The `probe` command: one look at a target's headers, as a person or as a script reads them.

Data goes to standard output, talk to standard error.

Looking is what `probe` does when no other command is named: `probe west` is `probe look west`, and the longer form
reaches a target that is named like a command. A command of another module is a line of `_ELSEWHERE`.

What a command needs is imported when it runs, so that `--help` and completion answer at once.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from probe.options import trusting

if TYPE_CHECKING:
    from probe.look import Settings

_EPILOG = """\b
Exit codes: 0 answered, 2 a setting is wrong, 3 cannot reach the target, 4 refused (key, deployment, request),
5 a broken reply or server error, 6 throttled, 7 an assertion failed, 130 interrupted."""
_VS = "another target beside it, or it asked otherwise: streaming, not-streaming, key, entra"
_FORMS = ("text", "json", "jsonl", "table", "tsv", "none")

_DEFAULT = "look"
_FIRST_WORD = "headroom.first_word"
# Where each command lives, and what `probe --help` says of it without importing it.
_ELSEWHERE: dict[str, tuple[str, str]] = {
    "open": ("probe.opening:open_", "the sheet of a captured call: HAR, raw response, journal line"),
    "correlate": ("probe.correlate:correlate", "one call as the client and the diagnostic logs tell it"),
    "doctor": ("probe.doctor:doctor", "everything on the way to a target, with the remedy for what fails"),
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
        ctx.meta[_FIRST_WORD] = not args
        named = bool(args) and (args[0] in _ELSEWHERE or args[0] in self.commands)
        return super().parse_args(ctx, args if named else [_DEFAULT, *args])

    def invoke(self, ctx: click.Context) -> object:
        from probe.advice import EXIT_INTERRUPTED, EXIT_SETTINGS
        from probe.calling import say
        from probe.secrecy import guard
        from probe.target import SettingsError

        guard()
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
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (shown := option.get_help_record(ctx)) is not None:
                sections.setdefault(getattr(option, "section", _OUT), []).append(shown)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)
        if _ELSEWHERE:
            with formatter.section("Commands"):
                formatter.write_dl([(name, meaning) for name, (_, meaning) in _ELSEWHERE.items()])


_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Option(click.Option):
    """An option that says under which title of the help it stands."""

    def __init__(self, names: Sequence[str], section: str, **rest: Any) -> None:
        super().__init__(names, **rest)
        self.section = section


def _option(section: str, *names: str, **rest: Any) -> Callable[[_Function], _Function]:
    return click.option(*names, cls=_Option, section=section, **rest)


def _target_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """For the shell to complete. The first word can be a command as well."""
    from click.shell_completion import CompletionItem

    from probe.calling import complete

    commands = _ELSEWHERE if ctx.meta.get(_FIRST_WORD) and param.name == "target" else {}
    named = (CompletionItem(name, help=help_) for name, (_, help_) in commands.items() if name.startswith(incomplete))
    return [*map(CompletionItem, complete(ctx, param, incomplete)), *named]


@click.group(cls=_Probe)
def probe() -> None:
    pass


_ASK, _MODE, _OUT = "What is asked", "Instead of one look", "What comes out"


@probe.command(
    _DEFAULT,
    cls=_Look,
    epilog=_EPILOG,
    context_settings={"auto_envvar_prefix": "HEADROOM_PROBE", "show_default": True},
)
@click.argument("target", required=False, shell_complete=_target_names)
@_option(_ASK, "--deployment", help="another deployment than the target's")
@_option(_ASK, "--stream/--no-stream", default=None, help="streaming calls only, or none")
@_option(_ASK, "--prompt", help="a text to send; without it one of --input-tokens is made")
@_option(_ASK, "--input-tokens", default=32, type=click.IntRange(8, 1_000_000), help="size of the prompt")
@_option(_ASK, "--max-tokens", default=32, type=click.IntRange(1, 1_000_000), help="the most the answer may be")
@_option(
    _ASK,
    "-H",
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    allow_from_autoenv=False,
    help="a header to send besides",
)
@_option(_ASK, "--yes", is_flag=True, envvar="HEADROOM_YES", help="send to a real endpoint without asking")
@_option(_ASK, "--timeout", default=60.0, type=click.FloatRange(0.1, 86_400), help="seconds after which to give up")
@_option(_MODE, "--vs", metavar="TARGET", shell_complete=_target_names, help=_VS)
@_option(_MODE, "--pairs", default=6, type=click.IntRange(1, 1000), help="with --vs: calls of each side, in turn")
@_option(_MODE, "--watch", metavar="INTERVAL", help="look again every 2s, 500ms or 1m, with small calls, until q")
@_option(_MODE, "--looks", type=click.IntRange(1), help="with --watch: how many")
@_option(_MODE, "-i", "--interactive", is_flag=True, help="a prompt: change one thing, send again, see what changed")
@_option(_MODE, "--offline", is_flag=True, help="print the exact request, secrets masked, and send nothing")
@_option(_MODE, "--sdk", is_flag=True, help="call through the openai SDK, and show what it hides")
@_option(_MODE, "--curl", is_flag=True, help="print it as a curl command, and send nothing")
@_option(_OUT, "-o", "--output", type=click.Choice(_FORMS), default="text", help="json, jsonl: one record a call")
@_option(_OUT, "--query", metavar="JMESPATH", help="of each record; printed as JSON, or as -o says")
@_option(
    _OUT,
    "--assert",
    "assertions",
    multiple=True,
    metavar="EXPR",
    allow_from_autoenv=False,
    help="exit with 7 unless it holds; repeatable",
)
@trusting
def look(target: str | None, **options: Any) -> NoReturn:
    """Make one streaming and one other call to TARGET and show every header that comes back.

    \b
    probe                          the configured target, or the simulator
    probe apim                     the target of this name
    probe -o json | jq             the records themselves
    probe --assert 'status == 200 and h["x-ms-region"] == "Sweden Central"'

    TARGET is a name from targets.toml; without it, the target of AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_API_KEY,
    AZURE_OPENAI_DEPLOYMENT and OPENAI_API_VERSION. Where none is configured, the simulator is started and called.
    """
    from probe import look as looking

    _check_one_mode(options)
    settings = _settings(target, options)
    if options["interactive"]:
        from probe.interactive import interact

        sys.exit(interact(settings))
    if options["watch"] is not None:
        from probe.watch import interval, watch

        sys.exit(watch(_small(settings), interval(options["watch"]), options["looks"]))
    if options["vs"] is not None:
        from probe.side_by_side import versus

        sys.exit(versus(settings, options["vs"], options["pairs"]))
    if options["sdk"]:
        from probe import hidden

        sys.exit(hidden.look(settings))
    if options["offline"] or options["curl"]:
        sys.exit(looking.not_sent(settings, "curl" if options["curl"] else "request"))
    sys.exit(looking.look(settings))


def _check_one_mode(options: dict[str, Any]) -> None:
    """What is to be printed and not sent must never be sent because of another option."""
    modes = [name for name in ("vs", "watch", "interactive", "sdk", "offline", "curl") if options[name]]
    if len(modes) > 1:
        raise click.UsageError(f"one at a time: --{' or --'.join(modes)}")


def _settings(target: str | None, options: dict[str, Any]) -> "Settings":
    from probe.look import Settings, checked_assertion, checked_query
    from probe.settings import Asked, header

    asked = {name: options[name] for name in ("deployment", "prompt", "input_tokens", "max_tokens", "stream")}
    return Settings(
        target=target,
        asked=Asked(**asked, headers=tuple(header(text) for text in options["headers"])),
        output=options["output"],
        query=checked_query(options["query"]),
        assertions=tuple(checked_assertion(text) for text in options["assertions"]),
        timeout=options["timeout"],
        yes=options["yes"],
    )


def _small(settings: "Settings") -> "Settings":
    """With the smallest calls, where no size was asked for: they are many."""
    import msgspec

    given = click.get_current_context().get_parameter_source
    sizes = {"input_tokens": 8, "max_tokens": 8}
    small = {name: size for name, size in sizes.items() if given(name) == ParameterSource.DEFAULT}
    return msgspec.structs.replace(settings, asked=msgspec.structs.replace(settings.asked, **small))


def main() -> None:
    probe(prog_name="probe")
