"""What a month of a load costs: by the token, by provisioned units, or by units with what they refuse spilled over.

Month.     730 hours of the load as it is.
Spillover. What the units refuse goes to a pay-as-you-go deployment and costs by the token, all of its prompt: caches
           are each deployment's own, so that a spilled call finds nothing in it.
Unknown.   Prices have their date; of a model without one nothing is said.
"""

from datetime import date
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from analysis.ptu_models import Average, Model
from probe.prices import Price, ProvisionedPrice, read_prices

HOURS = 730


class Rates(NamedTuple):
    """`tokens` is None where the model has no price."""

    tokens: Price | None
    units: ProvisionedPrice
    units_as_of: date


class Money(NamedTuple):
    """US dollars a month. A break-even is the tokens a minute, in this load's proportions, at which pay-as-you-go costs
    what these units do: reserved by the month, by the hour, reserved by the year. `tpm` is what the load has."""

    payg: float
    hourly: float
    reserved_month: float
    reserved_year: float
    break_even_tpm: float
    break_even_hourly_tpm: float
    break_even_year_tpm: float
    tpm: float


class Spilled(NamedTuple):
    """Calls and tokens that units refused in the whole of a load; US dollars a month of them, and with the units
    reserved by the month."""

    calls: int
    input_tokens: float
    output_tokens: float
    dollars_month: float
    total_month: float


def rates(model: str, own: Path | None = None) -> Rates:
    """Raises `SettingsError`."""
    prices = read_prices(own)
    return Rates(prices.price(model), *prices.provisioned())


def money(average: Average, ptu: int, model: Model, at: Rates) -> Money | None:
    if at.tokens is None:
        return None
    units = at.units
    hour = {"global": units.global_hour, "datazone": units.datazone_hour, "regional": units.regional_hour}[model.offer]
    cached = average.cached_share * average.input_tokens
    payg = average.rpm * at.tokens.cost(average.input_tokens, average.output_tokens, cached) * 60 * HOURS
    tpm = average.rpm * (average.input_tokens + average.output_tokens)
    hourly, month, year = ptu * hour * HOURS, ptu * units.reserved_month, ptu * units.reserved_year / 12
    of_month, of_hours, of_year = (tpm * sum_ / payg if payg else float("inf") for sum_ in (month, hourly, year))
    return Money(payg, hourly, month, year, of_month, of_hours, of_year, tpm)


def spilled(refused: pd.DataFrame, seconds: float, ptu: int, at: Rates) -> Spilled | None:
    """`refused` are the calls that are, of a load of so many seconds; None where the model has no price."""
    if at.tokens is None:
        return None
    tokens = float(refused["input_tokens"].sum()), float(refused["output_tokens"].sum())
    month = at.tokens.cost(*tokens) * HOURS * 3600 / seconds
    return Spilled(len(refused), *tokens, month, ptu * at.units.reserved_month + month)
