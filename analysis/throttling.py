"""What refused calls, where and since when, what it cost, and which limiter was behind it.

A refusal is a 429, whoever sent it, or a gateway's 503 where none of its pool's back ends would take the call (`pool`).
Tokens are what the service billed, where a call was answered; of the others nobody knows more than what was asked for:
`estimated` is the prompt as planned and the answer at its longest.

Hidden. A gateway or an SDK that tries again keeps refusals to itself. Of the SDK's tries there is a record. What is
        behind a gateway only the service's log has: a 429 that no reply names, which began while a call through the
        gateway was open. It is inferred: another client of the same deployment is refused in the same log. Where the
        gateway takes the id from refusals that it passes on, each may be one of these; `least` leaves so many out.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.application import View
from analysis.join import Joined, Said, began_while_open
from analysis.limiter import Bracket, Limiter, Meter, infer
from analysis.output import Result, Table
from analysis.signals import admitted, planned_tokens, promised, refused_by, signals
from analysis.stats import quantile

# A refusal is over when nothing was refused for so many seconds.
_EPISODE_GAP = 5.0
# Of these the hidden refusals are told, and how far the logs cover the calls.
LOG_COLUMNS = ("account", "deployment", "status", "began_ns", "ended_ns", "logged_ns")

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Throttling(NamedTuple):
    """Frames, a row each; times in seconds.

    causes      target and cause: refused, calls, share (0 to 1), first (into the run), retry_after_p50 and _max
    limiters    deployment: what `infer` says, in words and numbers
    minutes     target and minute of the run: calls (offered, of these dropped and never sent, admitted, refused) and
                tokens, offered_estimated, admitted_billed, refused_estimated
    promises    target and cause: how many refusals asked to wait, promised_p50, kept (share of those after which the
                next call was admitted), and the wait that was enough: above enough_low_p50, at most enough_high_p50
    episodes    target and cause: spells of refusals, how long they lasted, and the time to the next admitted call
    hidden      refusals that no reply shows: behind (`SDK` or `gateway`), where (the SDK's target, or the account in
                the log), deployment, refused, `least` of them, first (into the run), known_by
    """

    causes: pd.DataFrame
    limiters: pd.DataFrame
    minutes: pd.DataFrame
    promises: pd.DataFrame
    episodes: pd.DataFrame
    hidden: pd.DataFrame


def analyse(calls: pd.DataFrame, joined: Joined | None = None, view: View | None = None) -> Throttling:
    """`calls` as `read_run` gives them with `signals.LIMIT_HEADERS` and at least `signals.CALL_COLUMNS`; `joined` is of
    them and logs with `LOG_COLUMNS`, and `view` what an application saw, as `read_view` has it."""
    calls = with_cause(calls)
    hidden = [*_behind_sdk(view), *_behind_gateway(calls, joined)]
    return Throttling(
        by_cause(calls),
        limiters(calls),
        _minutes(calls),
        promises(calls),
        _episodes(calls),
        pd.DataFrame(hidden, columns=["behind", "where", "deployment", "refused", "least", "first", "known_by"]),
    )


def with_cause(calls: pd.DataFrame) -> pd.DataFrame:
    """With what refused each as `cause`, which the tables here are made of."""
    return calls.assign(cause=refused_by(calls))


def by_cause(calls: pd.DataFrame) -> pd.DataFrame:
    """Of calls `with_cause`, one row a target and cause: refused, calls sent to the target, the share refused (0 to 1),
    first (seconds into the run), and the median and largest Retry-After in seconds (NA where none was sent)."""
    refused = calls[calls["cause"].notna()].groupby(["target", "cause"], as_index=False)
    found = refused.agg(
        refused=("cause", "size"),
        first=("at", "min"),
        retry_after_p50=("retry_after", "median"),
        retry_after_max=("retry_after", "max"),
    )
    found.insert(
        3, "calls", found["target"].map(calls.loc[calls["group"] != "dropped", "target"].value_counts()).astype("int64")
    )
    found.insert(4, "share", found["refused"] / found["calls"])
    return found


def limiters(calls: pd.DataFrame) -> pd.DataFrame:
    """See `Throttling`."""
    rows = []
    for deployment, region, by_target in signals(calls):
        for targets, found in _shared_or_not(by_target):
            about = {"targets": targets, "deployment": deployment, "region": region, "headers": found.generation}
            rows += [{**about, **row} for row in _rows(found)]
    return pd.DataFrame(rows, columns=["targets", "deployment", "region", "headers", *_LIMITER_COLUMNS])


def _shared_or_not(by_target: dict[str, pd.DataFrame]) -> list[tuple[str, Limiter]]:
    """One limiter for all targets where that explains what each of them saw at least as well as one of its own."""
    alone = [(name, infer(part)) for name, part in by_target.items()]
    if len(alone) > 1:
        together = infer(pd.concat(by_target.values(), ignore_index=True))
        if _explained(together) >= max(_explained(found) for _, found in alone):
            return [(" + ".join(by_target), together)]
    return alone


def _explained(found: Limiter) -> float:
    if found.bucket is not None:
        return 1.0
    shares = [meter.explained for meter in (found.tokens, found.requests) if meter and meter.explained is not None]
    return max(shares, default=0.0)


_LIMITER_COLUMNS = [
    *("limit", "model", "window", "charge", "per_minute", "per_minute_low", "per_minute_high"),
    *("output_weight", "explained", "steps", "reductions"),
]


def _rows(found: Limiter) -> Iterator[dict[str, object]]:
    if found.bucket is not None:
        bucket = found.bucket
        yield {
            "limit": "utilization",
            "model": "leaky bucket",
            "window": bucket.seconds.value,
            "charge": "prompt - cached + weight x max_tokens, corrected at the end",
            "per_minute": bucket.per_minute.value,
            "per_minute_low": bucket.per_minute.low,
            "per_minute_high": bucket.per_minute.high,
            "output_weight": bucket.output_weight.value,
            "steps": bucket.steps,
        }
    for meter in (found.tokens, found.requests):
        if meter is not None:
            lowered = [reduction.share for reduction in found.reductions if reduction.limit == meter.limit]
            yield _meter_row(meter) | {"reductions": lowered}


def _meter_row(meter: Meter) -> dict[str, object]:
    seconds = meter.window_seconds
    measured = Bracket(None, None) if seconds is None else Bracket(*(_a_minute(end, seconds) for end in meter.measured))
    return {
        "limit": meter.limit,
        "model": meter.model,
        "window": seconds,
        "charge": meter.rule or (" or ".join(meter.rules) or None),
        "per_minute": meter.per_minute,
        "per_minute_low": measured.low,
        "per_minute_high": measured.high,
        "explained": meter.explained,
        "steps": meter.steps,
    }


def _a_minute(amount: float | None, seconds: float) -> float | None:
    return None if amount is None else amount * 60 / seconds


def _minutes(calls: pd.DataFrame) -> pd.DataFrame:
    asked = planned_tokens(calls) + calls["request_max_tokens"].astype("float64").fillna(0)
    billed = calls["input_tokens"].astype("float64").fillna(0) + calls["output_tokens"].astype("float64").fillna(0)
    refused = calls["cause"].notna()
    table = pd.DataFrame(
        {
            "target": calls["target"],
            "minute": (calls["at"] // 60).astype("int64"),
            "offered": 1,
            "dropped": (calls["group"] == "dropped").astype("int64"),
            "admitted": admitted(calls).astype("int64"),
            "refused": refused.astype("int64"),
            "offered_estimated_tokens": asked,
            "admitted_billed_tokens": billed,
            "refused_estimated_tokens": asked.where(refused, 0.0),
        }
    )
    return table.groupby(["target", "minute"], sort=True, as_index=False).sum()


class _Timeline(NamedTuple):
    """A target's calls in order of issue."""

    at: Floats
    admitted: Flags
    refused: Flags


