"""From DuckDB to pandas, so that a million rows fit and whole numbers stay whole."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
import pandas as pd

# Of these a column of text has so few that its values are kept once.
_FEW_VALUES = 1000
# A table of fewer rows is no matter of memory, and what saves it takes time.
_MANY_ROWS = 2000
_BLOCK = 64 * 1024
# `read_json` takes twice the longest line that it is told of, for each thread.
_USUAL_LINE = 8 * 2**20
_MEMORY = 576 * 2**20
# What a file that cannot be read comes to; a line beyond all measure is invalid input.
UNREADABLE = (duckdb.IOException, duckdb.InvalidInputException, duckdb.OutOfMemoryException)


def keep_small(database: duckdb.DuckDBPyConnection, folder: Path, largest: int) -> None:
    """What does not fit into memory beside lines of up to `largest` bytes goes to files in `folder`."""
    memory = _MEMORY + 4 * largest * (os.cpu_count() or 1)
    database.execute(f"SET temp_directory = '{folder}/spill'; SET memory_limit = '{memory}B'")


def largest_object(files: Iterable[Path], at_most: int) -> int:
    """The `maximum_object_size` of files of lines, in bytes: what is usual, or `at_most` where a line may be longer."""
    return _USUAL_LINE if all(_is_usual(file) for file in files) else at_most


def read_lines(files: Iterable[Path], columns: Mapping[str, str], largest: int = _USUAL_LINE) -> str:
    """What a query can select from: files of lines, one at least, with these keys of each and their SQL types, and
    `filename`. What is no JSON, or of another type, is NULL; no line is longer than `largest` bytes."""
    names = ", ".join(map(file_in_sql, files))
    typed = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
    return (
        f"read_json([{names}], format = 'newline_delimited', ignore_errors = true, columns = {{{typed}}},"
        f" maximum_object_size = {largest}, compression = 'uncompressed', filename = true,"
        # A storage account's folders are called `resourceId=...`.
        " hive_partitioning = false)"
    )


def file_in_sql(path: Path) -> str:
    """As a literal that names this file alone: DuckDB takes `*`, `?` and `[` for a pattern, and would read another."""
    name = re.sub(r"[*?[]", r"[\g<0>]", str(path)).replace("'", "''")
    return f"'{name}'"


def _is_usual(file: Path) -> bool:
    """Where every part of half the length has the end of a line in it, none is longer."""
    part = _USUAL_LINE // 2
    with file.open("rb") as content:
        return all(_ends_within(content, start, part) for start in range(0, file.stat().st_size - part, part))


def _ends_within(content: IO[bytes], start: int, part: int) -> bool:
    content.seek(start)
    return any(b"\n" in content.read(_BLOCK) for _ in range(0, part, _BLOCK))


def frame(database: duckdb.DuckDBPyConnection, table: str, order_by: str | None = None) -> pd.DataFrame:
    """A table as a frame: text is `str`, whole numbers `Int64`, flags `boolean`, the rest float64 or objects.

    Text of few values is one object a value, not one a row, which saves some 70 bytes a cell.
    """
    kinds = {name: kind for name, kind, *_ in database.execute(f'DESCRIBE "{table}"').fetchall()}
    (rows,) = database.execute(f'SELECT count(*) FROM "{table}"').fetchone() or (0,)
    is_long = rows >= _MANY_ROWS
    counts = _distinct(database, table, [name for name, kind in kinds.items() if is_long and kind == "VARCHAR"])
    few = [name for name, count in counts.items() if 0 < count < _FEW_VALUES]
    for number, name in enumerate(few):
        values = f'SELECT DISTINCT "{name}" FROM "{table}" WHERE "{name}" IS NOT NULL ORDER BY 1'
        database.execute(f'CREATE OR REPLACE TEMP TYPE "values_{number}" AS ENUM ({values})')
    shared = {name: f'"{name}"::"values_{number}" AS "{name}"' for number, name in enumerate(few)}
    selected = [shared.get(name, f'"{name}"') for name in kinds]
    order = slice(None) if order_by is None else _order(database, table, order_by)
    # One column after the other, where it is long: as a whole, the table would be in memory twice.
    parts = [[one] for one in selected] if is_long else [selected]
    columns = {
        name: _nothing(rows) if counts.get(name) == 0 else _typed(values[order], kinds[name])
        for part in parts
        for name, values in _fetched(database, table, part).items()
    }
    return pd.DataFrame(columns, copy=False)


def _order(database: duckdb.DuckDBPyConnection, table: str, by: str) -> Any:
    return np.argsort(_fetched(database, table, [f'"{by}"'])[by], kind="stable")


def _fetched(database: duckdb.DuckDBPyConnection, table: str, selected: list[str]) -> dict[str, Any]:
    return database.execute(f'SELECT {", ".join(selected)} FROM "{table}"').fetchnumpy()


def _distinct(database: duckdb.DuckDBPyConnection, table: str, names: list[str]) -> dict[str, int]:
    """About how many values each column has; 0 where it has none."""
    if not names:
        return {}
    counts = ", ".join(f'approx_count_distinct("{name}")' for name in names)
    found = database.execute(f'SELECT {counts} FROM "{table}"').fetchone()
    return dict(zip(names, found or (), strict=True))


def _nothing(rows: int) -> Any:
    """To look at each of so many NULLs for whether it is text takes long."""
    return pd.array([pd.NA], "str").take(np.zeros(rows, dtype="intp"))


def _typed(values: Any, kind: str) -> Any:
    mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    plain = np.asarray(values)
    if kind in ("VARCHAR", "JSON"):
        return pd.Series(plain if mask is None else np.where(mask, np.nan, plain), dtype="str")
    if kind == "BIGINT":
        return pd.arrays.IntegerArray(plain.astype("int64"), np.zeros(len(plain), bool) if mask is None else mask)
    if kind == "BOOLEAN":
        return pd.arrays.BooleanArray(plain.astype(bool), np.zeros(len(plain), bool) if mask is None else mask)
    return plain if mask is None else np.where(mask, np.nan, plain)
