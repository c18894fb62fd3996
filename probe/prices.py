"""What tokens cost: list prices by model, each with its date and source.

Unknown.  A model without a price in the tables has none; no price of a relative is taken for it. Where a number must
          be had all the same, a cap on spending for one, `dearest` is on the safe side.
Names.    The model that served a call carries its version (`probe.dated`). A deployment's name says nothing, but where
          people name it after the model.
Not in.   Data zones and regions (about a tenth more than Global Standard), prompts above 272,000 tokens, priority and
          batch. Whoever pays other prices gives a file of their own, which wins (`prices.toml` is the form).
"""

from datetime import date
from functools import cache
from pathlib import Path

import msgspec

from probe.dated import Dated, model_names, read_tables

_OURS = Path(__file__).with_name("prices.toml")
_MILLION = 1_000_000


class _Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per million tokens. Without `cached_input` a cached token costs as much as any other."""

    input: float
    output: float
    cached_input: float | None = None

    def __post_init__(self) -> None:
        if min(self.input, self.output, self.cached_input or 0.0) < 0:
            raise ValueError("a price is below 0")


class ProvisionedPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per provisioned throughput unit: an hour of it by kind of deployment, and reserved for long."""

    global_hour: float
    datazone_hour: float
    regional_hour: float
    reserved_month: float
    reserved_year: float


class _Table(Dated, frozen=True):
    per_million_tokens: dict[str, _Rates] = msgspec.field(default_factory=dict)
    ptu: ProvisionedPrice | None = None


class Price(msgspec.Struct, frozen=True):
    """Of the model as the table names it; rates are US dollars per million tokens."""

    model: str
    input: float
    output: float
    cached_input: float
    as_of: date
    source: str

    def cost(self, input_tokens: float, output_tokens: float, cached_tokens: float = 0) -> float:
        """In US dollars; `cached_tokens` are among the input tokens."""
        fresh = max(0.0, input_tokens - cached_tokens)
        return (fresh * self.input + cached_tokens * self.cached_input + output_tokens * self.output) / _MILLION


class Prices(msgspec.Struct, frozen=True):
    """Tables in the order in which they are asked: a user's own before ours, each newest first."""

    own: tuple[_Table, ...]
    ours: tuple[_Table, ...]

    def price(self, model: str, on: date | None = None) -> Price | None:
        """That held `on` that day (by default the newest); of an earlier day than any table's, the oldest there is."""
        for name in model_names(model):
            for tables in (self.own, self.ours):
                found = [table for table in tables if name in table.per_million_tokens]
                held = [table for table in found if on is None or table.as_of <= on]
                if found:
                    return _price(name, held[0] if held else found[-1])
        return None

    def dearest(self) -> Price:
        """The highest rates of all that are known, which need not be one model's."""
        known = [_price(name, table) for table in (*self.own, *self.ours) for name in table.per_million_tokens]
        output = max(known, key=lambda price: (price.output, price.input))
        return msgspec.structs.replace(
            output,
            input=max(price.input for price in known),
            cached_input=max(price.cached_input for price in known),
        )

    def provisioned(self) -> tuple[ProvisionedPrice, date]:
        """With its date."""
        return next((table.ptu, table.as_of) for table in (*self.own, *self.ours) if table.ptu is not None)


def _price(name: str, table: _Table) -> Price:
    rates = table.per_million_tokens[name]
    cached = rates.input if rates.cached_input is None else rates.cached_input
    return Price(name, rates.input, rates.output, cached, table.as_of, table.source)


@cache
def read_prices(path: Path | None = None) -> Prices:
    """Ours, and before them those of a user's file. Raises `SettingsError` that names it and what is wrong in it."""
    return Prices(own=() if path is None else _read(path), ours=_read(_OURS))


def _read(path: Path) -> tuple[_Table, ...]:
    return read_tables(path, _Table, "prices", _lowered)


def _lowered(table: _Table) -> _Table:
    lowered = {name.lower(): rates for name, rates in table.per_million_tokens.items()}
    return msgspec.structs.replace(table, per_million_tokens=lowered)
