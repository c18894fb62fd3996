"""API Management in front of the resources: its subscription keys, its pool, and the policies that a tester meets.

Facts.    Its own replies have a top-level `statusCode`, where Azure OpenAI's have a top-level `error`. What a back end
          answers is passed on with its headers as they came, and as it comes, unless a policy says otherwise: buffering
          collects a stream; a policy that reads the reply as JSON fails on a stream with 500, after the model has been
          paid for; a retry multiplies the calls that the back ends see. Its correlation id is not Azure OpenAI's
          `apim-request-id`.
Decided.  The semantic cache takes two prompts for alike when they are the same but for case and spaces, and keeps whole
          replies only.
"""

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from simulator import config, faults
from simulator.azure.identity import Issuer, TokenError, bearer, identity_of
from simulator.call import Call
from simulator.gateway import replies
from simulator.gateway.log import GatewayLog
from simulator.gateway.pool import Member, Pool
from simulator.gateway.quota import TokenCounter
from simulator.gateway.visit import Visit
from simulator.play import Outgoing, Relay, Stage
from simulator.wire import Header, RefusedError, Reply

KEY_HEADERS = ("api-key", "Ocp-Apim-Subscription-Key")
_KEY_QUERY = "subscription-key"
# What belongs to one connection, or is set anew on the next.
_NOT_FORWARDED = {"host", "content-length", "connection", "keep-alive", "transfer-encoding", "authorization"} | {
    name.lower() for name in KEY_HEADERS
}
_NOT_RETURNED = {"connection", "keep-alive"}
# The event loop waits whole milliseconds.
_TICK = 0.001
_AUDIENCE = "https://cognitiveservices.azure.com"


class Upstream(NamedTuple):
    name: str
    endpoint: str
    key: str


