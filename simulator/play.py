"""Plays a reply onto a connection: its head and each of its events at the moment it is due.

Events are due on an absolute schedule, counted from the request's arrival, so that a late one does not delay the next.
One timer for all streams, no task switch an event: twenty thousand events a second are to fit on one core. Those of a
stream that are due together, or late, go out in one write.
"""

import asyncio
import heapq
import math
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from aiohttp import web

from simulator.call import Call
from simulator.wire import LAST_CHUNK, Header, Reply, chunk, head, is_chunked

# What becomes of the connection when the last event is out: kept for the next request, closed, reset (RST), or held
# open in silence.
Ending = Literal["keep", "close", "reset", "hang"]


class Timed(NamedTuple):
    """`due` is seconds after the request's arrival; `content` marks what the user would see of the answer."""

    due: float
    data: bytes
    content: bool = False


@dataclass
class Outgoing:
    """A reply about to go out: what a fault changes. `head_due` is seconds after the request's arrival."""

    status: int
    reason: str
    headers: list[Header]
    events: Iterable[Timed]
    head_due: float = 0.0
    ending: Ending = "keep"
    # How a piece of the body becomes bytes on the wire, and what follows the last.
    frame: Callable[[bytes], bytes] | None = None
    trailer: bytes | None = None
    # What goes out ahead of the status line, and what the head is turned into.
    preamble: bytes = b""
    rewrite_head: Callable[[bytes], bytes] | None = None

    @classmethod
    def of(cls, reply: Reply) -> "Outgoing":
        return cls(reply.status, reply.reason, reply.headers, [Timed(0.0, reply.body)])


class Played(web.StreamResponse):
    """Tells the server that the reply is out already."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self._keep_alive = keep

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: object = b"") -> None:
        return None


class Stage:
    """Plays all replies of one event loop, on a single timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: list[tuple[float, int, _Player]] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    async def play(self, request: web.BaseRequest, call: Call, outgoing: Outgoing) -> web.StreamResponse:
        """Raises `ConnectionResetError` where the client has gone away before the end."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        player = _Player(transport, call, outgoing, self._loop.create_future())
        if (due := player.tick()) is not None:
            self._put(due, player)
        await player.done
        if outgoing.ending == "hang":
            await _until_gone(transport)
        elif outgoing.ending == "reset":
            _reset(transport)
        return Played(keep=outgoing.ending == "keep" and bool(request.keep_alive))

    def _put(self, due: float, player: "_Player") -> None:
        self._count += 1
        heapq.heappush(self._queue, (due, self._count, player))
        if due < self._timer_at:
            self._arm(due)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        # asyncio's clock is the monotonic one.
        self._timer = self._loop.call_at(due, self._fire)

    def _fire(self) -> None:
        """All that is due, and what becomes due in the meantime."""
        self._timer, self._timer_at = None, -math.inf
        queue = self._queue
        while queue and queue[0][0] <= time.monotonic():
            player = queue[0][2]
            again = player.tick()
            if again is None:
                heapq.heappop(queue)
            else:
                self._count += 1
                heapq.heapreplace(queue, (again, self._count, player))
        self._timer_at = math.inf
        if queue:
            self._arm(queue[0][0])


class Relay:
    """A stream passed on as it comes."""

    def __init__(self, request: web.BaseRequest, call: Call) -> None:
        self._request = request
        self._call = call
        self._frame: Callable[[bytes], bytes] | None = None

    def begin(self, status: int, reason: str, headers: list[Header]) -> None:
        self._call.status = status
        self._frame = chunk if is_chunked(headers) else None
        self._write(head(status, reason, headers))
        self._call.headers_at = time.monotonic_ns()

    def write(self, data: bytes) -> None:
        self._write(data if self._frame is None else self._frame(data))

    def end(self) -> web.StreamResponse:
        if self._frame is not None:
            self._write(LAST_CHUNK)
        return Played(keep=bool(self._request.keep_alive))

    def _write(self, data: bytes) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        transport.write(data)
        self._call.response_bytes += len(data)
        self._call.last_at = time.monotonic_ns()


class _Player:
    """One reply. `done` is set when its last byte is written, or the client has gone."""

    def __init__(
        self,
        transport: asyncio.BaseTransport,
        call: Call,
        outgoing: Outgoing,
        done: asyncio.Future[None],
    ) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.done = done
        self._transport = transport
        self._call = call
        self._origin = call.arrived / 1e9
        self._pieces = _pieces(outgoing)
        self._next = next(self._pieces)

    def tick(self) -> float | None:
        """Writes what is due. When to come again, in monotonic seconds; None for never."""
        if self.done.done():
            return None
        if self._transport.is_closing():
            self.done.set_exception(ConnectionResetError())
            return None
        data, content, ended = self._due()
        if data:
            self._transport.write(data)
            self._stamp(len(data), content)
        if not ended:
            return self._origin + self._next.due
        self.done.set_result(None)
        return None

    def _due(self) -> tuple[bytes, bool, bool]:
        """Everything that is due by now, whether content is among it, and whether it is the last."""
        now = time.monotonic() - self._origin
        ready, content = [], False
        while self._next.due <= now:
            ready.append(self._next.data)
            content = content or self._next.content
            following = next(self._pieces, None)
            if following is None:
                return b"".join(ready), content, True
            self._next = following
        return b"".join(ready), content, False

    def _stamp(self, size: int, content: bool) -> None:
        call, now = self._call, time.monotonic_ns()
        call.response_bytes += size
        call.last_at = now
        if call.headers_at is None:
            call.headers_at = now
        if content and call.first_content_at is None:
            call.first_content_at = now


def _pieces(outgoing: Outgoing) -> Iterator[Timed]:
    """The reply's bytes with their times, from the preamble to the last chunk."""
    start = head(outgoing.status, outgoing.reason, outgoing.headers)
    if outgoing.rewrite_head is not None:
        start = outgoing.rewrite_head(start)
    yield Timed(outgoing.head_due, outgoing.preamble + start)
    chunked = is_chunked(outgoing.headers)
    frame = outgoing.frame or (chunk if chunked else None)
    due = outgoing.head_due
    for event in outgoing.events:
        due = event.due
        yield event if frame is None else Timed(due, frame(event.data), event.content)
    trailer = outgoing.trailer if outgoing.trailer is not None else LAST_CHUNK if chunked else b""
    if trailer:
        yield Timed(due, trailer)


def _reset(transport: asyncio.BaseTransport) -> None:
    """Ends the connection with a RST: what the kernel sends when a socket that must not linger is closed."""
    found = transport.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert isinstance(transport, asyncio.Transport)
    transport.abort()


async def _until_gone(transport: asyncio.BaseTransport) -> None:
    while not transport.is_closing():
        await asyncio.sleep(0.05)
