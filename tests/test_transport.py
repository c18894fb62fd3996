"""What the transport promises of time: when bytes arrived, whoever was late to read them."""

import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest

from probe.stamps import KernelClock, Stamp, wall_minus_monotonic
from probe.transport import Connection, Exchange, Timeouts
from probe.waiting import OneAtATime
from tests.wire import LAST_CHUNK, chunk, sends, serving, stream_head

REQUEST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what it receives")


class Late:
    """Waits like a process with something else to do: whatever comes is read this many seconds after it came."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def until(self, fileno: int, write: bool, on_ready: Callable[[], bool], limit: int) -> bool:
        def after_a_while() -> bool:
            time.sleep(0 if write else self.seconds)
            return on_ready()

        return OneAtATime().until(fileno, write, after_a_while, limit)


class Body:
    """A body's pieces, each with its stamp."""

    def __init__(self) -> None:
        self.pieces: list[tuple[bytes, Stamp]] = []

    def start(self, exchange: Exchange) -> Callable[[bytes, Stamp], bool]:
        return self.take

    def take(self, data: bytes, stamp: Stamp) -> bool:
        self.pieces.append((data, stamp))
        return False


class Stamped:
    """A server that says when it sent its one event; the rest waits until that was read."""

    def __init__(self) -> None:
        self.sent = 0
        self.read = threading.Event()

    def __call__(self, connection: socket.socket, request: bytes) -> None:
        connection.sendall(stream_head())
        time.sleep(0.05)
        self.sent = time.perf_counter_ns()
        connection.sendall(chunk(b"event"))
        self.read.wait(5)
        connection.sendall(LAST_CHUNK)


def late_by(reading: Late, stamps: bool) -> tuple[float, Exchange]:
    """How many seconds after it was sent the event was stamped."""
    server_side, body = Stamped(), Body()

    def take(data: bytes, stamp: Stamp) -> bool:
        server_side.read.set()
        return body.take(data, stamp)

    with serving(server_side) as server:
        connection = Connection("127.0.0.1", server.port, tls=False, waiting=reading, stamps=stamps)
        exchange = connection.exchange(REQUEST, lambda _: take)
        connection.close()
    assert exchange.error is None and exchange.complete
    return (body.pieces[0][1] - server_side.sent) / 1e9, exchange


@on_linux
def test_a_process_that_reads_late_still_says_when_the_bytes_came() -> None:
    late, exchange = late_by(Late(0.2), stamps=True)
    assert 0 <= late < 0.1
    assert exchange.kernel_stamps and exchange.worst_delay is not None and exchange.worst_delay > 0.05


def test_without_the_kernels_stamps_a_late_read_is_a_late_stamp_and_says_so() -> None:
    late, exchange = late_by(Late(0.2), stamps=False)
    assert late > 0.05
    assert exchange.kernel_stamps is False and exchange.worst_delay is None


@on_linux
def test_a_wall_clock_that_is_set_during_a_call_does_not_move_its_stamps() -> None:
    clock = KernelClock()
    # As after a step of an hour: the difference of the clocks is no longer what it was when the call began.
    clock.offset += 3600 * 10**9
    wall = time.time_ns()
    seconds, nanoseconds = divmod(wall, 10**9)
    raw = seconds.to_bytes(8, sys.byteorder) + nanoseconds.to_bytes(8, sys.byteorder)
    now = time.perf_counter_ns()
    found = clock.stamp([(socket.SOL_SOCKET, 35, raw)], now - 10**9, now)
    assert found is not None and abs(found - now) < 10**7
    assert abs(clock.offset - wall_minus_monotonic()) < 10**7


@on_linux
def test_a_stamp_that_fits_nowhere_is_no_stamp() -> None:
    now = time.perf_counter_ns()
    assert KernelClock().stamp([(socket.SOL_SOCKET, 35, bytes(16))], now - 10**9, now) is None
    assert KernelClock().stamp([], now - 10**9, now) is None


def test_connecting_is_no_part_of_the_time_and_a_second_call_connects_no_more() -> None:
    body = Body()
    with serving(sends(stream_head() + chunk(b"event") + LAST_CHUNK)) as server:
        connection = Connection("localhost", server.port, tls=False)
        first, second = (connection.exchange(REQUEST, body.start) for _ in range(2))
        other = Connection("localhost", server.port, tls=False)
        third = other.exchange(REQUEST, body.start)
        connection.close()
        other.close()
        assert server.connections == 2
    assert (first.reused, second.reused, third.reused) == (False, True, False)
    assert first.dialed.dns is not None and first.dialed.connect is not None
    assert (second.dialed.dns, second.dialed.connect, second.dialed.peer) == (None, None, first.dialed.peer)
    # The name was known by then.
    assert third.dialed.dns is None and third.dialed.connect is not None


def test_a_process_of_thousands_of_descriptors_uses_its_connections_again() -> None:
    """`select()` takes none above 1,023, and a client that asks it for a socket's state takes each for closed."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("this system allows no more descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    with ExitStack() as held, serving(sends(stream_head() + chunk(b"event") + LAST_CHUNK)) as server:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1200):
            held.enter_context(socket.socket())
        connection = held.enter_context(closing(Connection("127.0.0.1", server.port, tls=False)))
        exchanges = [connection.exchange(REQUEST, Body().start) for _ in range(3)]
        assert server.connections == 1
    assert [(one.error, one.complete, one.reused) for one in exchanges] == [
        (None, True, False), (None, True, True), (None, True, True),
    ]  # fmt: skip


def test_a_limit_that_comes_nearer_during_a_call_is_kept() -> None:
    """Once the body has begun it is the silence between its pieces that is limited, and no longer the wait for it."""
    released = threading.Event()

    def stalls(connection: socket.socket, request: bytes) -> None:
        connection.sendall(stream_head() + chunk(b"event"))
        released.wait(5)

    with serving(stalls) as server:
        timeouts = Timeouts(first_byte=30, idle=0.2, total=30)
        exchange = Connection("127.0.0.1", server.port, tls=False, timeouts=timeouts).exchange(REQUEST, Body().start)
        released.set()
    assert exchange.error is not None and exchange.error.kind == "timeout_idle"
    assert 0.2 <= (exchange.ended - exchange.issued) / 1e9 < 2


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "168.63.129.16", "0.0.0.0"]
)
def test_a_name_that_leads_to_a_metadata_service_gets_no_connection(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    good = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))
    found = [good, (family, socket.SOCK_STREAM, 6, "", (address, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    exchange = Connection("contoso-rebound.openai.azure.com", 443, tls=False).exchange(REQUEST, Body().start)
    assert exchange.error is not None and exchange.error.kind == "dns"
    assert address in str(exchange.error) and exchange.dialed.peer is None
