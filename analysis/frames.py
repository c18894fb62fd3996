"""From DuckDB to pandas, so that a million rows fit and whole numbers stay whole."""

from typing import Any

import duckdb
import numpy as np
import pandas as pd

# Of these a column of text has so few that its values are kept once.
_FEW_VALUES = 1000


def frame(database: duckdb.DuckDBPyConnection, table: str, order_by: str | None = None) -> pd.DataFrame:
    """A table as a frame: text is `str`, whole numbers `Int64`, flags `boolean`, the rest float64 or objects.

    Text of few values is one object a value, not one a row, which saves some 70 bytes a cell.
    """
    kinds = {name: kind for name, kind, *_ in database.execute(f'DESCRIBE "{table}"').fetchall()}
    few = _few_valued(database, table, [name for name, kind in kinds.items() if kind == "VARCHAR"])
    for number, name in enumerate(few):
        values = f'SELECT DISTINCT "{name}" FROM "{table}" WHERE "{name}" IS NOT NULL ORDER BY 1'
        database.execute(f'CREATE OR REPLACE TEMP TYPE "values_{number}" AS ENUM ({values})')
    shared = {name: f'"{name}"::"values_{number}" AS "{name}"' for number, name in enumerate(few)}
    selected = ", ".join(shared.get(name, f'"{name}"') for name in kinds)
    found = database.execute(f'SELECT {selected} FROM "{table}"').fetchnumpy()
    # One column after the other: sorted as a whole, the table would be in memory twice.
    order = slice(None) if order_by is None else np.argsort(found[order_by], kind="stable")
    return pd.DataFrame({name: _typed(found.pop(name)[order], kinds[name]) for name in kinds}, copy=False)


def _few_valued(database: duckdb.DuckDBPyConnection, table: str, names: list[str]) -> list[str]:
    """Columns with a value, and with few: an ENUM cannot be empty."""
    if not names:
        return []
    counts = ", ".join(f'approx_count_distinct("{name}")' for name in names)
    found = database.execute(f'SELECT {counts} FROM "{table}"').fetchone()
    return [name for name, count in zip(names, found or (), strict=True) if 0 < count < _FEW_VALUES]


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
