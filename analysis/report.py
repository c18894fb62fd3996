"""A run's report: what it found as one object, and that as text, as JSON and as one HTML file that needs no network.

The HTML has no script, and a content security policy that allows none; figures are images inside it, so that nothing a
server sent can act in it.
"""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import plots
from analysis.logs import Logs, read_logs
from analysis.outcomes import GROUPS, by_target, by_traffic, lateness, tokens_per_minute
from analysis.regions import by_region
from analysis.runs import Run
from analysis.stats import quantile
from analysis.throttling import by_cause
from analysis.tokens import Coverage, differences, estimates, join


class Findings(NamedTuple):
    """Tables as their modules give them; `coverage` is None where no logs were given."""

    run: Run
    counts: dict[str, int]
    tokens_per_minute: dict[str, float]
    late_p99: float | None
    targets: pd.DataFrame
    traffic: pd.DataFrame
    throttling: pd.DataFrame
    regions: pd.DataFrame
    tokens: pd.DataFrame
    joined: pd.DataFrame
    logs: Logs
    coverage: Coverage | None


def analyse(run: Run, log_folders: list[Path]) -> Findings:
    calls = run.calls
    logs = read_logs(log_folders)
    joined, coverage = join(calls.join(estimates(calls)), logs.table)
    if not logs.table.empty:
        # The checks before the load are in the logs too.
        known = run.preflight["service_request_id"]
        coverage = coverage._replace(only_log=coverage.only_log - int(logs.table["correlation_id"].isin(known).sum()))
    return Findings(
        run=run,
        counts={"calls": len(calls)} | {name: int((calls["group"] == name).sum()) for name in GROUPS},
        tokens_per_minute=tokens_per_minute(calls, run.seconds),
        late_p99=quantile(lateness(calls), 0.99),
        targets=by_target(calls),
        traffic=by_traffic(calls),
        throttling=by_cause(calls),
        regions=by_region(calls),
        tokens=differences(joined),
        joined=joined,
        logs=logs,
        coverage=coverage if log_folders else None,
    )


def verdict(findings: Findings) -> str:
    counts = findings.counts
    calls = counts["calls"]
    if not calls:
        return "No calls: nothing was sent, or nothing could be read."
    if not counts["answered"] and counts["throttled"] == calls:
        return f"Nothing held: all {calls:,} calls were throttled."
    if not counts["answered"]:
        return f"Nothing held: none of {calls:,} calls was answered; most came to {_commonest(findings)}."
    parts = [f"{counts['answered'] / calls:.1%} of {calls:,} calls were answered"]
    if counts["throttled"]:
        first = float(findings.throttling["first"].min())
        parts.append(f"{counts['throttled'] / calls:.1%} throttled, the first after {first:.0f} s")
    if counts["failed"]:
        parts.append(f"{counts['failed'] / calls:.1%} failed, mostly as {_commonest(findings)}")
    held = "It held" if counts["answered"] == calls - counts["cancelled"] else "It did not hold"
    return f"{held}: {'; '.join(parts)}."


def _commonest(findings: Findings) -> str:
    calls = findings.run.calls
    failed = calls.loc[calls["group"] != "answered", "outcome"]
    return str(failed.value_counts().index[0])


def caveats(findings: Findings) -> list[str]:
    """What a reader must know before believing the figures."""
    run = findings.run
    found = []
    if run.about.get("arrivals") == "closed":
        found.append("Closed model: users wait for their answers, so queueing is not measured.")
    if findings.late_p99 is not None and findings.late_p99 > 0.05:
        found.append(f"Calls were issued late by {_seconds(findings.late_p99)} (p99): the generator was the limit.")
    if run.skipped:
        found.append(f"{run.skipped:,} lines of the journal were no records and were skipped.")
    how = run.about.get("ended", {}).get("how")
    if how != "completed":
        found.append(f"The run was {how}." if how else "The run has no end on record: it is on, or it was killed.")
    if findings.regions["few"].any():
        found.append("Regions with under 30 calls are marked with *.")
    if findings.coverage is None:
        found.append("No diagnostic logs were given; --logs names their folder.")
    elif findings.coverage.matched == 0:
        found.append("No call is in the logs given: another resource's, another time's, or not written yet.")
    return found


def text(findings: Findings, report: str) -> str:
    """At most 30 lines, the last of them the report's path."""
    lines = [verdict(findings), *_facts(findings), ""]
    lines += _rows(_target_rows(findings), 9)
    if not findings.throttling.empty:
        lines += ["", *_rows(_throttling_rows(findings), 4)]
    lines += ["", *_rows(_token_rows(findings), 5)]
    room = 28 - len(lines)
    lines += [f"! {one}" for one in caveats(findings)[: max(0, room)]]
    return "\n".join([*lines, "", report])


