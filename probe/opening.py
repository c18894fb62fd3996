"""`probe open`: the sheet of a call that somebody else's tool has captured."""

import sys
from pathlib import Path
from typing import cast, get_args

import click

from probe.calling import say
from probe.capture import MAX_CAPTURE_BYTES, CaptureError, Opened, read_capture
from probe.look import checked_query
from probe.output import Form, Output
from probe.target import SettingsError

_EPILOG = """\b
Exit codes: 0 shown, 2 the file cannot be read or holds no such call, 130 interrupted."""
_NAMED = 12


@click.command("open", epilog=_EPILOG)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--entry", type=click.IntRange(1), help="which of its calls, from 1; by default the last of Azure OpenAI")
@click.option("-o", "--output", type=click.Choice(["text", *get_args(Form)]), default="text", help="as `probe` has it")
@click.option("--query", metavar="JMESPATH", help="of the call's record; printed as JSON, or as -o says")
def open_(file: Path, entry: int | None, output: str, query: str | None) -> None:
    """Show what FILE has captured: a HAR file, a raw HTTP response, or a line of a run's journal.

    \b
    probe open trace.har                          as browsers and Fiddler export it
    curl -si ... | probe open -                   a response with its head
    probe open results/RUN/calls-HOST-1.jsonl --entry 3
    """
    asked = checked_query(query)
    opened = read(file, entry)
    if opened.entries > 1:
        say(_said(opened))
    if output == "text" and asked is None:
        from rich.console import Console

        from probe.render import render_call

        render_call(opened.call, Console())
        return
    out = Output("json" if output == "text" else cast(Form, output), asked)
    out.add(opened.call)
    out.close()


def read(file: Path, entry: int | None = None) -> Opened:
    """Raises `SettingsError`."""
    stdin = str(file) == "-"
    try:
        if stdin:
            data = sys.stdin.buffer.read(MAX_CAPTURE_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(MAX_CAPTURE_BYTES + 1)
        return read_capture(data, "standard input" if stdin else file.name, entry)
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    except CaptureError as error:
        raise SettingsError(f"{file}: {error}") from None


def _said(opened: Opened) -> str:
    like = opened.like
    others = f", {', '.join(map(str, like[:_NAMED]))}{', ...' if len(like) > _NAMED else ''}" if len(like) > 1 else ""
    broken = f"; {opened.broken} cannot be read" if opened.broken else ""
    of = f"{len(like)} of its {opened.entries} entries look like calls of Azure OpenAI{others}"
    return f"showing entry {opened.entry}; {of}{broken}; --entry N shows another"
