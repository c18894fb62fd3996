"""The limiters of a standard deployment, and what a request is charged. Pure: the clock is passed in.

Facts.    A deployment has a limit of requests and one of tokens a minute. Where the limit of requests is kept over a
          shorter period (10 s, 1 s) it and its headers are per minute x period / 60. (Documented; gpt-4o's headers.)

          To February 2026: windows that do not follow the wall clock's minute and in which nothing comes back, those
          of requests and of tokens each of its own length: two calls 11 s apart left 994 and 988 tokens, and each the
          last request of its 10 s. (Observed.)
          Since March 2026: buckets that refill continuously; `x-ratelimit-reset-*`, the time until one is full, is
          used x period / limit, and what is left can be below zero. (Observed. That a limit refuses by the counter
          it shows is inferred, in both.)

          The charge is an estimate made from the request, whatever the answer's length. (Observed, by rule:)
          characters   A quarter of each text's length, rounded down, and one; so for every part of a message that has
                       several, for `tools` and for `response_format` as compact JSON. A message without text adds
                       nothing. Chat with OpenAI's models since November 2025.
          max_tokens   `max_tokens` exactly, 16 without it. DeepSeek and MAI in 2025; gpt-35-turbo and gpt-4 in 2024,
                       from where the 16 is.
          both         The messages' `characters` and `max_tokens`, 640 without it; tools are free. gpt-4o in 2024.
          responses    A quarter of the whole input's length, rounded down: texts, the arguments of calls and their
                       results. Tools are free. One recording with encrypted reasoning was charged 105 more.
          embeddings   As `characters`, for each text of the input.
          prompt       As billed for a model that reasons, 2 less for another. Chat since March 2026; two prompts only.

          The service lowers limits for hours at times: the headers' limit is then below the configured one.
          (Documented.)
Decided.  A window opens with the first request it admits. A refused request debits nothing, though documents say that
          unsuccessful calls count. A request larger than the limit is admitted where nothing is used, and overdraws.
          Instructions count as input; images cost nothing; an input of token numbers costs as many. A lowered limit
          leaves what is used as it is.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

MINUTE = 60.0
# What the service assumes of a request that does not say how long its answer may be.
ASSUMED_MAX_TOKENS = 640
_OLD_DEFAULT_MAX_TOKENS = 16
# Seconds. What rounding leaves over is no reason to wait.
_HAIR = 1e-6

_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

Refused = Literal["requests", "tokens", "utilization"]
DebitRule = Literal["characters", "max_tokens", "both", "responses", "embeddings", "prompt"]


class Level(NamedTuple):
    """One limit as it stands. `period` and `reset` (the time until it is untouched again) are seconds."""

    limit: float
    remaining: float
    period: float
    reset: float


class Standing(NamedTuple):
    """What a limiter says of itself: `utilization` (1 is full) where provisioned, else both levels."""

    requests: Level | None = None
    tokens: Level | None = None
    utilization: float | None = None


class Refusal(NamedTuple):
    """`wait` is how many seconds later the same request would be admitted if nobody else came."""

    limit: Refused
    wait: float


class Limiter(Protocol):
    def admit(self, charge: float, now: float) -> Refusal | None:
        """None, and one request and `charge` tokens debited; or what stands against it, and nothing debited."""

    def standing(self, now: float) -> Standing: ...

    def set_limits(self, requests_per_minute: float, tokens_per_minute: float, now: float) -> None:
        """From now on; what is used remains used. For the service's temporary reductions."""


class _Meter(Protocol):
    def wait(self, amount: float, now: float) -> float: ...

    def take(self, amount: float, now: float) -> None: ...

    def level(self, now: float) -> Level: ...

    def set_limit(self, per_minute: float, now: float) -> None: ...


class _Window:
    """Nothing comes back until it closes. The next opens with the first that is taken after that."""

    def __init__(self, per_minute: float, period: float) -> None:
        self._limit = _limit(per_minute, period)
        self._period = period
        self._used = 0.0
        self._closes = 0.0

    def _is_open(self, now: float) -> bool:
        return self._used > 0 and now < self._closes - _HAIR

    def wait(self, amount: float, now: float) -> float:
        if self._used + amount <= self._limit or not self._is_open(now):
            return 0.0
        return self._closes - now

    def take(self, amount: float, now: float) -> None:
        if self._is_open(now):
            self._used += amount
        else:
            self._used = amount
            self._closes = now + self._period

    def level(self, now: float) -> Level:
        if not self._is_open(now):
            return Level(self._limit, self._limit, self._period, 0.0)
        return Level(self._limit, self._limit - self._used, self._period, self._closes - now)

    def set_limit(self, per_minute: float, now: float) -> None:
        self._limit = _limit(per_minute, self._period)


