"""A server that does exactly what a test tells it to, byte by byte, over real sockets."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import msgspec

Script = Callable[[socket.socket, bytes], None]
# A number among the bytes is a pause in seconds.
Piece = bytes | float


class WireServer:
    """Each request is answered by the next script, the last one over and over; `requests` holds what was received,
    and `times` when, by the monotonic clock."""

    def __init__(self, scripts: tuple[Script, ...], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.times: list[float] = []
        self._arrived = threading.Condition()
        self.connections = 0
        self._scripts = scripts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._tls = tls
        threading.Thread(target=self._accept, daemon=True).start()

    def wait_for_requests(self, number: int) -> bool:
        """Whether so many requests came, in all, within 30 s."""
        with self._arrived:
            return self._arrived.wait_for(lambda: len(self.requests) >= number, 30)

    def close(self) -> None:
        # Closing alone does not end an `accept` that waits in another thread, nor the listening.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            # A piece goes out when it is sent, not when the one before it has been acknowledged.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
        except OSError:
            # The client did not trust us.
            return
        with connection:
            while request := _read_request(connection):
                with self._arrived:
                    self.requests.append(request)
                    self.times.append(time.monotonic())
                    self._arrived.notify_all()
                script = self._scripts[min(len(self.requests), len(self._scripts)) - 1]
                try:
                    script(connection, request)
                except OSError:
                    return


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    try:
        while b"\r\n\r\n" not in data or len(data) < _length(data):
            piece = connection.recv(65536)
            if not piece:
                return b""
            data += piece
    except OSError:
        return b""
    return data


def _length(data: bytes) -> int:
    head, _, _ = data.partition(b"\r\n\r\n")
    fields = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    size = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
    return len(head) + 4 + size


@contextmanager
def blackhole() -> Iterator[int]:
    """A port of the loopback whose queue is full: Linux drops every further SYN without a word."""
    with socket.socket() as listener, ExitStack() as held:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextmanager
def serving(*scripts: Script, tls: ssl.SSLContext | None = None) -> Iterator[WireServer]:
    server = WireServer(scripts, tls)
    try:
        yield server
    finally:
        server.close()


def sends(*pieces: Piece) -> Script:
    """Sends the pieces one by one and keeps the connection open."""

    def script(connection: socket.socket, request: bytes) -> None:
        for piece in pieces:
            if isinstance(piece, bytes):
                connection.sendall(piece)
            else:
                time.sleep(piece)

    return script


def sends_and_closes(*pieces: Piece) -> Script:
    def script(connection: socket.socket, request: bytes) -> None:
        sends(*pieces)(connection, request)
        connection.shutdown(socket.SHUT_RDWR)

    return script


def sends_and_resets(*pieces: Piece) -> Script:
    """Ends the connection with a TCP RST."""

    def script(connection: socket.socket, request: bytes) -> None:
        sends(*pieces)(connection, request)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()

    return script


def sends_then_waits(released: threading.Event, *pieces: bytes) -> Script:
    """Sends the pieces and then nothing until `released`."""

    def script(connection: socket.socket, request: bytes) -> None:
        sends(*pieces)(connection, request)
        released.wait()

    return script


def head(status: str = "200 OK", *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers]).encode("latin-1") + b"\r\n\r\n"


def reply(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    return head(status, *headers, "content-type: application/json", f"content-length: {len(body)}") + body


def stream_head(*headers: str) -> bytes:
    return head("200 OK", *headers, "content-type: text/event-stream; charset=utf-8", "transfer-encoding: chunked")


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def event(**fields: object) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def delta(content: str | None = None, finish_reason: str | None = None, **more: object) -> bytes:
    """One chat chunk; without `content` its delta is empty."""
    inner = more if content is None else {"content": content, **more}
    choice = {"index": 0, "delta": inner, "finish_reason": finish_reason}
    return event(id="chatcmpl-1", model="gpt-4o-2024-08-06", choices=[choice], usage=None)


FILTER_EVENT = event(id="", model="", choices=[], prompt_filter_results=[{"prompt_index": 0}])
USAGE_EVENT = event(
    id="chatcmpl-1",
    model="gpt-4o-2024-08-06",
    choices=[],
    usage={
        "prompt_tokens": 30,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    },
    latency_checkpoint={"engine_ttft_ms": 44, "total_duration_ms": 300},
)
GOOD_STREAM = (
    FILTER_EVENT + delta("", role="assistant") + delta("Hello") + delta(" there") + delta(None, "stop") + USAGE_EVENT
)


def answers(make: Callable[[bytes], bytes]) -> Script:
    """Sends what `make` makes of the request."""

    def script(connection: socket.socket, request: bytes) -> None:
        connection.sendall(make(request))

    return script


def tunnels(port: int) -> Script:
    """Does what CONNECT asks, whatever host it names: passes bytes to and from `port` until either side ends."""

    def script(connection: socket.socket, request: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port)) as onward:
            connection.sendall(head("200 Connection Established"))
            back = threading.Thread(target=_pass, args=(onward, connection), daemon=True)
            back.start()
            _pass(connection, onward)
            back.join()

    return script


def withholds(port: int, *, head: bool) -> Script:
    """Passes the request on to `port` and takes the whole reply, but hands on no more than its head, until the client
    has gone."""

    def script(connection: socket.socket, request: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port)) as onward:
            onward.sendall(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
            taken = b"".join(iter(lambda: onward.recv(65536), b""))
        if head:
            connection.sendall(taken.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        connection.recv(1)

    return script


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
