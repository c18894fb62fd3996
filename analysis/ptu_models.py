"""What provisioned throughput units (PTUs) are worth by model, and how many of them an average load needs.

A unit takes so many input tokens a minute; a cached token counts as none, an output token as `output_weight`. Purchases
begin at a minimum and go up in steps, by kind of deployment. (Documented; `ptu_models.toml` has dates and sources.)
"""

import math
from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from probe.dated import Dated, model_names, read_tables
from probe.target import SettingsError

Offer = Literal["global", "datazone", "regional"]

_OURS = Path(__file__).with_name("ptu_models.toml")


class _Worth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input_tpm_per_ptu: float
    output_weight: float
    # Minimum and step; None where it is not offered.
    global_: tuple[int, int] | None = msgspec.field(default=None, name="global")
    datazone: tuple[int, int] | None = None
    regional: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        sizes = [size for offer in (self.global_, self.datazone, self.regional) for size in offer or ()]
        if min(self.input_tpm_per_ptu, self.output_weight, *sizes) <= 0:
            raise ValueError("every number has to be above 0")


class _Table(Dated, frozen=True):
    models: dict[str, _Worth]


class Model(msgspec.Struct, frozen=True):
    """A model as one kind of deployment of it is sold; `input_tpm` is tokens a minute for one unit."""

    name: str
    offer: Offer
    input_tpm: float
    output_weight: float
    minimum: int
    step: int
    as_of: date
    source: str

    def charge(self, input_tokens: float, cached_tokens: float, output_tokens: float) -> float:
        """In input tokens."""
        return input_tokens - cached_tokens + self.output_weight * output_tokens

    def sold(self, units: float) -> int:
        """The smallest count that can be bought and is not below `units`. A hair above a count is that count."""
        above = max(0.0, units - self.minimum) / self.step
        return self.minimum + math.ceil(above - 1e-9) * self.step

    def counts(self, low: float, high: float) -> Iterator[int]:
        """Every count for sale from `low` to `high`."""
        count = self.sold(low)
        while count <= high:
            yield count
            count += self.step


class Average(NamedTuple):
    """`normalised_tpm` is input tokens a minute as a unit counts them; `units` what that takes, `ptu` what is sold."""

    rpm: float
    input_tokens: float
    cached_share: float
    output_tokens: float
    normalised_tpm: float
    units: float
    ptu: int


def by_average(model: Model, rpm: float, input_tokens: float, output_tokens: float, cached_share: float) -> Average:
    """Tokens are of one call; `cached_share` (0 to 1) is of the input."""
    tpm = rpm * model.charge(input_tokens, cached_share * input_tokens, output_tokens)
    units = tpm / model.input_tpm
    return Average(rpm, input_tokens, cached_share, output_tokens, tpm, units, model.sold(units))


def find_model(name: str, offer: Offer, own: Path | None = None) -> Model:
    """By its name, with or without its version. Raises `SettingsError` where it is in no table, or not offered so."""
    tables = (*(() if own is None else _read(own)), *_read(_OURS))
    for wanted in model_names(name):
        for table in tables:
            if wanted in table.models:
                return _sold_as(wanted, offer, table)
    known = ", ".join(sorted({model for table in tables for model in table.models}))
    raise SettingsError(f"what a PTU of {name!r} is worth is not known; known are {known}; --models FILE adds others")


def _sold_as(name: str, offer: Offer, table: _Table) -> Model:
    worth = table.models[name]
    sizes = {"global": worth.global_, "datazone": worth.datazone, "regional": worth.regional}
    size = sizes[offer]
    if size is None:
        offered = " and ".join(kind for kind, one in sizes.items() if one is not None)
        raise SettingsError(f"{name} is not sold as {offer} provisioned; as {offered} it is ({table.as_of})")
    return Model(name, offer, worth.input_tpm_per_ptu, worth.output_weight, *size, table.as_of, table.source)


@cache
def _read(path: Path) -> tuple[_Table, ...]:
    return read_tables(path, _Table, "models", _lowered)


def _lowered(table: _Table) -> _Table:
    return msgspec.structs.replace(table, models={name.lower(): worth for name, worth in table.models.items()})
