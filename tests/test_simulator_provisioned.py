import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.service.limits import Refusal
from simulator.service.provisioned import Charge, Offer, ProvisionedLimiter, provisioned_model

TABLE = Path(__file__).parents[2] / "shared" / "fixtures" / "ptu_table.json"
# gpt-4.1 takes 3,000 tokens a minute for each unit and weighs an output token 4 times: 20 units take 1,000 a second.
GPT_4_1 = provisioned_model("gpt-4.1")
RATE = 1_000.0
SIZE = 60 * RATE
# A clock that has run for a year, for the roundings that its size brings.
YEAR = 31_536_000.0


def limiter() -> ProvisionedLimiter:
    return ProvisionedLimiter(GPT_4_1, 20)


class Call(NamedTuple):
    """Its prompt, what of it is cached, what it may and does generate, and the tenths it comes after the last one."""

    prompt: int
    cached: int
    allowed: int | None
    generated: int
    gap: int
    lasts: int

    @property
    def cost(self) -> int:
        return self.prompt - self.cached + 4 * self.generated


@st.composite
def calls(draw: st.DrawFn) -> Call:
    prompt = draw(st.integers(0, 60_000))
    allowed = draw(st.none() | st.integers(1, 8_000))
    generated = draw(st.integers(0, allowed or 2_000))
    return Call(
        prompt, draw(st.integers(0, prompt)), allowed, generated, draw(st.integers(0, 300)), draw(st.integers(0, 600))
    )


traffic = st.lists(calls(), max_size=40)


def used(bucket: ProvisionedLimiter, now: float) -> float:
    utilization = bucket.standing(now).utilization
    assert utilization is not None
    return utilization * SIZE


def run(bucket: ProvisionedLimiter, arrivals: list[Call]) -> tuple[list[tuple[float, Call]], float]:
    """The calls admitted and when, each settled at its end; and when the last had ended."""
    admitted: list[tuple[float, Call]] = []
    running: list[tuple[float, Call, Charge]] = []
    arrival = 0.0
    for call in arrivals:
        arrival += call.gap / 10
        running = settle(bucket, running, until=arrival)
        outcome = bucket.admit(call.prompt, call.cached, call.allowed, arrival)
        if isinstance(outcome, Charge):
            admitted.append((arrival, call))
            running.append((arrival + call.lasts / 10, call, outcome))
    end = max([arrival, *(at for at, _, _ in running)])
    settle(bucket, running, until=end)
    return admitted, end


def settle(
    bucket: ProvisionedLimiter, running: list[tuple[float, Call, Charge]], until: float
) -> list[tuple[float, Call, Charge]]:
    """In the order of their ends; returns those that have not ended."""
    running = sorted(running, key=lambda one: one[0])
    ended = [one for one in running if one[0] <= until]
    for at, call, charge in ended:
        bucket.settle(charge, call.generated, at)
    return running[len(ended) :]


@given(traffic)
def test_what_was_really_used_is_never_more_than_what_drained_and_what_is_in_the_bucket(arrivals: list[Call]) -> None:
    bucket = limiter()
    admitted, end = run(bucket, arrivals)
    cost = sum(call.cost for _, call in admitted)
    assert cost <= RATE * end + used(bucket, end) + 1e-3


@given(traffic)
def test_no_span_admits_more_than_a_full_bucket_what_drained_and_the_last_call(arrivals: list[Call]) -> None:
    admitted, _ = run(limiter(), [call._replace(lasts=0) for call in arrivals])
    for first, (start, _) in enumerate(admitted):
        total = 0
        for at, call in admitted[first:]:
            assert total < SIZE + RATE * (at - start) + 1e-3
            total += call.cost


@given(traffic, st.integers(1, 100_000))
def test_the_wait_is_enough_and_no_more_than_that(arrivals: list[Call], prompt: int) -> None:
    bucket = limiter()
    now = YEAR
    for call in arrivals:
        now += call.gap / 10
        bucket.admit(call.prompt, call.cached, call.allowed, now)
    refused = bucket.admit(prompt, 0, 1, now)
    if isinstance(refused, Refusal):
        assert refused.limit == "utilization"
        assert isinstance(bucket.admit(prompt, 0, 1, now + refused.wait - 1e-5), Refusal)
        assert isinstance(bucket.admit(prompt, 0, 1, now + refused.wait), Charge)


@given(traffic)
def test_the_bucket_is_never_less_than_empty(arrivals: list[Call]) -> None:
    bucket = limiter()
    _, end = run(bucket, arrivals)
    assert used(bucket, end) >= 0
    assert bucket.standing(end + 10_000).utilization == 0


