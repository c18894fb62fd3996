"""Which region answers how fast, whether that is luck, and how a load balancer should share calls out among them.

`x-ms-region` is the region of the resource. On global deployments the model may have run elsewhere: where a reply says
so (the `DR:` part of `azureai-model-sessionid`), that is `serving_region`.

Speed is compared between targets that were called directly. Calls are paired so that the time of day and the prompt
cannot bias the difference: within each round of a run that made them in rounds (`regions.py`), else where the run sent
the same prompt in the same way to two targets, its n-th there with its n-th here. Where there are too few pairs the
streams of the two are taken as independent samples of one mix.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.join import Said
from analysis.output import Result, Table
from analysis.stats import Estimate, quantile, quantile_difference, quantile_estimate, share_estimate

# A cell of fewer calls says little about its 95th percentile.
FEW = 30
# What `read_run` has to make columns of.
REGION_HEADERS = ("azureai-model-sessionid",)
CALL_COLUMNS = (
    "target", "gateway", "request_stream", "request_max_tokens", "prompt_id", "round", "region", "time_to_first_token",
    "output_tokens", "reasoning_tokens", "service_request_id", "time_to_headers",
)  # fmt: skip
# What makes two calls the same but for where they went.
_ASKED = ["prompt_id", "request_stream", "request_max_tokens"]
# A part of the calls is taken again and again: in a large run, every column that is not used costs.
_USED = (*CALL_COLUMNS, *REGION_HEADERS, "group", "at", "start_time_unix_nano", "duration", "duration_ms")
# Of those beside the duration the coverage is told.
LOG_COLUMNS = ("duration_ms", "account", "status", "began_ns", "ended_ns", "logged_ns")
# A pool's weights in API Management are whole numbers up to this.
_MOST_WEIGHT = 100


class Regions(NamedTuple):
    """Frames, a row each; times in seconds, hours of the day in UTC, intervals of 95 %.

    regions      region and gateway: answered calls, quantiles of the time to first token (of streams) and of the whole
                 call, `few` where there are under 30 calls
    served       target, region of the resource, region the model ran in: calls, ttft_p50
    speed        target: region, calls, ttft_p50 with its interval, output tokens a second of streams after the first
                 token, logged_p50 (DurationMs of the diagnostic log)
    hours        region and hour: streams as `calls`, ttft_p50, ttft_p95, few; of all its answered calls duration_p50,
                 tokens_per_second_p50, logged_p50
    success      as `success` gives it
    differences  two targets: the median time to first token of `target` less that of `than`, its interval, n, whether
                 calls were paired, and the `verdict`
    weights      target: weight
    """

    regions: pd.DataFrame
    served: pd.DataFrame
    speed: pd.DataFrame
    hours: pd.DataFrame
    success: pd.DataFrame
    differences: pd.DataFrame
    weights: pd.DataFrame


def analyse(calls: pd.DataFrame) -> Regions:
    """`calls` as `read_run` gives them with `REGION_HEADERS` and at least `CALL_COLUMNS`, and `duration_ms` where logs
    were joined."""
    calls = calls[[name for name in _USED if name in calls]]
    answered = calls[calls["group"] == "answered"]
    direct = answered[answered["gateway"] == "direct"]
    speed, compared = _speed(direct), differences(direct)
    return Regions(
        by_region(calls),
        _served(answered),
        speed,
        _hours(answered),
        success(calls),
        compared,
        _weights(speed, compared),
    )


def calls_sent(calls: pd.DataFrame) -> pd.DataFrame:
    """What `success` is told from, of the calls that it is of."""
    told: pd.DataFrame = calls[["target", "gateway", "region", "group"]]
    return told[~told["group"].isin(["cancelled", "dropped"])]


def success(calls: pd.DataFrame) -> pd.DataFrame:
    """One row a target: gateway, the region that its replies name, calls that were sent and not ended by us, of those
    `answered`, `throttled` and `failed`, and the share answered (0 to 1) with its interval."""
    sent = calls_sent(calls)
    rows = []
    for (target, gateway), part in sent.groupby(["target", "gateway"], sort=True):
        by_group = part["group"].value_counts()
        counts = {name: int(by_group.get(name, 0)) for name in ("answered", "throttled", "failed")}
        share = _named("share", share_estimate(counts["answered"], len(part)))
        about = {"target": target, "gateway": gateway, "region": _only(part["region"])}
        rows.append({**about, "sent": len(part), **counts, **share})
    columns = ["target", "gateway", "region", "sent", "answered", "throttled", "failed"]
    return pd.DataFrame(rows, columns=[*columns, "share", "share_low", "share_high"])


def by_region(calls: pd.DataFrame) -> pd.DataFrame:
    """One row a region and gateway: answered calls, quantiles of the time to first token (of streams) and of the whole
    call in seconds, and `few` where there are under 30 calls."""
    used = ["region", "gateway", "time_to_first_token", "duration"]
    answered = calls.loc[(calls["group"] == "answered") & calls["region"].notna(), used]
    rows = []
    for (region, gateway), part in answered.groupby(["region", "gateway"], sort=True):
        rows.append(
            {
                "region": region,
                "gateway": gateway,
                "calls": len(part),
                "ttft_p50": quantile(part["time_to_first_token"], 0.5),
                "ttft_p95": quantile(part["time_to_first_token"], 0.95),
                "duration_p50": quantile(part["duration"], 0.5),
                "duration_p95": quantile(part["duration"], 0.95),
                "few": len(part) < FEW,
            }
        )
    columns = ["region", "gateway", "calls", "ttft_p50", "ttft_p95", "duration_p50", "duration_p95", "few"]
    return pd.DataFrame(rows, columns=columns)


def _served(answered: pd.DataFrame) -> pd.DataFrame:
    ran = answered["azureai-model-sessionid"].str.extract(r";DR:([a-z0-9]+)", expand=False)
    told = answered.assign(serving_region=ran).dropna(subset=["serving_region"])
    rows = [
        {
            "target": target,
            "region": region,
            "serving_region": serving,
            "calls": len(part),
            "ttft_p50": quantile(part["time_to_first_token"], 0.5),
        }
        for (target, region, serving), part in told.groupby(["target", "region", "serving_region"], dropna=False)
    ]
    return pd.DataFrame(rows, columns=["target", "region", "serving_region", "calls", "ttft_p50"])


def _speed(direct: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for target, part in direct.groupby("target", sort=True):
        first = quantile_estimate(part["time_to_first_token"], 0.5)
        rows.append(
            {
                "target": target,
                "region": _only(part["region"]),
                "calls": len(part),
                "streams": 0 if first is None else first.n,
                **_named("ttft_p50", first),
                "tokens_per_second_p50": quantile(tokens_per_second(part), 0.5),
                "logged_p50": quantile(part["duration_ms"] / 1000, 0.5) if "duration_ms" in part else None,
                "few": first is None or first.n < FEW,
            }
        )
    columns = ["target", "region", "calls", "streams", "ttft_p50", "ttft_p50_low", "ttft_p50_high"]
    return pd.DataFrame(rows, columns=[*columns, "tokens_per_second_p50", "logged_p50", "few"])


def _only(values: pd.Series) -> str | None:
    """The one value there is; several as a list in words."""
    found = sorted(values.dropna().unique())
    return ", ".join(found) or None


def tokens_per_second(part: pd.DataFrame) -> pd.Series:
    """After the first token; NA for a call that does not stream, or of a single token."""
    seconds = (part["duration"] - part["time_to_first_token"]).astype("float64")
    tokens = part["output_tokens"].astype("float64") - part["reasoning_tokens"].astype("float64").fillna(0) - 1
    rate: pd.Series = (tokens / seconds)[(seconds > 0) & (tokens > 0)]
    return rate


def _named(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    value, low, high, _ = estimate or (None, None, None, 0)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _hours(answered: pd.DataFrame) -> pd.DataFrame:
    """See `Regions`."""
    logged = answered["duration_ms"].astype("float64") / 1000 if "duration_ms" in answered else np.nan
    of_all = pd.DataFrame(
        {
            "region": answered["region"],
            "hour": _hour(answered),
            "duration_p50": answered["duration"].astype("float64"),
            "tokens_per_second_p50": tokens_per_second(answered),
            "logged_p50": logged,
        }
    )
    medians = of_all.groupby(["region", "hour"]).median()
    hours = by_hour(answered).merge(medians.reset_index(), on=["region", "hour"], how="outer")
    # Hours without a stream.
    return hours.assign(calls=hours["calls"].fillna(0).astype("int64"), few=hours["calls"].fillna(0) < FEW)


def _hour(calls: pd.DataFrame) -> pd.Series:
    hour: pd.Series = pd.to_datetime(calls["start_time_unix_nano"].astype("int64"), unit="ns", utc=True).dt.hour
    return hour


def by_hour(answered: pd.DataFrame) -> pd.DataFrame:
    """Of streams, a row a region and hour: calls, ttft_p50, ttft_p95, few."""
    used = ["region", "time_to_first_token", "start_time_unix_nano"]
    streams = answered.loc[answered["time_to_first_token"].notna() & answered["region"].notna(), used]
    rows = [
        {
            "region": region,
            "hour": at,
            "calls": len(part),
            "ttft_p50": quantile(part["time_to_first_token"], 0.5),
            "ttft_p95": quantile(part["time_to_first_token"], 0.95),
            "few": len(part) < FEW,
        }
        for (region, at), part in streams.groupby(["region", _hour(streams)], sort=True)
    ]
    return pd.DataFrame(rows, columns=["region", "hour", "calls", "ttft_p50", "ttft_p95", "few"])


def differences(direct: pd.DataFrame) -> pd.DataFrame:
    """Of each two targets among answered calls; see `Regions`."""
    streams = direct[direct["time_to_first_token"].notna()]
    targets = {str(name): part for name, part in streams.groupby("target", sort=True)}
    rows = []
    for one, other in combinations(targets, 2):
        paired = pairs(targets[one], targets[other], ["time_to_first_token"])["time_to_first_token"].dropna()
        if len(paired) >= FEW:
            found = quantile_estimate(paired, 0.5)
        else:
            found = quantile_difference(targets[one]["time_to_first_token"], targets[other]["time_to_first_token"], 0.5)
        assert found is not None
        rows.append(
            {
                "target": one,
                "than": other,
                **_named("difference", found),
                "n": found.n,
                "paired": len(paired) >= FEW,
                "verdict": verdict(found),
            }
        )
    columns = ["target", "than", "difference", "difference_low", "difference_high", "n", "paired", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def pairs(ours: pd.DataFrame, theirs: pd.DataFrame, marks: Sequence[str]) -> pd.DataFrame:
    """Differences of these times, a row a pair: of the calls of a round, where the scenario made them in rounds, else
    of the n-th call of each prompt here and its n-th there."""
    if all("round" in part and part["round"].notna().any() for part in (ours, theirs)):
        one, other = (part.loc[part["round"].notna(), ["round", *marks]] for part in (ours, theirs))
        both = one.merge(other, on="round", suffixes=("", "_other"))
    else:
        one, other = (_numbered(part, marks) for part in (ours, theirs))
        both = one.merge(other, on=[*_ASKED, "number"], suffixes=("", "_other"))
    return pd.DataFrame({mark: (both[mark] - both[f"{mark}_other"]).astype("float64") for mark in marks})


def _numbered(part: pd.DataFrame, marks: Sequence[str]) -> pd.DataFrame:
    """Of each prompt and way of asking, the how many-th call."""
    part = part.loc[part["prompt_id"].notna(), [*_ASKED, "at", *marks]].sort_values("at", kind="stable")
    return part.assign(number=part.groupby(_ASKED, dropna=False).cumcount()).drop(columns="at")


def verdict(difference: Estimate) -> str:
    if difference.n < FEW:
        return f"fewer than {FEW} calls"
    if not difference.excludes_zero:
        return "no detectable difference"
    return "faster" if difference.value < 0 else "slower"


def _weights(speed: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """In proportion to 1 / median time to first token; a target that cannot be told from the fastest weighs as much."""
    known = speed[speed["ttft_p50"].notna() & ~speed["few"].astype(bool)].sort_values("ttft_p50")
    if len(known) < 2:
        return pd.DataFrame(columns=["target", "weight"])
    fastest = known.iloc[0]
    rows = [{"target": row["target"], "weight": _weight(fastest, row, compared)} for row in known.to_dict("records")]
    return pd.DataFrame(rows, columns=["target", "weight"])


def _weight(fastest: Any, row: dict[Any, Any], compared: pd.DataFrame) -> int:
    two = [fastest["target"], row["target"]]
    couple = compared[compared["target"].isin(two) & compared["than"].isin(two)]
    if (couple["verdict"] == "no detectable difference").any():
        return _MOST_WEIGHT
    return max(1, round(_MOST_WEIGHT * float(fastest["ttft_p50"]) / float(row["ttft_p50"])))


def backend_pool(weights: pd.DataFrame) -> dict[str, Any]:
    """The properties of an API Management backend resource of type Pool, with a backend named for each target."""
    services = [
        {"id": f"/backends/{row['target']}", "priority": 1, "weight": int(row["weight"])}
        for row in weights.to_dict("records")
    ]
    return {"type": "Pool", "pool": {"services": services}}


def as_result(found: Regions, logs: Said | None) -> Result:
    """`logs` is what is to be known of them; None where none were given."""
    pool = backend_pool(found.weights) if len(found.weights) else None
    return Result(
        [*(said_difference(row) for row in found.differences.to_dict("records")), *(logs.lines if logs else [])],
        {"backend_pool": pool, "coverage": logs.facts if logs else None},
        {
            "regions": Table("Answered calls by region, s", found.regions, "no answered call names its region"),
            "speed": Table("Targets called directly, s", found.speed, "no target was called directly and answered"),
            "success": Table("Calls answered, by target", found.success, "no call was sent"),
            "differences": Table("Median time to first token, s", found.differences, "there are no two to compare"),
            "served": Table("Where the model ran", found.served, "no reply said where its model ran"),
            "hours": Table("By hour of the day (UTC), s", found.hours, "no answered call names its region"),
            "weights": Table("Weights for a backend pool", found.weights, "too few calls to weigh targets by"),
        },
    )


def said_difference(row: Mapping[Any, Any]) -> str:
    """A row of `differences`, in words."""
    how = "pairs of calls" if row["paired"] else "calls each, not paired"
    if row["n"] < FEW:
        return f"{row['target']} and {row['than']}: {row['n']} {how}, too few to compare; {FEW} is the least."
    if row["verdict"] not in ("faster", "slower"):
        return f"{row['target']} and {row['than']}: {row['verdict']} in {row['n']} {how}."
    ends = sorted(abs(row[f"difference_{end}"]) * 1000 for end in ("low", "high"))
    return (
        f"{row['target']} is {row['verdict']} than {row['than']} by {abs(row['difference']) * 1000:,.0f} ms to the"
        f" first token (95 %: {ends[0]:,.0f} to {ends[1]:,.0f} ms; {row['n']} {how})."
    )