def _facts(findings: Findings) -> list[str]:
    run = findings.run
    rates = ", ".join(f"{value:,.0f} {name}" for name, value in findings.tokens_per_minute.items())
    facts = [f"{run.about.get('scenario', 'run')} for {run.seconds:.0f} s, arrivals {run.about.get('arrivals', '?')}"]
    if rates:
        facts.append(f"tokens a minute: {rates}")
    coverage = findings.coverage
    if coverage is not None:
        facts.append(
            f"logs: {coverage.matched:,} calls matched, {coverage.only_client:,} only here, "
            f"{coverage.only_log:,} only there, {findings.logs.duplicates:,} duplicates"
        )
    return ["; ".join(facts[:2]), *facts[2:]]


def _target_rows(findings: Findings) -> list[list[str]]:
    return _call_rows("target", findings.targets)


def _traffic_rows(findings: Findings) -> list[list[str]]:
    return _call_rows("traffic", findings.traffic)


def _call_rows(key: str, table: pd.DataFrame) -> list[list[str]]:
    head = [key, "calls", "ok", "429", "fail", "TTFT p50", "p95", "total p50", "p95"]
    rows = [
        [
            f"{_plain(row[key])} {'stream' if row['stream'] else 'whole'}",
            *(f"{row[count]:,}" for count in ("calls", "answered", "throttled", "failed")),
            *_times(row),
        ]
        for row in _records(table)
    ]
    return [head, *rows]


def _times(row: dict[str, Any]) -> list[str]:
    return [_seconds(row[name]) for name in ("ttft_p50", "ttft_p95", "duration_p50", "duration_p95")]


def _throttling_rows(findings: Findings) -> list[list[str]]:
    head = ["throttled by", "calls", "share", "first after", "Retry-After p50", "max"]
    rows = [
        [
            f"{_plain(row['target'])}: {_plain(row['cause'])}",
            f"{row['refused']:,}",
            f"{row['share']:.1%}",
            *(_seconds(row[name]) for name in ("first", "retry_after_p50", "retry_after_max")),
        ]
        for row in _records(findings.throttling)
    ]
    return [head, *rows]


def _region_rows(findings: Findings) -> list[list[str]]:
    head = ["region", "way", "calls", "TTFT p50", "p95", "total p50", "p95"]
    rows = [
        [f"{_plain(row['region'])}{' *' if row['few'] else ''}", row["gateway"], f"{row['calls']:,}", *_times(row)]
        for row in _records(findings.regions)
    ]
    return [head, *rows]


def _token_rows(findings: Findings) -> list[list[str]]:
    head = ["token counts", "n", "exact", "mean diff", "largest"]
    rows = []
    for row in _records(findings.tokens):
        figures = [f"{row['exact']:.1%}", f"{row['mean']:+.2f}", f"{row['largest']:,}"] if row["n"] else ["-"] * 3
        rows.append([f"{row['of']} against {row['against']}", f"{row['n']:,}", *figures])
    return [head, *rows]


def _rows(table: list[list[str]], most: int) -> list[str]:
    """Lined up, the first column to the left; what goes beyond `most` lines is counted."""
    shown = table[: most if len(table) <= most else most - 1]
    widths = [max(len(row[column]) for row in shown) for column in range(len(table[0]))]
    lines = [
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in shown)
    ]
    more = len(table) - len(shown)
    return [line.rstrip() for line in lines] + ([f"and {more} more, in the report"] if more else [])


