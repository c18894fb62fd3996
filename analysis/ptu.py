"""How many provisioned units a load needs, what it costs, and what happens when it bursts.

Arithmetic.  (input - cached + output x weight) tokens a minute, over what a unit takes, up to what is sold. It holds
             for an even load, and says nothing of bursts.
Replay.      Every call of the load through the bucket: the answer is the smallest count that refuses no more than the
             share that is allowed. Its interval is from a block bootstrap: stretches of the load, longer than the
             bucket remembers, are drawn with replacement, and each draw has its own smallest count.
Money.       A month is 730 hours of the load as it is here. Prices have their date; of a model without one nothing is
             said.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.output import Result, Table
from analysis.ptu_models import Model
from analysis.replay import BUCKET_SECONDS, Charges, Replayed, charges, replay
from analysis.stats import CONFIDENCE, quantile
from probe.prices import Price, ProvisionedPrice

HOURS = 730
_DRAWS = 2_000
# Blocks of a bootstrap: no fewer are enough, and none shorter than some times what the bucket remembers.
_FEWEST_BLOCKS, _MOST_BLOCKS, _REMEMBERED = 8, 100, 2
_MOST_COUNTS = 25
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
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


class Average(NamedTuple):
    """`normalised_tpm` is input tokens a minute as a unit counts them; `units` what that takes, `ptu` what is sold."""

    rpm: float
    input_tokens: float
    cached_share: float
    output_tokens: float
    normalised_tpm: float
    units: float
    ptu: int


class Sizing(NamedTuple):
    """`ptu` is the smallest count that will do; `low` and `high` its interval, None where the load is too short.

    counts       a row a count: ptu, refused_share with its interval (_low, _high; None where the load is too short),
                 refused_attempts, waited_p95 (seconds), utilization_mean and _max (1
                 is full), refused_tokens_per_minute, dollars_month (reserved by the month, with what spills over)
    sensitivity  what would be needed if the load were otherwise: change, ptu
    """

    ptu: int
    low: int | None
    high: int | None
    average: Average
    counts: pd.DataFrame
    sensitivity: pd.DataFrame
    calls: int
    minutes: float


def by_average(model: Model, rpm: float, input_tokens: float, output_tokens: float, cached_share: float) -> Average:
    """Tokens are of one call; `cached_share` (0 to 1) is of the input."""
    tpm = rpm * model.charge(input_tokens, cached_share * input_tokens, output_tokens)
    units = tpm / model.input_tpm
    return Average(rpm, input_tokens, cached_share, output_tokens, tpm, units, model.sold(units))


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


def size(load: pd.DataFrame, model: Model, asked: Asked, price: Price | None, ptu_price: ProvisionedPrice) -> Sizing:
    """`load` has `LOAD_COLUMNS`; see `replay.charges`. It has a call or more."""
    case = _case(grown(load, asked.growth), model, asked)
    average = _average(case)
    ptu = _smallest(case, average.units)
    rows: list[dict[str, Any]] = []
    blocks = {}
    for count in _around(model, ptu, len(case.load)):
        found = case.on(count)
        blocks[count] = _by_block(case, found)
        shares = _share_interval(blocks[count])
        rows.append(_count_row(case, count, found, shares) | _dollars(case, count, found, price, ptu_price))
        if count > ptu and not any(row["refused_attempts"] for row in rows[-2:]):
            break
    low, high = _interval(blocks, asked.throttled)
    sensitivity = pd.DataFrame(
        [{"change": what, "ptu": _needed(_case(changed, model, asked))} for what, changed in _changes(case.load)]
    )
    return Sizing(ptu, low, high, average, pd.DataFrame(rows), sensitivity, len(case.load), case.seconds / 60)


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


def _needed(case: _Case) -> int:
    return _smallest(case, _average(case).units)


def _around(model: Model, ptu: int, calls: int) -> list[int]:
    """Counts from about half to about twice the answer; where they are many, all near the answer and few far from it,
    or its interval would be as coarse as they are."""
    counts = list(model.counts(ptu / 2, max(2 * ptu, ptu + 4 * model.step)))
    most = _MOST_COUNTS if calls <= _MANY_CALLS else 7
    if len(counts) <= most:
        return counts
    answer = counts.index(ptu)
    away = {0, *np.geomspace(1, len(counts), most // 2).round().astype(int).tolist()}
    return [count for number, count in enumerate(counts) if abs(number - answer) in away]


def _count_row(case: _Case, count: int, found: Replayed, shares: tuple[float | None, float | None]) -> dict[str, Any]:
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
        "refused_share_low": shares[0],
        "refused_share_high": shares[1],
        "refused_attempts": found.attempts,
        "waited_p95": quantile(pd.Series(found.waited), 0.95),
        "utilization_mean": used / (count * case.model.input_tpm * minutes),
        "utilization_max": float(found.level.max()),
        "refused_tokens_per_minute": float((refused["input_tokens"] + refused["output_tokens"]).sum()) / minutes,
    }


def _dollars(
    case: _Case, count: int, found: Replayed, price: Price | None, ptu_price: ProvisionedPrice
) -> dict[str, float | None]:
    """A month, with the units reserved by the month; of a spillover that has no price there is no sum."""
    reserved = count * ptu_price.reserved_month
    if not case.asked.spillover:
        return {"dollars_month": reserved}
    if price is None:
        return {"dollars_month": None}
    return {"dollars_month": reserved + _cost(case.load[found.refused], price) * HOURS * 3600 / case.seconds}


def _cost(load: pd.DataFrame, price: Price) -> float:
    totals = (float(load[name].fillna(0).sum()) for name in ("input_tokens", "output_tokens", "cached_tokens"))
    return price.cost(*totals)


def _by_block(case: _Case, found: Replayed) -> NDArray[np.float64] | None:
    """Refused calls and calls of each stretch of the load; None where it is too short to be cut."""
    at = case.needed.at
    length = float(at[-1] - at[0])
    blocks = min(_MOST_BLOCKS, int(length / (_REMEMBERED * case.asked.bucket_seconds)))
    if blocks < _FEWEST_BLOCKS:
        return None
    number = np.minimum(((at - at[0]) / length * blocks).astype(int), blocks - 1)
    return np.column_stack(
        [np.bincount(number, weights=found.refused, minlength=blocks), np.bincount(number, minlength=blocks)]
    )


def _drawn(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Refused calls and calls of each draw; `blocks` has counts of units, blocks, and the two, or is of one count."""
    n = blocks.shape[-2]
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), _DRAWS).astype("float64")
    return np.asarray(weights @ blocks)


