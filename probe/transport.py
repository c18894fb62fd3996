"""HTTP/1.1 over our own sockets: one request out, status, headers and body back, each stamped as it arrives.

Rules.   A response's bytes are stamped as they are received, before anything looks at them. Status and headers are
         handed over before the body is touched, and survive whatever the body does. Nothing is retried, no redirect is
         followed, certificates are always verified.
Clock.   `perf_counter_ns`, the monotonic clock. The exchange begins when the request is issued: on a ready connection
         just before it is sent, otherwise when connecting fails. Where the system stamps what it receives
         (`probe.stamps`), those stamps are taken, and a process that is late to read is not late to measure.
Waiting. Sockets never block; who waits for them, and how, is `probe.waiting`'s: one call at a time, or thousands of
         them under gevent. Nothing here knows which.
Parsing. llhttp (through httptools) keeps headers as received: order, case and repeats, and control characters in their
         values. What it refuses (two lengths, bad chunk sizes) ends the exchange as `protocol`.
"""

import contextlib
import time
from collections.abc import Callable

import httptools
import msgspec

from probe.channel import Channel, Received
from probe.dialing import Dialed, dial, tls_context
from probe.errors import ErrorKind, TransportError
from probe.secrecy import scrubbed_bytes
from probe.stamps import KernelClock, Stamp
from probe.target import Trust
from probe.waiting import OneAtATime, Waiting

# How long a body may take to end after its reader has all it wants.
LINGER_SECONDS = 2.0
# What a record keeps of headers, and how much of them is read at all.
MAX_HEADERS = 256
MAX_HEADER_VALUE_BYTES = 64 * 1024
MAX_HEAD_BYTES = 1024 * 1024
# What is kept of a reply that is no HTTP.
PREFIX_BYTES = 4096