# Of calls in the order of their issue; a copy of all there is would take much of the memory.
_WAITING = (
    *("target", "at", "duration", "cause", "group", "outcome", "gateway", "status_code", "throttle_kind"),
    *("retry_after", "error_message", "x-rate-limit-reset-tokens"),
)


def _timelines(calls: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame, _Timeline]]:
    """Target, cause, the calls that it refused, and all of the target's."""
    ordered = calls.loc[calls["duration"].notna(), list(_WAITING)].sort_values("at", kind="stable")
    for target, part in ordered.groupby("target", sort=True):
        at = part["at"].to_numpy(dtype="float64")
        line = _Timeline(at, admitted(part).to_numpy(), part["cause"].notna().to_numpy())
        for cause, refused in part[part["cause"].notna()].groupby("cause", sort=True):
            yield str(target), str(cause), refused, line


def promises(calls: pd.DataFrame) -> pd.DataFrame:
    """Of calls `with_cause`; see `Throttling`."""
    rows = [_promise(*found) for found in _timelines(calls)]
    columns = ["target", "cause", "refused", "promised", "promised_p50", "tried", "kept"]
    return pd.DataFrame(rows, columns=[*columns, "enough_low_p50", "enough_high_p50"])


def waits(calls: pd.DataFrame) -> pd.DataFrame:
    """Of calls `with_cause`, a row a refusal that asked to wait and after which a call was admitted: target, cause,
    `promised`, and the wait that was enough: above `low`, at most `high` (seconds)."""
    found = []
    for target, cause, refused, line in _timelines(calls):
        at = refused["at"].to_numpy(dtype="float64")
        followed = at < (line.at[line.admitted].max() if line.admitted.any() else -np.inf)
        low, high = _enough(at, line)
        told = promised(refused)[followed].to_numpy(dtype="float64", na_value=np.nan)
        found.append(pd.DataFrame({"target": target, "cause": cause, "promised": told, "low": low, "high": high}))
    columns = ["target", "cause", "promised", "low", "high"]
    return pd.concat(found, ignore_index=True).dropna() if found else pd.DataFrame(columns=columns)


