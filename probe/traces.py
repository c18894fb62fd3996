"""Published traces of calls: when each arrived, and its tokens in and out.

Two forms are read, told apart by their columns: the Azure LLM inference traces' (`TIMESTAMP` is a time of day with a
date) and BurstGPT's (`Timestamp` is seconds; a call that failed has no response tokens).
"""

import csv
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from probe.target import SettingsError


class Row(NamedTuple):
    """A call of a trace: seconds after the trace's first, its sizes in tokens, and whether it streamed where that is
    known, which it is of no published trace."""

    at: float
    input_tokens: int
    output_tokens: int
    stream: bool | None = None


def _seconds(text: str) -> float:
    """Since 1970, in UTC where it names no zone; of a second's seven digits Python keeps six."""
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


class _Form(NamedTuple):
    at: str
    input_tokens: str
    output_tokens: str
    seconds: Callable[[str], float]


_FORMS = (
    _Form("TIMESTAMP", "ContextTokens", "GeneratedTokens", _seconds),
    _Form("Timestamp", "Request tokens", "Response tokens", float),
)


def read_trace(path: Path, seconds: float | None = None) -> list[Row]:
    """In order of arrival. With `seconds`, only the rows of that much time from the trace's start.

    Raises `SettingsError` that names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = _parse(path, csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"trace {path}: {getattr(error, 'strerror', None) or error}") from None
    if not rows:
        raise SettingsError(f"trace {path}: no rows in it")
    began = min(row.at for row in rows)
    relative = sorted(row._replace(at=round(row.at - began, 6)) for row in rows)
    return relative if seconds is None else [row for row in relative if row.at < seconds]


def is_trace(path: Path) -> bool:
    """Whether it is a table with a column of one of the two. What cannot be read is said by whoever reads it."""
    if path.suffix.lower() != ".csv" or path.is_dir():
        return False
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            columns = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return True
    return any(form.at in columns for form in _FORMS)


def _parse(path: Path, reader: "csv.DictReader[str]") -> list[Row]:
    form = _form(path, reader.fieldnames or ())
    rows = []
    for row in reader:
        try:
            rows.append(_row(form, row))
        except (TypeError, ValueError):
            raise SettingsError(f"trace {path}: line {reader.line_num} is not a time and two whole numbers") from None
    return rows


def _form(path: Path, columns: Collection[str]) -> _Form:
    for form in _FORMS:
        if form.at in columns:
            missing = [name for name in (form.input_tokens, form.output_tokens) if name not in columns]
            if not missing:
                return form
            raise SettingsError(f"trace {path}: no column {missing[0]}; a trace has {', '.join(form[:3])}")
    known = " or ".join(", ".join(form[:3]) for form in _FORMS)
    raise SettingsError(f"trace {path}: no column {_FORMS[0].at}; a trace has {known}")


def _row(form: _Form, row: Mapping[str, str]) -> Row:
    at = form.seconds(row[form.at])
    if not abs(at) < 1e12:
        raise ValueError(at)
    return Row(at, int(row[form.input_tokens]), int(row[form.output_tokens]))
