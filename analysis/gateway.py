"""What a gateway costs and does, against the same calls made directly, and each with how it is known.

Added time is that of each gateway's target over what was called directly; of several in a round, over the one in the
region that the gateway's reply names. Calls are paired within each round of a run that made them in rounds
(`gateway.py`), else where the run sent the same prompt both ways, its n-th here with its n-th there; else the two are
independent samples, which the traffic's mix must be the same for, and the added time is the difference of medians.

Less the service's own.  Where replies carry the service's timings (`latency_checkpoint`, whole milliseconds), what is
        left without them varies far less than the time itself, and the same pairs tell it far more exactly. It is
        inferred: the service's clock is its own.
Buffering.  All at the end, by the record (`buffered_stream`); in pieces, where fewer than half as many of a stream's
        events come by themselves as they do directly. The service's own filter may hold events back too, both ways.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.join import Joined, Said, began_while_open
from analysis.logs import Logs
from analysis.lost import LOG_COLUMNS as LOST_COLUMNS
from analysis.lost import Lost
from analysis.output import Result, Table
from analysis.regions import FEW, calls_sent, pairs, success, verdict
from analysis.stats import quantile, quantile_difference, quantile_estimate, share_difference
from analysis.words import count

LOG_COLUMNS = (*LOST_COLUMNS, "backend_request_id", "response_id")
# Where gateways put their own id into a reply; the policy's author may have named another.
ID_HEADERS = ("microsoft-azure-api-management-correlation-id", "apim-trace-id", "x-correlation-id")
CALL_COLUMNS = (
    "target", "gateway", "request_stream", "request_max_tokens", "prompt_id", "round", "status_code",
    "service_request_id", "response_id", "time_to_headers", "time_to_first_token", "buffered", "region", "apart",
    "service_first_token", "service_duration", "reasoning_tokens",
)  # fmt: skip
_MARKS = (
    ("headers", "time_to_headers"),
    ("first token", "time_to_first_token"),
    ("first token, less the service's own", "first_token_outside"),
    ("whole call", "duration"),
    ("whole call, less the service's own", "duration_outside"),
)
# A part of the calls is taken again and again: in a large run, every column that is not used costs.
_COMPARED = (
    "target", "gateway", "at", "request_stream", "request_max_tokens", "prompt_id", "round", "region",
    "time_to_headers", "time_to_first_token", "duration", "service_first_token", "service_duration", "reasoning_tokens",
)  # fmt: skip
_SHOWING = (
    "group", "target", "gateway", "request_stream", "service_request_id", "status_code", "buffered", "apart",
    "start_time_unix_nano", "duration",
)  # fmt: skip
_ADDED = (
    "through", "asked_for", "mark", "n", "direct_p50", "gateway_p50", "added", "added_low", "added_high", "paired",
    "verdict",
)  # fmt: skip
# What so many of a gateway's streams show, and so many times fewer of those called directly, is the gateway's doing, if
# it is no luck: a hiccup of any machine on the way holds up a stream now and then.
_OFTEN, _TIMES_FEWER = 0.1, 3
# Below this share of the calls one way a header counts as absent there, above 1 less this as present.
_RARE = 0.05


class Gateway(NamedTuple):
    """Frames, a row each; times in seconds, intervals of 95 %.

    added      target `through` the gateway, way of asking (stream or whole) and mark: n, direct_p50, gateway_p50, added
               with its interval, paired, verdict
    behaviour  what a gateway does: `through` (its target; NA where it is said of all), `what`, `calls` that show it,
               `of` so many, `known_by`
    headers    a header that one way has and the other has not: header, stream, direct and gateway (shares of calls)
    success    as `regions.success`, and of a gateway's target the share answered less that of direct calls
               (`less_direct`) with its interval
    paths      how the gateway's log was put together with calls and with Azure OpenAI's log: `from_to`, `rule`, `rows`
    """

    added: pd.DataFrame
    behaviour: pd.DataFrame
    headers: pd.DataFrame
    success: pd.DataFrame
    paths: pd.DataFrame


def analyse(joined: Joined, logs: Logs, header_shares: pd.DataFrame) -> Gateway:
    """`joined` of calls with `CALL_COLUMNS` and `ID_HEADERS` and logs with `LOG_COLUMNS`; `header_shares` as
    `analysis.runs.header_shares` gives them."""
    calls = joined.calls
    headers = _changed_headers(header_shares)
    return Gateway(added(calls), _behaviour(joined, headers), headers, _success(calls), paths(joined, logs.gateway))


def _success(calls: pd.DataFrame) -> pd.DataFrame:
    found = success(calls)
    sent = calls_sent(calls)
    answered = sent["group"] == "answered"
    direct = answered[sent["gateway"] == "direct"]
    rows = [
        None if row.gateway == "direct" else share_difference(answered[sent["target"] == row.target], direct)
        for row in found.itertuples()
    ]
    names = {"less_direct": "value", "less_direct_low": "low", "less_direct_high": "high"}
    return found.assign(
        **{name: pd.Series([getattr(row, end, None) for row in rows], dtype="float64") for name, end in names.items()}
    )


def added(calls: pd.DataFrame) -> pd.DataFrame:
    answered = _without_service(calls.loc[calls["group"] == "answered", list(_COMPARED)])
    direct = answered[answered["gateway"] == "direct"]
    rows = [
        {"through": target, "asked_for": "stream" if stream else "whole", **row}
        for (target, stream), through in answered[answered["gateway"] == "apim"].groupby(["target", "request_stream"])
        for row in _marks_added(through, direct[direct["request_stream"] == stream])
    ]
    return pd.DataFrame(rows, columns=_ADDED)


def _marks_added(through: pd.DataFrame, direct: pd.DataFrame) -> Iterator[dict[str, Any]]:
    known = {mark: column for mark, column in _MARKS if through[column].notna().any()}
    theirs = _counterparts(through, direct)
    paired = pairs(through, theirs, list(known.values()))
    for mark, column in known.items():
        if (found := _added(through[column], theirs[column], paired[column].dropna())) is not None:
            yield {"mark": mark, **found}


def _without_service(calls: pd.DataFrame) -> pd.DataFrame:
    """With the times less what the service says it took itself; its first token may be a hidden one."""
    first = calls["time_to_first_token"].where(calls["reasoning_tokens"].fillna(0) == 0)
    return calls.assign(
        first_token_outside=first - calls["service_first_token"],
        duration_outside=calls["duration"] - calls["service_duration"],
    )


def _added(through: pd.Series, direct: pd.Series, paired: pd.Series) -> dict[str, Any] | None:
    is_paired = len(paired) >= FEW
    found = quantile_estimate(paired, 0.5) if is_paired else quantile_difference(through, direct, 0.5)
    if found is None:
        return None
    return {
        "n": found.n,
        "direct_p50": quantile(direct, 0.5),
        "gateway_p50": quantile(through, 0.5),
        "added": found.value,
        "added_low": found.low,
        "added_high": found.high,
        "paired": is_paired,
        "verdict": verdict(found),
    }


def _counterparts(through: pd.DataFrame, direct: pd.DataFrame) -> pd.DataFrame:
    """Of several that were called directly in a round, the one in the region that answered through the gateway."""
    if direct["target"].nunique() < 2 or not through["round"].notna().any():
        return direct
    answered_by = through.loc[through["round"].notna() & through["region"].notna(), ["round", "region"]]
    same: pd.DataFrame = direct.merge(answered_by, on=["round", "region"])
    return same if len(same) else direct


def _changed_headers(shares: pd.DataFrame) -> pd.DataFrame:
    """Of names that nearly every call has one way, and nearly none the other."""
    both = shares.assign(share=shares["with_it"] / shares["calls"]).pivot_table(
        index=["header", "stream"], columns="gateway", values="share", fill_value=0.0, observed=True
    )
    asked = shares.groupby("stream")["gateway"].nunique()
    both = both.reindex(columns=["direct", "apim"], fill_value=0.0).rename(columns={"apim": "through_gateway"})
    changed = both[(both.min(axis=1) <= _RARE) & (both.max(axis=1) >= 1 - _RARE)].reset_index()
    return changed[changed["stream"].map(asked) == 2].reset_index(drop=True)


def _behaviour(joined: Joined, headers: pd.DataFrame) -> pd.DataFrame:
    calls = joined.calls.loc[joined.calls["group"] != "dropped", list(_SHOWING)]
    through = calls[calls["gateway"] == "apim"]
    rows = [
        *to_streams(calls),
        *_header_rows(headers),
        *_added_attempts(joined, through),
    ]
    return pd.DataFrame(rows, columns=["through", "what", "calls", "of", "known_by"])


def to_streams(calls: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """What each gateway does to streams: rows of `behaviour`."""
    theirs = _answered_streams(calls[calls["gateway"] == "direct"])
    for target, through in calls[calls["gateway"] == "apim"].groupby("target"):
        ours = _answered_streams(through)
        rows = [*_buffering(ours, theirs), *_in_pieces(ours, theirs), *_streams_refused(through)]
        yield from ({**row, "through": target} for row in rows)


def _answered_streams(calls: pd.DataFrame) -> pd.DataFrame:
    return calls[calls["request_stream"].astype(bool) & (calls["group"] == "answered")]


def _buffering(through: pd.DataFrame, direct: pd.DataFrame) -> list[dict[str, Any]]:
    buffered = int(through["buffered"].sum())
    if not _is_the_gateways(through["buffered"], direct["buffered"]):
        return []
    known = f"all their events came at once at the end; directly that is so of {int(direct['buffered'].sum()):,}"
    return [_row("buffers streams", buffered, len(through), f"{known} of {len(direct):,}")]


def _is_the_gateways(through: pd.Series, direct: pd.Series) -> bool:
    more = share_difference(through, direct)
    if more is None or more.low is None or more.low <= 0:
        return False
    return bool(through.mean() > _OFTEN and through.mean() > _TIMES_FEWER * direct.mean())


def _in_pieces(through: pd.DataFrame, direct: pd.DataFrame) -> list[dict[str, Any]]:
    """Streams whose events come several at a time."""
    ours = through.loc[~through["buffered"].astype(bool), "apart"].dropna().astype("float64")
    theirs = direct["apart"].dropna().astype("float64")
    if ours.empty or theirs.empty:
        return []
    few = float(theirs.median()) / 2
    pieces = int((ours < few).sum())
    if not _is_the_gateways(ours < few, theirs < few):
        return []
    known = f"{ours.median():.0%} of a stream's events came by themselves (median); directly {theirs.median():.0%}"
    return [_row("buffers streams in pieces", pieces, len(ours), known)]


def _streams_refused(through: pd.DataFrame) -> list[dict[str, Any]]:
    """By replies of the gateway's own, without `apim-request-id`. What the service refused is no stream here."""
    through = through[through["status_code"].eq(200).fillna(False) | through["service_request_id"].isna()]
    streams = through[through["request_stream"].astype(bool)]
    wholes = through[~through["request_stream"].astype(bool)]
    own = streams[streams["service_request_id"].isna()]
    rows = []
    for status, what in ((404, "blocks streaming"), (500, "breaks streams")):
        refused, same = int(own["status_code"].eq(status).sum()), int(wholes["status_code"].eq(status).sum())
        if refused and refused > 0.9 * len(streams) and same < 0.1 * max(len(wholes), 1):
            known = f"{status} without apim-request-id to streams; to other calls {same:,} of {len(wholes):,}"
            rows.append(_row(what, refused, len(streams), known))
    return rows