def _promise(target: str, cause: str, refused: pd.DataFrame, line: _Timeline) -> dict[str, object]:
    at = refused["at"].to_numpy(dtype="float64")
    waits = promised(refused)
    due = np.searchsorted(line.at, at + waits.to_numpy(dtype="float64", na_value=np.nan))
    tried = waits.notna().to_numpy() & (due < len(line.at))
    low, high = _enough(at, line)
    return {
        "target": target,
        "cause": cause,
        "refused": len(refused),
        "promised": int(waits.notna().sum()),
        "promised_p50": quantile(waits, 0.5),
        "tried": int(tried.sum()),
        "kept": float(line.admitted[due[tried]].mean()) if tried.any() else None,
        "enough_low_p50": quantile(low, 0.5),
        "enough_high_p50": quantile(high, 0.5),
    }


def _enough(at: Floats, line: _Timeline) -> tuple[pd.Series, pd.Series]:
    """From each refusal to the last one after it before a call was admitted, and to that call."""
    admitted, refused = line.at[line.admitted], line.at[line.refused]
    following = np.searchsorted(admitted, at, side="right")
    known = following < len(admitted)
    until = admitted[following[known]]
    last = refused[np.searchsorted(refused, until) - 1]
    return pd.Series(last - at[known]), pd.Series(until - at[known])


