"""Whether intervals hold what they promise."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.stats import (
    Estimate,
    Spells,
    design_effect,
    mean_difference,
    mean_estimate,
    quantile,
    quantile_difference,
    quantile_estimate,
    resampled,
    share_difference,
    share_estimate,
)

RUNS = 400
# The chance that 400 intervals of 95 % hold in fewer or more cases than these is one in ten thousand.
FEWEST, MOST = 0.90, 0.985


def times(rng: np.random.Generator, n: int, median: float = 0.3) -> pd.Series:
    """Log-normal, as times to the first token are."""
    return pd.Series(median * np.exp(0.6 * rng.standard_normal(n)))


def coverage(estimate: Callable[[np.random.Generator], Estimate | None], truth: float) -> float:
    held = 0
    for seed in range(RUNS):
        found = estimate(np.random.default_rng(seed))
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
    return held / RUNS


@pytest.mark.parametrize("n", [30, 200])
def test_the_interval_of_a_median_holds_at_its_nominal_rate(n: int) -> None:
    assert FEWEST <= coverage(lambda rng: quantile_estimate(times(rng, n), 0.5), 0.3) <= MOST


def test_the_interval_of_a_95th_percentile_holds_at_its_nominal_rate() -> None:
    truth = 0.3 * np.exp(0.6 * 1.6448536)
    assert FEWEST <= coverage(lambda rng: quantile_estimate(times(rng, 400), 0.95), truth) <= MOST


@pytest.mark.parametrize("n", [30, 200])
def test_the_interval_of_a_difference_of_medians_holds_at_its_nominal_rate(n: int) -> None:
    def difference(rng: np.random.Generator) -> Estimate | None:
        return quantile_difference(times(rng, n, 0.35), times(rng, n, 0.3), 0.5)

    assert FEWEST <= coverage(difference, 0.05) <= MOST


def test_the_interval_of_a_mean_holds_at_its_nominal_rate() -> None:
    truth = 0.3 * np.exp(0.18)
    assert FEWEST <= coverage(lambda rng: mean_estimate(times(rng, 200)), truth) <= MOST


def test_the_interval_of_a_share_holds_at_its_nominal_rate() -> None:
    assert FEWEST <= coverage(lambda rng: share_estimate(int(rng.binomial(300, 0.02)), 300), 0.02) <= MOST


def in_spells(rng: np.random.Generator, spells: int = 20, each: int = 30) -> tuple[pd.Series, Spells]:
    """Times whose level is another in each spell, and the number of the spell that each is of."""
    level = np.repeat(0.3 * rng.standard_normal(spells), each)
    return pd.Series(np.exp(level + 0.4 * rng.standard_normal(spells * each))), np.repeat(np.arange(spells), each)


def of_spells(kind: str, rng: np.random.Generator) -> Estimate | None:
    (ours, our_spells), (theirs, their_spells) = in_spells(rng), in_spells(rng)
    if kind == "median":
        marks = [values <= values.median() for values in (ours, theirs)]
    elif kind == "share":
        ours, theirs = ours > 1.5, theirs > 1.5
        marks = [ours, theirs]
    else:
        marks = [ours, theirs]
    effects = design_effect(marks[0], our_spells), design_effect(marks[1], their_spells)
    if kind == "median":
        return quantile_difference(ours, theirs, 0.5, effects=effects)
    return (share_difference if kind == "share" else mean_difference)(ours, theirs, effects=effects)


@pytest.mark.parametrize("kind", ["median", "share", "mean"])
def test_differences_of_calls_that_come_in_spells_hold_at_their_nominal_rate(kind: str) -> None:
    assert FEWEST <= coverage(lambda rng: of_spells(kind, rng), 0.0) <= 0.99


def test_without_the_design_effect_they_would_not() -> None:
    def independent(rng: np.random.Generator) -> Estimate | None:
        return mean_difference(in_spells(rng)[0], in_spells(rng)[0])

    assert coverage(independent, 0.0) < 0.7


def test_independent_values_lose_little_to_the_design_effect() -> None:
    spells = np.repeat(np.arange(10), 40)
    found = [design_effect(times(np.random.default_rng(seed), 400), spells) for seed in range(100)]
    assert min(found) == 1.0 and np.mean(found) < 1.6


@pytest.mark.parametrize(("one", "other"), [(0.02, 0.02), (0.1, 0.02), (0.001, 0.0)])
def test_the_interval_of_a_difference_of_shares_holds_at_its_nominal_rate(one: float, other: float) -> None:
    def difference(rng: np.random.Generator) -> Estimate | None:
        return share_difference(pd.Series(rng.random(400) < one), pd.Series(rng.random(300) < other))

    # Shares near nothing have few values that they can take: there an interval is wider than it need be.
    assert FEWEST <= coverage(difference, one - other) <= 1.0


@pytest.mark.parametrize("n", [10, 200])
def test_the_interval_of_a_difference_of_means_holds_at_its_nominal_rate(n: int) -> None:
    def difference(rng: np.random.Generator) -> Estimate | None:
        return mean_difference(pd.Series(rng.normal(2, 1, n)), pd.Series(rng.normal(1, 1, n)))

    assert FEWEST <= coverage(difference, 1.0) <= MOST


@pytest.mark.parametrize(("at", "n"), [(0.95, 100), (0.99, 500)])
def test_a_far_quantile_has_its_interval_from_five_values_beyond_it_on(at: float, n: int) -> None:
    def difference(rng: np.random.Generator) -> Estimate | None:
        return quantile_difference(times(rng, n), times(rng, n), at)

    assert FEWEST <= coverage(difference, 0.0) <= 0.99


def width(found: Estimate) -> float:
    assert found.low is not None and found.high is not None
    return found.high - found.low


def test_more_confidence_is_a_wider_interval() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = times(rng, 300), times(rng, 300)
    for between in (quantile_difference, mean_difference):
        at = (0.9,) if between is quantile_difference else ()
        usual, sure = between(ours, theirs, *at), between(ours, theirs, *at, confidence=0.999)
        assert usual is not None and sure is not None and sure.value == usual.value
        assert width(sure) > 1.3 * width(usual)


def test_a_quantiles_bootstrap_is_that_of_resampling() -> None:
    sample = times(np.random.default_rng(7), 300)
    values = sample.to_numpy()
    draws = resampled(300, lambda rows: np.quantile(values[rows], 0.9, axis=1))
    found = quantile_estimate(sample, 0.9)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, (0.025, 0.975))), rel=0.05)


def test_no_value_no_estimate_and_one_value_no_interval() -> None:
    none = pd.Series([], dtype="float64")
    assert quantile(none, 0.5) is None
    assert quantile_estimate(none, 0.5) is None
    assert mean_estimate(none) is None
    assert quantile_difference(none, pd.Series([1.0]), 0.5) is None
    assert share_estimate(0, 0) is None
    assert quantile_estimate(pd.Series([2.0, np.nan]), 0.5) == Estimate(2.0, None, None, 1)


def test_a_share_of_no_hits_may_still_be_above_zero() -> None:
    found = share_estimate(0, 100)
    assert found is not None and found.low == 0 and found.high == pytest.approx(0.037, abs=0.001)
