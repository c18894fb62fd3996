"""How every `analysis` command prints its result: tables and sentences as text, as Markdown, or as JSON.

What came from a server or a file is shown with what could act on a terminal or a page escaped. JSON has the values
themselves: numbers unrounded, null for what is not known.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd
from rich.cells import cell_len

from probe.escaping import printable

Output = Literal["json", "table", "md"]


class Table(NamedTuple):
    """`frame` in the order of its columns; `said` is what a table of no rows means."""

    title: str
    frame: pd.DataFrame
    said: str


class Result(NamedTuple):
    """`lines` are sentences for a person, `facts` the same for a script; both come before the tables, by their key."""

    lines: list[str]
    facts: Mapping[str, Any]
    tables: Mapping[str, Table]


def with_gaps(result: Result, gaps: list[str]) -> Result:
    """With what could not be read of the calls that it is of."""
    return result._replace(lines=[*result.lines, *gaps], facts={**result.facts, "gaps": gaps})


def render(result: Result, output: Output) -> str:
    if output == "json":
        return _json(as_json(result))
    lines = [printable(line) for line in result.lines]
    said = "\n".join(lines if output == "table" else [f"- {escaped(line)}" for line in lines])
    return "\n\n".join(part for part in (said, *(_section(table, output) for table in result.tables.values())) if part)


def render_runs(results: Sequence[tuple[str, Result]], output: Output) -> str:
    """Of runs and their results; as JSON one object, which names its `run`, or a list of them for several."""
    if output == "json":
        found = [{"run": name, **as_json(result)} for name, result in results]
        return _json(found[0] if len(found) == 1 else found)
    if len(results) == 1:
        return render(results[0][1], output)
    mark = "## " if output == "md" else ""
    return "\n\n".join(f"{mark}{printable(name)}\n\n{render(result, output)}" for name, result in results)


def _json(value: Any) -> str:
    # Python leaves DEL as it is.
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")


def as_json(result: Result) -> dict[str, Any]:
    return {
        **{key: plain(value) for key, value in result.facts.items()},
        **{key: records(table.frame) for key, table in result.tables.items()},
    }


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(name): plain(value) for name, value in zip(frame.columns, row, strict=True)}
        for row in frame.itertuples(index=False, name=None)
    ]


def plain(value: Any) -> Any:
    """As JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _section(table: Table, output: Output) -> str:
    title = f"### {table.title}" if output == "md" else table.title
    if table.frame.empty:
        return f"{title}\n\n{table.said}" if output == "md" else f"{title}: {table.said}"
    header = [str(name).replace("_", " ") for name in table.frame.columns]
    rows = [[_cell(value) for value in row] for row in table.frame.itertuples(index=False, name=None)]
    return f"{title}\n\n{_LAYOUTS[output](header, rows)}"


def _cell(value: Any) -> str:
    value = plain(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_cell(one) for one in value)
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def _aligned(header: list[str], rows: list[list[str]]) -> str:
    """Numbers to the right, words to the left."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    right = [all(_is_number(cell) for cell in column[1:]) for column in columns]

    def line(cells: Iterable[str]) -> str:
        gaps = (" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
        padded = (gap + cell if number else cell + gap for cell, gap, number in zip(cells, gaps, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join(["  " + line(header), *("  " + line(row) for row in rows)])


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").lstrip("-+")[:1].isdigit()


def markdown(header: list[str], rows: list[list[str]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(escaped(cell) for cell in cells) + " |"

    return "\n".join([line(header), "|" + " --- |" * len(header), *map(line, rows)])


def escaped(cell: str) -> str:
    """Of what Markdown would take for markup, HTML included."""
    return "".join(f"\\{character}" if character in r"\|`*_[]<>#&!" else character for character in cell)


_LAYOUTS: Mapping[Output, Callable[[list[str], list[list[str]]], str]] = {"table": _aligned, "md": markdown}