def _header_rows(headers: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for what, way, other in (
        ("strips headers", "direct", "through_gateway"),
        ("adds headers", "through_gateway", "direct"),
    ):
        names = sorted(headers.loc[headers[way] > headers[other], "header"].unique())
        if names:
            rows.append(_row(f"{what}: {', '.join(names)}", len(names), None, "answered replies of both ways compared"))
    return rows


def _added_attempts(joined: Joined, through: pd.DataFrame) -> list[dict[str, Any]]:
    """Failures in Azure OpenAI's log that no reply names, while a call through the gateway was open."""
    rows = joined.only_log
    failed = rows[rows["status"].eq(429).fillna(False) | (rows["status"] >= 500).fillna(False)]
    within = int(began_while_open(failed, through, joined.coverage.skew).sum())
    if not within:
        return []
    known = "429 or 5xx in Azure OpenAI's log that no reply names, while calls through the gateway were open"
    return [_row("calls back ends again (attempts no client saw)", within, len(through), known)]


def _row(what: str, calls: int, of: int | None, known_by: str) -> dict[str, Any]:
    return {"what": what, "calls": calls, "of": of, "known_by": known_by}


def paths(joined: Joined, gateway: pd.DataFrame) -> pd.DataFrame:
    """By which rule each row of the gateway's log was told to be which call's, and which of Azure OpenAI's records its
    back end's; a row is joined by the first rule that holds. Rows of no rule are there too."""
    if gateway.empty:
        return pd.DataFrame(columns=["from_to", "rule", "rows"])
    calls = joined.calls[joined.calls["gateway"] == "apim"]
    position = _gateway_positions(calls, gateway, joined)
    by_call = pd.Series(position["rule"]).fillna("none")
    to_service = _to_service(joined, calls, gateway, position)
    rows = [
        {"from_to": pair, "rule": rule, "rows": int(number)}
        for pair, rules in (("gateway to client", by_call), ("gateway to Azure OpenAI", to_service))
        for rule, number in rules.value_counts().items()
    ]
    return pd.DataFrame(rows, columns=["from_to", "rule", "rows"])


def _gateway_positions(calls: pd.DataFrame, gateway: pd.DataFrame, joined: Joined) -> pd.DataFrame:
    """A row for each of the gateway's log: `call`, the index of its call in `calls` (NA for none), and by which
    `rule`."""
    found = pd.DataFrame({"call": pd.array([pd.NA] * len(gateway), "Int64"), "rule": None}, index=gateway.index)
    plain_id = gateway["correlation_id"].str.replace("-", "")
    for header in ID_HEADERS:
        if header in calls:
            sent = calls[header].dropna().str.replace("-", "").str.lower()
            _fill(found, plain_id, sent, f"header {header}")
    _fill(found, gateway["response_id"], calls["response_id"].dropna(), "RequestId of the LLM log")
    ids = calls["service_request_id"].dropna().str.lower()
    _fill(found, gateway["backend_request_id"], ids, "apim-request-id that it logged")
    _fill_by_time(found, gateway, calls, joined)
    return found


def _fill(found: pd.DataFrame, theirs: pd.Series, ours: pd.Series, rule: str) -> None:
    """Where an id is one call's and no other's."""
    once = ours[~ours.duplicated(keep=False)]
    calls = theirs.map(pd.Series(once.index, index=once.to_numpy(), dtype="Int64")).astype("Int64")
    new = found["rule"].isna() & calls.notna() & ~calls.isin(found["call"].dropna())
    found.loc[new, "call"] = calls[new]
    found.loc[new, "rule"] = rule


def _fill_by_time(found: pd.DataFrame, gateway: pd.DataFrame, calls: pd.DataFrame, joined: Joined) -> None:
    """Where one row that is left lies within one call that is left, of the same status, and the other way round."""
    left = gateway[found["rule"].isna() & gateway["began_ns"].notna()]
    open_calls = calls[~calls.index.isin(found["call"].dropna()) & calls["duration"].notna()]
    if left.empty or open_calls.empty:
        return
    skew = joined.coverage.skew
    shift = 0.0 if skew is None else skew.seconds
    began = left["began_ns"].to_numpy(dtype="int64") / 1e9
    starts = open_calls["start_time_unix_nano"].to_numpy(dtype="int64") / 1e9 + shift
    order = np.argsort(starts)
    first = np.searchsorted(starts[order], began - open_calls["duration"].max() - 0.05)
    last = np.searchsorted(starts[order], began + 0.05)
    ends = starts + open_calls["duration"].to_numpy(dtype="float64") + 0.05
    statuses = open_calls["status_code"].astype("Int64").fillna(-1).to_numpy(dtype="int64")
    candidates: dict[int, list[int]] = {}
    for number, status in enumerate(left["status"].astype("Int64").fillna(-2).to_numpy(dtype="int64")):
        near = order[first[number] : last[number]]
        candidates[number] = [int(one) for one in near[(ends[near] >= began[number]) & (statuses[near] == status)]]
    used = pd.Series([one for found_ones in candidates.values() for one in found_ones]).value_counts()
    for number, ones in candidates.items():
        if len(ones) == 1 and used[ones[0]] == 1:
            found.loc[left.index[number], "call"] = open_calls.index[ones[0]]
            found.loc[left.index[number], "rule"] = "time, both alone in it"


def _to_service(joined: Joined, calls: pd.DataFrame, gateway: pd.DataFrame, position: pd.DataFrame) -> pd.Series:
    known = {*joined.only_log["correlation_id"], *joined.calls.loc[joined.calls["in_log"], "correlation_id"]}
    rule = pd.Series("none", index=gateway.index, dtype="object")
    through_client = position["call"].map(calls["correlation_id"])
    rule[through_client.isin(known)] = "through the client: the reply's apim-request-id"
    rule[gateway["backend_request_id"].isin(known)] = "apim-request-id that the gateway logged"
    return rule


def as_result(found: Gateway, lost: Lost, logs: Said | None) -> Result:
    """`logs` is what is to be known of them; None where none were given."""
    entries = lost.entries
    totals = {
        "calls": len(entries),
        "prompt_tokens": int(entries["prompt_tokens"].sum()),
        "generated_tokens": int(entries["generated_tokens"].sum()),
        "without_tokens": int(entries["prompt_tokens"].isna().sum()),
        "cost": float(entries["cost"].sum()) if entries["cost"].notna().any() else None,
        "without_price": int((entries["cost"].isna() & entries["prompt_tokens"].notna()).sum()),
    }
    return Result(
        [*_said_added(found.added), _said_lost(totals, lost), *(logs.lines if logs else [_NO_LOGS])],
        {"paid_and_lost": totals, "unexplained": len(lost.unexplained), "coverage": logs.facts if logs else None},
        {
            "added": Table(
                "What the gateway adds, s", found.added, "no calls were answered both directly and through it"
            ),
            "behaviour": Table("What it does to them", found.behaviour, "nothing that shows"),
            "success": Table("Calls answered, by target", found.success, "no call was sent"),
            "lost": Table("Paid and lost", lost.by_outcome, "no call that was worked for failed to arrive"),
            "paths": Table("Its log joined", found.paths, "there is no gateway's log"),
            "headers": Table("Headers that one way has only", found.headers, "none, or only one way was answered"),
        },
    )


_NO_LOGS = "No logs were given; --logs says where they are."


def _said_added(added: pd.DataFrame) -> list[str]:
    if added.empty:
        return ["No calls were answered both directly and through a gateway: what it adds is not known."]
    known = added[added["added_low"].notna()]
    return [
        f"{asked_for}s through {through}: {'; '.join(map(_said_mark, rows.to_dict('records')))}."
        for (through, asked_for), rows in known.groupby(["through", "asked_for"])
    ]


def _said_mark(row: dict[Any, Any]) -> str:
    ends = f"{row['added_low'] * 1000:+,.1f} to {row['added_high'] * 1000:+,.1f}"
    of = f"{row['n']:,} {'pairs' if row['paired'] else 'calls each, not paired'}"
    told = f" {row['verdict']}" if row["n"] >= FEW else ": too few to tell"
    return f"{row['mark']}{told}, {row['added'] * 1000:+,.1f} ms (95 %: {ends}; {of})"


def _said_lost(totals: dict[str, Any], lost: Lost) -> str:
    if not totals["calls"]:
        return "Paid and lost: nothing that the logs show."
    cost = "" if totals["cost"] is None else f", ${totals['cost']:,.4f}"
    gaps = [
        f"{totals['without_tokens']:,} without usage" if totals["without_tokens"] else "",
        f"{totals['without_price']:,} of a model without a price" if totals["without_price"] else "",
    ]
    left_out = "; ".join(gap for gap in gaps if gap)
    return (
        f"Paid and lost: {count(totals['calls'], 'call')}, {totals['prompt_tokens']:,} prompt and"
        f" {totals['generated_tokens']:,} generated tokens{cost}{f' (left out: {left_out})' if left_out else ''}."
    )