# Takes a piece of the body, says whether it has all it wants; may raise `TransportError` to end the exchange.
BodyReader = Callable[[bytes, Stamp], bool]
Header = tuple[bytes, bytes]


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds. `first_byte` covers both the first byte of the reply and the first of its body, `idle` every later gap.

    A reasoning model holds its headers until it has thought; Azure's load balancers cut silence after 240 s.
    """

    connect: float = 10.0
    first_byte: float = 300.0
    idle: float = 240.0
    total: float = 600.0


class Exchange:
    """One request and what came back, filled in as it happens; `error` says what cut it short."""

    def __init__(self) -> None:
        self.wall_ns = time.time_ns()
        self.issued: Stamp = time.perf_counter_ns()
        self.ended: Stamp = self.issued
        self.reused: bool | None = None
        self.dialed = Dialed()
        self.status: int | None = None
        self.headers: list[Header] = []
        self.trailers: list[Header] = []
        self.headers_truncated = False
        self.headers_at: Stamp | None = None
        self.body_bytes = 0
        self.complete = False
        # Whether every read had a stamp of the kernel's, and how much later than it the read came at worst (seconds).
        # None before the first read.
        self.kernel_stamps: bool | None = None
        self.worst_delay: float | None = None
        # The first bytes of a reply that could not be parsed.
        self.raw_prefix: bytes | None = None
        self.error: TransportError | None = None
        # The interrupt that ended it, for the caller to raise again once the call is on record.
        self.interrupt: BaseException | None = None

    def issue(self) -> None:
        self.wall_ns = time.time_ns()
        self.issued = time.perf_counter_ns()


class Connection:
    """One keep-alive connection to one host. Not shared between greenlets or threads.

    `stamps` asks for the kernel's receive stamps, where the system has them.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: bool,
        trust: Trust | None = None,
        timeouts: Timeouts | None = None,
        waiting: Waiting | None = None,
        stamps: bool = True,
    ) -> None:
        self._address = (host, port)
        self._tls = tls_context(trust or Trust()) if tls else None
        self._timeouts = timeouts or Timeouts()
        self._waiting = waiting or OneAtATime()
        self._stamps = stamps
        self._channel: Channel | None = None
        self._peer: str | None = None

    def exchange(self, request: bytes, read_headers: Callable[[Exchange], BodyReader]) -> Exchange:
        """Sends `request` and reads the reply; `read_headers` is called once they are there and gives the body's
        reader.

        Never raises for anything the network or the server does, nor for an interrupt (Ctrl-C, a killed greenlet):
        those end up in `error` and `interrupt`.
        """
        exchange = Exchange()
        response = _Response(exchange, read_headers)
        try:
            channel = self._ready(exchange)
            self._send(channel, exchange, request)
            self._receive(channel, exchange, response)
        except TransportError as error:
            exchange.error = error
            exchange.status = exchange.status or error.status
            # Its frames hold the exchange that holds it, and while measuring no one collects cycles.
            error.__traceback__ = error.__context__ = None
        except BaseException as interrupt:
            if isinstance(interrupt, Exception):
                raise
            exchange.error = TransportError("cancelled", type(interrupt).__name__)
            exchange.interrupt = interrupt
        finally:
            response.release()
            exchange.ended = max(time.perf_counter_ns() if exchange.error else response.last_at, exchange.issued)
            if exchange.error is not None:
                self.close()
        return exchange

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _ready(self, exchange: Exchange) -> Channel:
        if self._channel is not None and self._channel.is_stale():
            self.close()
        exchange.reused = self._channel is not None
        if self._channel is None:
            host, port = self._address
            self._channel = dial(
                host,
                port,
                tls=self._tls,
                stamps=self._stamps,
                seconds=self._timeouts.connect,
                waiting=self._waiting,
                dialed=exchange.dialed,
            )
            self._peer = exchange.dialed.peer
        exchange.dialed.peer = self._peer
        return self._channel

    def _send(self, channel: Channel, exchange: Exchange, request: bytes) -> None:
        data = memoryview(channel.encode(request))
        exchange.issue()
        limit = exchange.issued + int(self._timeouts.idle * 1e9)
        try:
            while data := data[channel.send(data) :]:
                while not self._waiting.until(channel.fileno(), True, lambda: True, limit):
                    if time.perf_counter_ns() >= limit:
                        raise TransportError("timeout_first_byte", "the request was not taken in time")
        except (BrokenPipeError, ConnectionResetError):
            # A server may answer and close before it has read everything: what it said is read all the same.
            pass
        except OSError as error:
            raise TransportError("reset", error.strerror or str(error)) from None

    def _receive(self, channel: Channel, exchange: Exchange, response: "_Response") -> None:
        clock = KernelClock()

        def read() -> bool:
            """Whether it is over, or has come so far that there is another limit to wait for."""
            try:
                received = channel.receive()
            except BlockingIOError:
                return False
            except OSError as error:
                stale = exchange.reused and not response.received
                raise TransportError("stale" if stale else "reset", error.strerror or str(error)) from None
            return response.take(received, clock)

        while not response.done:
            kind, limit = self._deadline(exchange, response)
            if time.perf_counter_ns() >= limit:
                raise TransportError(kind, self._silence(kind))
            self._waiting.until(channel.fileno(), False, read, limit)
        if not response.reusable:
            self.close()

    def _silence(self, kind: ErrorKind) -> str:
        timeouts = self._timeouts
        return {
            "timeout_first_byte": f"nothing of the reply's body came in {timeouts.first_byte:g} s",
            "timeout_idle": f"nothing came for {timeouts.idle:g} s",
            "timeout_total": f"the reply was not over in {timeouts.total:g} s",
        }.get(kind, "the reply did not end")

    def _deadline(self, exchange: Exchange, response: "_Response") -> tuple[ErrorKind, Stamp]:
        timeouts = self._timeouts
        total = exchange.issued + int(timeouts.total * 1e9)
        if response.satisfied_at is not None:
            return "closed", min(total, response.satisfied_at + int(LINGER_SECONDS * 1e9))
        if exchange.body_bytes == 0:
            kind: ErrorKind = "timeout_first_byte"
            limit = exchange.issued + int(timeouts.first_byte * 1e9)
        else:
            kind = "timeout_idle"
            limit = response.last_at + int(timeouts.idle * 1e9)
        return ("timeout_total", total) if total <= limit else (kind, limit)