def _episodes(calls: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for target, cause, refused, line in _timelines(calls):
        at = refused["at"].to_numpy(dtype="float64")
        starts = np.flatnonzero(np.diff(at, prepend=-np.inf) > _EPISODE_GAP)
        ends = np.append(starts[1:], len(at)) - 1
        _, recovery = _enough(at[ends], line)
        lasted = pd.Series(at[ends] - at[starts])
        rows.append(
            {
                "target": target,
                "cause": cause,
                "first": float(at[0]),
                "episodes": len(starts),
                "lasted_p50": quantile(lasted, 0.5),
                "lasted_max": quantile(lasted, 1.0),
                "recovery_p50": quantile(recovery, 0.5),
                "recovery_max": quantile(recovery, 1.0),
            }
        )
    columns = ["target", "cause", "first", "episodes", "lasted_p50", "lasted_max", "recovery_p50", "recovery_max"]
    return pd.DataFrame(rows, columns=columns)


def _behind_sdk(view: View | None) -> Iterator[dict[str, object]]:
    if view is None:
        return
    for target, tries in view.hidden[view.hidden["reason"] == "429"].groupby("target"):
        number = {"refused": len(tries), "least": len(tries)}
        yield {"behind": "SDK", "where": target, **number, "known_by": "a 429 that the SDK tried again after"}


def _behind_gateway(calls: pd.DataFrame, joined: Joined | None) -> Iterator[dict[str, object]]:
    through = calls[calls["gateway"] == "apim"]
    if joined is None or joined.only_log.empty or through.empty:
        return
    unnamed = joined.only_log[joined.only_log["status"].eq(429).fillna(False)]
    hidden = unnamed[began_while_open(unnamed, through, joined.coverage.skew)]
    passed_on = int(((through["status_code"] == 429) & through["service_request_id"].isna()).sum())
    start = int(calls["start_time_unix_nano"].min()) - round(float(calls["at"].min()) * 1e9)
    for (account, deployment), part in hidden.groupby(["account", "deployment"], dropna=False):
        yield {
            "behind": "gateway",
            "where": account,
            "deployment": deployment,
            "refused": len(part),
            "least": max(len(part) - passed_on, 0),
            "first": (int(part["began_ns"].min()) - start) / 1e9,
            "known_by": "a 429 in the log that no reply names, while a call through a gateway was open",
        }


def as_result(found: Throttling, logs: Said | None = None) -> Result:
    """`logs` is what is to be known of them; None where none were given."""
    limits = [limiter_said(row) for row in found.limiters.to_dict("records")]
    refused, hidden = int(found.causes["refused"].sum()), int(found.hidden["refused"].sum())
    dropped = int(found.minutes["dropped"].sum())
    calls = int(found.minutes["offered"].sum()) - dropped
    never = f"; {dropped:,} more were dropped and never sent" if dropped else ""
    lines = [f"{refused:,} of {calls:,} calls were refused{never}.", *_said_hidden(found.hidden), *limits]
    return Result(
        [*lines, *(logs.lines if logs else ["No logs were given: what gateways kept to themselves is not known."])],
        {
            "refused": refused,
            "calls": calls,
            "dropped": dropped,
            "hidden": hidden,
            "coverage": logs.facts if logs else None,
        },
        {
            "causes": Table("What refused calls", found.causes, "nothing was refused"),
            "hidden_refusals": Table("Refusals that no reply shows", found.hidden, "none that is known"),
            "limiters": Table("Limiters, as their replies tell", found.limiters, "no reply said anything of limits"),
            "promises": Table("What refusals asked to wait, s, and what was enough", found.promises, "no refusal"),
            "episodes": Table("Spells of refusals, s", found.episodes, "no refusal"),
            "minutes": Table("By minute of the run", found.minutes, "no call"),
        },
    )


def _said_hidden(hidden: pd.DataFrame) -> list[str]:
    return [
        f"{int(part['refused'].sum()):,} refusals were kept from the client by a {behind} that tried again"
        + (f" (at least {int(part['least'].sum()):,})." if (part["least"] < part["refused"]).any() else ".")
        for behind, part in hidden.groupby("behind")
    ]


def limiter_said(row: dict[Any, Any]) -> str:
    """A limiter in one sentence."""
    of = f"{row['targets']}, {row['deployment']}" + ("" if pd.isna(row["region"]) else f" in {row['region']}")
    if pd.isna(row["model"]):
        return (
            f"{of}: the limit of {row['limit']} cannot be told from {row['steps']} steps; headers of {row['headers']}."
        )
    size = "" if pd.isna(row["per_minute"]) else f" of {row['per_minute']:,.0f} a minute"
    charge = "" if row["limit"] == "requests" or pd.isna(row["charge"]) else f", charged by {row['charge']}"
    share = "" if pd.isna(row["explained"]) else f"; explains {row['explained']:.0%} of {row['steps']} steps"
    return f"{of}: {row['limit']}, a {row['model']}{size}{charge}{share}."
