"""What is drawn for a reply: its parts, its tokens' times, and how load and the hour change them."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.service.latency import Drawn, Latency, Spread, draw

EXACT = Latency(Spread(0.1, 0), Spread(0.2, 0), Spread(0.3, 0), Spread(0.01, 0), by_hour=(1.0,) * 12 + (2.0,) * 12)
MORNING, EVENING = 6 * 3600.0, 18 * 3600.0


USUAL = Latency()


def drawn(latency: Latency = USUAL, tokens: int = 10, seed: int = 1, burst: float = 0.0, hidden: int = 0) -> Drawn:
    return draw(latency, tokens, 1.0, burst, hidden, random.Random(seed))


@given(st.integers(0, 300), st.integers(0, 100), st.sampled_from([0.0, 0.05, 1.0]))
def test_tokens_follow_each_other_from_the_sum_of_the_parts(tokens: int, seed: int, burst: float) -> None:
    one = drawn(tokens=tokens, seed=seed, burst=burst)
    assert len(one.due) == tokens
    assert all(before <= after for before, after in pairwise(one.due))
    assert one.at(0) == pytest.approx(one.prompt_filter + one.queue + one.engine)
    assert one.at(-1) == one.prompt_filter and one.at(tokens + 5) == one.at(tokens)


def test_the_same_seed_draws_the_same_and_another_another() -> None:
    assert drawn(seed=3) == drawn(seed=3) != drawn(seed=4)


def test_without_spread_every_time_is_its_median() -> None:
    assert drawn(EXACT, tokens=3).due == pytest.approx([0.6, 0.61, 0.62])


@pytest.mark.parametrize(
    ("utilization", "at", "expected"), [(None, MORNING, 1), (1.0, MORNING, 2), (0.5, EVENING, 2.5)]
)
def test_a_full_deployment_and_a_busy_hour_are_slower(utilization: float | None, at: float, expected: float) -> None:
    assert EXACT.slowness(utilization, at) == pytest.approx(expected)


def test_slowness_is_on_everything_but_the_prompts_filter() -> None:
    slow = draw(EXACT, 2, 3.0, 0.0, 0, random.Random(1))
    assert (slow.prompt_filter, slow.queue, slow.engine) == pytest.approx((0.1, 0.6, 0.9))
    assert slow.due[1] - slow.due[0] == pytest.approx(0.03)


def test_bursts_hold_back_what_is_visible_and_not_what_is_hidden() -> None:
    one = drawn(EXACT, tokens=40, burst=0.1, hidden=10)
    assert one.due[:11] == pytest.approx([0.6 + 0.01 * number for number in range(11)])
    assert sorted({round(at, 6) for at in one.due[10:]}) == pytest.approx([0.7, 0.8, 0.9, 1.0])


def test_the_services_own_timings_hold_the_relation_that_was_recorded() -> None:
    timings = drawn(tokens=50).checkpoint()
    visible = timings["service_ttft_ms"] - timings["pre_inference_ms"]
    assert abs(timings["user_visible_ttft_ms"] - visible) <= 1
    assert timings["service_ttft_ms"] <= timings["service_ttlt_ms"]
    assert timings["engine_tbt_ms"] == 10


def test_a_median_for_the_first_token_is_shared_out_as_the_parts_were() -> None:
    scaled = EXACT.scaled(1.2, 0.02, jitter=0)
    assert drawn(scaled, tokens=2).due == pytest.approx([1.2, 1.22])
    assert scaled.queue.median == pytest.approx(0.4)