class _Response:
    """llhttp's callbacks for one exchange. Interim (1xx) replies are skipped, and so is what follows the reply."""

    def __init__(self, exchange: Exchange, read_headers: Callable[[Exchange], BodyReader]) -> None:
        self.done = False
        self.reusable = False
        self.received = False
        self.last_at: Stamp = 0
        self.satisfied_at: Stamp | None = None
        # Less than any there is, so that the first read is noted.
        self._worst_delay = -1
        self._exchange = exchange
        self._read_headers = read_headers
        self._read_body: BodyReader | None = None
        self._sized = False
        self._head = bytearray()
        # Of one read: llhttp hands out chunk by chunk, and what came in one read has to be read as that.
        self._pieces: list[bytes] = []
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        # Control characters in a value are what a probe has to show, not what it has to refuse.
        self._parser.set_dangerous_leniencies(lenient_headers=True)

    def release(self) -> None:
        """Lets go of the parser, which holds this object's methods, so that nothing has to collect the two."""
        assert self._parser is not None
        if self._exchange.status is None and self.received:
            # Of a head that was cut off, its first line can have come.
            status = self._parser.get_status_code()
            self._exchange.status = status if status >= 200 else None
        self._parser = None

    def take(self, received: Received, clock: KernelClock) -> bool:
        """Whether the reply is over, or another limit holds from here on. Raises `TransportError`."""
        data, now, ancillary = received
        exchange = self._exchange
        stamp = clock.stamp(ancillary, self.last_at or exchange.issued, now)
        if data is None:
            return False
        if not data:
            self._end_of_stream()
            return True
        if stamp is None:
            exchange.kernel_stamps = False
            self.last_at = now
        else:
            self.last_at = stamp
            if now - stamp > self._worst_delay:
                self._note_delay(now - stamp)
        first_of_body = exchange.body_bytes == 0
        self._feed(data)
        return self.done or self.satisfied_at is not None or (first_of_body and exchange.body_bytes > 0)

    def _note_delay(self, nanoseconds: int) -> None:
        exchange = self._exchange
        self._worst_delay, exchange.worst_delay = nanoseconds, nanoseconds / 1e9
        exchange.kernel_stamps = exchange.kernel_stamps is not False

    def _feed(self, data: bytes) -> None:
        assert self._parser is not None
        in_head = self._exchange.headers_at is None
        if in_head:
            self._head += data
        self.received = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            # What one of our own callbacks raised.
            raise (error.__context__ or error) from None
        except httptools.HttpParserError as error:
            if self.done:
                # The reply is whole; what follows it belongs to no one and must not meet the next request.
                self.reusable = False
                return
            raise self._refused(str(error), bytes(self._head) if in_head else data) from None
        finally:
            self._hand_on()
        if in_head and self._exchange.headers_at is None and len(self._head) > MAX_HEAD_BYTES:
            raise self._refused(f"headers of more than {MAX_HEAD_BYTES} bytes", bytes(self._head))

    def _hand_on(self) -> None:
        pieces = self._pieces
        if not pieces or self._read_body is None:
            return
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._read_body(body, self.last_at):
            self.satisfied_at = self.satisfied_at or self.last_at

    def _refused(self, reason: str, data: bytes) -> TransportError:
        """Notes what can be known of a reply that is not HTTP as it should be."""
        assert self._parser is not None
        exchange = self._exchange
        if exchange.headers_at is None:
            exchange.status = exchange.status or self._parser.get_status_code() or None
            exchange.headers = _headers_before_the_fault(data) if len(data) < MAX_HEADER_VALUE_BYTES else []
        exchange.raw_prefix = data[:PREFIX_BYTES]
        if exchange.headers_at is not None:
            # Of a body nothing is quoted: it can be the answer's text.
            return TransportError("protocol", reason)
        # Nor of the headers, which are kept as headers are, or not at all.
        first_line = scrubbed_bytes(data).partition(b"\n")[0]
        return TransportError("protocol", f"{reason}; the reply begins with {first_line[:80]!r}")

    def _end_of_stream(self) -> None:
        exchange = self._exchange
        self.reusable = False
        if not self.received:
            raise TransportError("stale" if exchange.reused else "closed", "closed without a reply")
        if exchange.headers_at is None or self._sized:
            raise TransportError("closed", "closed before the reply was whole")
        # Neither a length nor chunks: the body ends where the connection does.
        exchange.complete = self.done = True

    def on_message_begin(self) -> None:
        self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.done:
            return
        exchange = self._exchange
        kept = exchange.headers if exchange.headers_at is None else exchange.trailers
        if len(kept) == MAX_HEADERS or max(len(name), len(value)) > MAX_HEADER_VALUE_BYTES:
            exchange.headers_truncated = True
        if len(kept) < MAX_HEADERS:
            kept.append((name[:MAX_HEADER_VALUE_BYTES], value[:MAX_HEADER_VALUE_BYTES]))

    def on_headers_complete(self) -> None:
        if self.done:
            return
        assert self._parser is not None
        exchange = self._exchange
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            exchange.headers.clear()
            return
        exchange.status = status
        exchange.headers_at = self.last_at
        names = {name.lower() for name, _ in exchange.headers}
        self._sized = bool(names & {b"content-length", b"transfer-encoding"})
        self._head.clear()
        self._read_body = self._read_headers(exchange)

    def on_body(self, body: bytes) -> None:
        if self.done:
            return
        self._exchange.body_bytes += len(body)
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._exchange.headers_at is not None and not self.done:
            assert self._parser is not None
            self.done = self._exchange.complete = True
            self.reusable = self._parser.should_keep_alive()


class _Head:
    """Keeps the headers that a parser finds."""

    def __init__(self) -> None:
        self.headers: list[Header] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


def _headers_before_the_fault(head: bytes) -> list[Header]:
    """llhttp hands out a header when it sees the next one, so how many it has by a fault depends on how the bytes came.

    Byte by byte they always are the same.
    """
    found = _Head()
    parser = httptools.HttpResponseParser(found)
    parser.set_dangerous_leniencies(lenient_headers=True)
    with contextlib.suppress(httptools.HttpParserError):
        for place in range(len(head)):
            parser.feed_data(head[place : place + 1])
    return found.headers[:MAX_HEADERS]
