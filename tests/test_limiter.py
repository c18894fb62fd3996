"""Whether the limiter that is inferred is the one that was there: the simulator's own models, on simulated time."""

import heapq
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

from analysis.limiter import RULES, Limiter, Meter, infer
from simulator.service.limits import RefillLimiter, Refusal, WindowLimiter
from simulator.service.provisioned import ProvisionedLimiter, provisioned_model

TOKENS, REQUESTS = 30_000, 60
COLUMNS = [
    *("issued", "ended", "admitted", "kind", "wait", "characters", "max_tokens", "input_tokens", "cached_tokens"),
    *("output_tokens", "utilization", "served_model", "offer"),
    *(f"{name}_{limit}" for limit in ("requests", "tokens") for name in ("limit", "remaining", "renewal")),
]
SAYS: dict[str, set[str]] = {
    "2023": set(),
    "2024": {"remaining"},
    "2025": {"remaining", "limit"},
    "2026-03": {"remaining", "limit", "renewal"},
}


def asked(rng: random.Random) -> dict[str, Any]:
    tokens = rng.randrange(100, 2000)
    return {
        "characters": int(tokens * rng.uniform(4.5, 5.5)),
        "input_tokens": tokens,
        "max_tokens": rng.randrange(20, 400),
        "output_tokens": rng.randrange(1, 20),
        "cached_tokens": 0,
    }


def arrivals(seconds: float, rate: float, rng: random.Random) -> Iterator[float]:
    now = 1_000.0
    while (now := now + rng.expovariate(rate)) < 1_000 + seconds:
        yield now