def _share_interval(blocks: NDArray[np.float64] | None) -> tuple[float | None, float | None]:
    """Of the share refused by one count of units."""
    if blocks is None:
        return None, None
    totals = _drawn(blocks)
    low, high = np.quantile(totals[:, 0] / np.maximum(totals[:, 1], 1), _TAILS)
    return float(low), float(high)


def _interval(shares: dict[int, NDArray[np.float64] | None], allowed: float) -> tuple[int | None, int | None]:
    """Of the smallest count: of each draw of blocks, the first count from which on it holds."""
    known = {count: blocks for count, blocks in sorted(shares.items()) if blocks is not None}
    if not known:
        return None, None
    counts = np.array(list(known))
    totals = _drawn(np.stack(list(known.values())))
    holds = totals[:, :, 0] <= allowed * totals[:, :, 1]
    needed = np.where(holds.any(axis=0), counts[np.argmax(holds, axis=0)], counts[-1])
    low, high = np.quantile(needed, _TAILS, method="nearest")
    return int(low), int(high)


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


class Money(NamedTuple):
    """US dollars a month; `break_even_tpm` is the tokens a minute, in this load's proportions, at which the units cost
    reserved by the month what pay-as-you-go does."""

    payg: float
    hourly: float
    reserved_month: float
    reserved_year: float
    break_even_tpm: float
    tpm: float