def _plain(value: object) -> str:
    """A name from outside as it can be shown on a terminal and in a table."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(value))


def _seconds(value: float | None) -> str:
    if value is None or pd.isna(value):
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def as_json(findings: Findings, report: str) -> dict[str, Any]:
    """The figures of the text, unrounded; absent is null."""
    run = findings.run
    frames = ("targets", "traffic", "throttling", "regions", "tokens")
    coverage = findings.coverage
    return {
        "run": run.name,
        "verdict": verdict(findings),
        "caveats": caveats(findings),
        "scenario": run.about.get("scenario"),
        "arrivals": run.about.get("arrivals"),
        "ended": run.about.get("ended"),
        "seconds": run.seconds,
        "counts": findings.counts | {"preflight": len(run.preflight), "skipped_lines": run.skipped},
        "tokens_per_minute": findings.tokens_per_minute,
        "lateness_p99": findings.late_p99,
        "logs": None if coverage is None else coverage._asdict() | {"duplicates": findings.logs.duplicates},
        **{name: _records(getattr(findings, name)) for name in frames},
        "report": report,
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return [{str(name): value for name, value in row.items()} for row in rows]


class Panel(NamedTuple):
    """A figure with how to read it and how many calls are in it; `figure` is empty where there is nothing to show."""

    title: str
    how_to_read: str
    n: int
    figure: str
    why_empty: str


def _panel(title: str, how_to_read: str, shown: pd.DataFrame, draw: Callable[[], str], why_empty: str) -> Panel:
    figure = draw() if len(shown) else ""
    encoded = base64.b64encode(figure.encode()).decode()
    return Panel(title, how_to_read, len(shown), f"data:image/svg+xml;base64,{encoded}" if figure else "", why_empty)


def _panels(findings: Findings) -> list[Panel]:
    calls = findings.run.calls
    answered = calls[calls["group"] == "answered"]
    streams = answered.dropna(subset=["time_to_first_token"])
    refused = calls[calls["group"] == "throttled"]
    compared = findings.joined[findings.joined["input_tokens"].notna()]
    no_stream = "No stream was answered, so there is no first token."
    marks = "A curve further left is faster. Circles mark medians, squares the 95th percentile."
    return [
        _panel(
            "Outcomes over time",
            "Each bar is a stretch of the run, each colour an outcome. Throttling that comes and goes in step shows a "
            "limit's window.",
            calls,
            lambda: plots.outcomes(calls),
            "No calls.",
        ),
        _panel(
            "Time to first token by target",
            marks,
            streams,
            lambda: plots.distribution(streams, "time_to_first_token", ["target"], "time to first token"),
            no_stream,
        ),
        _panel(
            "Time to first token by class",
            f"{marks} Classes differ in the size of their prompts.",
            streams,
            lambda: plots.distribution(streams, "time_to_first_token", ["traffic"], "time to first token"),
            no_stream,
        ),
        _panel(
            "Whole call by target, streams and others apart",
            f"To the last byte. {marks}",
            answered,
            lambda: plots.distribution(
                answered.assign(kind=answered["request_stream"].map({True: "stream", False: "whole"})),
                "duration",
                ["target", "kind"],
                "whole call",
            ),
            "No call was answered.",
        ),
        _panel(
            "429s and the Retry-After they carried",
            "Each mark is a refused call. Marks on the axis carried no Retry-After.",
            refused,
            lambda: plots.refusals(calls),
            "No call was throttled.",
        ),
        _panel(
            "Time to first token by region",
            "Box: the middle half, line: median, whiskers: 5th to 95th percentile. The region is the resource's.",
            streams.dropna(subset=["region"]),
            lambda: plots.regions(calls),
            "No answered stream named its region (x-ms-region).",
        ),
        _panel(
            "Token counts held against each other",
            "A bar at 0 is agreement. The estimate is made from the prompt with tiktoken, usage is the reply's, log is "
            "AzureOpenAIRequestUsage.",
            compared,
            lambda: plots.token_errors(findings.joined),
            "No reply said what it used (streams do only with include_usage).",
        ),
    ]


def html(findings: Findings) -> str:
    environment = Environment(loader=PackageLoader("analysis"), autoescape=True, undefined=StrictUndefined)
    run = findings.run
    return environment.get_template("report.html").render(
        run=run,
        verdict=verdict(findings),
        caveats=caveats(findings),
        facts=_facts(findings),
        counts=findings.counts,
        headline=_headline(findings),
        panels=_panels(findings),
        tables=[
            ("By target", _target_rows(findings)),
            ("By class of traffic", _traffic_rows(findings)),
            ("Throttling", _throttling_rows(findings)),
            ("Regions", _region_rows(findings)),
            ("Token counts", _token_rows(findings)),
        ],
        targets=run.about.get("targets", []),
        versions=run.about.get("versions", {}),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _headline(findings: Findings) -> list[tuple[str, str, str]]:
    """Label, figure and what it rests on."""
    calls, counts = findings.run.calls, findings.counts
    answered = calls[calls["group"] == "answered"]
    first = answered["time_to_first_token"].dropna()
    total = max(1, counts["calls"])
    numbers = [
        ("answered", f"{counts['answered'] / total:.1%}", f"{counts['answered']:,} of {counts['calls']:,} calls"),
        ("throttled", f"{counts['throttled'] / total:.1%}", f"{counts['throttled']:,} calls"),
        ("time to first token, p50", _seconds(quantile(first, 0.5)), f"{len(first):,} answered streams"),
        ("time to first token, p95", _seconds(quantile(first, 0.95)), f"{len(first):,} answered streams"),
    ]
    for name, rate in findings.tokens_per_minute.items():
        numbers.append((f"{name} tokens a minute", f"{rate:,.0f}", "as the service counted"))
    return numbers
