"""The report's figures, each with how it is read, on how many calls it rests, and how to ask for the same.

`query` runs in DuckDB, where `calls.parquet` is: in `report-data/`, or in the folder that `analysis export RUN` writes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pandas as pd

from analysis import series
from analysis.caveats import no_claim
from analysis.figures import limits, load, money, times
from analysis.findings import Findings

ANSWERED = """ "group" = 'answered' and "probe.traffic" <> 'preflight'"""


_USED = (
    "Above: utilisation of provisioned units, or the share of its tokens that a standard deployment said was used; at"
    " the dotted line it is full, and bands mark stretches with 429s. "
)
_NOT_TOLD = "No reply said how full a limit was (azure-openai-deployment-utilization or x-ratelimit-remaining-tokens). "


class Panel(NamedTuple):
    """`figure` is an SVG element, empty where there is nothing to show, and then `why_empty` says why. `table` is what
    it draws; `command` and `query` are how to ask for the same."""

    key: str
    title: str
    how_to_read: str
    n: int
    command: str
    query: str
    table: pd.DataFrame
    figure: str
    why_empty: str


def panels(findings: Findings) -> list[Panel]:
    return [
        *_of_outcomes(findings),
        *_of_limits(findings),
        *_of_first_tokens(findings),
        *_of_whole_calls(findings),
        *_of_gateways(findings),
        *_of_tokens(findings),
        *_of_money(findings),
    ]


def _panel(
    key: str,
    title: str,
    how_to_read: str,
    ask: tuple[str, str],
    table: pd.DataFrame,
    draw: Callable[[], str],
    why_empty: str,
    n: int | None = None,
) -> Panel:
    counted = _counted(table) if n is None else n
    command, query = ask
    return Panel(key, title, how_to_read, counted, command, query, table, "" if table.empty else draw(), why_empty)


def _counted(table: pd.DataFrame) -> int:
    """Calls, each group's once."""
    if table.empty or "n" not in table:
        return 0
    names = [
        name for name in ("name", "target", "cause", "region", "gateway", "way", "of", "deployment") if name in table
    ]
    return int(table.drop_duplicates(names)["n"].sum())


def _of_outcomes(findings: Findings) -> Iterator[Panel]:
    calls = findings.run.calls
    title = "Outcomes over time"
    table = series.outcomes(calls)
    yield _panel(
        "outcomes",
        title,
        "Each bar is a stretch of the run, each area an outcome; what is hatched was refused or failed. Throttling that"
        " comes and goes in step shows a limit's window.",
        (
            "analysis throttling RUN",
            """select floor("probe.issued" / 10) * 10 as at, "probe.outcome", count(*) from 'calls.parquet'
group by all order by all""",
        ),
        table,
        lambda: load.outcomes(table, findings.late, title),
        "No calls.",
        len(calls),
    )
    used_title = "How full the limits were, where calls were refused, and what was offered"
    used = series.utilisation(calls)
    told = len(used.columns) > 3
    yield _panel(
        "utilisation",
        used_title,
        (_USED if told else _NOT_TOLD)
        + "Below: calls offered, by when they were due, and those refused. Refusals below a full limit are another's.",
        (
            "analysis throttling RUN",
            """select floor("probe.issued" / 10) * 10 as at, count(*) / 10 as offered_per_second,
count(*) filter ("group" = 'throttled') / 10 as refused_per_second from 'calls.parquet' group by all order by all""",
        ),
        used,
        lambda: load.utilisation(used, findings.late, used_title),
        "No calls.",
        len(calls),
    )  # fmt: skip


def _of_limits(findings: Findings) -> Iterator[Panel]:
    calls = findings.run.calls
    title = "Remaining tokens, as replies told them"
    table = series.remaining(calls)
    yield _panel(
        "remaining",
        title,
        "Teeth that fall and jump back (triangles) are a fixed window; a level that creeps back is a continuous refill."
        " Crosses are admitted calls whose reply said the same as the one before: the header was stale. Of a long run"
        " its worst ten minutes are shown.",
        (
            "analysis throttling RUN",
            """select "probe.target", "probe.issued", "probe.outcome" from 'calls.parquet' order by 1, 2""",
        ),
        table,
        lambda: limits.sawtooth(table, title),
        "No reply carried x-ratelimit-remaining-tokens: a provisioned deployment, headers of 2023, or a gateway that"
        " strips them.",
    )
    kept_title = "Retry-After: promised against kept"
    kept = series.kept(calls)
    yield _panel(
        "kept",
        kept_title,
        "Each mark is a refusal, or more of them the larger it is: how long it asked to wait, and how long it was until"
        " a call to the same target was let in. Below the line waiting as asked was enough; above it calls were refused"
        " again, or none was tried.",
        (
            "analysis throttling RUN -o json",
            """select "probe.target", "probe.throttle.kind", "probe.issued" from 'calls.parquet'
where "group" = 'throttled' order by 1, 3""",
        ),
        kept,
        lambda: limits.kept(kept, kept_title),
        _why_nothing_was_kept(calls),
    )


