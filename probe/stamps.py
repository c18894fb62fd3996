"""When bytes arrived, on the monotonic clock: by the kernel's own stamp where it gives one, by ours otherwise.

Linux stamps a segment when the network hands it over (`SO_TIMESTAMPNS`, on the wall clock) and gives the stamp with
the bytes (`recvmsg`). A process that was busy then still knows when its bytes came. Where one read takes several
segments, the kernel keeps the last one's stamp. On Linux `perf_counter_ns` is CLOCK_MONOTONIC.

A stamp is turned to the monotonic clock by the difference of the two clocks, taken once a call. Where the wall clock
was set in between, the stamp does not fit between what is known to be before and after it: then the difference is taken
anew, and where that does not help either, the read has no stamp.
"""

import _socket
import socket
import struct
import sys
import time

Stamp = int  # perf_counter_ns

# Not in Python's `socket`; the same number on every architecture that Linux's generic headers serve.
_SO_TIMESTAMPNS = 35
KERNEL_STAMPS = sys.platform == "linux"
_timespec = struct.Struct("@ll").unpack
ANCILLARY_BYTES = socket.CMSG_SPACE(struct.calcsize("@ll")) if hasattr(socket, "CMSG_SPACE") else 0
# Two readings this close have nothing but each other between them.
_TIGHT_NS = 2_000
_TRIES = 5
# How far a converted stamp may miss what it lies between, by the conversion's own error.
_TOLERANCE_NS = 50_000

Ancillary = list[tuple[int, int, bytes]]


def ask_for_stamps(receiver: _socket.socket) -> None:
    receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def wall_minus_monotonic() -> int:
    """Nanoseconds, to within a microsecond or so."""
    best, offset = sys.maxsize, 0
    for _ in range(_TRIES):
        before = time.perf_counter_ns()
        wall = time.time_ns()
        after = time.perf_counter_ns()
        if after - before < best:
            best, offset = after - before, wall - (before + after) // 2
        if best < _TIGHT_NS:
            break
    return offset


class KernelClock:
    """One call's conversion of kernel stamps."""

    def __init__(self) -> None:
        self.offset = wall_minus_monotonic()

    def stamp(self, ancillary: Ancillary, after: Stamp, before: Stamp) -> Stamp | None:
        """The kernel's stamp, which lies between `after` and `before`; None where there is none that does."""
        if not ancillary:
            return None
        seconds, nanoseconds = _timespec(ancillary[0][2])
        wall: int = seconds * 1_000_000_000 + nanoseconds
        stamp = wall - self.offset
        if after <= stamp <= before:
            return stamp
        if not after - _TOLERANCE_NS <= stamp <= before + _TOLERANCE_NS:
            self.offset = wall_minus_monotonic()
            stamp = wall - self.offset
            if not after - _TOLERANCE_NS <= stamp <= before + _TOLERANCE_NS:
                return None
        return min(max(stamp, after), before)
