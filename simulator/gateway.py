"""API Management in front of the resources: its own subscription key, a pool taken in turn, and nothing added.

Facts. Its own replies have a top-level `statusCode`, where Azure OpenAI's have a top-level `error`. What a back end
       answers is passed on with its headers as they came, and as it comes.
"""

import uuid
from collections.abc import Sequence
from email.utils import formatdate
from itertools import cycle
from typing import NamedTuple

import aiohttp
from aiohttp import web

from simulator.call import Call, begin, send, write
from simulator.wire import Reply

KEY_HEADERS = ("api-key", "Ocp-Apim-Subscription-Key")
_KEY_QUERY = "subscription-key"
# What belongs to one connection, or is set anew on the next.
_NOT_FORWARDED = {"host", "content-length", "connection", "keep-alive", "transfer-encoding", "authorization"} | {
    name.lower() for name in KEY_HEADERS
}
_NOT_RETURNED = {"connection", "keep-alive"}
_MISSING_KEY = (
    "Access denied due to missing subscription key. "
    "Make sure to include subscription key when making requests to an API."
)
_INVALID_KEY = (
    "Access denied due to invalid subscription key. Make sure to provide a valid key for an active subscription."
)


class Backend(NamedTuple):
    endpoint: str
    key: str


class Gateway:
    def __init__(self, name: str, key: str, backends: Sequence[Backend], session: aiohttp.ClientSession) -> None:
        self.name = name
        self.key = key
        self._pool = cycle(backends)
        self._session = session

    async def answer(self, request: web.Request, call: Call) -> web.StreamResponse:
        body = await request.read()
        call.request_bytes = len(body)
        given = _given_key(request)
        if given != self.key:
            call.outcome = "auth"
            return await send(request, call, _own_reply(401, _INVALID_KEY if given else _MISSING_KEY))
        if not request.path.startswith("/openai/"):
            call.outcome = "no_path"
            return await send(request, call, _own_reply(404, "Resource not found"))
        try:
            return await self._forward(request, call, body)
        except aiohttp.ClientError:
            if call.headers_at is not None:
                raise ConnectionResetError from None
            call.outcome = "backend"
            return await send(request, call, _own_reply(500, "Internal server error", activity=True))

    async def _forward(self, request: web.Request, call: Call, body: bytes) -> web.StreamResponse:
        backend = next(self._pool)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _NOT_FORWARDED]
        query = [(name, value) for name, value in request.query.items() if name.lower() != _KEY_QUERY]
        async with self._session.request(
            request.method,
            backend.endpoint + request.path,
            params=query,
            data=body,
            headers=[*headers, ("api-key", backend.key)],
        ) as upstream:
            received = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in upstream.raw_headers]
            call.request_id = upstream.headers.get("apim-request-id", call.request_id)
            returned = [(name, value) for name, value in received if name.lower() not in _NOT_RETURNED]
            response = await begin(request, call, upstream.status, upstream.reason, returned)
            async for data in upstream.content.iter_any():
                await write(response, call, data)
            await response.write_eof()
            call.outcome = "forwarded"
            return response


def _given_key(request: web.Request) -> str | None:
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    in_header = (request.headers[name] for name in KEY_HEADERS if name in request.headers)
    return next(in_header, None) or request.query.get(_KEY_QUERY) or bearer or None


def _own_reply(status: int, message: str, *, activity: bool = False) -> Reply:
    identified = f', "activityId": "{uuid.uuid4()}"' if activity else ""
    body = f'{{ "statusCode": {status}, "message": "{message}"{identified} }}'.encode()
    headers = [
        ("content-length", str(len(body))),
        ("content-type", "application/json"),
        ("date", formatdate(usegmt=True)),
    ]
    if status == 401:
        headers.append(
            ("www-authenticate", 'AzureApiManagementKey realm="http://127.0.0.1/",name="api-key",type="header"')
        )
    reason = {401: "Access Denied", 404: "Resource Not Found", 500: "Internal Server Error"}[status]
    return Reply(status, reason, headers, body)
