"""A run's report: what it found as one object, and that as text, as JSON and as one HTML file that needs no network.

The HTML has no script, and a content security policy that allows none; figures are images inside it, so that nothing a
server sent can act in it.
"""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import application, plots
from analysis.join import Coverage, join
from analysis.logs import Logs, read_logs
from analysis.outcomes import (
    GROUPS,
    by_target,
    by_traffic,
    from_due,
    lateness,
    tokens_per_minute,
    without_late_marks,
)
from analysis.regions import FEW, by_region
from analysis.runs import Run, Target
from analysis.stats import quantile
from analysis.throttling import by_cause
from analysis.tokens import differences, estimates
from probe.escaping import printable

# Counting takes 0.2 ms a prompt. Of more calls than these, so many drawn at random are counted.
MOST_ESTIMATES = 20_000
# Lines of the summary on a terminal, the report's path included.
MOST_LINES = 30
FEWEST_ROWS = 3
FIRST_LONGER = 4


class Findings(NamedTuple):
    """Tables as their modules give them; `coverage` is None where no logs were given, `view` where no application was.

    `joined` has the calls with `estimated_tokens` and what the logs say of them; `unknown` is how many calls could not
    be estimated for each reason, and `countable` how many could be drawn from. `tainted` is the share of first tokens
    that may be late by the generator's doing; above what the run allows, `run` has none of them.
    """

    run: Run
    counts: dict[str, int]
    tokens_per_minute: dict[str, float]
    late_p99: float | None
    tainted: float | None
    from_due: pd.DataFrame
    targets: pd.DataFrame
    traffic: pd.DataFrame
    throttling: pd.DataFrame
    regions: pd.DataFrame
    tokens: pd.DataFrame
    joined: pd.DataFrame
    unknown: dict[str, int]
    countable: int
    logs: Logs
    coverage: Coverage | None
    view: application.View | None


def analyse(run: Run, log_folders: list[Path]) -> Findings:
    calls, tainted = without_late_marks(run.calls, run.about.options.max_tainted)
    run = run._replace(calls=calls)
    logs = read_logs(log_folders)
    countable = calls[calls["response_model"].notna()]
    estimated = estimates(countable.sample(min(len(countable), MOST_ESTIMATES), random_state=0))
    view = application.read_view(run.folder)
    # The checks before the load are in the logs too, and so is what came through the SDK.
    known = [*run.preflight["service_request_id"].dropna(), *(view.service_request_ids if view else ())]
    joined, _, coverage = join(calls.join(estimated["estimated_tokens"]), logs, known)
    return Findings(
        run=run,
        counts={"calls": len(calls)} | {name: int((calls["group"] == name).sum()) for name in GROUPS},
        tokens_per_minute=tokens_per_minute(calls, run.seconds),
        late_p99=quantile(lateness(calls), 0.99),
        tainted=tainted,
        from_due=from_due(calls),
        targets=by_target(calls, run.seconds),
        traffic=by_traffic(calls, run.seconds),
        throttling=by_cause(calls),
        regions=by_region(calls),
        tokens=differences(joined),
        joined=joined,
        unknown={str(reason): int(n) for reason, n in estimated["reason"].value_counts().items()},
        countable=len(countable),
        logs=logs,
        coverage=coverage if log_folders else None,
        view=view,
    )


def verdict(findings: Findings) -> str:
    counts = findings.counts
    calls = counts["calls"]
    if not calls and findings.view is not None:
        return "No measured calls: only an application's, through the SDK."
    if not calls:
        return "No calls: nothing was sent, or nothing could be read."
    if not counts["answered"] and counts["throttled"] == calls:
        return f"Nothing held: all {calls:,} calls were throttled."
    if not counts["answered"]:
        return f"Nothing held: none of {calls:,} calls was answered; most came to {_commonest(findings, *GROUPS)}."
    parts = [f"{_share(counts['answered'], calls)} of {calls:,} calls were answered"]
    if counts["throttled"]:
        first = float(findings.throttling["first"].min())
        parts.append(f"{_share(counts['throttled'], calls)} throttled, the first after {first:.0f} s")
    if counts["failed"]:
        parts.append(f"{_share(counts['failed'], calls)} failed, mostly as {_commonest(findings, 'failed')}")
    if counts["cancelled"]:
        parts.append(f"{_share(counts['cancelled'], calls)} cancelled")
    if counts["dropped"]:
        parts.append(f"{_share(counts['dropped'], calls)} dropped and never sent")
    held = "It held" if counts["answered"] == calls - counts["cancelled"] else "It did not hold"
    return f"{held}: {'; '.join(parts)}."