class Gateway:
    def __init__(
        self,
        name: str,
        settings: config.Gateway,
        key: str,
        backends: Sequence[Upstream],
        issuer: Issuer,
        log: GatewayLog,
        plan: faults.Plan,
        stage: Stage,
        trusted: ssl.SSLContext | None,
        rng: random.Random,
    ) -> None:
        self.name = name
        self.key = key
        self._settings = settings
        self._issuer = issuer
        self._log = log
        self._plan = plan
        self._stage = stage
        self._backends = {one.name: one for one in backends}
        members = (Member(one.resource, one.priority, one.weight, settings.breaker) for one in settings.backends)
        self._pool = Pool(members)
        self._counters: dict[str, TokenCounter] = {}
        self._identity = identity_of(name)
        self._rng = rng
        self._cache: dict[str, tuple[float, Reply]] = {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=True if trusted is None else trusted),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=False,
            skip_auto_headers=["User-Agent", "Accept", "Accept-Encoding", "Content-Type"],
        )

    async def close(self) -> None:
        await self._session.close()

    async def answer(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        visit = Visit(request, call, await request.read())
        call.request_bytes, call.stream = len(visit.asked), visit.stream
        try:
            return await self._answer(visit)
        except RefusedError as own:
            return await self._send(visit, own.reply, own.outcome)
        finally:
            self._write_log(visit)

    async def _answer(self, visit: Visit) -> web.StreamResponse:
        subscription = self._subscription(visit.request)
        if not visit.request.path.startswith(("/openai/", "/models/")):
            raise RefusedError(replies.no_operation(self._explained), "no_path")
        if self._settings.block_streaming and visit.stream:
            raise RefusedError(replies.streaming_blocked(visit.correlation_id), "blocked")
        self._refuse_by_fault(visit.call)
        if (kept := self._cached(visit)) is not None:
            visit.cached = True
            return await self._send(visit, _reply_of(kept), "cached")
        counter = self._count(subscription, visit)
        await self._take_time(visit.call)
        async with await self._forward(visit) as upstream:
            return await self._return(visit, upstream, counter)

    @property
    def _explained(self) -> bool:
        return self._settings.error_headers

    def _subscription(self, request: web.BaseRequest) -> str:
        """Whose call it is: the key, or the token's object id. Raises `RefusedError`."""
        given = _given_key(request)
        if not self._settings.subscription_keys or given == self.key:
            return given or ""
        token = bearer(request)
        if token is not None and self._settings.entra:
            try:
                return self._issuer.check(token, time.time()).object_id
            except TokenError:
                raise RefusedError(replies.bad_token(self._explained), "auth") from None
        raise RefusedError(replies.no_access(given, self._explained), "auth")

    def _refuse_by_fault(self, call: Call) -> None:
        hit = faults.Hit(call.request_id, "", "", "", "")
        refused = faults.refusal(self._plan.draw(self.name, None, time.monotonic()), hit)
        if refused is not None:
            call.changed_by([refused[0]])
            raise RefusedError(refused[1], "fault")

    def _count(self, subscription: str, visit: Visit) -> TokenCounter | None:
        settings = self._settings.token_limit
        if settings is None:
            return None
        counter = self._counters.setdefault(subscription, TokenCounter(settings))
        if settings.estimate_prompt_tokens or visit.stream:
            visit.estimated_tokens = len(visit.prompt()) // 4
        if (exceeded := counter.admit(visit.estimated_tokens, time.monotonic())) is not None:
            reply = replies.too_many_tokens(exceeded, settings.retry_after_header, self._explained)
            raise RefusedError(reply, "quota" if exceeded.quota else "throttled")
        return counter

    async def _forward(self, visit: Visit) -> aiohttp.ClientResponse:
        """The last back end's reply, its body still unread. Raises `RefusedError`."""
        retry = self._settings.retry
        for left in range(0 if retry is None else retry.count, -1, -1):
            member = self._pool.choose(time.monotonic())
            if member is None:
                raise RefusedError(replies.pool_exhausted(self.name, self._explained), "exhausted")
            upstream = await self._call_backend(visit, member)
            if not _is_failure(upstream.status):
                return upstream
            member.failed(time.monotonic(), _seconds(upstream.headers.get("retry-after")))
            if retry is None or not left:
                return upstream
            upstream.release()
            await asyncio.sleep(retry.interval)
        raise AssertionError("the last attempt returns")

    async def _call_backend(self, visit: Visit, member: Member) -> aiohttp.ClientResponse:
        backend, request, call = self._backends[member.name], visit.request, visit.call
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _NOT_FORWARDED]
        visit.backend_url = backend.endpoint + request.path
        visit.backend_called = time.monotonic()
        try:
            upstream = await self._session.request(
                request.method,
                visit.backend_url,
                params=[(name, value) for name, value in request.query.items() if name.lower() != _KEY_QUERY],
                data=visit.asked,
                headers=[*headers, self._credential(backend)],
                allow_redirects=False,
            )
        except aiohttp.ClientError:
            call.backends.append(f"{member.name} unreachable")
            member.failed(time.monotonic(), None)
            raise RefusedError(replies.failed(self._explained), "backend") from None
        call.backends.append(f"{member.name} {upstream.status}")
        call.request_id = upstream.headers.get("apim-request-id", call.request_id)
        visit.backend_status = upstream.status
        return upstream

    def _credential(self, backend: Upstream) -> Header:
        if not self._settings.managed_identity:
            return "api-key", backend.key
        token = self._issuer.issue(_AUDIENCE, self._identity)
        return "authorization", f"Bearer {token.text}"

    async def _return(
        self, visit: Visit, upstream: aiohttp.ClientResponse, counter: TokenCounter | None
    ) -> web.StreamResponse:
        streamed = "event-stream" in upstream.headers.get("content-type", "")
        headers = self._returned_headers(visit, upstream)
        try:
            if streamed and self._settings.log_bodies:
                await upstream.read()
                raise RefusedError(replies.failed(self._explained, "ExpressionValueEvaluationFailure"), "policy")
            if streamed and not self._settings.buffer_response:
                return await self._relay(visit, upstream, headers, counter)
            return await self._pass_on(visit, upstream, headers, counter)
        except aiohttp.ClientError:
            if visit.call.headers_at is None:
                raise RefusedError(replies.failed(self._explained), "backend") from None
            # What the client has of the reply ends here.
            assert visit.request.transport is not None
            visit.request.transport.close()
            raise ConnectionResetError from None
        finally:
            visit.backend_ended = time.monotonic()

    def _returned_headers(self, visit: Visit, upstream: aiohttp.ClientResponse) -> list[Header]:
        stripped = {name.lower() for name in self._settings.strip_headers} | _NOT_RETURNED
        received = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in upstream.raw_headers]
        visit.backend_headers = received
        kept = [(name, value) for name, value in received if name.lower() not in stripped]
        if self._settings.trace and "Apim-Debug-Authorization" in visit.request.headers:
            kept.append(("Apim-Trace-Id", visit.correlation_id.replace("-", "")))
        return kept

    async def _relay(
        self,
        visit: Visit,
        upstream: aiohttp.ClientResponse,
        headers: list[Header],
        counter: TokenCounter | None,
    ) -> web.StreamResponse:
        """A stream, as it comes. Its tokens are counted when it has passed."""
        if counter is not None:
            headers += counter.headers(visit.estimated_tokens, time.monotonic())
        relay = Relay(visit.request, visit.call)
        relay.begin(upstream.status, upstream.reason or "", headers)
        async for data in self._held(upstream.content.iter_any()):
            visit.body += data
            relay.write(data)
        _use(visit, counter)
        response = relay.end()
        visit.call.outcome = "forwarded"
        return response

    async def _held(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """What comes, as the gateway's buffer lets it go."""
        size, seconds = self._settings.buffer_bytes, self._settings.buffer_seconds
        held, since = bytearray(), None
        async for data in pieces:
            held += data
            since = since or time.monotonic()
            if len(held) >= size and time.monotonic() - since >= seconds:
                whole = len(held) - len(held) % size if size else len(held)
                yield bytes(held[:whole])
                del held[:whole]
                since = None
        if held:
            yield bytes(held)

    async def _pass_on(
        self,
        visit: Visit,
        upstream: aiohttp.ClientResponse,
        headers: list[Header],
        counter: TokenCounter | None,
    ) -> web.StreamResponse:
        """A reply in one piece."""
        visit.body += await upstream.read()
        _use(visit, counter)
        if counter is not None:
            headers += counter.headers(visit.tokens()[2], time.monotonic())
        got = Reply(upstream.status, upstream.reason or "", headers, bytes(visit.body))
        self._keep(visit, got)
        return await self._send(visit, _reply_of(got), "forwarded")

    async def _take_time(self, call: Call) -> None:
        """Until its policies are through: as long after the call's arrival as was drawn."""
        took = self._settings.latency.draw(self._rng)
        until = call.arrived / 1e9 + took
        if took and (left := until - time.monotonic() - _TICK) > 0:
            await asyncio.sleep(left)
        while time.monotonic() < until:
            await asyncio.sleep(0)

    def _cached(self, visit: Visit) -> Reply | None:
        if self._settings.semantic_cache is None or visit.stream:
            return None
        until, got = self._cache.get(visit.likeness(), (0.0, None))
        return got if time.monotonic() < until else None

    def _keep(self, visit: Visit, got: Reply) -> None:
        cache = self._settings.semantic_cache
        if cache is not None and got.status == 200 and not visit.stream:
            self._cache[visit.likeness()] = (time.monotonic() + cache.seconds, got)

    async def _send(self, visit: Visit, reply: Reply, outcome: str) -> web.StreamResponse:
        visit.call.status = reply.status
        response = await self._stage.play(visit.request, visit.call, Outgoing.of(reply))
        visit.call.outcome = outcome
        return response

    def _write_log(self, visit: Visit) -> None:
        properties: dict[str, Any] = {"cache": "hit" if visit.cached else "none"}
        if visit.backend_called is not None:
            ended = visit.backend_ended or time.monotonic()
            properties |= {
                "backendMethod": visit.request.method,
                "backendResponseCode": visit.backend_status,
                "backendTime": round((ended - visit.backend_called) * 1000),
                "backendUrl": visit.backend_url,
            }
        logged = {name.lower() for name in self._settings.log_headers}
        if named := {name: value for name, value in visit.backend_headers if name.lower() in logged}:
            properties["backendResponseHeaders"] = named
        self._log.request(visit.call, visit.correlation_id, properties)
        if self._settings.llm_log and visit.call.outcome == "forwarded" and visit.call.status == 200:
            self._write_llm_log(visit)

    def _write_llm_log(self, visit: Visit) -> None:
        prompt, answer, total = visit.tokens()
        about = {
            "requestId": visit.completion_id(),
            "deploymentName": visit.deployment,
            "modelName": visit.model(),
            "apiVersion": visit.request.query.get("api-version", "v1"),
            "promptTokens": prompt,
            "completionTokens": answer,
            "totalTokens": total,
            "isStreamCompletion": visit.stream,
        }
        known = {name: value for name, value in about.items() if value is not None}
        asked, answered = (visit.asked, visit.body) if self._settings.llm_messages else (b"", b"")
        self._log.llm(visit.call, visit.correlation_id, known, asked.decode(), answered.decode("utf-8", "replace"))


def _use(visit: Visit, counter: TokenCounter | None) -> None:
    """Counts what the reply says it used, beyond what was estimated."""
    total = visit.tokens()[2]
    if counter is not None and total is not None:
        counter.use(total - visit.estimated_tokens, time.monotonic())


def _reply_of(got: Reply) -> Reply:
    """In one piece: its length instead of chunks."""
    kept = [(name, value) for name, value in got.headers if name.lower() not in ("transfer-encoding", "content-length")]
    return Reply(got.status, got.reason, [("content-length", str(len(got.body))), *kept], got.body)


def _is_failure(status: int) -> bool:
    return status == 429 or status >= 500


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None


def _given_key(request: web.BaseRequest) -> str | None:
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    in_header = (request.headers[name] for name in KEY_HEADERS if name in request.headers)
    return next(in_header, None) or request.query.get(_KEY_QUERY) or bearer or None
