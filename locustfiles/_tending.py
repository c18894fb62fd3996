"""A run in each of its processes: once a second a look at the clocks and at whether all is well with the journal, which
goes to the disk outside the event loop; and its end."""

from collections.abc import Callable

import gevent

from locustfiles._course import course
from locustfiles._load import Load
from locustfiles._scenario import Scenario

TEND_SECONDS = 1.0


def tend(load: Load, look: Callable[[Load, float | None], None] | None = None) -> None:
    """`look` is told by how many seconds the wall clock was set, where that is much."""
    while course.load is load:
        step = load.look_at_clocks()
        load.seen.look_at_limits(load.now())
        if look is not None:
            look(load, step)
        gevent.get_hub().threadpool.apply(load.journal.sync)
        if course.load is load and load.journal.failure is not None:
            course.fail(str(load.journal.failure))
        gevent.sleep(TEND_SECONDS)


def end(load: Load, scenario: Scenario) -> tuple[str, str, bytes]:
    """Closes this process's journal. Gives its last report."""
    seen = load.report()
    load.close()
    scenario.end()
    if load.journal.failure is not None:
        course.fail(str(load.journal.failure))
    return seen
