"""Calls as data for a script: `-o json|jsonl|table|tsv|none`, and `--query` as the Azure CLI has it.

    json, jsonl   one record a call, each on a line of its own and written as soon as the call has ended
    table         a row a call, in columns with titles, when all calls have ended
    tsv           the same without titles, with tabs between
    none          nothing: the exit code is the answer

A query is JMESPath over one record ("docs/record.md"), put to each call in turn. Without one, `table` and `tsv` show a
few figures of each call. Nothing printed can act on a terminal; JSON stays the same to whoever parses it.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import click
import msgspec

from probe.assertions import NAMES
from probe.escaping import json_printable, printable
from probe.record import ObservedCall, encode
from probe.target import SettingsError

Form = Literal["json", "jsonl", "table", "tsv", "none"]

_COLUMNS = """
    target stream status outcome region model headers_after ttft duration input_tokens output_tokens remaining_requests
    remaining_tokens utilisation
""".split()

Query = Callable[[Any], Any]


def query(expression: str) -> Query:
    """Raises `ValueError` where it is no JMESPath. What it gives raises `SettingsError` on a record it does not fit."""
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        compiled = jmespath.compile(expression)
    except JMESPathError as error:
        raise ValueError(f"not JMESPath: {str(error).splitlines()[0]}") from None

    def ask(record: Any) -> Any:
        try:
            return compiled.search(record)
        except JMESPathError as error:
            raise SettingsError(f"--query: {str(error).splitlines()[0]}") from None

    return ask


class Output:
    """Takes calls one by one; `close` writes what has to wait for the last. Raises what `ask` raises."""

    def __init__(self, form: Form, ask: Query | None) -> None:
        self._form = form
        self._ask = ask
        self._rows: list[dict[str, Any]] = []

    def add(self, call: ObservedCall) -> None:
        if self._form in ("json", "jsonl"):
            line = encode(call) if self._ask is None else msgspec.json.encode(self._answer(call))
            click.echo(json_printable(line.decode()))
        elif self._form in ("table", "tsv"):
            self._rows.extend(_rows(_figures(call) if self._ask is None else self._answer(call)))

    def close(self) -> None:
        titles = list(dict.fromkeys(title for row in self._rows for title in row))
        cells = [[_cell(row.get(title)) for title in titles] for row in self._rows]
        if self._form == "tsv":
            for row in cells:
                click.echo("\t".join(row))
        elif self._form == "table" and cells:
            for line in _table(titles, cells):
                click.echo(line)
        self._rows.clear()

    def _answer(self, call: ObservedCall) -> Any:
        assert self._ask is not None
        return self._ask(msgspec.json.decode(encode(call)))


def _figures(call: ObservedCall) -> dict[str, Any]:
    return {name: _short(NAMES[name][1](call)) for name in _COLUMNS}


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else round(value, 6)


def _rows(answer: Any) -> Iterable[dict[str, Any]]:
    """An object is a row; a list of objects several; any other list a row of its members; anything else one cell."""
    if isinstance(answer, dict):
        return [answer]
    if isinstance(answer, list) and answer and all(isinstance(one, dict) for one in answer):
        return answer
    members = answer if isinstance(answer, list) else [answer]
    return [{f"Column{number}": member for number, member in enumerate(members, 1)}]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return printable(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _table(titles: list[str], cells: list[list[str]]) -> Iterable[str]:
    from rich.cells import cell_len

    titles = [printable(title) for title in titles]
    widths = [max(map(cell_len, column)) for column in zip(titles, *cells, strict=True)]
    for row in (titles, ["-" * width for width in widths], *cells):
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()
