"""The client's benchmark measures what it says: each stream that its server saw through, against its stamp."""

import sys

import pytest

from bench.client import KINDS, measure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its server waits with epoll")


@pytest.mark.parametrize("client", ["ours", "http"])
def test_every_stream_that_the_server_saw_through_is_held_against_its_stamp(client: str) -> None:
    row = measure(KINDS[client], 3, tls=client == "ours", seconds=3)
    assert row.completed == len(row.late) >= 1
    # The two clocks are one; a stamp of the kernel's is turned to it to within microseconds.
    assert all(-100_000 < late < 10**9 for late in row.late)
    assert row.server["events"] == 100 * row.completed and row.kilobytes > 0
