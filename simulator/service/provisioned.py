"""Provisioned deployments: what their units are worth by model, and the leaky bucket that limits them. Pure.

Facts.    A unit (PTU) is so many input tokens a minute of a model; an output token counts as `output_weight` of them
          and a cached one as none. A call adds its prompt and its `max_tokens`, an estimate without it, and is
          corrected to what was used when it ends. The bucket drains at the rate bought. At 100 % calls are refused
          until it is below, and for a short while it can exceed 100 %. (Documented, February 2026. The table:
          documented in May and July 2026; weights and rates change, and those of gpt-5.6 and gpt-6 are not known.)
Decided.  A full bucket is a minute of what was bought: the rate is given by the minute and no document says more.
          One call may overfill it, so that long ones are possible at all. Without `max_tokens` 640 tokens are
          assumed, as the standard limiter has been seen to do. A refused call adds nothing.
"""

import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from simulator.service.limits import ASSUMED_MAX_TOKENS, MINUTE, Refusal, Standing

Offer = Literal["global", "datazone", "regional"]

# Seconds by which a wait ends after the bucket is exactly full, where it still refuses.
_HAIR = 1e-6


class Purchase(NamedTuple):
    """How many units can be bought: `minimum`, and any number of `step` more."""

    minimum: int
    step: int

    def allows(self, units: int) -> bool:
        return units >= self.minimum and (units - self.minimum) % self.step == 0


class ProvisionedModel(NamedTuple):
    name: str
    input_tpm_per_ptu: int
    output_weight: int
    purchases: Mapping[Offer, Purchase]


class Charge(NamedTuple):
    """What an admitted call has added for its output, until it is settled."""

    output: float


_Purchases = dict[Offer, Purchase]
_GLOBAL: _Purchases = {"global": Purchase(15, 5)}
_SHARED: _Purchases = {**_GLOBAL, "datazone": Purchase(15, 5)}
_REGIONAL_25: _Purchases = {"regional": Purchase(25, 25)}
_REGIONAL_50: _Purchases = {"regional": Purchase(50, 50)}
_PARTNER: _Purchases = {"global": Purchase(100, 100)}

_TABLE = {
    row.name: row
    for row in (
        ProvisionedModel("gpt-5.5", 1_200, 6, _SHARED | _REGIONAL_50),
        ProvisionedModel("gpt-5.4", 2_400, 6, _SHARED | _REGIONAL_50),
        ProvisionedModel("gpt-5.4-mini", 7_900, 6, _SHARED | _REGIONAL_25),
        ProvisionedModel("gpt-5.3-codex", 3_400, 8, _GLOBAL | _REGIONAL_50),
        ProvisionedModel("gpt-5.2", 3_400, 8, _GLOBAL),
        ProvisionedModel("gpt-5.2-codex", 3_400, 8, _GLOBAL),
        ProvisionedModel("gpt-5.1", 4_750, 8, _SHARED),
        ProvisionedModel("gpt-5.1-codex", 4_750, 8, _SHARED),
        ProvisionedModel("gpt-5", 4_750, 8, _SHARED | _REGIONAL_50),
        ProvisionedModel("gpt-5-mini", 23_750, 8, _SHARED | _REGIONAL_25),
        ProvisionedModel("gpt-4.1", 3_000, 4, _SHARED | _REGIONAL_50),
        ProvisionedModel("gpt-4.1-mini", 14_900, 4, _SHARED | _REGIONAL_25),
        ProvisionedModel("gpt-4.1-nano", 59_400, 4, _SHARED | _REGIONAL_25),
        ProvisionedModel("gpt-4o", 2_500, 4, _SHARED | _REGIONAL_50),
        ProvisionedModel("gpt-4o-mini", 37_000, 4, _SHARED | _REGIONAL_25),
        ProvisionedModel("o4-mini", 5_400, 4, _SHARED | _REGIONAL_25),
        ProvisionedModel("o3", 3_000, 4, _SHARED | _REGIONAL_50),
        ProvisionedModel("o3-mini", 2_500, 4, _SHARED | _REGIONAL_25),
        ProvisionedModel("o1", 230, 4, _SHARED | {"regional": Purchase(25, 50)}),
        ProvisionedModel("Llama-3.3-70B", 8_450, 4, _PARTNER),
        ProvisionedModel("DeepSeek-R1", 4_000, 4, _PARTNER),
        ProvisionedModel("DeepSeek-R1-0528", 4_000, 4, _PARTNER),
        ProvisionedModel("DeepSeek-V3-0324", 4_000, 4, _PARTNER),
        ProvisionedModel("DeepSeek-V3.2", 3_000, 4, {"global": Purchase(300, 150), "datazone": Purchase(300, 150)}),
    )
}
# A snapshot is dated in full, or by month and day; Llama says what it was tuned for.
_SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{4}|Instruct)$")


def provisioned_model(name: str) -> ProvisionedModel:
    """By the model's name, with or without its snapshot's date. Raises `LookupError` for one not in the table."""
    found = _TABLE.get(name) or _TABLE.get(_SNAPSHOT.sub("", name))
    if found is None:
        raise LookupError(f"{name} is not among the models of known provisioned rates: {', '.join(_TABLE)}")
    return found


class ProvisionedLimiter:
    def __init__(self, model: ProvisionedModel, units: int, seconds: float = MINUTE) -> None:
        """A full bucket is `seconds` of what `units` of the model take."""
        if units <= 0 or seconds <= 0:
            raise ValueError(f"{units} units over {seconds} s are no capacity")
        self._weight = model.output_weight
        self._rate = units * model.input_tpm_per_ptu / MINUTE
        self._size = self._rate * seconds
        self._was_used = 0.0
        self._at = -math.inf

    def admit(self, prompt_tokens: int, cached_tokens: int, max_tokens: int | None, now: float) -> Charge | Refusal:
        """The charge, to be settled when the call has ended however it did; or a refusal, and nothing added."""
        used = self._used(now)
        if used >= self._size:
            return Refusal("utilization", (used - self._size) / self._rate + _HAIR)
        output = float(self._weight * (ASSUMED_MAX_TOKENS if max_tokens is None else max_tokens))
        self._set(used + prompt_tokens - cached_tokens + output, now)
        return Charge(output)

    def settle(self, charge: Charge, generated_tokens: int, now: float) -> None:
        """Puts what was generated in the place of what was allowed. Once for each charge."""
        self._set(self._used(now) + self._weight * generated_tokens - charge.output, now)

    def standing(self, now: float) -> Standing:
        return Standing(utilization=self._used(now) / self._size)

    def _used(self, now: float) -> float:
        used = self._was_used - (now - self._at) * self._rate
        return used if used > 0 else 0.0

    def _set(self, used: float, now: float) -> None:
        self._was_used = used
        self._at = now