def _commonest(findings: Findings, *groups: str) -> str:
    calls = findings.run.calls
    return str(calls.loc[calls["group"].isin(groups), "outcome"].value_counts().index[0])


def _share(part: int, whole: int) -> str:
    """Rounded, but never to none or all of it where it is not."""
    if 0 < part < whole * 0.0005:
        return "under 0.1%"
    return "over 99.9%" if whole * 0.9995 <= part < whole else f"{part / whole:.1%}"


def caveats(findings: Findings) -> list[str]:
    """What a reader must know before believing the figures."""
    run = findings.run
    found = [*_about_trust(findings), *_about_time(findings)]
    if run.skipped:
        found.append(f"{run.skipped:,} lines of the journal were no records and were skipped.")
    if run.in_flight:
        found.append(f"{run.in_flight:,} calls were sent and have no record: they were in flight when it was killed.")
    how = run.about.ended.how if run.about.ended else None
    if how != "completed":
        why = run.about.ended.why if run.about.ended else None
        ended = (
            f"The run was {_plain(how)}{f': {_plain(why)}' if why else ''}."
            if how
            else "The run has no end on record: it is on, or it was killed."
        )
        found.append(ended)
    return found + _about_the_application(findings) + _about_estimates(findings) + _about_logs(findings)


def _about_trust(findings: Findings) -> list[str]:
    unverified = [str(target.name) for target in findings.run.about.targets if target.tls_verified is False]
    if not unverified:
        return []
    return [
        f"CERTIFICATES WERE NOT VERIFIED (--insecure-skip-verify) for {', '.join(unverified)}: whoever was in between "
        "could have answered instead."
    ]


def _about_the_application(findings: Findings) -> list[str]:
    view = findings.view
    if view is None:
        return []
    found = [
        "The application's calls went through the SDK: they are in no figure but its own, and took of the same quota."
    ]
    unfinished = application.totals(view)["unfinished"]
    if unfinished:
        found.append(f"{unfinished:,} of the application's calls broke off without a finish reason; it was not told.")
    if view.skipped:
        found.append(f"{view.skipped:,} lines of the application's file were no records and were skipped.")
    return found


def _about_time(findings: Findings) -> list[str]:
    found = []
    if findings.run.about.arrivals == "closed":
        found.append("Closed model: users wait for their answers, so queueing is not measured.")
    if findings.late_p99 is not None and findings.late_p99 > 0.05:
        found.append(f"Calls were issued late by {_seconds(findings.late_p99)} (p99): the generator was the limit.")
    if findings.counts["dropped"]:
        found.append("Calls were dropped, as too many were open: times from due would be longer with them.")
    if (why := _no_claim(findings)) is not None:
        found.append(why)
    return found


def _no_claim(findings: Findings) -> str | None:
    """Why nothing is said of first tokens, where the generator was too late itself."""
    most = findings.run.about.options.max_tainted
    if findings.tainted is None or findings.tainted <= most:
        return None
    return (
        f"No claim on time to first token: {findings.tainted:.1%} of them may have been stamped late by the generator"
        f" itself (allowed: {most:.1%}). Give the load more processes, or fewer calls."
    )


def _about_estimates(findings: Findings) -> list[str]:
    found = []
    if findings.countable > MOST_ESTIMATES:
        found.append(f"Token estimates are of {MOST_ESTIMATES:,} calls drawn at random.")
    if findings.unknown:
        number, reason = sum(findings.unknown.values()), next(iter(findings.unknown))
        found.append(f"{number:,} calls have no token estimate, mostly: {_plain(reason)}.")
    return found


def _about_logs(findings: Findings) -> list[str]:
    found = []
    logs, coverage = findings.logs, findings.coverage
    if coverage is None:
        found.append("No diagnostic logs were given; --logs names their folder.")
    elif not logs.files:
        found.append("No log is below the folders given.")
    elif coverage.matched == 0:
        found.append("No call is in the logs given: another resource's, another time's, or not written yet.")
    if logs.skipped_lines:
        found.append(f"{logs.skipped_lines:,} lines of the logs were no records and were skipped.")
    return found


