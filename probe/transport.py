"""HTTP/1.1 over our own sockets: one request out, status, headers and body back, each stamped as it arrives.

The same code runs on plain sockets (the probe) and under gevent (Locust), which patches `socket` and `ssl` before this
module is imported; nothing here knows which.

Rules.   A response's bytes are stamped right after `recv`, before anything looks at them. Status and headers are handed
         over before the body is touched, and survive whatever the body does. Nothing is retried, no redirect is
         followed, certificates are always verified.
Clock.   `perf_counter_ns`, the monotonic clock. The exchange begins when the request is issued: on a ready connection
         just before it is sent, otherwise when connecting fails.
Parsing. llhttp (through httptools) keeps headers as received: order, case and repeats. What it refuses (two lengths,
         bad chunk sizes, control characters in a header) ends the exchange as `protocol`.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from functools import cache
from typing import Literal

import httptools
import msgspec

ErrorKind = Literal[
    "dns",
    "connect",
    "stale",
    "tls",
    "timeout_connect",
    "timeout_first_byte",
    "timeout_idle",
    "timeout_total",
    "closed",
    "reset",
    "protocol",
    "too_large",
    "cancelled",
]

RECEIVE_BYTES = 65536
# How long a body may take to end after its reader has all it wants.
LINGER_SECONDS = 2.0

Stamp = int  # perf_counter_ns
# Takes a piece of the body, says whether it has all it wants; may raise `TransportError` to end the exchange.
BodyReader = Callable[[bytes, Stamp], bool]


class TransportError(Exception):
    """What ended an exchange early."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind


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
        self.connect: float | None = None
        self.tls: float | None = None
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.headers_at: Stamp | None = None
        self.body_bytes = 0
        self.complete = False
        self.error: TransportError | None = None
        # The interrupt that ended it, for the caller to raise again once the call is on record.
        self.interrupt: BaseException | None = None

    def issue(self) -> None:
        self.wall_ns = time.time_ns()
        self.issued = time.perf_counter_ns()


