"""A process of a long run stays as it is, whatever it meets."""

import signal
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from tests.runs import Start, load_of, openai_shaped, results_in
from tests.simulators import awaited
from tests.wire import answers, reply, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
WARM, LAST = 40, 160


def kilobytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


@pytest.mark.soak
def test_two_minutes_of_errors_that_all_differ_leave_memory_and_descriptors_as_they_were(
    tmp_path: Path, start: Start
) -> None:
    """Each distinct text would be a row of Locust's tables for good, and each call might leave a little behind."""
    numbers, good = count(), openai_shaped()

    def answers_or_fails(request: bytes) -> bytes:
        number = next(numbers)
        body = b'{"error":{"code":"e-%d","message":"request %d failed"}}' % (number, number)
        return reply(body, "500 Oops", f"apim-request-id: {number}") if number % 4 == 3 else good(request)

    with serving(answers(answers_or_fails)) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_RATE="50")
        process = start("locust", "--headless", "--run-time", f"{LAST + 5}s", settings=settings)
        awaited(lambda: next(tmp_path.glob("*/run.json"), None))
        seen = []
        for seconds in (WARM, LAST - WARM):
            time.sleep(seconds)
            seen.append((kilobytes(process.pid), len(list(Path(f"/proc/{process.pid}/fd").iterdir()))))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    (before, descriptors), (after, descriptors_then) = seen
    assert len(load_of(tmp_path)) > 40 * LAST
    # What Locust keeps of response times grows by distinct values, and levels off.
    assert after - before < 3_000
    assert descriptors_then <= descriptors + 5