def _why_nothing_was_kept(calls: pd.DataFrame) -> str:
    refused = calls["group"] == "throttled"
    if not refused.any():
        return "No call was throttled."
    if (calls["group"] == "answered").any():
        return "No refusal said how long to wait, or no call was let in after one."
    return "Calls were throttled, and none was let in after them: no promise can be said to have been kept."


def _of_first_tokens(findings: Findings) -> Iterator[Panel]:
    calls = findings.run.calls
    answered = calls.loc[calls["group"] == "answered", ["target", "traffic", "time_to_first_token"]]
    nothing = no_claim(findings) or (
        "No stream was answered, so there is no first token." if len(calls) else "No calls."
    )
    marks = "A curve further left is faster. Circles mark medians, squares the 95th, triangles the 99th percentile"
    for key, by, title, more in (
        (
            "ttft",
            "target",
            "Time to first token by target",
            "; a cross is an objective, which a curve should pass above.",
        ),
        ("ttft-class", "traffic", "Time to first token by class", ". Classes differ in the size of their prompts."),
    ):
        table = series.distribution(answered, "time_to_first_token", [by])
        goals = series.objectives(findings, "ttft") if by == "target" else []
        yield _panel(
            key,
            title,
            marks + more,
            ("analysis report RUN -o json", _quantiles("probe.time_to_first_token", f"probe.{by}")),
            table,
            partial(times.distribution, table, "time to first token", goals, title),
            nothing,
        )
    yield from _of_regions(findings, nothing)
    title = "Where the first token's time went"
    parts = series.first_token_parts(calls)
    yield _panel(
        "parts",
        title,
        "Mean times of a sample of the streams, and of the slowest of them: what is long in the lower bar of a pair"
        " makes the tail. What is reported are the service's own times (latency_checkpoint, undocumented), what is"
        " inferred is left between them.",
        (
            "probe TARGET",
            """select "probe.target", "probe.time_to_first_token", "azure.latency_checkpoint" from 'calls.parquet'
where "azure.latency_checkpoint" is not null""",
        ),
        parts,
        lambda: times.shares(parts, title),
        "No answered stream had the service's own timings (latency_checkpoint), which come with usage on newer"
        " deployments only.",
        int(parts.loc[parts["of"] == "all"].drop_duplicates("target")["n"].sum()) if len(parts) else 0,
    )


def _quantiles(column: str, by: str) -> str:
    return f"""select "{by}", count(*) as n, quantile_cont("{column}", [0.5, 0.95, 0.99]) from 'calls.parquet'
where{ANSWERED} and "{column}" is not null group by all order by all"""


def _of_regions(findings: Findings, nothing: str) -> Iterator[Panel]:
    title = "Time to first token by region"
    table = series.boxes(findings.run.calls)
    no_region = no_claim(findings) or "No answered stream named its region (x-ms-region)."
    yield _panel(
        "regions",
        title,
        "Box: the middle half, line: median, whiskers: 5th to 95th percentile. The region is the resource's; on global"
        " deployments the model may have run elsewhere.",
        ("analysis regions RUN", _by_region("")),
        table,
        lambda: times.regions(table, title),
        no_region,
    )
    hours_title = "Region by hour of the day: 95th percentile of the time to first token"
    yield _panel(
        "hours",
        hours_title,
        "The stronger a cell's colour the slower, and its figure is in it; a hatched cell has under 30 calls, of which"
        " a 95th percentile says little. A run of an hour has one column: hours need a run of a day, or several.",
        (
            "analysis regions RUN",
            _by_region(", hour(start_time) as hour"),
        ),
        findings.hours,
        lambda: times.heatmap(findings.hours, hours_title),
        no_region,
        int(findings.hours["calls"].sum()) if len(findings.hours) else 0,
    )


