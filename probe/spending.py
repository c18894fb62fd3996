"""What calls may cost, counted before they are sent.

Reserve.  A call is sent only where the most it can come to (its prompt, and the longest answer asked for) fits under
          every cap beside what was spent and what open calls have reserved. So no cap is ever exceeded, by our count
          of the prompt: prompts of ours have a known size; of a user's own text, and of body fields that a target adds,
          each byte counts as a token, which for text is more than it can be. What an image or a file behind a link
          costs is not known.
Settle.   A call that ends with `usage` cost that. One that was refused by 401, 403, 404 or 429 cost nothing: Azure
          bills what was processed. Everything else, a timeout or a stream cut off, keeps its reservation.
Prices.   By the model that a target was seen to serve, else by the deployment's name where that is a model's; where no
          price is known the dearest is taken (`probe.prices`).
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from probe.hosts import is_loopback
from probe.prices import Price, Prices
from probe.prompts import Prompt
from probe.target import SettingsError, Target

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_COUNTS = ("n", "best_of")
_NOT_BILLED = {401, 403, 404, 429}


class Caps(msgspec.Struct, frozen=True, omit_defaults=True):
    """The most that may be spent; None is no cap. `cost` is in US dollars."""

    requests: int | None = None
    tokens: int | None = None
    cost: float | None = None

    def any(self) -> bool:
        return self != Caps()

    def named(self) -> dict[str, str]:
        """Those that there are, by their flags, as text."""
        texts = {
            "--max-requests": self.requests and f"{self.requests:,}",
            "--max-tokens": self.tokens and f"{self.tokens:,}",
            "--max-cost": self.cost and dollars(self.cost),
        }
        return {flag: text for flag, text in texts.items() if text}

    def less(self, spent: "Spent") -> "Caps":
        """What is left of them."""
        return Caps(
            None if self.requests is None else max(0, self.requests - spent.requests),
            None if self.tokens is None else max(0, self.tokens - spent.tokens),
            None if self.cost is None else max(0.0, self.cost - spent.cost),
        )

    def part(self, number: int, of: int) -> "Caps":
        """Of one of so many processes, which together have the whole."""
        return Caps(
            None if self.requests is None else self.requests // of + (number < self.requests % of),
            None if self.tokens is None else self.tokens // of + (number < self.tokens % of),
            None if self.cost is None else self.cost / of,
        )


class Spent(NamedTuple):
    requests: int = 0
    tokens: int = 0
    cost: float = 0.0


class Reservation(msgspec.Struct, frozen=True):
    tokens: int
    cost: float
    price: Price


class Ledger:
    """What this process has spent, open calls' reservations included. Without caps it only counts."""

    def __init__(self, caps: Caps, prices: Mapping[str, Price]) -> None:
        """`prices` by target's name."""
        self.caps = caps
        self.spent = Spent()
        # Which cap would have been exceeded first, once one would.
        self.reached: str | None = None
        self._prices = prices

    def reserve(self, target: Target, prompt: Prompt) -> Reservation | None:
        """None where the call may not be sent, and no other either; `reached` says why. Raises `SettingsError`."""
        if self.reached is None:
            price = self._prices[target.name]
            most = most_tokens(target, prompt) if self.caps != Caps(requests=self.caps.requests) else (0, 0)
            reservation = Reservation(sum(most), price.cost(*most), price)
            self._add(1, reservation.tokens, reservation.cost)
            self.reached = self._exceeded()
            if self.reached is None:
                return reservation
            self._add(-1, -reservation.tokens, -reservation.cost)
        return None

    def settle(
        self,
        reservation: Reservation,
        status: int | None,
        input_tokens: int | None,
        output_tokens: int | None,
        cached_tokens: int | None = None,
    ) -> None:
        """Of an attempt that has ended, by its status and what the service said that it used."""
        if input_tokens is not None:
            tokens = input_tokens + (output_tokens or 0)
            cost = reservation.price.cost(input_tokens, output_tokens or 0, cached_tokens or 0)
        elif status in _NOT_BILLED:
            tokens, cost = 0, 0.0
        else:
            return
        self._add(0, tokens - reservation.tokens, cost - reservation.cost)

    def _add(self, requests: int, tokens: int, cost: float) -> None:
        spent = self.spent
        self.spent = Spent(spent.requests + requests, spent.tokens + tokens, spent.cost + cost)

    def _exceeded(self) -> str | None:
        caps, spent = self.caps, self.spent
        if caps.requests is not None and spent.requests > caps.requests:
            return "--max-requests"
        if caps.tokens is not None and spent.tokens > caps.tokens:
            return "--max-tokens"
        if caps.cost is not None and spent.cost > caps.cost:
            return "--max-cost"
        return None


def most_tokens(target: Target, prompt: Prompt) -> tuple[int, int]:
    """The most input and output tokens that a call can be billed for. Raises `SettingsError` where there is no most."""
    given = target.extra_body
    texts = {name: value for name, value in given.items() if name not in _LIMITS + _COUNTS and value is not None}
    # A text that a user gave has no planned size.
    planned = prompt.input_tokens or len(msgspec.json.encode(prompt.messages))
    input_tokens = planned + (len(msgspec.json.encode(texts)) if texts else 0)
    if target.surface == "embeddings":
        return input_tokens, 0
    answers = math.prod(value for name in _COUNTS if isinstance(value := given.get(name), int) and value > 0)
    return input_tokens, _longest_answer(target, prompt) * answers


def _longest_answer(target: Target, prompt: Prompt) -> int:
    ours = "max_output_tokens" if target.surface == "responses" else target.max_tokens_field
    limits = {ours: prompt.max_tokens} | {
        name: target.extra_body[name] for name in _LIMITS if name in target.extra_body
    }
    known = [limit for limit in limits.values() if isinstance(limit, int)]
    if not known:
        raise SettingsError(f"target {target.name}: its body takes away {ours}, so its answers have no longest to cap")
    return max(known)


def is_remote(targets: Iterable[Target]) -> bool:
    return any(not is_loopback(target.host) for target in targets)


def price_of(target: Target, prices: Prices, served: str | None = None) -> tuple[Price, bool]:
    """The price of what a target serves, and whether it is known to be that; else it is the dearest."""
    for name in (served, target.deployment):
        if name is not None and (price := prices.price(name)) is not None:
            return price, True
    return prices.dearest(), False


def dollars(amount: float) -> str:
    if amount >= 0.1 or amount == 0:
        return f"${amount:,.2f}"
    return f"${amount:.1g}" if amount >= 1e-4 else "under $0.0001"


def told_cost(target: Target, most: tuple[int, int], times: int, prices: Prices) -> str:
    """What so many equal calls come to at most, in one line."""
    price, known = price_of(target, prices)
    rates = f"price of {price.as_of}" if known else "no price is known: as the dearest that is"
    requests = f"{times} request{'s' if times > 1 else ''}, at most {times * sum(most)} tokens"
    return f"{target.name}: {requests} and {dollars(times * price.cost(*most))} ({rates})"


def ask_to_send(yes: bool, until_readable: Callable[[int], object] | None = None) -> None:
    """Asks on the terminal whether to send what was said to come. Raises `SettingsError` where the answer is no.

    `until_readable` waits for a file descriptor where waiting must not hold up the process.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise SettingsError("nothing was sent: there is no terminal to ask on; --yes (HEADROOM_YES=1) sends unasked")
    print("Send? [y/N] ", end="", file=sys.stderr, flush=True)
    if until_readable is not None:
        until_readable(sys.stdin.fileno())
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SettingsError("nothing was sent")
