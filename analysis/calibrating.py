"""What a deployment's units really took, beside what the table says of them.

Knee.        The calls a minute that `knee.py` found (`run.json`), each at what that run's calls weighed. What is let
             in in the long run (`capacity`) is the units' own; else it is what was seen to hold. Where nothing broke,
             more would have been taken: that is a bound, and nothing to size with.
Utilisation. What replies said of it, where the run was long enough for the limiter's model to be fitted to it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from analysis import loads
from analysis.limiter import infer
from analysis.ptu_models import Model
from analysis.runs import Run
from analysis.signals import signals
from probe.target import SettingsError


class Capacity(NamedTuple):
    """Of a deployment, in input tokens a minute as units count them; `low` and `high` as the knee has them. Without a
    `broke_by` more may be possible."""

    value: float
    low: float | None
    high: float | None
    broke_by: str | None


class _Range(msgspec.Struct, frozen=True):
    value: float
    low: float | None = None
    high: float | None = None


class _Rate(msgspec.Struct, frozen=True):
    requests_per_minute: _Range


class _Knee(msgspec.Struct, frozen=True):
    """Of `run.json`, as far as it is used."""

    held: _Rate
    capacity: _Rate | None = None
    deployment: str | None = None
    broke_by: str | None = None
    limited_by: str | None = None


def at_the_knee(run: Run, model: Model, deployment: str | None) -> Capacity | None:
    """None where the run found no rate that held, or found several and none of them was named."""
    found = [one for one in _knees(run) if deployment in (None, one.deployment)]
    if len(found) != 1:
        return None
    (knee,) = found
    calls = loads.of_run(run.calls, knee.deployment or deployment).calls
    totals = (float(calls[name].fillna(0).sum()) for name in ("input_tokens", "cached_tokens", "output_tokens"))
    each = model.charge(*totals) / len(calls)
    rate = (knee.capacity or knee.held).requests_per_minute
    low, high = (None if end is None else end * each for end in (rate.low, rate.high))
    return Capacity(rate.value * each, low, high, None if knee.limited_by else knee.broke_by)


def _knees(run: Run) -> Iterator[_Knee]:
    for one in () if run.about.ended is None else run.about.ended.knee:
        try:
            yield msgspec.convert(one, _Knee)
        except msgspec.ValidationError:
            # Of a target without a rate that held.
            continue


def calibrated(model: Model, capacity: Capacity | None, bought: int | None, source: Path) -> Model:
    """The model with what its units took for what they take. Raises `SettingsError`."""
    if capacity is None or bought is None:
        raise SettingsError(f"{source}: --calibrate needs a run of knee.py that found one, and --bought N")
    if capacity.broke_by is None:
        raise SettingsError(f"{source}: nothing of the target's broke there: its units take more than what was found")
    measured = f"measured: {source.resolve().name}"
    return msgspec.structs.replace(model, input_tpm=capacity.value / bought, source=measured)


def knee_said(capacity: Capacity, model: Model, bought: int | None) -> str:
    """The measured capacity beside the table's; without `bought` in units of the table."""
    ends = "" if capacity.low is None or capacity.high is None else f" ({capacity.low:,.0f} to {capacity.high:,.0f})"
    least = "at least " if capacity.broke_by is None else ""
    measured = f"Measured at the knee: {least}{capacity.value:,.0f}{ends} tokens a minute as units count them"
    broke = "" if capacity.broke_by is None else f"; above, {capacity.broke_by} broke"
    if bought is None:
        units = capacity.value / model.input_tpm
        return f"{measured}, what {units:,.1f} units take by the table{broke}."
    table = bought * model.input_tpm
    off = [value / table - 1 for value in (capacity.value, capacity.low, capacity.high) if value is not None]
    between = f" ({off[1]:+.1%} to {off[2]:+.1%})" if len(off) == 3 else ""
    return f"{measured} for {bought} units, {off[0]:+.1%}{between} of the table's {table:,.0f}{broke}."


def by_utilization(run: Run, model: Model, bought: int | None) -> Iterator[str]:
    """What the replies' utilisation says that a unit takes, beside what the table says; a sentence a bucket."""
    for deployment, _, by_target in signals(run.calls):
        for bucket in filter(None, (infer(part).bucket for part in by_target.values())):
            measured = f"Measured by the utilisation of {deployment}: {bucket.per_minute.value:,.0f} tokens a minute"
            if bought is None:
                yield f"{measured}; --bought says of how many units."
                continue
            table = bought * model.input_tpm
            off = bucket.per_minute.value / table - 1
            yield (
                f"{measured} for {bought} units, {off:+.1%} of the table's {table:,.0f};"
                f" an output token weighs {bucket.output_weight.value:.1f}, by the table {model.output_weight:g}."
            )