def sent(
    limiter: Any,
    rule: str,
    says: set[str],
    *,
    seconds: float = 400,
    rate: float = 1.0,
    jitter: float = 0.005,
    **more: Any,
) -> pd.DataFrame:
    """What a client sees of a standard deployment that is called at random, `jitter` seconds before it is reached."""
    rng = random.Random(5)
    rows = []
    for now in arrivals(seconds, rate, rng):
        request = asked(rng)
        charge = float(RULES[rule](pd.DataFrame([request]))[0])
        refusal = limiter.admit(charge, now)
        row = {
            "issued": now - rng.uniform(0, jitter),
            "ended": now + 0.5,
            "admitted": refusal is None,
            **request,
            **more,
        }
        if refusal is not None:
            row |= {"kind": refusal.limit, "wait": math.ceil(refusal.wait), "output_tokens": None}
        for limit in ("requests", "tokens"):
            level = getattr(limiter.standing(now), limit)
            stated = {"limit": level.limit, "remaining": level.remaining // 1, "renewal": level.period}
            row |= {f"{name}_{limit}": value for name, value in stated.items() if name in says and refusal is None}
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def tokens_of(found: Limiter) -> Meter:
    assert found.tokens is not None
    return found.tokens


@pytest.mark.parametrize("rule", ["characters", "max_tokens", "characters + max_tokens", "all tokens used"])
@pytest.mark.parametrize("generation", ["2024", "2025"])
def test_fixed_windows_are_told_with_their_length_charge_and_limit(generation: str, rule: str) -> None:
    found = infer(sent(WindowLimiter(REQUESTS * 20, TOKENS), rule, SAYS[generation]))
    meter = tokens_of(found)
    assert (meter.model, meter.rule, meter.window_seconds) == ("fixed window", rule, 60)
    assert generation in found.generation
    assert meter.stated == (TOKENS if generation == "2025" else None)
    assert meter.explained is not None and meter.explained > 0.95


@pytest.mark.parametrize("rule", ["characters", "characters of the whole input", "prompt tokens", "prompt tokens - 2"])
def test_a_continuous_refill_is_told_with_its_charge_and_limit(rule: str) -> None:
    # Few enough calls that the bucket is full again before some of them: then a single token shows.
    found = infer(sent(RefillLimiter(REQUESTS * 20, TOKENS), rule, SAYS["2026-03"], rate=0.3))
    meter = tokens_of(found)
    assert (meter.model, meter.rule, meter.window_seconds) == ("continuous refill", rule, 60)
    assert meter.per_minute == TOKENS


@pytest.mark.parametrize(("limiter", "model"), [(WindowLimiter, "fixed window"), (RefillLimiter, "continuous refill")])
@pytest.mark.parametrize("period", [1.0, 10.0, 60.0])
def test_the_limit_of_requests_is_told_with_its_period(limiter: Any, model: str, period: float) -> None:
    says = SAYS["2025" if limiter is WindowLimiter else "2026-03"]
    calls = sent(limiter(600, 10_000_000, period), "characters", says, rate=12, seconds=150)
    meter = infer(calls).requests
    assert meter is not None
    if limiter is WindowLimiter:
        assert (meter.model, meter.window_seconds, meter.per_minute) == (model, period, 600)
    else:
        assert (meter.model, meter.window.high, meter.stated) == (model, period, 600 * period / 60)


@pytest.mark.parametrize("rule", ["characters", "max_tokens"])
def test_what_is_enforced_is_bracketed_by_what_was_admitted_and_what_was_refused(rule: str) -> None:
    for limiter, says in ((WindowLimiter, "2024"), (WindowLimiter, "2025"), (RefillLimiter, "2026-03")):
        limit = TOKENS if rule == "characters" else 3_000
        meter = tokens_of(infer(sent(limiter(6_000, limit), rule, SAYS[says], rate=2)))
        assert meter.measured.low is not None and meter.measured.high is not None
        assert meter.measured.low <= limit < meter.measured.high
        assert meter.measured.high - meter.measured.low < 0.2 * limit


def test_without_limits_in_the_replies_refusals_bracket_window_and_limit() -> None:
    found = infer(sent(WindowLimiter(6_000, TOKENS), "characters", SAYS["2023"], rate=2, seconds=900))
    meter = tokens_of(found)
    assert "no limits stated" in found.generation
    assert (meter.model, meter.window_seconds, meter.stated) == ("fixed window", 60, None)
    assert "characters" in meter.rules and "max_tokens" not in meter.rules
    requests = infer(sent(WindowLimiter(30, 10**9), "characters", SAYS["2023"], rate=2)).requests
    assert requests is not None
    assert (requests.rule, requests.window_seconds, requests.measured) == ("one a call", 60, (29, 31))


def test_a_temporary_reduction_is_told_with_its_span_and_share() -> None:
    rng, limiter, rows = random.Random(1), RefillLimiter(600, TOKENS), []
    for now in arrivals(300, 0.5, rng):
        limiter.set_limits(600, TOKENS // 2 if 1_100 <= now < 1_200 else TOKENS, now)
        row = {**asked(rng), "issued": now, "ended": now, "admitted": limiter.admit(10, now) is None}
        level = limiter.standing(now).tokens
        assert level is not None
        rows.append(row | {"limit_tokens": level.limit})
    (reduced,) = infer(pd.DataFrame(rows, columns=COLUMNS)).reductions
    assert (reduced.limit, reduced.share) == ("tokens", 0.5)
    assert 1_100 <= reduced.began < 1_110 < 1_190 < reduced.ended < 1_200


def test_other_clients_of_the_deployment_lower_what_is_explained_and_not_what_is_found() -> None:
    rng, limiter = random.Random(2), WindowLimiter(6_000, TOKENS)
    admit: Callable[[float, float], Refusal | None] = limiter.admit

    class Shared:
        def admit(self, charge: float, now: float) -> Refusal | None:
            if rng.random() < 0.1:
                admit(777, now)
            return admit(charge, now)

        standing = limiter.standing

    meter = tokens_of(infer(sent(Shared(), "characters", SAYS["2025"])))
    assert meter.rule == "characters"
    assert meter.explained is not None and 0.7 < meter.explained < 0.95


def test_what_does_not_tell_two_rules_apart_names_neither() -> None:
    calls = sent(WindowLimiter(6_000, TOKENS), "characters", SAYS["2025"])
    calls["max_tokens"] = calls["characters"] // 4 + 1
    meter = tokens_of(infer(calls))
    assert meter.rule is None and set(meter.rules) >= {"characters", "max_tokens"}


def test_numbers_that_never_change_name_no_limiter() -> None:
    calls = sent(WindowLimiter(6_000, TOKENS), "characters", SAYS["2025"]).assign(remaining_tokens=777)
    meter = tokens_of(infer(calls))
    assert (meter.model, meter.rule) == (None, None)


def test_no_call_at_all_and_nothing_but_refusals_tell_nothing() -> None:
    nothing = pd.DataFrame(columns=COLUMNS).astype({"admitted": bool, "issued": float, "utilization": float})
    assert infer(nothing).tokens is None
    refused = sent(WindowLimiter(6_000, TOKENS), "characters", SAYS["2025"]).assign(admitted=False, kind="tokens")
    assert infer(refused).tokens is None


def provisioned(units: int, rate: float, *, seconds: float = 300, seed: int = 3) -> pd.DataFrame:
    """What a client sees of a provisioned deployment of gpt-4.1-mini: to one decimal of a percent."""
    rng, limiter = random.Random(seed), ProvisionedLimiter(provisioned_model("gpt-4.1-mini"), units)
    events: list[tuple[float, str, Any]] = [(now, "call", None) for now in arrivals(seconds, rate, rng)]
    rows = []
    while events:
        now, what, about = heapq.heappop(events)
        if what == "end":
            charge, generated = about
            limiter.settle(charge, generated, now)
            continue
        request = asked(rng)
        added = limiter.admit(request["input_tokens"], 0, request["max_tokens"], now)
        admitted = not isinstance(added, Refusal)
        ended = now + rng.uniform(0.2, 3)
        if admitted:
            heapq.heappush(events, (ended, "end", (added, request["output_tokens"])))
        used = round((limiter.standing(now).utilization or 0), 3)
        row = {
            "issued": now,
            "ended": ended,
            "admitted": admitted,
            **request,
            "utilization": used if admitted else None,
        }
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.mark.parametrize(("units", "rate"), [(15, 5.0), (25, 8.0), (50, 12.0)])
def test_a_provisioned_bucket_is_told_with_its_rate_weight_and_length(units: int, rate: float) -> None:
    found = infer(provisioned(units, rate)).bucket
    assert found is not None
    assert found.per_minute.value == pytest.approx(units * 14_900, rel=0.03)
    assert found.output_weight.value == pytest.approx(4, rel=0.03)
    assert found.seconds.value == pytest.approx(60, rel=0.03)


def test_calls_that_are_all_alike_do_not_tell_a_bucket() -> None:
    calls = provisioned(25, 8.0).assign(input_tokens=500, max_tokens=100, output_tokens=100)
    assert infer(calls).bucket is None
