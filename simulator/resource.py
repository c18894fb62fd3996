"""One Azure OpenAI resource: its key, its deployments, and chat completions on the dated path and on v1.

A request is looked at in the service's order: key, path, deployment, body, limits.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiohttp import web

from simulator import wire
from simulator.call import Call, begin, send, write
from simulator.latency import Latency, draw
from simulator.limits import Limiter, debit
from simulator.logs import DiagnosticLog
from simulator.tokens import Counter, answer
from simulator.wire import Chunks, Completion, Reply, Served

_DATED = re.compile(r"/openai/deployments/([^/]+)/chat/completions")
_V1 = "/openai/v1/chat/completions"
_OPERATION = "ChatCompletions_Create"
# How many tokens an answer has that no max_tokens ends, and the most that one may ask for.
_NATURAL_TOKENS = 200
_MOST_TOKENS = 32_768


class Deployment(NamedTuple):
    served: Served
    limiter: Limiter
    latency: Latency


class Ask(NamedTuple):
    """A valid request's body."""

    messages: list[dict[str, Any]]
    max_tokens: int | None
    stream: bool
    include_usage: bool


class InvalidRequestError(ValueError):
    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Resource:
    def __init__(
        self,
        name: str,
        region: str,
        key: str,
        deployments: Mapping[str, Deployment],
        counter: Counter,
        log: DiagnosticLog,
        rng: random.Random,
    ) -> None:
        self.name = name
        self.key = key
        self.region = region
        self.deployments = deployments
        self._counter = counter
        self._log = log
        self._rng = rng

    async def answer(self, request: web.Request, call: Call) -> web.StreamResponse:
        body = await request.read()
        call.request_bytes = len(body)
        try:
            return await self._answer(request, call, body)
        finally:
            self._write_log(call)

    async def _answer(self, request: web.Request, call: Call, body: bytes) -> web.StreamResponse:
        if not self._has_key(request):
            return await self._refuse(request, call, wire.bad_key(call.request_id), "auth")
        try:
            fields = _json_object(body)
            if not self._find_operation(request, call, fields):
                return await self._refuse(request, call, wire.no_path(call.request_id), "no_path")
            deployment = self.deployments.get(call.deployment or "")
            if deployment is None:
                reply = wire.no_deployment(call.request_id, self.region)
                return await self._refuse(request, call, reply, "no_deployment")
            ask = _read(fields)
        except InvalidRequestError as error:
            reply = wire.bad_request(call.request_id, self.region, str(error), error.param)
            return await self._refuse(request, call, reply, "bad_request")
        call.stream = ask.stream
        if (refusal := self._limit(call, deployment, ask)) is not None:
            return await self._refuse(request, call, refusal, "throttled")
        return await self._complete(request, call, deployment, ask)

    def _has_key(self, request: web.Request) -> bool:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        return self.key in (request.headers.get("api-key"), bearer)

    def _find_operation(self, request: web.Request, call: Call, fields: Mapping[str, Any]) -> bool:
        """Whether the path is one of ours; the call then knows its deployment and version."""
        if request.method != "POST":
            return False
        if request.path == _V1:
            call.api, call.deployment = "v1", str(fields.get("model") or "")
            return True
        dated = _DATED.fullmatch(request.path)
        call.api = request.query.get("api-version")
        if dated is None or not call.api:
            return False
        call.deployment = dated[1]
        return True

    def _limit(self, call: Call, deployment: Deployment, ask: Ask) -> Reply | None:
        now = time.monotonic()
        charge = debit(ask.messages)
        refused = deployment.limiter.admit(charge, now)
        if refused is None:
            call.charged = charge
            return None
        limit, wait = refused
        return wire.throttled(
            deployment.served, deployment.limiter, now, call.request_id, limit, wait, call.api or "unknown"
        )

    async def _refuse(self, request: web.Request, call: Call, reply: Reply, outcome: str) -> web.StreamResponse:
        call.outcome = outcome
        return await send(request, call, reply)

    async def _complete(self, request: web.Request, call: Call, deployment: Deployment, ask: Ask) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        # The limiter's state belongs to the moment the request was admitted.
        admitted = time.monotonic()
        completion = self._completion(call, deployment, ask)
        call.drawn = drawn = draw(deployment.latency, self._rng)
        checkpoint = drawn.checkpoint(len(completion.pieces))
        caller_id = request.headers.get("x-ms-client-request-id")
        whole = None if ask.stream else wire.whole(completion, checkpoint)
        headers = wire.answer_headers(
            deployment.served,
            deployment.limiter,
            admitted,
            call.request_id,
            length=None if whole is None else len(whole),
            caller_id=caller_id,
        )
        if whole is not None:
            await asyncio.sleep(max(0.0, arrived + drawn.due(len(completion.pieces)) - loop.time()))
            response = await send(request, call, Reply(200, "OK", headers, whole))
        else:
            # The head and the prompt's filter results come when the prompt has been looked at.
            await asyncio.sleep(checkpoint["pre_inference_ms"] / 1000)
            response = await begin(request, call, 200, "OK", headers)
            await write(response, call, wire.PROMPT_FILTER_EVENT)
            await self._stream(response, call, Chunks(completion, ask.include_usage, self._rng), arrived)
            if ask.include_usage:
                await write(response, call, Chunks(completion, True, self._rng).usage(checkpoint))
            await write(response, call, wire.DONE_EVENT)
            await response.write_eof()
        call.outcome = "ok"
        return response

    async def _stream(self, response: web.StreamResponse, call: Call, chunks: Chunks, arrived: float) -> None:
        """The role, the text at its times, and the end; each event a write of its own on an absolute schedule."""
        assert call.drawn is not None
        loop = asyncio.get_running_loop()
        for number, event in enumerate(chunks.text()):
            wait = arrived + call.drawn.due(number) - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            if number == 0:
                await write(response, call, chunks.role())
            await write(response, call, event)
            call.first_content_at = call.first_content_at or call.last_at
            call.completion_tokens = number + 1
        await write(response, call, chunks.finish())

    def _completion(self, call: Call, deployment: Deployment, ask: Ask) -> Completion:
        tokens = _NATURAL_TOKENS if ask.max_tokens is None else ask.max_tokens
        call.prompt_tokens = self._counter.prompt(ask.messages)
        if not ask.stream:
            call.completion_tokens = tokens
        return Completion(
            id=f"chatcmpl-{call.request_id.replace('-', '')[:29]}",
            created=call.arrived_wall // 10**9,
            model=deployment.served.model,
            pieces=answer(tokens, self._rng.randrange(1000)),
            finish_reason="stop" if ask.max_tokens is None else "length",
            prompt_tokens=call.prompt_tokens,
        )

    def _write_log(self, call: Call) -> None:
        deployment = self.deployments.get(call.deployment or "")
        model, _, version = ("", "", "") if deployment is None else deployment.served.model.partition("-20")
        properties: dict[str, Any] = {
            "apiName": f"Azure OpenAI API version {call.api}",
            "requestLength": call.request_bytes,
            "responseLength": call.response_bytes,
        }
        if call.stream is not None:
            properties["streamType"] = "Streaming" if call.stream else "Non-Streaming"
        if deployment is not None:
            properties |= {"modelDeploymentName": call.deployment, "modelName": model, "modelVersion": f"20{version}"}
        ended = call.ended_wall()
        self._log.request(
            correlation_id=call.request_id,
            # 499: the client went away before it had the reply.
            status=call.status if call.status is not None and call.outcome != "cut" else 499,
            began_ns=call.arrived_wall,
            ended_ns=ended,
            operation=_OPERATION,
            properties=properties,
        )
        if call.outcome == "ok" and call.prompt_tokens is not None and call.completion_tokens is not None:
            self._log.usage(
                correlation_id=call.request_id,
                at_ns=ended,
                prompt=call.prompt_tokens,
                generated=call.completion_tokens,
                deployment=call.deployment or "",
                model=model,
                version=f"20{version}",
            )


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except ValueError:
        raise InvalidRequestError("We could not parse the JSON body of your request.") from None
    if not isinstance(fields, dict):
        raise InvalidRequestError("The body of your request is not a JSON object.")
    return fields


def _read(fields: Mapping[str, Any]) -> Ask:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise InvalidRequestError("Missing required parameter: 'messages'.", "messages")
    options = fields.get("stream_options") or {}
    return Ask(
        messages=messages,
        max_tokens=_max_tokens(fields),
        stream=fields.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _max_tokens(fields: Mapping[str, Any]) -> int | None:
    given = {name: fields[name] for name in ("max_tokens", "max_completion_tokens") if fields.get(name) is not None}
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST_TOKENS:
            raise InvalidRequestError(
                f"Invalid value for '{name}': {json.dumps(value)}. It must be a whole number from 1 to {_MOST_TOKENS}.",
                name,
            )
    return min(given.values(), default=None)
