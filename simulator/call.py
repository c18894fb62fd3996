"""One request on the simulator's side: what is known of it by when, for the logs and the ledger."""

import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from simulator.latency import Drawn
from simulator.wire import Reply, new_id


def _mono() -> int:
    return time.monotonic_ns()


@dataclass
class Call:
    """Times are nanoseconds of the monotonic clock but for `arrived_wall`; `charged` is the limiter's debit."""

    resource: str
    method: str
    path: str
    request_id: str = field(default_factory=new_id)
    arrived_wall: int = field(default_factory=time.time_ns)
    arrived: int = field(default_factory=_mono)
    request_bytes: int = 0
    response_bytes: int = 0
    deployment: str | None = None
    api: str | None = None
    stream: bool | None = None
    status: int | None = None
    headers_at: int | None = None
    first_content_at: int | None = None
    last_at: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    charged: int | None = None
    drawn: Drawn | None = None
    outcome: str = "cut"

    def ended_wall(self) -> int:
        return self.arrived_wall + (self.last_at or _mono()) - self.arrived

    def ledger(self) -> dict[str, Any]:
        """Its line: what is not known is left off."""
        known = {name: value for name, value in vars(self).items() if value is not None and name != "drawn"}
        if self.drawn is not None:
            known["drawn"] = {
                "first_token": self.drawn.first_token,
                "between_tokens": self.drawn.between_tokens,
            }
        return known


HEADERS = web.ResponseKey("headers", list)


async def only_our_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Just before a reply's head is sent: takes out what the server would add, and sets ours in their order."""
    if HEADERS in response:
        response.headers.clear()
        for name, value in response[HEADERS]:
            response.headers.add(name, value)


async def begin(
    request: web.Request, call: Call, status: int, reason: str | None, headers: list[tuple[str, str]]
) -> web.StreamResponse:
    """Sends the head of a reply, with these headers and no others."""
    response = web.StreamResponse(status=status, reason=reason)
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), None)
    if length is None:
        response.enable_chunked_encoding()
    else:
        response.content_length = length
    response[HEADERS] = headers
    await response.prepare(request)
    call.status, call.headers_at = status, _mono()
    return response


async def write(response: web.StreamResponse, call: Call, data: bytes) -> None:
    await response.write(data)
    call.response_bytes += len(data)
    call.last_at = _mono()


async def send(request: web.Request, call: Call, reply: Reply) -> web.StreamResponse:
    response = await begin(request, call, reply.status, reply.reason, reply.headers)
    await write(response, call, reply.body)
    await response.write_eof()
    return response
