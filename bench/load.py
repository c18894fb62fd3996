"""The least client that can load a server from one core: sockets, a selector, and a stamp after each `recv`.

It parses nothing but what it counts, so that what is measured is the server.
"""

import selectors
import socket
import time
from typing import NamedTuple

_END_OF_STREAM = b"0\r\n\r\n"


class Server(NamedTuple):
    port: int
    path: str
    key: str


class Streamed(NamedTuple):
    """One stream: the service's id for it, and when each of its content events was received (monotonic nanoseconds)."""

    request_id: str
    received: list[int]


def request(server: Server, body: bytes) -> bytes:
    head = (
        f"POST {server.path} HTTP/1.1\r\nHost: 127.0.0.1\r\napi-key: {server.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def requests_per_second(server: Server, body: bytes, connections: int, seconds: float) -> float:
    """Closed loop: each connection sends its next request when it has its reply, which says its length."""
    selector, data = selectors.DefaultSelector(), request(server, body)
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", server.port))
        selector.register(connection, selectors.EVENT_READ, bytearray())
        connection.sendall(data)
    done, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for key, _ in selector.select(0.1):
            assert isinstance(key.fileobj, socket.socket)
            key.data.extend(key.fileobj.recv(65536))
            if _is_whole(key.data):
                key.data.clear()
                done += 1
                key.fileobj.sendall(data)
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    return done / seconds


def _is_whole(reply: bytearray) -> bool:
    head, found, body = reply.partition(b"\r\n\r\n")
    if not found:
        return False
    assert b" 200 " in head[:20], bytes(head[:200])
    length = head.lower().split(b"content-length: ")[1].split(b"\r")[0]
    return len(body) >= int(length)


class Load(NamedTuple):
    """What `streams` saw: the streams that ended, and all content events a second while all of them were open."""

    ended: list[Streamed]
    events_per_second: float


def streams(server: Server, body: bytes, mark: bytes, open_at_once: int, seconds: float) -> Load:
    """Keeps so many streams open for so long. `mark` is what a content event has and no other."""
    selector, data = selectors.DefaultSelector(), request(server, body)
    ended: list[Streamed] = []
    begin = time.monotonic()
    for number in range(1, open_at_once + 1):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, _Reader(mark))
        connection.send(data)
        # Spread over a second, so that they do not tick together.
        while (left := begin + number / open_at_once - time.monotonic()) > 0:
            _read(selector, ended, data, left)
    start, seen = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        seen += _read(selector, ended, data, 0.1)
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    return Load(ended, seen / seconds)


def _read(selector: selectors.BaseSelector, ended: list[Streamed], data: bytes, wait: float) -> int:
    """Takes what has arrived, or arrives in so many seconds; how many content events it was."""
    seen = 0
    for key, _ in selector.select(wait):
        assert isinstance(key.fileobj, socket.socket)
        received = key.fileobj.recv(262144)
        stamp = time.monotonic_ns()
        found, streamed = key.data.feed(received, stamp)
        seen += found
        if streamed is not None:
            ended.append(streamed)
            key.fileobj.send(data)
    return seen


class _Reader:
    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._head = b""
        self._received: list[int] = []

    def feed(self, data: bytes, stamp: int) -> tuple[int, Streamed | None]:
        if not self._received:
            self._head += data
        count = data.count(self._mark)
        self._received += [stamp] * count
        if not data.endswith(_END_OF_STREAM):
            return count, None
        found = self._head.partition(b"apim-request-id: ")[2].partition(b"\r\n")[0].decode()
        streamed = Streamed(found, self._received)
        self._head, self._received = b"", []
        return count, streamed