def test_a_call_adds_its_uncached_prompt_and_its_weighted_max_tokens_until_it_is_settled() -> None:
    bucket = limiter()
    charge = bucket.admit(5_000, 4_000, 2_000, 0.0)
    assert isinstance(charge, Charge)
    assert used(bucket, 0.0) == pytest.approx(1_000 + 4 * 2_000)
    bucket.settle(charge, 500, 1.0)
    assert used(bucket, 1.0) == pytest.approx(1_000 + 4 * 500 - RATE)


def test_a_later_call_adds_to_what_has_not_yet_drained() -> None:
    bucket = limiter()
    bucket.admit(8_996, 0, 1, YEAR)
    bucket.admit(1_996, 0, 1, YEAR + 5)
    assert used(bucket, YEAR + 5) == pytest.approx(9_000 - 5 * RATE + 2_000)


def test_a_call_that_generates_more_than_was_assumed_is_corrected_upwards() -> None:
    bucket = limiter()
    charge = bucket.admit(0, 0, None, 0.0)
    assert isinstance(charge, Charge)
    assert used(bucket, 0.0) == pytest.approx(4 * 640)
    bucket.settle(charge, 3_000, 0.0)
    assert used(bucket, 0.0) == pytest.approx(4 * 3_000)


def test_what_has_drained_in_the_meantime_is_not_given_back() -> None:
    bucket = limiter()
    charge = bucket.admit(0, 0, 1_000, 0.0)
    assert isinstance(charge, Charge)
    bucket.settle(charge, 0, 3.0)
    assert used(bucket, 3.0) == 0


def test_a_burst_can_exceed_a_full_bucket_which_then_refuses_until_it_is_below() -> None:
    bucket = limiter()
    assert isinstance(bucket.admit(90_000, 0, 1, 0.0), Charge)
    assert bucket.standing(0.0).utilization == pytest.approx(1.50007, abs=1e-5)
    refused = bucket.admit(1, 0, 1, 0.0)
    assert isinstance(refused, Refusal) and refused.wait == pytest.approx(30.004)
    assert bucket.standing(0.0).utilization == pytest.approx(1.50007, abs=1e-5)


def test_an_exactly_full_bucket_refuses() -> None:
    bucket = limiter()
    assert isinstance(bucket.admit(59_996, 0, 1, 0.0), Charge)
    assert bucket.standing(0.0).utilization == 1
    assert isinstance(bucket.admit(1, 0, 1, 0.0), Refusal)


def test_a_smaller_bucket_is_full_sooner() -> None:
    bucket = ProvisionedLimiter(GPT_4_1, 20, seconds=10)
    bucket.admit(9_996, 0, 1, 0.0)
    assert bucket.standing(0.0).utilization == pytest.approx(1.0)


def test_no_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="0 units"):
        ProvisionedLimiter(GPT_4_1, 0)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"),
        ("gpt-4.1-2025-04-14", "gpt-4.1"),
        ("gpt-5", "gpt-5"),
        ("DeepSeek-R1", "DeepSeek-R1"),
        ("DeepSeek-R1-0528", "DeepSeek-R1-0528"),
        ("Llama-3.3-70B-Instruct", "Llama-3.3-70B"),
    ],
)
def test_a_model_is_found_with_and_without_its_snapshot(name: str, found: str) -> None:
    assert provisioned_model(name).name == found


@pytest.mark.parametrize("name", ["gpt-5-nano", "gpt-5.2-pro-2026-01-01", "gpt", ""])
def test_a_model_that_only_begins_like_a_known_one_is_unknown_and_the_known_ones_are_named(name: str) -> None:
    with pytest.raises(LookupError, match=r"gpt-4\.1-mini, gpt-4\.1-nano"):
        provisioned_model(name)


def test_units_are_sold_from_a_minimum_in_steps() -> None:
    regional = provisioned_model("o1").purchases["regional"]
    assert [units for units in range(1, 130) if regional.allows(units)] == [25, 75, 125]
    assert "regional" not in provisioned_model("gpt-5.1").purchases


@pytest.mark.skipif(not TABLE.exists(), reason="the documented table is not beside this checkout")
def test_the_table_is_the_documented_one() -> None:
    rows: list[dict[str, Any]] = json.loads(TABLE.read_text())["rows"]
    offers: dict[str, Offer] = {"G": "global", "DZ": "datazone", "R": "regional"}
    for row in rows:
        name = row["model"].partition(" / ")[0]
        model = provisioned_model(name)
        assert (model.input_tpm_per_ptu, model.output_weight) == (row["input_tpm_per_ptu"], row["output_weight"]), name
        shared = (row["global_dz_min"], row["global_dz_increment"])
        regional = (row["regional_min"], row["regional_increment"])
        documented = {offers[code]: regional if code == "R" else shared for code in row["deployments"].split(",")}
        assert model.purchases == documented, name
