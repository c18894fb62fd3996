"""Calls and logs put together, with what found no partner.

Facts.  Azure OpenAI's CorrelationId is the reply's `apim-request-id`. A call that got no head has none, nor has one
        behind a gateway that strips it. A gateway's semantic cache hands out old heads: one id, several calls.
Clocks. The client's wall clock and the service's differ. A call's request was received after it was issued and before
        its head was there, which bounds the difference from both sides; all calls together leave an interval.
Delay.  A record's `time` is when it was written down, and that it can be read comes later still. What was late by the
        end of the run is missing from logs that were fetched too early: `later` counts what ended after the last one.
Never.  Nothing is dropped on either side: who is unmatched is counted, with the reason.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.extensions import take

from analysis.logs import Logs, aside, lacking, left_out
from analysis.stats import quantile

_AN_HOUR_NS = 3600 * 10**9
# Seconds, beyond what is known of the clocks: a record's time is when the request was received.
_TOLERANCE = 0.05


class Skew(NamedTuple):
    """The service's clock less the client's, in seconds: somewhere from `low` to `high`, by so many calls. Where the
    bounds contradict each other (`steady` is False) a clock was set, or drifts, and they hold for nine calls in ten."""

    seconds: float
    low: float
    high: float
    calls: int
    steady: bool


class Coverage(NamedTuple):
    """How far calls and Azure OpenAI's logs could be joined. Calls that were never sent are in none of the counts.

    `matched` calls are in the logs. Of the `only_client` ones, `without_id` got no `apim-request-id`. `only_log`
    correlation ids are no call's. `shared` calls carry an id that an earlier call has too. Of the log's rows
    `without_request` have usage only and `without_usage` were answered with 200 and have no usage: the other record
    was late or lost. `delay_p50` and `delay_max` are seconds from a call's end until its record was written. Of the
    `only_client` ones with an id, `later` ended after the last record was written, in `written_ns` by its clock.
    """

    matched: int
    only_client: int
    only_log: int
    without_id: int = 0
    shared: int = 0
    duplicates: int = 0
    differing: int = 0
    without_request: int = 0
    without_usage: int = 0
    skew: Skew | None = None
    delay_p50: float | None = None
    delay_max: float | None = None
    later: int = 0
    written_ns: int | None = None


class Said(NamedTuple):
    """What a reader must know of a join: as sentences, and the same for a script."""

    lines: list[str]
    facts: dict[str, Any]


class Joined(NamedTuple):
    """`calls` as they were given (same index), with the logs' columns beside theirs (`_log` is added to a name that
    both have) and `in_log`; `only_log` the rows of the logs that are no call's."""

    calls: pd.DataFrame
    only_log: pd.DataFrame
    coverage: Coverage


def join(calls: pd.DataFrame, logs: Logs, others: Iterable[str] = ()) -> Joined:
    """`others` are ids of calls that belong to the run and are not among `calls`, such as the checks before it."""
    requests = logs.requests.reset_index(drop=True)
    position = _positions(calls["service_request_id"], pd.Index(requests["correlation_id"]))
    joined = _beside(calls, requests, position)
    is_known = np.zeros(len(requests), bool)
    is_known[position[position >= 0]] = True
    of_others = requests["correlation_id"].isin([one.lower() for one in others])
    only_log = requests[~is_known & ~of_others.to_numpy()]
    return Joined(joined, only_log, _coverage(joined, requests, only_log, logs))


def _positions(ids: pd.Series, logged: pd.Index) -> np.ndarray:
    """Where each call's id is among the logs', -1 for nowhere. Theirs are in lower case, and so are nearly all that
    replies have."""
    position = logged.get_indexer(pd.Index(ids))
    is_missing = (position < 0) & ids.notna().to_numpy()
    position[is_missing] = logged.get_indexer(pd.Index(ids[is_missing].str.lower()))
    position[ids.isna().to_numpy()] = -1
    return position


