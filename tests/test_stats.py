"""Whether intervals hold what they promise."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.stats import (
    Estimate,
    mean_estimate,
    quantile,
    quantile_difference,
    quantile_estimate,
    resampled,
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
