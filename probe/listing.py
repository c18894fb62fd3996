"""A few rows for a person: columns that fold where the terminal is narrow, a verdict in colour, nothing lost."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest

from rich.console import Console
from rich.table import Table
from rich.text import Text

from probe.escaping import printable

STYLES = {
    "ok": "green",
    "pass": "green",
    "warn": "yellow",
    "unknown": "yellow",
    "fail": "bold red",
    "skipped": "dim",
    "told": "dim",
}


def show(console: Console, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A cell that is a verdict gets its colour. The last column takes the room that is left."""
    shown = list(rows)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False, show_header=bool(heads))
    for head, _ in zip_longest(heads, shown[0] if shown else ()):
        table.add_column(head or "", overflow="fold")
    if table.columns:
        table.columns[-1].ratio = 1
    ascii_only = console.options.ascii_only
    for row in shown:
        table.add_row(*(Text(printable(cell, ascii_only), STYLES.get(cell.strip(), "")) for cell in row))
    console.print(table)
