"""Clocks that do not agree are noticed, and only then."""

from locustfiles._clocks import STEP_SECONDS, Clocks


class Time:
    """Nanoseconds of a monotonic and of a wall clock."""

    def __init__(self) -> None:
        self.monotonic = 5_000_000_000
        self.wall = 1_790_000_000_000_000_000

    def passes(self, seconds: float, wall: float | None = None) -> None:
        self.monotonic += round(seconds * 1e9)
        self.wall += round((seconds if wall is None else wall) * 1e9)


def clocks_of(time: Time) -> Clocks:
    return Clocks(time.monotonic, lambda: time.wall, lambda: time.monotonic)


def test_a_wall_clock_that_is_set_in_mid_run_is_a_step_at_its_time() -> None:
    time = Time()
    clocks = clocks_of(time)
    assert clocks.look().step is None
    time.passes(10)
    assert clocks.look().step is None
    time.passes(1, wall=-3599)
    look = clocks.look()
    assert look.at == 11 and look.step is not None and round(look.step, 3) == -3600 and look.note
    time.passes(1)
    assert clocks.look().step is None
    assert [step["at"] for step in clocks.steps] == [11.0]


def test_a_machine_that_slept_is_a_step_too_where_the_monotonic_clock_slept_with_it() -> None:
    time = Time()
    clocks = clocks_of(time)
    clocks.look()
    time.passes(1, wall=1801)
    assert round(clocks.look().step or 0.0, 3) == 1800


def test_slewing_is_none_and_both_clocks_are_noted_each_minute() -> None:
    time = Time()
    clocks = clocks_of(time)
    noted = []
    for _ in range(181):
        look = clocks.look()
        assert look.step is None
        noted += [look.at] if look.note else []
        time.passes(1, wall=1 + STEP_SECONDS / 100)
    assert noted == [0.0, 60.0, 120.0, 180.0] and clocks.steps == []
