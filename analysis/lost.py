"""Paid and lost: calls that the model worked for, by its own log, and that the client has no answer of.

Known by. A reply whose head came names its record by `apim-request-id`, however it ended. A call that a gateway turned
          into an error, or that was given up before its head, names none: it is looked for by time among the records
          that no reply names, as one that began while the call was open (by the service's clock, both streams or
          neither; of a record whose request was lost, when its usage was enqueued). Where several calls were open,
          which one it was is not known; the sums are the same.
Not here. Tokens are RequestUsage's. A call whose usage record was late or lost is counted without them, and nothing is
          estimated in their place. A model without a price has no cost.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.join import Joined
from probe.prices import Prices

# Beyond what is known of the clocks: a record's time is when the request was received.
_TOLERANCE_NS = 20_000_000
LOG_COLUMNS = (
    "status", "began_ns", "ended_ns", "logged_ns", "deployment", "model", "model_version", "stream",
    "account", "prompt_tokens", "cached_tokens", "generated_tokens",
)  # fmt: skip


class Lost(NamedTuple):
    """`entries`: a row a record of the service: correlation_id, `outcome` of the call that lost it and its `target`
    (the nearest where several were open), `known_by`, the tokens, `cost` in US dollars. `by_outcome`: their sums, with
    `without_tokens` and `without_price` (rows that are in no sum). `unexplained`: rows of the logs that were worked for
    and are no call's of this run."""

    entries: pd.DataFrame
    by_outcome: pd.DataFrame
    unexplained: pd.DataFrame


def paid_and_lost(joined: Joined, prices: Prices) -> Lost:
    """`joined` from logs with `LOG_COLUMNS`."""
    calls = joined.calls
    lost = calls[~calls["group"].isin(["answered", "dropped"])]
    logged = "cached_tokens_log" if "cached_tokens_log" in calls else "cached_tokens"
    named = lost[lost["in_log"] & _worked(lost, logged)]
    unnamed = joined.only_log[_worked(joined.only_log, "cached_tokens")]
    unnamed = unnamed.assign(when=unnamed["began_ns"].fillna(unnamed["logged_ns"])).sort_values("when")
    positions, several = _by_time(unnamed, lost[~lost["in_log"]], joined)
    found = positions >= 0
    guilty = lost[~lost["in_log"]].iloc[positions[found]]
    entries = pd.concat(
        [
            _entries(named, named[logged], named, "apim-request-id"),
            _entries(
                unnamed[found],
                unnamed.loc[found, "cached_tokens"],
                guilty,
                np.where(several[found], "time, one of several calls", "time, the only call open"),
            ),
        ],
        ignore_index=True,
    )
    entries["cost"] = _costs(entries, prices)
    return Lost(entries, _sums(entries), unnamed[~found])


def _worked(rows: pd.DataFrame, cached: str) -> pd.Series:
    """Answered, or counted: a call that was cut is billed for what there was of it."""
    tokens = rows["prompt_tokens"].fillna(0) + rows["generated_tokens"].fillna(0) + rows[cached].fillna(0)
    return ((tokens > 0) | rows["status"].eq(200).fillna(False)).astype(bool)


def _by_time(records: pd.DataFrame, calls: pd.DataFrame, joined: Joined) -> tuple[np.ndarray, np.ndarray]:
    """For each record the position of a call that was open when it began, -1 for none; and whether others were too.
    No call is taken twice."""
    skew = joined.coverage.skew
    shift = 0 if skew is None else round(skew.seconds * 1e9)
    slack = _TOLERANCE_NS + (0 if skew is None else round((skew.high - skew.low) / 2 * 1e9))
    starts = calls["start_time_unix_nano"].to_numpy(dtype="int64") + shift - slack
    ends = starts + 2 * slack + (calls["duration"].fillna(0).to_numpy(dtype="float64") * 1e9).astype("int64")
    order = np.argsort(starts, kind="stable")
    longest = int((ends - starts).max()) if len(calls) else 0
    streams = calls["request_stream"].to_numpy(dtype=object)
    taken = np.zeros(len(calls), bool)
    positions, several = np.full(len(records), -1), np.zeros(len(records), bool)
    for number, (began, stream) in enumerate(zip(records["when"], records["stream"], strict=True)):
        if pd.isna(began):
            continue
        first, last = np.searchsorted(starts[order], [int(began) - longest, int(began) + 1])
        near = order[first:last]
        near = near[(ends[near] >= int(began)) & ~taken[near]]
        if not pd.isna(stream):
            near = near[streams[near] == stream]
        if len(near):
            # The last to be issued before it; one issued after it only where the clocks leave room for that.
            before = near[starts[near] + slack <= int(began)]
            nearest = before[-1] if len(before) else near[0]
            positions[number], several[number] = nearest, len(before if len(before) else near) > 1
            taken[nearest] = True
    return positions, several


def _entries(records: pd.DataFrame, cached: pd.Series, calls: pd.DataFrame, known_by: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "correlation_id": records["correlation_id"].to_numpy(),
            "target": calls["target"].to_numpy(),
            "gateway": calls["gateway"].to_numpy(),
            "outcome": calls["outcome"].to_numpy(),
            "client_status": calls["status_code"].to_numpy(),
            "log_status": records["status"].array,
            "known_by": known_by,
            "deployment": records["deployment"].to_numpy(),
            "model": (records["model"] + "-" + records["model_version"]).fillna(records["model"]).to_numpy(),
            "prompt_tokens": records["prompt_tokens"].array,
            "cached_tokens": cached.array,
            "generated_tokens": records["generated_tokens"].array,
        }
    )


def _costs(entries: pd.DataFrame, prices: Prices) -> pd.Series:
    by_model = {model: prices.price(model) for model in entries["model"].dropna().unique()}

    def cost(row: Any) -> float | None:
        price = by_model.get(row.model)
        if price is None or pd.isna(row.prompt_tokens) or pd.isna(row.generated_tokens):
            return None
        return price.cost(
            row.prompt_tokens, row.generated_tokens, 0 if pd.isna(row.cached_tokens) else row.cached_tokens
        )

    return pd.Series([cost(row) for row in entries.itertuples()], index=entries.index, dtype="float64")


def _sums(entries: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (gateway, outcome, known_by), part in entries.groupby(["gateway", "outcome", "known_by"], sort=True):
        counted = part["prompt_tokens"].notna()
        rows.append(
            {
                "gateway": gateway,
                "outcome": outcome,
                "known_by": known_by,
                "calls": len(part),
                "prompt_tokens": int(part["prompt_tokens"].sum()),
                "generated_tokens": int(part["generated_tokens"].sum()),
                "cached_tokens": int(part["cached_tokens"].sum()),
                "without_tokens": int((~counted).sum()),
                "cost": float(part["cost"].sum()) if part["cost"].notna().any() else None,
                "without_price": int((part["cost"].isna() & counted).sum()),
            }
        )
    columns = ["gateway", "outcome", "known_by", "calls", "prompt_tokens", "generated_tokens", "cached_tokens"]
    return pd.DataFrame(rows, columns=[*columns, "without_tokens", "cost", "without_price"])