def text(findings: Findings, report: str) -> str:
    """At most `MOST_LINES`, the last of them the report's path; where there is much to tell the tables give way."""
    tables = (_target_rows, _due_rows, _application_rows, _throttling_rows, _region_rows, _token_rows)
    shown = [table for table in (rows(findings) for rows in tables) if len(table) > 1]
    head = [verdict(findings), *_facts(findings)]
    tail = [*(f"! {caveat}" for caveat in caveats(findings)), report]
    room = MOST_LINES - len(head) - len(tail) - len(shown)
    lines = list(head)
    for table, most in zip(shown, _fitted([len(table) for table in shown], room), strict=True):
        lines += ["", *_rows(table, most)]
    return "\n".join(lines + tail)


def _fitted(sizes: list[int], room: int) -> list[int]:
    """The sizes cut until they fit the room: always the largest, but the first table may be longer than the others."""
    fitted = list(sizes)
    while sum(fitted) > room and max(fitted) > FEWEST_ROWS:
        can_give = [number for number, size in enumerate(fitted) if size > FEWEST_ROWS]
        fitted[max(can_give, key=lambda number: fitted[number] - (0 if number else FIRST_LONGER))] -= 1
    return fitted


def _facts(findings: Findings) -> list[str]:
    run = findings.run
    about = run.about
    rates = ", ".join(f"{value:,.0f} {name}" for name, value in findings.tokens_per_minute.items())
    model = "" if about.arrivals is None else f", arrivals {_plain(about.arrivals)}"
    facts = [f"{_plain(about.scenario or 'run')} for {run.seconds:.0f} s{model}{_issued_late(findings)}"]
    if rates:
        facts[0] += f"; tokens a minute: {rates}"
    if findings.tainted is not None:
        facts[0] += f"; first tokens tainted: {findings.tainted:.1%}"
    if findings.view is not None:
        facts.append(_seen_by_the_application(findings.view))
    coverage = findings.coverage
    if coverage is not None:
        facts.append(
            f"logs: {coverage.matched:,} calls matched, {coverage.only_client:,} only here, "
            f"{coverage.only_log:,} only there, {findings.logs.duplicates:,} duplicates"
        )
    return facts


def _seen_by_the_application(view: application.View) -> str:
    found = application.totals(view)
    hidden = view.hidden["reason"].value_counts()
    reasons = ", ".join(f"{_plain(reason)}: {number:,}" for reason, number in hidden.items())
    return (
        f"the application's view: {found['succeeded']:,} of {found['calls']:,} calls succeeded, in "
        f"{found['attempts']:,} attempts; the SDK hid {found['hidden']:,} failed ones"
        f"{f' ({reasons})' if reasons else ''} and {_seconds(found['waiting'])} of waiting"
    )


def _issued_late(findings: Findings) -> str:
    return "" if findings.late_p99 is None else f" (issued late by {_seconds(findings.late_p99)} at p99)"


def _target_rows(findings: Findings) -> list[list[str]]:
    return _call_rows("target", findings.targets)


def _traffic_rows(findings: Findings) -> list[list[str]]:
    return _call_rows("traffic", findings.traffic)


def _call_rows(key: str, table: pd.DataFrame) -> list[list[str]]:
    head = [key, "calls", "ok", "429", "fail", "TTFT p50", "p95", "total p50", "p95", "tokens/min"]
    rows = [
        [
            f"{_plain(row[key])} {'stream' if row['stream'] else 'whole'}",
            *(f"{row[count]:,}" for count in ("calls", "answered", "throttled", "failed")),
            *_times(row),
            "-" if row["tokens_per_minute"] is None else f"{row['tokens_per_minute']:,.0f}",
        ]
        for row in _records(table)
    ]
    return [head, *rows]


def _times(row: dict[str, Any]) -> list[str]:
    return [_seconds(row[name]) for name in ("ttft_p50", "ttft_p95", "duration_p50", "duration_p95")]


def _due_rows(findings: Findings) -> list[list[str]]:
    quantiles = ("p50", "p90", "p95", "p99", "max")
    rows = [
        [row["mark"], f"{row['n']:,}", *(_seconds(row[name]) for name in quantiles)]
        for row in _records(findings.from_due)
    ]
    return [["after it was due", "n", *quantiles], *rows]


def _application_rows(findings: Findings) -> list[list[str]]:
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
            f"{_plain(row['target'])} {'stream' if row['stream'] else 'whole'}",
            *(f"{row[count]:,}" for count in ("calls", "succeeded", "attempts", "hidden")),
            *(_seconds(row[name]) for name in times),
        ]
        for row in _records(application.by_target(findings.view))
    ]
    return [head, *rows]


