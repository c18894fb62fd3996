"""What `analysis ptu` has found, in sentences, facts and tables."""

from typing import Any

from analysis.costs import Money, Rates
from analysis.output import Result, Table, records
from analysis.ptu import Asked, Sizing, one_size
from analysis.ptu_models import Average, Model
from analysis.replay import charges, replay

# Minutes of a bursty load from which on its interval holds nearly as often as it says (`tests/test_ptu.py`).
_LONG = 120


def average_result(average: Average, model: Model, costs: Money | None, at: Rates, asked: Asked) -> Result:
    burst = replay(charges(one_size(average), model), model, average.ptu, bucket_seconds=asked.bucket_seconds)
    lines = [
        f"{average.ptu:,} PTU of {model.name}, {model.offer}: {average.normalised_tpm:,.0f} tokens a minute as units"
        f" count them, {model.input_tpm:,.0f} for each, is {average.units:,.1f}; sold from {model.minimum} in steps of"
        f" {model.step} ({model.as_of}, {model.source}).",
        f"For an even load. Calls at random times at this rate would have {burst.share:.1%} refused; bursts more. Size"
        " from a trace, a log or a run to see yours.",
        *_money_lines(costs, at),
    ]
    facts = {
        "ptu": average.ptu,
        "by": "average",
        **_model_facts(model),
        **average._asdict(),
        "poisson_refused_share": burst.share,
        **_money_facts(costs, at),
    }
    return Result(lines, facts, {})


def sizing_result(
    found: Sizing, model: Model, asked: Asked, costs: Money | None, at: Rates, notes: list[str]
) -> Result:
    interval = (
        f" (95 %: {found.low:,} to {found.high:,})" if found.low is not None else " (too short a load for an interval)"
    )
    lines = [
        f"{found.ptu:,} PTU of {model.name}, {model.offer}{interval}, for {found.calls:,} calls in"
        f" {found.minutes:,.1f} min with at most {asked.throttled:.2%} refused.",
        f"The average alone says {found.average.ptu:,}: {found.average.normalised_tpm:,.0f} tokens a minute as units"
        f" count them, {model.input_tpm:,.0f} for each ({model.as_of}, {model.source}).",
        *_of_bursts(found),
        *notes,
        *_money_lines(costs, at),
        *(_spillover_lines(found, costs) if asked.spillover else ()),
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
        **_money_facts(costs, at),
        "spillover": None if found.spilled is None else {**found.spilled._asdict(), "cheapest": _cheapest(found)},
    }
    tables = {
        "counts": Table("What other counts would do", found.counts, "none"),
        "sensitivity": Table("If the load were otherwise", found.sensitivity, "none"),
    }
    return Result(lines, facts, tables)


def _of_bursts(found: Sizing) -> list[str]:
    if found.low is None or found.minutes >= _LONG or found.ptu <= found.average.ptu:
        return []
    return [
        "It is bursts that need the units, and a load this short has few of them: their interval may be too low. Size"
        " from a day."
    ]


def _model_facts(model: Model) -> dict[str, Any]:
    return {
        "model": model.name,
        "offer": model.offer,
        "input_tpm_per_ptu": model.input_tpm,
        "output_weight": model.output_weight,
        "as_of": str(model.as_of),
        "source": model.source,
    }


def _money_facts(costs: Money | None, at: Rates) -> dict[str, Any]:
    price = at.tokens
    return {
        "money": None if costs is None else costs._asdict(),
        "prices": {
            "as_of": None if price is None else str(price.as_of),
            "source": None if price is None else price.source,
            "units_as_of": str(at.units_as_of),
        },
    }


def _money_lines(costs: Money | None, at: Rates) -> list[str]:
    if costs is None or at.tokens is None:
        return ["What it costs is not known: there is no price for this model; --prices FILE adds one."]
    ways = {
        "pay-as-you-go": costs.payg,
        "by the hour": costs.hourly,
        "reserved by the month": costs.reserved_month,
        "by the year": costs.reserved_year,
    }
    cheaper = [way for way, dollars in ways.items() if dollars < costs.payg]
    stands = f"the units are cheaper {' and '.join(cheaper)}" if cheaper else "pay-as-you-go is cheaper"
    return [
        f"A month: ${costs.payg:,.0f} pay-as-you-go; units ${costs.hourly:,.0f} by the hour,"
        f" ${costs.reserved_month:,.0f} reserved by the month, ${costs.reserved_year:,.0f} by the year (list prices of"
        f" {at.tokens.as_of}, units {at.units_as_of}; --prices has yours).",
        f"Pay-as-you-go costs as much as these units at {costs.break_even_hourly_tpm:,.0f} tokens a minute by the hour,"
        f" {costs.break_even_tpm:,.0f} reserved by the month, {costs.break_even_year_tpm:,.0f} by the year; this load"
        f" has {costs.tpm:,.0f}: {stands}.",
    ]


def _spillover_lines(found: Sizing, costs: Money | None) -> list[str]:
    spill = found.spilled
    if spill is None or costs is None:
        return []
    cheapest = _cheapest(found)
    instead = f"{cheapest['ptu']:,} PTU come to the least, ${cheapest['dollars_month']:,.0f}"
    if cheapest["dollars_month"] >= costs.payg:
        instead += f", and pay-as-you-go alone to ${costs.payg:,.0f}"
    return [
        f"With spillover: {spill.calls:,} calls ({spill.calls / found.calls:.2%}), {spill.input_tokens:,.0f} tokens in"
        f" and {spill.output_tokens:,.0f} out, go to pay-as-you-go, uncached, for ${spill.dollars_month:,.0f} a month;"
        f" with {found.ptu:,} PTU reserved by the month ${spill.total_month:,.0f}. {instead}.",
    ]


def _cheapest(found: Sizing) -> dict[str, Any]:
    """Of the counts looked at, with what spills over."""
    row = min(records(found.counts), key=lambda row: float(row["dollars_month"]))
    return {"ptu": row["ptu"], "dollars_month": row["dollars_month"]}