class _Bucket:
    """What is used comes back at limit / period."""

    def __init__(self, per_minute: float, period: float) -> None:
        self._limit = _limit(per_minute, period)
        self._period = period
        self._was_used = 0.0
        self._at = -math.inf

    def _used(self, now: float) -> float:
        used = self._was_used - (now - self._at) * self._limit / self._period
        return used if used > 0 else 0.0

    def wait(self, amount: float, now: float) -> float:
        excess = self._used(now) + min(amount, self._limit) - self._limit
        wait = excess * self._period / self._limit
        return wait if wait > _HAIR else 0.0

    def take(self, amount: float, now: float) -> None:
        self._was_used = self._used(now) + amount
        self._at = now

    def level(self, now: float) -> Level:
        used = self._used(now)
        return Level(self._limit, self._limit - used, self._period, used * self._period / self._limit)

    def set_limit(self, per_minute: float, now: float) -> None:
        self.take(0, now)
        self._limit = _limit(per_minute, self._period)


def _limit(per_minute: float, period: float) -> float:
    if per_minute <= 0 or period <= 0:
        raise ValueError(f"a limit of {per_minute} a minute, kept over {period} s, is none")
    return per_minute * period / MINUTE


class _TwoMeters:
    def __init__(self, requests: _Meter, tokens: _Meter) -> None:
        self._requests = requests
        self._tokens = tokens

    def admit(self, charge: float, now: float) -> Refusal | None:
        requests, tokens = self._requests.wait(1, now), self._tokens.wait(charge, now)
        if requests > 0 or tokens > 0:
            return Refusal("requests", requests) if requests >= tokens else Refusal("tokens", tokens)
        self._requests.take(1, now)
        self._tokens.take(charge, now)
        return None

    def standing(self, now: float) -> Standing:
        return Standing(self._requests.level(now), self._tokens.level(now))

    def set_limits(self, requests_per_minute: float, tokens_per_minute: float, now: float) -> None:
        self._requests.set_limit(requests_per_minute, now)
        self._tokens.set_limit(tokens_per_minute, now)


class WindowLimiter(_TwoMeters):
    """To February 2026. `tokens_period` is a minute of every deployment known; tests shorten it."""

    def __init__(
        self,
        requests_per_minute: float,
        tokens_per_minute: float,
        requests_period: float = MINUTE,
        tokens_period: float = MINUTE,
    ) -> None:
        super().__init__(_Window(requests_per_minute, requests_period), _Window(tokens_per_minute, tokens_period))


class RefillLimiter(_TwoMeters):
    """Since March 2026. `tokens_period` as above."""

    def __init__(
        self,
        requests_per_minute: float,
        tokens_per_minute: float,
        requests_period: float = MINUTE,
        tokens_period: float = MINUTE,
    ) -> None:
        super().__init__(_Bucket(requests_per_minute, requests_period), _Bucket(tokens_per_minute, tokens_period))


def debit(rule: DebitRule, body: Mapping[str, Any]) -> int:
    """What a request with this body, parsed, takes from the limit of tokens."""
    return _RULES[rule](body)


def text_of(content: object) -> str:
    """A message's text; its parts joined where it has several."""
    return "".join(_texts(content))


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [text for part in parts if isinstance(part, dict) and isinstance(text := part.get("text"), str)]


def _quarters(texts: Iterable[str]) -> int:
    return sum(len(text) // 4 + 1 for text in texts)


def _messages(body: Mapping[str, Any]) -> int:
    return sum(_quarters(_texts(message.get("content"))) for message in body.get("messages") or ())


def _characters(body: Mapping[str, Any]) -> int:
    described = (body.get("tools"), body.get("response_format"))
    return _messages(body) + _quarters(_compact(value) for value in described if value)


def _max_tokens(body: Mapping[str, Any], default: int) -> int:
    asked = body.get("max_completion_tokens")
    if asked is None:
        asked = body.get("max_tokens")
    return default if asked is None else int(asked)


def _responses(body: Mapping[str, Any]) -> int:
    given = body.get("input")
    texts = [body.get("instructions"), *(_item_texts(given) if isinstance(given, list) else [given])]
    return sum(len(text) for text in texts if isinstance(text, str)) // 4


def _item_texts(items: Iterable[object]) -> Iterable[object]:
    for item in items:
        if isinstance(item, dict):
            yield from _texts(item.get("content"))
            yield item.get("arguments")
            yield from _texts(item.get("output"))


def _embeddings(body: Mapping[str, Any]) -> int:
    given = body.get("input")
    inputs = given if isinstance(given, list) else [given]
    return sum(_embedded(one) for one in inputs)


def _embedded(one: object) -> int:
    """A text, a list of token numbers, or one of them."""
    if isinstance(one, str):
        return _quarters([one])
    return len(one) if isinstance(one, list) else 1


_RULES: Mapping[DebitRule, Callable[[Mapping[str, Any]], int]] = {
    "characters": _characters,
    "max_tokens": lambda body: _max_tokens(body, _OLD_DEFAULT_MAX_TOKENS),
    "both": lambda body: _messages(body) + _max_tokens(body, ASSUMED_MAX_TOKENS),
    "responses": _responses,
    "embeddings": _embeddings,
}