def _hidden_rows(findings: Findings) -> list[list[str]]:
    head = ["hidden by the SDK", "attempts", "Retry-After p50", "max"]
    if findings.view is None:
        return [head]
    rows = [
        [
            f"{_plain(row['target'])}: {_plain(row['reason'])}",
            f"{row['hidden']:,}",
            *(_seconds(row[name]) for name in ("retry_after_p50", "retry_after_max")),
        ]
        for row in _records(application.by_reason(findings.view))
    ]
    return [head, *rows]


def _throttling_rows(findings: Findings) -> list[list[str]]:
    head = ["throttled by", "calls", "share", "first after", "Retry-After p50", "max"]
    rows = [
        [
            f"{_plain(row['target'])}: {_plain(row['cause'])}",
            f"{row['refused']:,}",
            _share(row["refused"], row["calls"]),
            *(_seconds(row[name]) for name in ("first", "retry_after_p50", "retry_after_max")),
        ]
        for row in _records(findings.throttling)
    ]
    return [head, *rows]


def _region_rows(findings: Findings) -> list[list[str]]:
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
        [f"{_plain(row['region'])}{' *' if row['few'] else ''}", row["gateway"], f"{row['calls']:,}", *_times(row)]
        for row in _records(findings.regions)
    ]
    return [head, *rows]


def _token_rows(findings: Findings) -> list[list[str]]:
    head = ["token counts", "n", "exact", "mean diff", "largest"]
    rows = []
    for row in _records(findings.tokens):
        if row["n"]:
            figures = [_share(row["same"], row["n"]), f"{row['mean']:+.2f}", f"{row['largest']:,}"]
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
    return printable(str(value))


def _seconds(value: float | None) -> str:
    if value is None or pd.isna(value):
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def as_json(findings: Findings, report: str) -> dict[str, Any]:
    """The figures of the text, unrounded; absent is null."""
    run = findings.run
    frames = ("from_due", "targets", "traffic", "throttling", "regions", "tokens")
    coverage = findings.coverage
    return {
        "run": run.name,
        "verdict": verdict(findings),
        "caveats": caveats(findings),
        "scenario": run.about.scenario,
        "arrivals": run.about.arrivals,
        "ended": run.about.ended.how if run.about.ended else None,
        "seconds": run.seconds,
        "counts": findings.counts | {"preflight": len(run.preflight), "skipped_lines": run.skipped},
        "tokens_per_minute": findings.tokens_per_minute,
        "lateness_p99": findings.late_p99,
        "queueing": _queueing(run.about.arrivals),
        "tainted_share": findings.tainted,
        "logs": None if coverage is None else _said_of_logs(coverage, findings.logs),
        **{name: _records(getattr(findings, name)) for name in frames},
        "application": None if findings.view is None else _application(findings.view),
        "report": report,
    }


def _queueing(arrivals: str | None) -> str | None:
    return None if arrivals is None else "not measured" if arrivals == "closed" else "measured"


def _application(view: application.View) -> dict[str, Any]:
    return {
        **application.totals(view),
        "skipped_lines": view.skipped,
        "targets": _records(application.by_target(view)),
        "hidden_by_reason": _records(application.by_reason(view)),
    }


def _said_of_logs(coverage: Coverage, logs: Logs) -> dict[str, Any]:
    skew = None if coverage.skew is None else coverage.skew._asdict()
    return coverage._asdict() | {"skew": skew, "files": logs.files, "skipped_lines": logs.skipped_lines}


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
    outcomes = _panel(
        "Outcomes over time",
        "Each bar is a stretch of the run, each colour an outcome; what is hatched was refused or failed. Throttling "
        "that comes and goes in step shows a limit's window.",
        calls,
        lambda: plots.outcomes(calls),
        "No calls.",
    )
    return [outcomes, *_panels_of_times(findings), *_panels_of_limits(findings)]


