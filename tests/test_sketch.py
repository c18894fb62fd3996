"""Quantiles in bounded memory are those of the values themselves, to half a thousandth, in however many processes."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locustfiles._sketch import Sketch, sketch

TIMES = st.lists(st.floats(1e-5, 86_400), min_size=1, max_size=200)
SHARES = (0.0, 0.25, 0.5, 0.95, 0.99, 1.0)


@given(TIMES)
def test_any_quantile_is_that_of_the_values_to_half_a_thousandth(times: list[float]) -> None:
    found = sketch(times).quantiles(*SHARES)
    # A quantile is linear between two values, each of which may be off by as much.
    assert found == pytest.approx(list(np.quantile(times, SHARES)), rel=5e-4)


@given(TIMES, st.integers(0, 200))
def test_two_that_are_added_and_sent_are_what_one_would_have_been(times: list[float], cut: int) -> None:
    one, other = sketch(times[:cut]), sketch(times[cut:])
    one.add(msgspec.msgpack.decode(msgspec.msgpack.encode(other), type=Sketch))
    assert one == sketch(times)


def test_number_mean_least_and_greatest_are_exact_and_of_nothing_nothing_is_said() -> None:
    made = sketch([0.1, 0.2, 0.6])
    assert (made.n, made.mean, made.least, made.greatest) == (3, 0.3, 0.1, 0.6)
    assert sketch([0.8437]).quantiles(0.5, 0.99) == [0.8437, 0.8437]
    assert (Sketch().quantile(0.5), Sketch().mean) == (None, None)


def test_memory_does_not_grow_with_the_number_of_values() -> None:
    assert len(sketch(1 + n / 50_000 for n in range(50_000)).buckets) < 1_100
