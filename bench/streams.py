"""The bare server of known timings: streams of events at given times, each stamped in its own text as it is written.

Run as `python -m bench.streams`: prints its port, and when its stdin closes one JSON line of what it did. One loop over
epoll, prebuilt bytes, and no timers: every stream has the same gap, so the order in which events are due is the order
in which the ones before them were. A stamp is `perf_counter_ns` (CLOCK_MONOTONIC, the same for every process) right
before the write; whatever is late of this server itself is no one else's lateness.
"""

import argparse
import contextlib
import gc
import json
import os
import select
import socket
import ssl
import sys
import time
from collections import deque
from statistics import quantiles
from typing import Any

_STAMP = b"%019d"
# As many writes without a look at what came in.
_BATCH = 256
_USAGE = b'"usage":{"prompt_tokens":30,"completion_tokens":100,"total_tokens":130}'
_MODEL = b'"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024-08-06",'
_PADDING = b'"system_fingerprint":"fp_bench","filler":"%b",' % (b"x" * 200)
_WHOLE = (
    b'{"id":"chatcmpl-bench","object":"chat.completion","created":1,"model":"gpt-4o-2024-08-06","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],' + _USAGE + b"}"
)
# As many headers as the service sends.
_HEADERS = b"".join(b"x-header-%d: a value of some length\r\n" % number for number in range(15))


def _chunk(*events: bytes) -> bytes:
    data = b"".join(b"data: %b\n\n" % event for event in events)
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head(request_id: int, kind: bytes, rest: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\napim-request-id: %d\r\n%b%b\r\n\r\n" % (
        kind, request_id, _HEADERS, rest
    )  # fmt: skip


def _choice(delta: bytes, finish: bytes = b"null") -> bytes:
    choice = b'"choices":[{"index":0,"delta":{%b},"finish_reason":%b}]' % (delta, finish)
    return b"{%b%b%b}" % (_MODEL, _PADDING, choice)


_BEFORE, _AFTER = _chunk(_choice(b'"content":" %b"' % (b"0" * 19))).split(b"0" * 19)
_END = _chunk(_choice(b"", b'"stop"'), b'{%b"choices":[],%b}' % (_MODEL, _USAGE), b"[DONE]") + b"0\r\n\r\n"


class _Connection:
    """`due` is when its next event is (ns), `left` how many there are to come."""

    __slots__ = ("data", "due", "head", "left", "request_id", "send", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.send = connection.send
        self.data = self.head = b""
        self.due = self.left = self.request_id = 0


class Server:
    def __init__(self, first: float, gap: float, events: int, context: ssl.SSLContext | None) -> None:
        self._first, self._gap, self._events = int(first * 1e9), int(gap * 1e9), events
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._open: dict[int, _Connection] = {}
        # The streams by when their next event is due: those that wait for their first, and the others.
        self._waiting: deque[_Connection] = deque()
        self._running: deque[_Connection] = deque()
        # When the first event of each stream was written, and how late (both ns).
        self.written: dict[int, int] = {}
        self.late: list[int] = []
        self.requests = self.completed = 0

    def serve(self, stop: int) -> None:
        """Until `stop`, a descriptor, can be read."""
        self._poll.register(stop, select.EPOLLIN)
        while True:
            for fileno, _ in self._poll.poll(self._wait()):
                if fileno == stop:
                    return
                if fileno == self._listener.fileno():
                    self._accept()
                else:
                    self._read(self._open[fileno])
            self._send_what_is_due()

    def _wait(self) -> float:
        dues = [queue[0].due for queue in (self._waiting, self._running) if queue]
        # epoll waits whole milliseconds; the last one is spent asking.
        return max(0, (min(dues) - time.perf_counter_ns()) // 1_000_000) / 1e3 if dues else 1.0

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setblocking(False)
                if self._context is not None:
                    connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                self._open[connection.fileno()] = _Connection(connection)
                self._poll.register(connection, select.EPOLLIN)

    def _read(self, one: _Connection) -> None:
        try:
            data = one.socket.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = b""
        if not data:
            self._close(one)
            return
        one.data += data
        head, found, body = one.data.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r", 1)[0]):
            one.data = b""
            self._answer(one, body)

    def _answer(self, one: _Connection, body: bytes) -> None:
        self.requests += 1
        one.request_id = self.requests
        if b'"stream":true' not in body.replace(b" ", b""):
            one.send(_head(one.request_id, b"application/json", b"content-length: %d" % len(_WHOLE)) + _WHOLE)
            return
        # The head goes out with the first event: what comes first is then one stamp.
        one.head = _head(one.request_id, b"text/event-stream", b"transfer-encoding: chunked")
        one.due, one.left = time.perf_counter_ns() + self._first, self._events
        self._waiting.append(one)

    def _send_what_is_due(self) -> None:
        waiting, running, clock = self._waiting, self._running, time.perf_counter_ns
        for _ in range(_BATCH):
            queue = waiting if not running or (waiting and waiting[0].due < running[0].due) else running
            if not queue or queue[0].due > (now := clock()):
                return
            one = queue.popleft()
            try:
                if one.left == 0:
                    one.send(_END)
                    self.completed += 1
                    continue
                one.send(one.head + _BEFORE + _STAMP % now + _AFTER)
            except OSError:
                self._close(one)
                continue
            if one.head:
                self.written[one.request_id] = now
                one.head = b""
            self.late.append(now - one.due)
            one.left -= 1
            one.due += self._gap
            running.append(one)

    def _close(self, one: _Connection) -> None:
        self._open.pop(one.socket.fileno(), None)
        with contextlib.suppress(OSError, ValueError):
            self._poll.unregister(one.socket)
        one.socket.close()

    def did(self) -> dict[str, Any]:
        times, centiles = os.times(), quantiles(self.late, n=100) if len(self.late) > 1 else [0.0] * 99
        return {
            "completed": self.completed,
            "events": len(self.late),
            "late_ms": [centiles[49] / 1e6, centiles[98] / 1e6],
            "cpu": times.user + times.system,
            "written": self.written,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=float, default=0.3)
    parser.add_argument("--gap", type=float, default=0.02)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--certificate", help="PEM of key and chain; TLS with it")
    options = parser.parse_args()
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate)
    server = Server(options.first, options.gap, options.events, context)
    print(server.port, flush=True)
    gc.disable()
    server.serve(sys.stdin.fileno())
    print(json.dumps(server.did()), flush=True)


if __name__ == "__main__":
    main()
