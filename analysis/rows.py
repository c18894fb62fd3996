"""The report's tables as rows of text: for the page and for a terminal."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from analysis import application
from analysis.findings import Findings, records
from analysis.regions import FEW
from analysis.words import plain, seconds, share


def target_rows(findings: Findings) -> list[list[str]]:
    return _call_rows("target", findings.targets)


def traffic_rows(findings: Findings) -> list[list[str]]:
    return _call_rows("traffic", findings.traffic)


def _call_rows(key: str, table: pd.DataFrame) -> list[list[str]]:
    head = [key, "calls", "ok", "429", "fail", "TTFT p50", "p95", "total p50", "p95", "tokens/min"]
    rows = [
        [
            f"{plain(row[key])} {'stream' if row['stream'] else 'whole'}",
            *(f"{row[count]:,}" for count in ("calls", "answered", "throttled", "failed")),
            *_times(row),
            "-" if row["tokens_per_minute"] is None else f"{row['tokens_per_minute']:,.0f}",
        ]
        for row in records(table)
    ]
    return [head, *rows]


def _times(row: dict[str, Any]) -> list[str]:
    return [seconds(row[name]) for name in ("ttft_p50", "ttft_p95", "duration_p50", "duration_p95")]


def due_rows(findings: Findings) -> list[list[str]]:
    quantiles = ("p50", "p90", "p95", "p99", "max")
    rows = [
        [row["mark"], f"{row['n']:,}", *(seconds(row[name]) for name in quantiles)]
        for row in records(findings.from_due)
    ]
    return [["after it was due", "n", *quantiles], *rows]


def application_rows(findings: Findings) -> list[list[str]]:
    head = [
        "application",
        "calls",
        "ok",
        "attempts",
        "hidden",
        "waited",
        "p50",
        "p95",
        "TTFT p50",
        "p95",
        "alone p50",
        "p95",
    ]
    if findings.view is None:
        return [head]
    times = ("waiting", "waiting_p50", "waiting_p95", "ttft_p50", "ttft_p95", "attempt_ttft_p50", "attempt_ttft_p95")
    rows = [
        [
            f"{plain(row['target'])} {'stream' if row['stream'] else 'whole'}",
            *(f"{row[count]:,}" for count in ("calls", "succeeded", "attempts", "hidden")),
            *(seconds(row[name]) for name in times),
        ]
        for row in records(application.by_target(findings.view))
    ]
    return [head, *rows]


def hidden_rows(findings: Findings) -> list[list[str]]:
    head = ["hidden by the SDK", "attempts", "Retry-After p50", "max"]
    if findings.view is None:
        return [head]
    rows = [
        [
            f"{plain(row['target'])}: {plain(row['reason'])}",
            f"{row['hidden']:,}",
            *(seconds(row[name]) for name in ("retry_after_p50", "retry_after_max")),
        ]
        for row in records(application.by_reason(findings.view))
    ]
    return [head, *rows]


def throttling_rows(findings: Findings) -> list[list[str]]:
    head = ["throttled by", "calls", "share", "first after", "Retry-After p50", "max"]
    rows = [
        [
            f"{plain(row['target'])}: {plain(row['cause'])}",
            f"{row['refused']:,}",
            share(row["refused"], row["calls"]),
            *(seconds(row[name]) for name in ("first", "retry_after_p50", "retry_after_max")),
        ]
        for row in records(findings.throttling)
    ]
    return [head, *rows]


def region_rows(findings: Findings) -> list[list[str]]:
    head = [
        f"region{f' (* under {FEW} calls)' if findings.regions['few'].any() else ''}",
        "way",
        "calls",
        "TTFT p50",
        "p95",
        "total p50",
        "p95",
    ]
    rows = [
        [f"{plain(row['region'])}{' *' if row['few'] else ''}", row["gateway"], f"{row['calls']:,}", *_times(row)]
        for row in records(findings.regions)
    ]
    return [head, *rows]


def token_rows(findings: Findings) -> list[list[str]]:
    head = ["token counts", "n", "exact", "mean diff", "largest"]
    rows = []
    for row in records(findings.tokens):
        if row["n"]:
            figures = [share(row["same"], row["n"]), f"{row['mean']:+.2f}", f"{row['largest']:,}"]
            rows.append([f"{row['of']} against {row['against']}", f"{row['n']:,}", *figures])
    return [head, *rows]


def lined_up(table: list[list[str]], most: int) -> list[str]:
    """Lined up, the first column to the left; what goes beyond `most` lines is counted."""
    shown = table[: most if len(table) <= most else most - 1]
    widths = [max(len(row[column]) for row in shown) for column in range(len(table[0]))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in shown)
    ]
    more = len(table) - len(shown)
    return [line.rstrip() for line in lines] + ([f"and {more} more, in the report"] if more else [])


# With their titles, in the order of the page.
TABLES: Sequence[tuple[str, Callable[[Findings], list[list[str]]]]] = (
    ("By target", target_rows),
    ("From when calls were due", due_rows),
    ("By class of traffic", traffic_rows),
    ("The application's view: by target", application_rows),
    ("The application's view: what the SDK hid", hidden_rows),
    ("Throttling", throttling_rows),
    ("Regions", region_rows),
    ("Token counts", token_rows),
)
