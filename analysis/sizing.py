"""`analysis ptu`: from what was given to a load, a model, and the result of sizing the one for the other."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from analysis import loads, ptu
from analysis.limiter import infer
from analysis.logs import read_logs
from analysis.output import Result
from analysis.ptu_models import Model, Offer, find_model
from analysis.runs import Run, read_run
from analysis.signals import LIMIT_HEADERS, signals
from probe.journal import RUN_FILE
from probe.prices import Price, ProvisionedPrice, read_prices
from probe.target import SettingsError
from probe.traces import read_trace


class Given(NamedTuple):
    """The command's options; `throttled` and `cached_share` are 0 to 1."""

    model: str | None
    offer: Offer
    rpm: float | None
    input_tokens: float | None
    output_tokens: float | None
    cached_share: float
    deployment: str | None
    throttled: float
    growth: float
    retries: int
    spillover: bool
    bucket_seconds: float
    bought: int | None
    calibrate: Path | None
    models: Path | None
    prices: Path | None

    @property
    def asked(self) -> ptu.Asked:
        return ptu.Asked(self.throttled, self.growth, self.retries, self.spillover, self.bucket_seconds)


def average(given: Given) -> Result:
    """Raises `SettingsError`."""
    needed = {
        "--model": given.model,
        "--rpm": given.rpm,
        "--input-tokens": given.input_tokens,
        "--output-tokens": given.output_tokens,
    }
    missing = [flag for flag, value in needed.items() if value is None]
    if missing:
        raise SettingsError(f"without a run, log or trace, {', '.join(needed)} are needed; {missing[0]} is missing")
    assert given.model and given.rpm and given.input_tokens is not None and given.output_tokens is not None
    model = find_model(given.model, given.offer, given.models)
    found = ptu.by_average(model, given.rpm * given.growth, given.input_tokens, given.output_tokens, given.cached_share)
    price, ptu_price = _prices(given, model)
    costs = None if price is None else ptu.money(found, found.ptu, model, price, ptu_price)
    return ptu.average_result(found, model, costs, given.asked)


def replayed(source: Path, given: Given) -> Result:
    """Raises `SettingsError`, `RunError`, `LogsError`."""
    run = read_run(source, LIMIT_HEADERS) if (source / RUN_FILE).is_file() else None
    load = _load(source, run, given)
    if load.calls.empty:
        raise SettingsError(f"{source}: there is no call in it to size for")
    model = find_model(_model_name(load.models, given), given.offer, given.models)
    measured_by = run if given.calibrate is None else read_run(given.calibrate, LIMIT_HEADERS)
    capacity = None if measured_by is None else _capacity(measured_by, model, given)
    calibrated = [] if capacity is None else [_said(capacity, model, given)]
    if given.calibrate is not None:
        if capacity is None or given.bought is None:
            raise SettingsError(f"{given.calibrate}: --calibrate needs a run of knee.py that found one, and --bought N")
        by_the_table = ptu.size(load.calls, model, given.asked, None, _prices(given, model)[1])
        calibrated.append(f"By the table it would be {by_the_table.ptu:,} PTU.")
        model = msgspec.structs.replace(
            model, input_tpm=capacity.value / given.bought, source=f"measured: {given.calibrate.name}"
        )
    price, ptu_price = _prices(given, model)
    found = ptu.size(load.calls, model, given.asked, price, ptu_price)
    costs = None if price is None else ptu.money(found.average, found.ptu, model, price, ptu_price)
    notes = [*load.notes, *calibrated, *([] if run is None else [*_measured(run, model, given), *run.gaps])]
    return ptu.sizing_result(found, model, given.asked, costs, notes)


def _load(source: Path, run: Run | None, given: Given) -> loads.Load:
    if run is not None:
        return loads.of_run(run.calls, given.deployment)
    if source.suffix.lower() == ".csv" and source.is_file():
        return loads.of_trace(read_trace(source))
    if not source.exists():
        raise SettingsError(f"{source}: no such run, log or trace")
    return loads.of_logs(read_logs([source]), given.deployment)


