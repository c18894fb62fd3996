"""A deployment at work: what its limiter admits, what is still in its prompt cache, and how busy it is.

Facts.    Prompts that begin alike for 1,024 tokens or more are cached in steps of 128 for minutes (documented, and
          observed in usage). A provisioned deployment may hand what it cannot take to a standard one of its resource.
Decided.  Two prompts begin alike when their texts do, in blocks of 512 characters for 128 tokens; a cache entry lives
          ten minutes after its last use.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from simulator import config
from simulator.service.limits import DebitRule, Limiter, RefillLimiter, Refusal, Standing, WindowLimiter, debit
from simulator.service.provisioned import Charge, ProvisionedLimiter, provisioned_model
from simulator.service.tokens import Encoder, encoder, is_reasoning

_BLOCK_CHARACTERS = 512
_BLOCK_TOKENS = 128
_LEAST_CACHED = 1024
_CACHED_FOR = 600.0
_MOST_ENTRIES = 100_000
_WINDOWS = ("2023", "2024", "2025", "2026-02")


class Load(NamedTuple):
    """What a request asks of a deployment."""

    body: Mapping[str, Any]
    rule: DebitRule
    prompt_tokens: int
    cached_tokens: int
    max_tokens: int | None

    @property
    def uncached_tokens(self) -> int:
        return self.prompt_tokens - self.cached_tokens


class PromptCache:
    def __init__(self) -> None:
        self._seen: OrderedDict[int, float] = OrderedDict()

    def cached_tokens(self, text: str, prompt_tokens: int, now: float) -> int:
        """How many of the prompt's tokens are cached; the prompt is from now on."""
        key, known, cached = 0, True, 0
        for start in range(0, len(text) - _BLOCK_CHARACTERS + 1, _BLOCK_CHARACTERS):
            key = hash((key, text[start : start + _BLOCK_CHARACTERS]))
            known = known and now - self._seen.get(key, -_CACHED_FOR) < _CACHED_FOR
            cached += _BLOCK_TOKENS * known
            self._seen[key] = now
            self._seen.move_to_end(key)
        while len(self._seen) > _MOST_ENTRIES:
            self._seen.popitem(last=False)
        within = min(cached, (prompt_tokens - 1) // _BLOCK_TOKENS * _BLOCK_TOKENS)
        return within if within >= _LEAST_CACHED else 0


class Charged(NamedTuple):
    """What a call took from the limit; `provisional` is to be settled when it has ended."""

    tokens: float
    provisional: Charge | None = None


class Deployment:
    """`now` is monotonic seconds throughout."""

    def __init__(self, name: str, settings: config.Deployment, now: float) -> None:
        """Raises `LookupError` for a model that cannot be provisioned, where it is to be."""
        self.name = name
        self.settings = settings
        self.encoder: Encoder = encoder(settings.model)
        self.cache = PromptCache()
        self._started = now
        self._share = 1.0
        self._standard = _standard(settings)
        self._provisioned = None if settings.ptu is None else _provisioned(settings, settings.ptu)

    @property
    def model(self) -> str:
        return self.settings.model

    def admit(self, load: Load, now: float) -> Charged | Refusal:
        if self._provisioned is not None:
            charge = self._provisioned.admit(load.prompt_tokens, load.cached_tokens, load.max_tokens, now)
            return charge if isinstance(charge, Refusal) else Charged(load.uncached_tokens + charge.output, charge)
        self._reduce(now)
        tokens = self._debit(load)
        return self._standard.admit(tokens, now) or Charged(tokens)

    def settle(self, charged: Charged, generated: int, now: float) -> None:
        """When the call has ended, however it did."""
        if self._provisioned is not None and charged.provisional is not None:
            self._provisioned.settle(charged.provisional, generated, now)

    def standing(self, now: float) -> Standing:
        return (self._provisioned or self._standard).standing(now)

    def _debit(self, load: Load) -> int:
        rule = self.settings.debit or load.rule
        if rule != "prompt":
            return debit(rule, load.body)
        return load.prompt_tokens - (0 if is_reasoning(self.model) else 2)

    def _reduce(self, now: float) -> None:
        """To what the platform allows at the moment."""
        settings, since = self.settings, now - self._started
        share = min((one.share for one in settings.reductions if one.after <= since < one.until), default=1.0)
        if share != self._share:
            self._standard.set_limits(settings.requests_per_minute * share, settings.tokens_per_minute * share, now)
            self._share = share


def _standard(settings: config.Deployment) -> Limiter:
    kind = WindowLimiter if settings.generation in _WINDOWS else RefillLimiter
    return kind(
        settings.requests_per_minute, settings.tokens_per_minute, settings.request_period, settings.token_period
    )


def _provisioned(settings: config.Deployment, units: int) -> ProvisionedLimiter:
    return ProvisionedLimiter(provisioned_model(settings.model), units, settings.bucket_seconds)