class Connection:
    """One keep-alive connection to one host. Not shared between greenlets or threads."""

    def __init__(self, host: str, port: int, *, tls: bool, timeouts: Timeouts | None = None) -> None:
        self._address = (host, port)
        self._tls = tls
        self._timeouts = timeouts or Timeouts()
        self._socket: socket.socket | None = None

    def exchange(self, request: bytes, read_headers: Callable[[Exchange], BodyReader]) -> Exchange:
        """Sends `request` and reads the reply; `read_headers` is called once they are there and gives the body's
        reader.

        Never raises for anything the network or the server does, nor for an interrupt (Ctrl-C, a killed greenlet):
        those end up in `error` and `interrupt`.
        """
        exchange = Exchange()
        try:
            self._ready(exchange)
            self._send(exchange, request)
            self._receive(exchange, read_headers)
        except TransportError as error:
            exchange.error = error
        except BaseException as interrupt:
            if isinstance(interrupt, Exception):
                raise
            exchange.error = TransportError("cancelled", type(interrupt).__name__)
            exchange.interrupt = interrupt
        finally:
            exchange.ended = time.perf_counter_ns()
            if exchange.error is not None:
                self.close()
        return exchange

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ready(self, exchange: Exchange) -> None:
        if self._socket is not None and _is_stale(self._socket):
            self.close()
        exchange.reused = self._socket is not None
        if self._socket is None:
            self._socket = self._open(exchange)

    def _open(self, exchange: Exchange) -> socket.socket:
        began = time.perf_counter_ns()
        try:
            plain = _connect(self._address, self._timeouts.connect)
        except socket.gaierror as error:
            raise TransportError("dns", f"{self._address[0]}: {error.strerror or error}") from None
        except TimeoutError:
            raise TransportError("timeout_connect", f"no connection in {self._timeouts.connect:g} s") from None
        except OSError as error:
            raise TransportError("connect", error.strerror or str(error)) from None
        connected = time.perf_counter_ns()
        exchange.connect = (connected - began) / 1e9
        if not self._tls:
            return plain
        try:
            secure = tls_context().wrap_socket(plain, server_hostname=self._address[0])
        except TimeoutError:
            plain.close()
            raise TransportError("timeout_connect", f"no TLS in {self._timeouts.connect:g} s") from None
        except OSError as error:
            plain.close()
            raise TransportError("tls", getattr(error, "verify_message", None) or str(error)) from None
        except BaseException:
            plain.close()
            raise
        exchange.tls = (time.perf_counter_ns() - connected) / 1e9
        return secure

    def _send(self, exchange: Exchange, request: bytes) -> None:
        assert self._socket is not None
        self._socket.settimeout(self._timeouts.idle)
        exchange.issue()
        # A server may answer and close before it has read everything: what it said is read all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(request)

    def _receive(self, exchange: Exchange, read_headers: Callable[[Exchange], BodyReader]) -> None:
        assert self._socket is not None
        response = _Response(exchange, read_headers)
        while not response.done:
            data, stamp = self._receive_some(exchange, response)
            if not data:
                self.close()
                response.end_of_stream()
                return
            response.feed(data, stamp)
        if not response.reusable:
            self.close()

    def _receive_some(self, exchange: Exchange, response: "_Response") -> tuple[bytes, Stamp]:
        assert self._socket is not None
        kind, limit = self._deadline(exchange, response)
        wait = (limit - time.perf_counter_ns()) / 1e9
        try:
            if wait <= 0:
                raise TimeoutError
            self._socket.settimeout(wait)
            data = self._socket.recv(RECEIVE_BYTES)
        except TimeoutError:
            raise TransportError(kind, f"nothing received in time ({kind.removeprefix('timeout_')})") from None
        except ssl.SSLEOFError:
            data = b""
        except OSError as error:
            received = response.received
            raise TransportError(
                "stale" if exchange.reused and not received else "reset", error.strerror or str(error)
            ) from None
        return data, time.perf_counter_ns()

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
        self.last_at: Stamp = exchange.issued
        self.satisfied_at: Stamp | None = None
        self._exchange = exchange
        self._read_headers = read_headers
        self._read_body: BodyReader | None = None
        self._sized = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes, stamp: Stamp) -> None:
        self.received = True
        self.last_at = stamp
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
            if self._exchange.status is None:
                self._exchange.status = self._parser.get_status_code() or None
            raise TransportError("protocol", f"{error}; received {data[:80]!r}") from None

    def end_of_stream(self) -> None:
        exchange = self._exchange
        if not self.received:
            raise TransportError("stale" if exchange.reused else "closed", "closed without a reply")
        if exchange.headers_at is None or self._sized:
            raise TransportError("closed", "closed before the reply was whole")
        # Neither a length nor chunks: the body ends where the connection does.
        exchange.complete = self.done = True

    def on_message_begin(self) -> None:
        self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange.headers_at is None:
            self._exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.done:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._exchange.headers.clear()
            return
        self._exchange.status = status
        self._exchange.headers_at = self.last_at
        names = {name.lower() for name, _ in self._exchange.headers}
        self._sized = bool(names & {b"content-length", b"transfer-encoding"})
        self._read_body = self._read_headers(self._exchange)

    def on_body(self, body: bytes) -> None:
        if self.done:
            return
        self._exchange.body_bytes += len(body)
        if self._read_body is not None and self._read_body(body, self.last_at):
            self.satisfied_at = self.satisfied_at or self.last_at

    def on_message_complete(self) -> None:
        if self._exchange.headers_at is not None and not self.done:
            self.done = self._exchange.complete = True
            self.reusable = self._parser.should_keep_alive()


@cache
def tls_context() -> ssl.SSLContext:
    """The one TLS context of the process: making one costs 20 ms, too much to do once a user."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _connect(address: tuple[str, int], timeout: float) -> socket.socket:
    connection = socket.create_connection(address, timeout=timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _is_stale(connection: socket.socket) -> bool:
    """Whether an idle connection was closed, or sent something unasked, since it was last used."""
    connection.settimeout(0.0)
    try:
        connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    return True