def _model_name(named: list[str], given: Given) -> str:
    if given.model is not None:
        return given.model
    if len(named) != 1:
        several = f" ({', '.join(named)})" if named else ""
        raise SettingsError(f"which model is to be bought? Several or none answered{several}: give --model")
    return named[0]


def _prices(given: Given, model: Model) -> tuple[Price | None, ProvisionedPrice]:
    prices = read_prices(given.prices)
    return prices.price(model.name), prices.provisioned()[0]


class _Range(msgspec.Struct, frozen=True):
    value: float
    low: float | None = None
    high: float | None = None


class _Held(msgspec.Struct, frozen=True):
    requests_per_minute: _Range


class _Knee(msgspec.Struct, frozen=True):
    """Of `run.json`, as far as it is used."""

    held: _Held
    # Of a limiter: what it lets in in the long run; what was seen to hold is a little less.
    capacity: _Held | None = None
    deployment: str | None = None
    broke_by: str | None = None


class _Capacity(NamedTuple):
    """Of a deployment, in input tokens a minute as units count them; `low` and `high` as the knee has them."""

    value: float
    low: float | None
    high: float | None
    broke_by: str | None


def _capacity(run: Run, model: Model, given: Given) -> _Capacity | None:
    """What a knee's calls a minute come to, with calls as that run had them; None where it found none, or several."""
    knees = [] if run.about.ended is None else list(run.about.ended.knee)
    found = []
    for one in knees:
        try:
            found.append(msgspec.convert(one, _Knee))
        except msgspec.ValidationError:
            # Of a target without a rate that held.
            continue
    found = [one for one in found if given.deployment in (None, one.deployment)]
    if len(found) != 1:
        return None
    calls = loads.of_run(run.calls, found[0].deployment or given.deployment).calls
    totals = (float(calls[name].fillna(0).sum()) for name in ("input_tokens", "cached_tokens", "output_tokens"))
    each = model.charge(*totals) / len(calls)
    rate = (found[0].capacity or found[0].held).requests_per_minute
    low, high = (None if end is None else end * each for end in (rate.low, rate.high))
    return _Capacity(rate.value * each, low, high, found[0].broke_by)


def _said(capacity: _Capacity, model: Model, given: Given) -> str:
    """The measured capacity beside the table's."""
    ends = "" if capacity.low is None or capacity.high is None else f" ({capacity.low:,.0f} to {capacity.high:,.0f})"
    measured = f"Measured at the knee: {capacity.value:,.0f}{ends} tokens a minute as units count them"
    broke = "" if capacity.broke_by is None else f"; above, {capacity.broke_by} broke"
    if given.bought is None:
        return f"{measured}{broke}; --bought says of how many units."
    table = given.bought * model.input_tpm
    off = [value / table - 1 for value in (capacity.value, capacity.low, capacity.high) if value is not None]
    between = f" ({off[1]:+.1%} to {off[2]:+.1%})" if len(off) == 3 else ""
    return f"{measured} for {given.bought} units, {off[0]:+.1%}{between} of the table's {table:,.0f}{broke}."


def _measured(run: Run, model: Model, given: Given) -> list[str]:
    """What the replies' utilisation says that a unit takes, beside what the table says."""
    notes = []
    for deployment, _, by_target in signals(run.calls):
        buckets = [infer(part).bucket for part in by_target.values()]
        for bucket in (one for one in buckets if one is not None):
            measured = f"Measured by the utilisation of {deployment}: {bucket.per_minute.value:,.0f} tokens a minute"
            if given.bought is None:
                notes.append(f"{measured}; --bought says of how many units.")
                continue
            table = given.bought * model.input_tpm
            off = bucket.per_minute.value / table - 1
            notes.append(
                f"{measured} for {given.bought} units, {off:+.1%} of the table's {table:,.0f};"
                f" an output token weighs {bucket.output_weight.value:.1f}, by the table {model.output_weight:g}."
            )
    return notes
