"""Options that every command of the probe has which calls a target: where it may call, and whom it trusts."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_GIVEN = "headroom.trust"


class _Option(click.Option):
    section = "Where it may go"


class Given:
    """What the command line said. `environ` are the same settings as variables, over which it wins."""

    def __init__(self) -> None:
        self.environ: dict[str, str] = {}
        self.verified = True


def given() -> Given:
    """Of the command that runs."""
    context = click.get_current_context(silent=True)
    return Given() if context is None else context.meta.setdefault(_GIVEN, Given())


def trusting(command: Command) -> Command:
    """Adds the options; their values go round the command, to `probe.calling.targets`."""
    options = (
        click.option(
            "--allow-host",
            cls=_Option,
            metavar="NAME",
            multiple=True,
            expose_value=False,
            callback=lambda _, __, names: _set("HEADROOM_ALLOW_HOST", ",".join(names)),
            help="a host of yours that may get the key, besides Azure's; *.NAME for those under it",
        ),
        click.option(
            "--ca-bundle",
            cls=_Option,
            metavar="FILE",
            expose_value=False,
            callback=lambda _, __, path: _set("HEADROOM_CA_BUNDLE", path),
            help="certificates of authorities to trust besides the system's",
        ),
        click.option(
            "--insecure-skip-verify",
            cls=_Option,
            is_flag=True,
            expose_value=False,
            allow_from_autoenv=False,
            callback=lambda _, __, skip: setattr(given(), "verified", not skip),
            help="do not verify certificates; never with a key that matters",
        ),
        click.option(
            "--api-key", "--token", expose_value=False, hidden=True, allow_from_autoenv=False, callback=_refuse
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _set(variable: str, value: str | None) -> None:
    if value:
        given().environ[variable] = value


def _refuse(_: object, __: object, value: str | None) -> None:
    if value is None:
        return None
    from probe.errors import SettingsError
    from probe.hosts import NO_KEY

    raise SettingsError(NO_KEY)