def _beside(calls: pd.DataFrame, requests: pd.DataFrame, position: np.ndarray) -> pd.DataFrame:
    """The row at each call's `position`, NA where that is -1."""
    found = position >= 0
    beside = {
        f"{name}_log" if name in calls else name: take(requests[name].array, position, allow_fill=True)
        for name in requests.columns.drop("service")
    }
    logged = pd.DataFrame(beside | {"in_log": found}, index=calls.index, copy=False)
    return pd.concat([calls, logged], axis=1)


def _coverage(joined: pd.DataFrame, requests: pd.DataFrame, only_log: pd.DataFrame, logs: Logs) -> Coverage:
    sent = joined[joined["group"] != "dropped"]
    ids = sent["service_request_id"]
    matched = int(sent["in_log"].sum())
    delays = _delays(requests)
    clocks = skew(sent)
    written = _last_written(requests)
    answered = requests["status"].eq(200).fillna(False) if "status" in requests else requests["has_request"]
    return Coverage(
        matched=matched,
        only_client=len(sent) - matched,
        only_log=len(only_log),
        without_id=int(ids.isna().sum()),
        shared=int((ids.duplicated() & ids.notna()).sum()),
        duplicates=logs.duplicates,
        differing=int(requests["differing"].sum()),
        without_request=int((~requests["has_request"]).sum()),
        without_usage=int((answered & ~requests["has_usage"]).sum()),
        skew=clocks,
        delay_p50=quantile(delays, 0.5),
        delay_max=quantile(delays, 1.0),
        later=0 if written is None else _ended_after(sent[~sent["in_log"] & ids.notna()], written, clocks),
        written_ns=written,
    )


def _last_written(requests: pd.DataFrame) -> int | None:
    written = requests["logged_ns"].max() if "logged_ns" in requests else pd.NA
    return None if pd.isna(written) else int(written)


def _ended_after(calls: pd.DataFrame, written: int, skew: Skew | None) -> int:
    """By the service's clock."""
    shift = 0.0 if skew is None else skew.seconds
    ends = (calls["start_time_unix_nano"] - written) / 1e9 + calls["duration"].fillna(0.0) + shift
    return int((ends > 0).sum())


def _delays(requests: pd.DataFrame) -> pd.Series:
    """Seconds from a call's end until its record was written, by the service's own clock."""
    if not {"logged_ns", "ended_ns"} <= set(requests):
        return pd.Series(dtype="float64")
    return ((requests["logged_ns"] - requests["ended_ns"]) / 1e9).astype("float64")


def skew(joined: pd.DataFrame) -> Skew | None:
    """Of calls that `join` has matched; None where no matched call has both times."""
    if not {"began_ns", "in_log"} <= set(joined):
        return None
    timed = joined[joined["in_log"] & joined["began_ns"].notna()]
    head = timed["time_to_headers"].fillna(timed["duration"])
    timed, head = timed[head.notna()], head[head.notna()]
    if timed.empty:
        return None
    latest = ((timed["began_ns"] - timed["start_time_unix_nano"]) / 1e9).astype("float64")
    earliest = latest - head.astype("float64")
    low, high = float(earliest.max()), float(latest.min())
    if low <= high:
        return Skew((low + high) / 2, low, high, len(timed), True)
    low, high = float(earliest.quantile(0.05)), float(latest.quantile(0.95))
    return Skew(float((earliest + latest).median() / 2), low, high, len(timed), False)


def began_while_open(records: pd.DataFrame, calls: pd.DataFrame, skew: Skew | None) -> pd.Series:
    """Which records of the logs (with `began_ns`) began while one of the calls was open, by the service's clock."""
    if calls.empty:
        return pd.Series(False, records.index)
    shift = 0.0 if skew is None else skew.seconds
    starts = calls["start_time_unix_nano"].to_numpy(dtype="int64") / 1e9 + shift
    order = np.argsort(starts)
    # Until when any call was open that had been issued by then.
    open_until = np.maximum.accumulate((starts + calls["duration"].fillna(0).to_numpy(dtype="float64"))[order])
    began = records["began_ns"].to_numpy(dtype="float64", na_value=np.nan) / 1e9
    issued = np.searchsorted(starts[order], began + _TOLERANCE, side="right")
    # NaN is sorted behind everything, and is no time.
    within = (issued > 0) & (open_until[np.maximum(issued - 1, 0)] >= began - _TOLERANCE)
    return pd.Series(within, records.index)


