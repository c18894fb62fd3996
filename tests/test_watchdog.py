import time

import gevent
from hypothesis import given, settings
from hypothesis import strategies as st

from locustfiles._watchdog import Watchdog


def hold_up(seconds: float) -> None:
    """The event loop, as a handler that does not yield would."""
    time.sleep(seconds)


def beat() -> None:
    """Until the watchdog has seen what was."""
    gevent.sleep(0.03)


def test_a_loop_that_was_held_up_is_seen_from_before_it_and_not_from_after() -> None:
    watchdog = Watchdog()
    beat()
    before = time.perf_counter_ns()
    hold_up(0.15)
    beat()
    after = time.perf_counter_ns()
    assert 0.13 < watchdog.worst_since(before) < 0.3
    assert watchdog.worst_since(after) < 0.1
    watchdog.stop()


def test_a_loop_that_is_held_up_at_this_moment_is_seen() -> None:
    watchdog = Watchdog()
    beat()
    before = time.perf_counter_ns()
    hold_up(0.15)
    assert watchdog.worst_since(before) > 0.13
    watchdog.stop()


@given(st.lists(st.sampled_from([0.02, 0.04, 0.06, 0.08]), min_size=1, max_size=4))
@settings(max_examples=8)
def test_the_worst_since_a_moment_is_the_longest_of_those_after_it(holds: list[float]) -> None:
    watchdog = Watchdog()
    beat()
    moments = []
    for seconds in holds:
        moments.append(time.perf_counter_ns())
        hold_up(seconds)
        beat()
    # Another process on the core can only make it worse.
    for number, moment in enumerate(moments):
        assert watchdog.worst_since(moment) >= max(holds[number:]) - 0.011
    assert watchdog.worst_since(moments[0]) == max(map(watchdog.worst_since, moments))
    watchdog.stop()