def money(average: Average, ptu: int, model: Model, price: Price, ptu_price: ProvisionedPrice) -> Money:
    hour = {
        "global": ptu_price.global_hour,
        "datazone": ptu_price.datazone_hour,
        "regional": ptu_price.regional_hour,
    }[model.offer]
    cached = average.cached_share * average.input_tokens
    minutely = average.rpm * price.cost(average.input_tokens, average.output_tokens, cached)
    payg = minutely * 60 * HOURS
    tpm = average.rpm * (average.input_tokens + average.output_tokens)
    reserved = ptu * ptu_price.reserved_month
    return Money(
        payg,
        ptu * hour * HOURS,
        reserved,
        ptu * ptu_price.reserved_year / 12,
        tpm * reserved / payg if payg else float("inf"),
        tpm,
    )


def random_times(rpm: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Seconds at which calls come that know nothing of each other, at so many a minute."""
    seconds = min(_DRAWN_SECONDS, _MOST_DRAWN * 60 / rpm)
    return np.sort(rng.uniform(0, seconds, max(1, round(rpm * seconds / 60))))


def _one_size(average: Average) -> pd.DataFrame:
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


def average_result(average: Average, model: Model, costs: Money | None, asked: Asked) -> Result:
    burst = replay(charges(_one_size(average), model), model, average.ptu, bucket_seconds=asked.bucket_seconds)
    lines = [
        f"{average.ptu:,} PTU of {model.name}, {model.offer}: {average.normalised_tpm:,.0f} tokens a minute as units"
        f" count them, {model.input_tpm:,.0f} for each, is {average.units:,.1f}; sold from {model.minimum} in steps of"
        f" {model.step} ({model.as_of}, {model.source}).",
        f"For an even load. Calls at random times at this rate would have {burst.share:.1%} refused; bursts more. Size"
        " from a trace, a log or a run to see yours.",
        *_money_lines(costs),
    ]
    facts = {
        "ptu": average.ptu,
        "by": "average",
        **_model_facts(model),
        **average._asdict(),
        "poisson_refused_share": burst.share,
        "money": None if costs is None else costs._asdict(),
    }
    return Result(lines, facts, {})


def sizing_result(found: Sizing, model: Model, asked: Asked, costs: Money | None, notes: list[str]) -> Result:
    interval = (
        f" (95 %: {found.low:,} to {found.high:,})" if found.low is not None else " (too short a load for an interval)"
    )
    lines = [
        f"{found.ptu:,} PTU of {model.name}, {model.offer}{interval}, for {found.calls:,} calls in"
        f" {found.minutes:,.1f} min with at most {asked.throttled:.2%} refused.",
        f"The average alone says {found.average.ptu:,}: {found.average.normalised_tpm:,.0f} tokens a minute as units"
        f" count them, {model.input_tpm:,.0f} for each ({model.as_of}, {model.source}).",
        *notes,
        *_money_lines(costs),
    ]
    facts = {
        "ptu": found.ptu,
        "ptu_low": found.low,
        "ptu_high": found.high,
        "by": "replay",
        **_model_facts(model),
        "asked": asked._asdict(),
        "calls": found.calls,
        "minutes": found.minutes,
        "average": found.average._asdict(),
        "notes": notes,
        "money": None if costs is None else costs._asdict(),
    }
    tables = {
        "counts": Table("What other counts would do", found.counts, "none"),
        "sensitivity": Table("If the load were otherwise", found.sensitivity, "none"),
    }
    return Result(lines, facts, tables)


def _model_facts(model: Model) -> dict[str, Any]:
    return {
        "model": model.name,
        "offer": model.offer,
        "input_tpm_per_ptu": model.input_tpm,
        "output_weight": model.output_weight,
        "as_of": str(model.as_of),
        "source": model.source,
    }


def _money_lines(costs: Money | None) -> list[str]:
    if costs is None:
        return ["What it costs is not known: there is no price for this model; --prices FILE adds one."]
    cheaper = "the units are cheaper" if costs.reserved_month < costs.payg else "pay-as-you-go is cheaper"
    return [
        f"A month: ${costs.payg:,.0f} pay-as-you-go; units ${costs.hourly:,.0f} by the hour,"
        f" ${costs.reserved_month:,.0f} reserved by the month, ${costs.reserved_year:,.0f} by the year.",
        f"Pay-as-you-go costs as much as the reserved month at {costs.break_even_tpm:,.0f} tokens a minute; this load"
        f" has {costs.tpm:,.0f}: {cheaper}.",
    ]
