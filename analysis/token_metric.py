"""The tokens that a gateway's policy counted, as its metric in Application Insights has them, beside the run's usage.

Facts.  `llm-emit-token-metric` (and `azure-openai-emit-token-metric`) sends `Prompt Tokens`, `Completion Tokens` and
        `Total Tokens` with up to ten dimensions that the policy names. Application Insights has them in `customMetrics`
        (`name`, `valueSum`, `timestamp`, `customDimensions`), a workspace in `AppMetrics` (`Name`, `Sum`,
        `TimeGenerated`, `Properties`), a row for each minute and set of dimensions. No row names a call.
Here.   So only sums are compared: of the rows within a minute of the run against the calls through a gateway, in all
        and for each value of a dimension that is also a deployment, model, subscription, caller or target of these
        calls. Another client of the same gateway is in the metric and in no call of ours.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.log_shapes import (
    BYTE_ORDER_MARK,
    MOST_IN_A_DOCUMENT,
    UnreadableError,
    iso_time,
    opened,
    plain_name,
    table_rows,
)
from analysis.logs import LogsError

METRICS = {"Prompt Tokens": "prompt", "Completion Tokens": "completion", "Total Tokens": "total"}
# Of a call, what a policy may have put into a dimension.
_KNOWN_AS = ("request_model", "response_model", "subscription", "object_id", "target")
_A_MINUTE_NS = 60 * 10**9
_NEEDED = "a row has name, valueSum, timestamp and customDimensions (customMetrics), or Name, Sum, ... (AppMetrics)"
COLUMNS = (
    "dimension", "value", "metric", "metric_tokens", "usage_tokens", "difference", "calls", "without_usage", "known_as",
)  # fmt: skip


class Point(NamedTuple):
    """A row of the metric; `at` in Unix nanoseconds."""

    metric: str
    tokens: float
    at: int
    dimensions: dict[str, str]


class Metric(NamedTuple):
    """`left_out` rows are of a token metric and have no sum or no time that can be read."""

    points: list[Point]
    left_out: int


class Compared(NamedTuple):
    """`table` has `COLUMNS`: a row a metric in all (no dimension), and one a metric and value of a dimension. Tokens:
    `usage_tokens` is of the `calls` that say both input and output (NA where none is `known_as` that value), and
    `without_usage` calls were answered and are in no sum. `lines` are sentences."""

    table: pd.DataFrame
    lines: list[str]


def read_metric(paths: Iterable[Path]) -> Metric:
    """Of query results as JSON, lists of the Azure CLI, CSVs of the portal or lines of JSON. Raises `LogsError`."""
    points: list[Point] = []
    left_out = 0
    for path in paths:
        found = [_point(row) for row in _rows(path) if row.get("name") in METRICS]
        if not found:
            raise LogsError(f"--metric {path}: no token metric in it; {_NEEDED}")
        points += [point for point in found if point is not None]
        left_out += found.count(None)
    return Metric(points, left_out)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """With their columns' names in lower case, as both tables and the portal write them."""
    try:
        with opened(path) as file:
            data = file.read(MOST_IN_A_DOCUMENT + 1).removeprefix(BYTE_ORDER_MARK)
    except (OSError, UnreadableError) as error:
        raise LogsError(f"--metric {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MOST_IN_A_DOCUMENT:
        raise LogsError(f"--metric {path}: larger than {MOST_IN_A_DOCUMENT // 1024**2} MB")
    for row in _of_json(data) if data.lstrip().startswith((b"{", b"[")) else _of_csv(data):
        yield {plain_name(str(name)): value for name, value in row.items()}


def _of_json(data: bytes) -> Iterator[Mapping[str, Any]]:
    try:
        found = [json.loads(data)]
    except (ValueError, RecursionError):
        found = [json.loads(line) for line in data.splitlines() if _is_json(line)]
    for one in found:
        tables = one.get("tables") if isinstance(one, dict) else None
        listed = [row for table in tables for row in table_rows(table)] if isinstance(tables, list) else one
        yield from (row for row in (listed if isinstance(listed, list) else [listed]) if isinstance(row, dict))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _of_csv(data: bytes) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(MOST_IN_A_DOCUMENT)
    yield from csv.DictReader(io.StringIO(data.decode("utf-8", "replace"), newline=""))


def _point(row: Mapping[str, Any]) -> Point | None:
    try:
        tokens = float(next(row[name] for name in ("valuesum", "sum", "value") if row.get(name) not in (None, "")))
        written = str(next(row[name] for name in ("timestamp", "timegenerated", "time") if row.get(name)))
        # Where AM and PM are in capitals the month comes first.
        at = datetime.fromisoformat(iso_time(written, False if written.endswith("M") else None) or "")
    except (StopIteration, ValueError, TypeError):
        return None
    told = row.get("customdimensions") or row.get("properties") or {}
    try:
        dimensions = json.loads(told) if isinstance(told, str) else told
    except ValueError:
        return None
    if not isinstance(dimensions, dict):
        return None
    said = {str(name): str(value) for name, value in dimensions.items() if value not in (None, "")}
    nanoseconds = pd.Timestamp(at if at.tzinfo else f"{at.isoformat()}Z").value
    return Point(METRICS[row["name"]], tokens, nanoseconds, said)


def hold_against(metric: Metric, calls: pd.DataFrame) -> Compared:
    """`calls` are those through a gateway, with `start_time_unix_nano`, `duration`, `measured_input`, `measured_output`
    and what they may be known as."""
    points = _within(metric.points, calls)
    told = _compare({}, points, calls)
    for dimension in sorted({name for point in points for name in point.dimensions}):
        values = {point.dimensions[dimension] for point in points if dimension in point.dimensions}
        column = _known_as(values, calls)
        for value in sorted(values):
            part = [point for point in points if point.dimensions.get(dimension) == value]
            about = {"dimension": dimension, "value": value, "known_as": column}
            told += _compare(about, part, calls[calls[column] == value] if column else None)
    return Compared(pd.DataFrame(told, columns=COLUMNS), _lines(told, metric.left_out))


def _within(points: list[Point], calls: pd.DataFrame) -> list[Point]:
    """Of the run's time; a row has the time at which its minute began, or ended."""
    if calls.empty:
        return []
    starts = calls["start_time_unix_nano"].astype("int64")
    last = int((starts + (calls["duration"].fillna(0).astype("float64") * 1e9).astype("int64")).max())
    first = int(starts.min()) - _A_MINUTE_NS
    return [point for point in points if first <= point.at <= last + _A_MINUTE_NS]


def _known_as(values: set[str], calls: pd.DataFrame) -> str | None:
    """The column that has most of the values."""
    hits = {name: len(values & set(calls[name].dropna().astype(str))) for name in _KNOWN_AS if name in calls}
    best = max(hits, key=lambda name: hits[name], default=None)
    return best if best is not None and hits[best] else None


def _compare(about: dict[str, Any], points: list[Point], calls: pd.DataFrame | None) -> list[dict[str, Any]]:
    sums: dict[str, float] = {}
    for point in points:
        sums[point.metric] = sums.get(point.metric, 0) + point.tokens
    said = [{**about, "metric": metric, "metric_tokens": round(tokens)} for metric, tokens in sorted(sums.items())]
    if calls is None or calls.empty:
        return said
    known = calls[calls["measured_input"].notna() & calls["measured_output"].notna()]
    bare = int((calls["group"] == "answered").sum() - (known["group"] == "answered").sum())
    usage = {"prompt": int(known["measured_input"].sum()), "completion": int(known["measured_output"].sum())}
    usage["total"] = usage["prompt"] + usage["completion"]
    for row in said:
        ours = usage[row["metric"]]
        row |= {"usage_tokens": ours, "difference": row["metric_tokens"] - ours}
        row |= {"calls": len(known), "without_usage": bare}
    return said


def _lines(rows: list[dict[str, Any]], left_out: int) -> list[str]:
    said = [
        f"The gateway's token metric has {row['metric_tokens']:,} {row['metric']} tokens of the run's time, the usage"
        f" of {row['calls']:,} calls through it {row['usage_tokens']:,}: {row['difference']:+,}."
        for row in rows
        if "dimension" not in row
    ]
    if not rows:
        said.append("No row of the gateway's token metric is of the time of calls through a gateway.")
    if left_out:
        said.append(f"{left_out:,} rows of the metric were left out: no sum, or no time that can be read.")
    return said
