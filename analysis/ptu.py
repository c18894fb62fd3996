"""How many provisioned units a load needs, and what happens on fewer and on more of them when it bursts.

Every call of the load goes through the bucket (`analysis.replay`): the answer is the smallest count that refuses no
more than the share that is allowed, and takes the load on average.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.blocks import count_interval, cut, refusals, share_interval, smallest_counts
from analysis.costs import Rates, Spilled, spilled
from analysis.ptu_models import Average, Model, by_average
from analysis.replay import BUCKET_SECONDS, Charges, Floats, Replayed, charges, replay
from analysis.stats import quantile

_MOST_COUNTS = 25
# Of a load that is drawn: an hour of it, or the part of an hour that has so many calls.
_DRAWN_SECONDS, _MOST_DRAWN = 3600.0, 500_000
# A single count's replay is a sixth of a second for a million calls; beyond so many fewer counts are looked at.
_MANY_CALLS = 2_000_000

LOAD_COLUMNS = ["at", "input_tokens", "cached_tokens", "output_tokens", "max_tokens", "duration"]


class Asked(NamedTuple):
    """`throttled` is the share of calls that may be refused (0 to 1), `growth` how many times the load is meant to
    be, `retries` of the client, `spillover` whether what is refused goes to pay-as-you-go."""

    throttled: float = 0.01
    growth: float = 1.0
    retries: int = 0
    spillover: bool = False
    bucket_seconds: float = BUCKET_SECONDS


class Sizing(NamedTuple):
    """`ptu` is the smallest count that will do; `low` and `high` its interval, None where the load is too short.

    counts       a row a count: ptu, refused_share with its interval (_low, _high; None where the load is too short),
                 refused_attempts, waited_p95 (seconds), utilization_mean and _max (1 is full),
                 refused_tokens_per_minute, dollars_month (reserved by the month, with what spills over; None where
                 that has no price)
    sensitivity  what would be needed if the load were otherwise: change, ptu
    spilled      what the answer's units refuse; None where nothing spills over, or has no price
    draws        what each draw of the interval's bootstrap needs; None where the load is too short
    """

    ptu: int
    low: int | None
    high: int | None
    average: Average
    counts: pd.DataFrame
    sensitivity: pd.DataFrame
    calls: int
    minutes: float
    spilled: Spilled | None = None
    draws: NDArray[np.int64] | None = None


class _Case(NamedTuple):
    """`load` in order of arrival, `needed` the same in input tokens."""

    load: pd.DataFrame
    needed: Charges
    seconds: float
    model: Model
    asked: Asked

    def on(self, units: float) -> Replayed:
        asked = self.asked
        return replay(self.needed, self.model, units, retries=asked.retries, bucket_seconds=asked.bucket_seconds)


def _case(load: pd.DataFrame, model: Model, asked: Asked) -> _Case:
    ordered = load.sort_values("at", kind="stable", ignore_index=True)
    return _Case(ordered, charges(ordered, model), span(ordered), model, asked)


def size(load: pd.DataFrame, model: Model, asked: Asked, at: Rates) -> Sizing:
    """`load` has `LOAD_COLUMNS`; see `replay.charges`. It has a call or more."""
    case = _case(grown(load, asked.growth), model, asked)
    average = _average(case)
    ptu = _smallest(case, average.units)
    rows: list[dict[str, Any]] = []
    stretch = cut(case.needed.at, asked.bucket_seconds)
    blocks, spills = {}, {}
    for count in _around(case, ptu):
        found = case.on(count)
        shares = None if stretch is None else refusals(stretch, found.refused)
        if shares is not None:
            blocks[count] = shares
        spills[count] = spilled(case.load[found.refused], case.seconds, count, at) if asked.spillover else None
        row = _count_row(case, count, found) | {"dollars_month": _dollars(asked, count, spills[count], at)}
        row["refused_share_low"], row["refused_share_high"] = share_interval(shares)
        rows.append(row)
        if count > ptu and not any(row["refused_attempts"] for row in rows[-2:]):
            break
    draws = None if stretch is None else smallest_counts(blocks, _taken(case, stretch), asked.throttled)
    low, high = count_interval(draws, ptu)
    sensitivity = pd.DataFrame(
        [{"change": what, "ptu": _needed(_case(changed, model, asked))} for what, changed in _changes(case.load)]
    )
    minutes = case.seconds / 60
    return Sizing(ptu, low, high, average, pd.DataFrame(rows), sensitivity, len(case.load), minutes, spills[ptu], draws)


def span(load: pd.DataFrame) -> float:
    """Seconds that the load lasts, with the gap that would follow its last call. One call takes a minute."""
    length = float(load["at"].max() - load["at"].min())
    return length * len(load) / (len(load) - 1) if length > 0 else 60.0


def grown(load: pd.DataFrame, growth: float) -> pd.DataFrame:
    """As many times the calls in the same time, with the same bursts: whole copies, and a part of one, each moved by
    a little, so that no two calls come at once."""
    if growth == 1.0:
        return load
    rng = np.random.default_rng(0)
    copies: list[pd.DataFrame] = []
    remaining = growth
    while remaining > 0:
        copy = load if remaining >= 1 else load[rng.random(len(load)) < remaining]
        copies.append(copy.assign(at=copy["at"] + rng.uniform(0, 1, len(copy))))
        remaining -= 1
    return pd.concat(copies, ignore_index=True)


def _average(case: _Case) -> Average:
    load = case.load
    means = {name: float(load[name].fillna(0).mean()) for name in ("input_tokens", "cached_tokens", "output_tokens")}
    share = means["cached_tokens"] / means["input_tokens"] if means["input_tokens"] else 0.0
    rpm = len(load) * 60 / case.seconds
    return by_average(case.model, rpm, means["input_tokens"], means["output_tokens"], share)


def _smallest(case: _Case, units: float) -> int:
    """By bisection over the counts for sale; `units` is what the load takes on average."""
    model = case.model

    # What is less than the load on average fills up sooner or later, however short the load is that we see of it.
    least = units * (1 - case.asked.throttled)

    def fits(count: int) -> bool:
        return count >= least and case.on(count).share <= case.asked.throttled

    low, high = model.minimum - model.step, model.sold(units)
    while not fits(high):
        low, high = high, model.sold(2 * high)
    while high - low > model.step:
        middle = min(model.sold((low + high) / 2), high - model.step)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _taken(case: _Case, stretch: NDArray[np.int64]) -> Floats:
    """Units that each stretch of the load takes on average."""
    tokens = np.bincount(stretch, weights=case.needed.added - case.needed.returned)
    return tokens / (case.model.input_tpm * case.seconds / 60 / len(tokens))


def _needed(case: _Case) -> int:
    return _smallest(case, _average(case).units)


def _around(case: _Case, ptu: int) -> list[int]:
    """Counts from about half to about twice the answer, or from the fewest sold where what is refused is answered all
    the same; where they are many, all near the answer and few far from it, or its interval would be as coarse as they
    are."""
    model = case.model
    fewest = model.minimum if case.asked.spillover else ptu / 2
    counts = list(model.counts(fewest, max(2 * ptu, ptu + 4 * model.step)))
    most = _MOST_COUNTS if len(case.load) <= _MANY_CALLS else 7
    if len(counts) <= most:
        return counts
    answer = counts.index(ptu)
    away = {0, *np.geomspace(1, len(counts), most // 2).round().astype(int).tolist()}
    return [count for number, count in enumerate(counts) if abs(number - answer) in away]


def _count_row(case: _Case, count: int, found: Replayed) -> dict[str, Any]:
    load, minutes = case.load, case.seconds / 60
    taken, refused = load[~found.refused], load[found.refused]
    used = case.model.charge(
        float(taken["input_tokens"].sum()),
        float(taken["cached_tokens"].fillna(0).sum()),
        float(taken["output_tokens"].sum()),
    )
    return {
        "ptu": count,
        "refused_share": found.share,
        "refused_share_low": None,
        "refused_share_high": None,
        "refused_attempts": found.attempts,
        "waited_p95": quantile(pd.Series(found.waited), 0.95),
        "utilization_mean": used / (count * case.model.input_tpm * minutes),
        "utilization_max": float(found.level.max()),
        "refused_tokens_per_minute": float((refused["input_tokens"] + refused["output_tokens"]).sum()) / minutes,
    }


def _dollars(asked: Asked, count: int, beside: Spilled | None, at: Rates) -> float | None:
    if not asked.spillover:
        return count * at.units.reserved_month
    return None if beside is None else beside.total_month


def _changes(load: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for factor in (0.75, 1.25):
        scaled = {name: load[name] * factor for name in ("output_tokens", "max_tokens")}
        yield f"output {factor - 1:+.0%}", load.assign(**scaled)
    cached = load["cached_tokens"].fillna(0)
    yield "nothing cached", load.assign(cached_tokens=0.0)
    yield (
        "10 % more of the input cached",
        load.assign(cached_tokens=np.minimum(cached + 0.1 * load["input_tokens"], load["input_tokens"])),
    )
    yield "20 % more calls", grown(load, 1.2)
    if (load["max_tokens"] > load["output_tokens"]).any() and load["duration"].any():
        # A call holds what it may generate while it lasts, and a deployment that is full answers more slowly.
        yield "answers twice as slow", load.assign(duration=2 * load["duration"])


def random_times(rpm: float, rng: np.random.Generator) -> Floats:
    """Seconds at which calls come that know nothing of each other, at so many a minute."""
    seconds = min(_DRAWN_SECONDS, _MOST_DRAWN * 60 / rpm)
    return np.sort(rng.uniform(0, seconds, max(1, round(rpm * seconds / 60))))


def one_size(average: Average) -> pd.DataFrame:
    """Calls at random times: what the average alone does not show."""
    return pd.DataFrame(
        {
            "at": random_times(average.rpm, np.random.default_rng(0)),
            "input_tokens": average.input_tokens,
            "cached_tokens": average.cached_share * average.input_tokens,
            "output_tokens": average.output_tokens,
            "max_tokens": np.nan,
            "duration": 0.0,
        }
    )