def overlap(joined: Joined, logs: Logs) -> str | None:
    """Why nothing could be joined, as far as it can be told; None where something was. Of logs with the columns
    account, began_ns and logged_ns."""
    coverage, requests = joined.coverage, logs.requests
    if coverage.matched:
        return None
    if requests.empty:
        return "The logs have no record of Azure OpenAI's."
    if joined.calls["group"].eq("dropped").all():
        return "No call was sent."
    if coverage.without_id == coverage.only_client:
        return "No reply named its record: none has an `apim-request-id`, which a gateway may strip."
    times = requests["began_ns"].fillna(requests["logged_ns"]).dropna()
    starts = joined.calls["start_time_unix_nano"]
    if len(times) and (times.max() < starts.min() or times.min() > starts.max() + _AN_HOUR_NS):
        span = f"{_moment(times.min())} to {_moment(times.max())}"
        return f"The logs are of another time: {span}, the run is of {_moment(starts.min())}."
    accounts = ", ".join(sorted(requests["account"].dropna().unique())) or "not named"
    time = "which are of the same time" if len(times) else "which name no time"
    return f"No call is in the logs, {time}: another resource's ({accounts}), or not written yet."


def said(joined: Joined, logs: Logs) -> Said:
    """Of logs that were given, be there any or not."""
    coverage, why = joined.coverage, overlap(joined, logs)
    lines = _covered(coverage) if logs.files else ["No log is below the folders given."]
    llm = lacking(logs)
    if llm["missing"]:
        lines.append(
            f"The gateway's LLM log: {llm['missing']:,} pieces of {llm['incomplete']:,} of its {llm['calls']:,} calls"
            f" did not come; {llm['without_counts']:,} of these calls are without their counts."
        )
    told = facts(coverage, logs) | {"llm_log": llm}
    return Said([*lines, *([why] if why and logs.files else []), *left_out(logs)], told)


def facts(coverage: Coverage, logs: Logs) -> dict[str, Any]:
    skew = None if coverage.skew is None else coverage.skew._asdict()
    read = {"files": logs.files, "skipped_lines": logs.skipped_lines, "records_aside": aside(logs)}
    return coverage._asdict() | {"skew": skew, **read}


def _covered(coverage: Coverage) -> list[str]:
    lines = [
        f"Logs: {coverage.matched:,} calls matched, {coverage.only_client:,} only here ({coverage.without_id:,} of them"
        f" got no id), {coverage.only_log:,} only there, {coverage.duplicates:,} duplicates;"
        f" {coverage.without_request:,} without their request record, {coverage.without_usage:,} without their usage."
    ]
    if coverage.differing:
        lines.append(f"{coverage.differing:,} records came twice and contradict themselves.")
    if coverage.shared:
        lines.append(f"{coverage.shared:,} calls carry the id of another: a cache handed out its reply.")
    if (skew := coverage.skew) is not None:
        how = "" if skew.steady else ", and not steady: one of them was set, or drifts"
        lines.append(
            f"The service's clock less this one's: {skew.seconds * 1000:+,.0f} ms"
            f" ({skew.low * 1000:+,.0f} to {skew.high * 1000:+,.0f} ms){how}."
        )
    if coverage.delay_p50 is not None:
        lines.append(
            f"Records were written {coverage.delay_p50:,.1f} s after the call ended"
            f" (at most {coverage.delay_max:,.1f} s)."
        )
    return [*lines, *said_later(coverage)]


def said_later(coverage: Coverage) -> list[str]:
    """That logs were fetched too early, as a sentence where it looks so."""
    if not coverage.matched or not coverage.later or coverage.written_ns is None:
        return []
    return [
        f"{coverage.later:,} of the calls only here ended after the last record was written"
        f" ({_moment(coverage.written_ns)}): the logs were fetched too early, or theirs are lost."
    ]


def _moment(unix_ns: int) -> str:
    return f"{datetime.fromtimestamp(unix_ns / 1e9, UTC):%Y-%m-%d %H:%M} UTC"