def _panels_of_times(findings: Findings) -> list[Panel]:
    calls = findings.run.calls
    answered = calls[calls["group"] == "answered"]
    answered = answered.assign(kind=answered["request_stream"].map({True: "stream", False: "whole"}))
    streams = answered.dropna(subset=["time_to_first_token"])
    no_stream = _no_claim(findings) or "No stream was answered, so there is no first token."
    marks = "A curve further left is faster. Circles mark medians, squares the 95th percentile."
    return [
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
            lambda: plots.distribution(answered, "duration", ["target", "kind"], "whole call"),
            "No call was answered.",
        ),
        _panel(
            "Whole call by class, streams and others apart",
            f"To the last byte. {marks} Classes differ in the size of their prompts and answers.",
            answered,
            lambda: plots.distribution(answered, "duration", ["traffic", "kind"], "whole call"),
            "No call was answered.",
        ),
    ]


def _panels_of_limits(findings: Findings) -> list[Panel]:
    calls, joined = findings.run.calls, findings.joined
    refused = calls[calls["group"] == "throttled"]
    regions = calls[(calls["group"] == "answered") & calls["region"].notna() & calls["time_to_first_token"].notna()]
    counted = joined["estimated_tokens"].notna() | joined["prompt_tokens"].notna()
    compared = joined[joined["input_tokens"].notna() & counted]
    return [
        _panel(
            "429s and the Retry-After they carried",
            "Each mark is a refused call, as high as the wait it was told. Marks on the axis carried no Retry-After.",
            refused,
            lambda: plots.refusals(calls),
            "No call was throttled.",
        ),
        _panel(
            "Time to first token by region",
            "Box: the middle half, line: median, whiskers: 5th to 95th percentile. The region is the resource's.",
            regions,
            lambda: plots.regions(regions),
            _no_claim(findings) or "No answered stream named its region (x-ms-region).",
        ),
        _panel(
            "Token counts held against each other",
            "A bar at 0 is agreement, one to its right means that the first count is higher. The estimate is made from "
            "the prompt with tiktoken, usage is the reply's, log is AzureOpenAIRequestUsage.",
            compared,
            lambda: plots.token_errors(joined),
            "No reply with usage has an estimate or a log to hold it against (streams send usage only with "
            "include_usage).",
        ),
    ]


def html(findings: Findings) -> str:
    environment = Environment(loader=PackageLoader("analysis"), autoescape=True, undefined=StrictUndefined)
    run = findings.run
    return environment.get_template("report.html").render(
        run=run,
        verdict=verdict(findings),
        # The first screen has it before anything else.
        stamps=_about_trust(findings),
        caveats=caveats(findings)[len(_about_trust(findings)) :],
        facts=_facts(findings),
        counts=findings.counts,
        headline=_headline(findings),
        panels=_panels(findings),
        tables=[
            ("By target", _target_rows(findings)),
            ("From when calls were due", _due_rows(findings)),
            ("By class of traffic", _traffic_rows(findings)),
            ("The application's view: by target", _application_rows(findings)),
            ("The application's view: what the SDK hid", _hidden_rows(findings)),
            ("Throttling", _throttling_rows(findings)),
            ("Regions", _region_rows(findings)),
            ("Token counts", _token_rows(findings)),
        ],
        targets=[_described(target) for target in run.about.targets],
        versions=run.about.versions,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _described(target: Target) -> str:
    """What is on record of a target, in the order of its fields."""
    return ", ".join(value for value in msgspec.structs.astuple(target) if isinstance(value, str))


def _headline(findings: Findings) -> list[tuple[str, str, str]]:
    """Label, figure and what it rests on."""
    calls, counts = findings.run.calls, findings.counts
    answered = calls[calls["group"] == "answered"]
    first = answered["time_to_first_token"].dropna()
    calls_of = f"{counts['calls']:,} calls"
    numbers = [
        (group, _share(counts[group], counts["calls"]) if counts["calls"] else "-", f"{counts[group]:,} of {calls_of}")
        for group in ("answered", "throttled", "failed")
    ]
    unclaimed = _no_claim(findings) is not None
    for percent in (50, 95):
        figure = "no claim" if unclaimed else _seconds(quantile(first, percent / 100))
        basis = f"{findings.tainted:.1%} may be late" if unclaimed else f"{len(first):,} answered streams"
        numbers.append((f"time to first token, p{percent}", figure, basis))
    for name, rate in findings.tokens_per_minute.items():
        known = int(calls[f"{name}_tokens"].notna().sum())
        numbers.append((f"{name} tokens a minute", f"{rate:,.0f}", f"usage of {known:,} calls"))
    if findings.coverage is not None and counts["calls"]:
        matched = findings.coverage.matched
        numbers.append(("in the diagnostic logs", _share(matched, counts["calls"]), f"{matched:,} of {calls_of}"))
    return numbers
