"""How calls ended and how long they took, by target and by whether they streamed."""

import pandas as pd

from analysis.stats import quantile

# A generator that is later than this, in more than this share of calls, measures itself.
_LATE, _OFTEN = 0.050, 0.05
GROUPS = ("answered", "throttled", "failed", "cancelled", "dropped")


def by_target(calls: pd.DataFrame, seconds: float) -> pd.DataFrame:
    """One row a target and stream flag: counts by group, and of answered calls the quantiles of the times in seconds.

    Columns: target, stream, calls, the groups, ttft_p50, ttft_p95, duration_p50, duration_p95 (exact), and
    tokens_per_minute: input and output together, as the service counted, over a run of so many `seconds`.
    """
    return _table(calls, ["target", "request_stream"], seconds).rename(columns={"request_stream": "stream"})


def by_traffic(calls: pd.DataFrame, seconds: float) -> pd.DataFrame:
    """The same by class of the mix and stream flag."""
    return _table(calls, ["traffic", "request_stream"], seconds).rename(columns={"request_stream": "stream"})


def _table(calls: pd.DataFrame, keys: list[str], seconds: float) -> pd.DataFrame:
    rows = []
    for values, part in calls.groupby(keys, sort=True, dropna=False):
        answered = part[part["group"] == "answered"]
        counts = {name: int((part["group"] == name).sum()) for name in GROUPS}
        times = {
            f"{name}_p{percent}": quantile(answered[column], percent / 100)
            for name, column in (("ttft", "time_to_first_token"), ("duration", "duration"))
            for percent in (50, 95)
        }
        rates = tokens_per_minute(part, seconds)
        rate = sum(rates.values()) if rates else None
        rows.append(
            {**dict(zip(keys, values, strict=True)), "calls": len(part), **counts, **times, "tokens_per_minute": rate}
        )
    times_of = ("ttft_p50", "ttft_p95", "duration_p50", "duration_p95")
    columns = [*keys, "calls", *GROUPS, *times_of, "tokens_per_minute"]
    return pd.DataFrame(rows, columns=columns)


def over_time(calls: pd.DataFrame, bins: int = 60) -> pd.DataFrame:
    """Calls ended or dropped in each stretch of the run by outcome: index its middle in seconds, a column an outcome.

    Stretches are equally long, at least a second, and there is one also where nothing ended. Needs a call or more.
    """
    ended = calls["at"] + calls["duration"].fillna(0.0)
    width = max(1.0, float(ended.max()) / bins)
    number = (ended // width).astype(int)
    table = pd.crosstab(number, calls["outcome"]).reindex(range(int(number.max()) + 1), fill_value=0)
    return table.set_axis((table.index + 0.5) * width)


def tokens_per_minute(calls: pd.DataFrame, seconds: float) -> dict[str, float]:
    """Input and output tokens a minute that the service said it used; empty for a run of no length."""
    if seconds <= 0:
        return {}
    return {
        name: float(calls[f"{name}_tokens"].sum()) * 60 / seconds
        for name in ("input", "output")
        if calls[f"{name}_tokens"].notna().any()
    }


def lateness(calls: pd.DataFrame) -> pd.Series:
    """Seconds between when a call was due and when it was issued, where calls were scheduled."""
    return (calls["issued"] - calls["scheduled"]).dropna()


def late_spells(calls: pd.DataFrame, stretches: int = 120) -> list[tuple[float, float]]:
    """From when to when, in seconds of the run, the generator was the limit: stretches, each a second or longer, in
    which a call in twenty was issued over 50 ms after it was due, or as many saw the process as late as that."""
    late = ((calls["issued"] - calls["scheduled"]) > _LATE) | (calls["loop_lag"] > _LATE)
    if not late.any():
        return []
    width = max(1.0, float(calls["at"].max()) / stretches)
    share = late.groupby((calls["at"] // width).astype(int)).mean()
    found: list[tuple[float, float]] = []
    for number in share.index[share > _OFTEN]:
        begin = found.pop()[0] if found and found[-1][1] == number * width else number * width
        found.append((float(begin), float((number + 1) * width)))
    return found


def from_due(calls: pd.DataFrame) -> pd.DataFrame:
    """How long after they were due answered calls had their first token and their end: what a user would have waited.

    A row a mark (`first token`, `whole call`) that any has: n, p50, p90, p95, p99 and max in seconds. Empty for the
    closed model.
    """
    answered = calls[calls["group"] == "answered"]
    late = lateness(answered)
    rows = []
    for mark, column in (("first token", "time_to_first_token"), ("whole call", "duration")):
        times = (late + answered[column]).dropna()
        if len(times):
            quantiles = {f"p{percent}": quantile(times, percent / 100) for percent in (50, 90, 95, 99)}
            rows.append({"mark": mark, "n": len(times), **quantiles, "max": float(times.max())})
    return pd.DataFrame(rows, columns=["mark", "n", "p50", "p90", "p95", "p99", "max"])


def without_late_marks(calls: pd.DataFrame, most: float) -> tuple[pd.DataFrame, float | None]:
    """The calls as they can be reported, and the share of tainted first tokens (None where nothing is known of them).

    With a larger share than `most` no first token is left: nobody can say by how much their quantiles are wrong.
    """
    known = calls["tainted"].dropna()
    share = float(known.mean()) if len(known) else None
    if share is None or share <= most:
        return calls, share
    return calls.assign(time_to_first_token=float("nan")), share