def _by_region(more: str) -> str:
    return f"""select "probe.target"{more}, count(*) as n, quantile_cont("probe.time_to_first_token", 0.95) as p95
from 'calls.parquet' where{ANSWERED} group by all order by all"""


def _of_whole_calls(findings: Findings) -> Iterator[Panel]:
    calls = findings.run.calls
    answered = calls.loc[calls["group"] == "answered", ["target", "request_stream", "duration"]]
    answered = answered.assign(kind=answered["request_stream"].map({True: "stream", False: "whole"}))
    title = "Whole call by target, streams and others apart"
    table = series.distribution(answered, "duration", ["target", "kind"])
    yield _panel(
        "duration",
        title,
        "To the last byte. A curve further left is faster. Circles mark medians, squares the 95th, triangles the 99th"
        " percentile; a cross is an objective.",
        ("analysis report RUN -o json", _quantiles("gen_ai.client.operation.duration", "probe.target")),
        table,
        lambda: times.distribution(table, "whole call", series.objectives(findings, "duration"), title),
        "No call was answered.",
    )


def _of_gateways(findings: Findings) -> Iterator[Panel]:
    title = "Gaps between tokens, direct against gateway"
    table = series.gaps(findings.run.calls)
    yield _panel(
        "gaps",
        title,
        "The thicker the more gaps were about so long; dot: median, line: 5th to 95th percentile. A gateway that"
        " buffers has gaps near 0: its events came all at once, at the end.",
        (
            "analysis gateway RUN",
            f"""select "probe.gateway", count(*) as streams,
avg(list_contains("probe.warnings", 'buffered_stream')::int) as buffered
from 'calls.parquet' where{ANSWERED} and "gen_ai.request.stream" group by all""",
        ),
        table,
        lambda: times.gaps(table, title),
        "No answered stream had two events with text.",
    )


def _of_tokens(findings: Findings) -> Iterator[Panel]:
    title = "Token counts held against each other"
    table = series.token_errors(findings.joined)
    yield _panel(
        "token-errors",
        title,
        "A bar at 0 is agreement, one to its right means that the first count is higher; the mean is the bias, with its"
        " interval. The estimate is made from the prompt with tiktoken, usage is the reply's, log is"
        " AzureOpenAIRequestUsage.",
        (
            "analysis tokens RUN",
            """select "probe.prompt.id", "gen_ai.response.model", "gen_ai.usage.input_tokens" from 'calls.parquet'
where "gen_ai.usage.input_tokens" is not null""",
        ),
        table,
        lambda: money.token_errors(table, title),
        "No reply with usage has an estimate or a log to hold it against (streams send usage only with include_usage).",
        int(table["n"].max()) if len(table) else 0,
    )


def _of_money(findings: Findings) -> Iterator[Panel]:
    title = "Break-even: pay-as-you-go against provisioned units"
    table = series.break_even(findings.sizings)
    yield _panel(
        "break-even",
        title,
        "Where a line of units lies below pay-as-you-go they are cheaper; steps are what is sold. Diamonds: this load"
        " both ways; the bar is the interval of its units. Dotted: the load at which these units would cost what"
        " pay-as-you-go does.",
        (
            "analysis ptu RUN",
            """select "gen_ai.request.model", sum("gen_ai.usage.input_tokens") as input,
sum("gen_ai.usage.output_tokens") as output from 'calls.parquet' group by all""",
        ),
        table,
        lambda: money.break_even(table, title),
        _why_no_price(findings),
    )
    knee_title = "The knee: what was offered against how it was borne"
    ended = findings.run.about.ended
    knee = series.knee(ended.knee if ended else ())
    yield _panel(
        "knee",
        knee_title,
        "Each mark is a step of the load: round where the objectives held, a cross where not. The hatched band is where"
        " the most that held lies.",
        (
            "locust -f locustfiles/knee.py",
            """select floor("probe.issued" / 60) as minute, count(*) as calls,
avg(("group" = 'throttled')::int) as throttled from 'calls.parquet' group by all order by all""",
        ),
        knee,
        lambda: money.knee(knee, knee_title),
        "This run looked for no knee: locust -f locustfiles/knee.py does.",
        int(knee["n"].sum()) if len(knee) else 0,
    )


def _why_no_price(findings: Findings) -> str:
    whys = [f"{one.deployment}: {one.why or 'no list price'}" for one in findings.sizings if one.money is None]
    return f"No load has a size and a price: {'; '.join(whys)}." if whys else "No call was sent to a deployment."
