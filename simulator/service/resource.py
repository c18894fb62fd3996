"""One Azure OpenAI resource: who may call it, its deployments, and what a call to one of them comes to.

A request is looked at in the service's order: network, credentials, path, deployment, body, limits.
"""

import random
import time
from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from simulator import config, faults
from simulator.azure.identity import Issuer, TokenError, bearer
from simulator.azure.logs import DiagnosticLog
from simulator.call import Call
from simulator.play import Outgoing, Stage, Timed
from simulator.service import errors, headers
from simulator.service.deployment import Charged, Deployment, Load
from simulator.service.latency import Drawn, draw
from simulator.service.limits import Refusal, Standing
from simulator.service.routes import OPERATIONS, Route, find
from simulator.service.tokens import is_openais
from simulator.surfaces import models
from simulator.surfaces.answers import Answer
from simulator.surfaces.asks import InvalidRequestError
from simulator.surfaces.surface import SURFACES, Begun, Surface, Told
from simulator.wire import RefusedError, Reply

_DATA_ACTION = "Microsoft.CognitiveServices/accounts/OpenAI/deployments/chat/completions/action"


class Admitted(NamedTuple):
    """A call that will be answered, and what it was charged."""

    route: Route
    surface: Surface
    deployment: Deployment
    load: Load
    charged: Charged
    standing: Standing


class Resource:
    def __init__(
        self,
        name: str,
        settings: config.Resource,
        key: str,
        issuer: Issuer,
        principals: Container[str],
        log: DiagnosticLog,
        plan: faults.Plan,
        stage: Stage,
        rng: random.Random,
    ) -> None:
        """`principals` are the object ids that may call; empty for all."""
        self.name = name
        self.key = key
        self.settings = settings
        self._issuer = issuer
        self._principals = principals
        self._log = log
        self._plan = plan
        self._stage = stage
        self._rng = rng
        self._began = now = time.monotonic()
        self._deployments = {one: Deployment(one, about, now) for one, about in settings.deployments.items()}

    async def answer(self, request: web.BaseRequest, call: Call) -> web.StreamResponse:
        body = await request.read()
        call.request_bytes = len(body)
        admitted = None
        try:
            route = self._enter(request, call)
            admitted, outgoing = self._handle(request, call, route, body)
            outcome = "ok"
        except RefusedError as refused:
            outgoing, outcome = Outgoing.of(refused.reply), refused.outcome
        call.status = outgoing.status
        call.changed_by(faults.change(call.drawn_faults, outgoing))
        try:
            response = await self._stage.play(request, call, outgoing)
            call.outcome = outcome
            return response
        finally:
            self._end(call, admitted)

    def _enter(self, request: web.BaseRequest, call: Call) -> Route:
        """Who calls, and for what. Raises `RefusedError`."""
        if not self.settings.public_access:
            raise RefusedError(errors.public_access_disabled(call.request_id), "forbidden")
        call.principal = self._caller(request, call)
        route = find(request.method, request.path, request.query)
        if route is None:
            raise RefusedError(errors.no_path(call.request_id), "no_path")
        call.operation, call.api = OPERATIONS[route.surface], route.api
        return route

    def _caller(self, request: web.BaseRequest, call: Call) -> str | None:
        """The object id behind a token; None for a key."""
        key, token = request.headers.get("api-key"), bearer(request)
        if not self.settings.api_keys and (key is not None or token == self.key):
            raise RefusedError(errors.local_auth_disabled(call.request_id), "forbidden")
        if self.key in (key, token):
            return None
        if not self.settings.entra or (key is not None and token is None):
            raise RefusedError(errors.bad_key(call.request_id), "auth")
        try:
            oid = self._issuer.check(token or "", time.time()).object_id
        except TokenError as error:
            reply = errors.bad_token(call.request_id, error, self.settings.token_errors)
            raise RefusedError(reply, "auth") from None
        if self._principals and oid not in self._principals:
            raise RefusedError(errors.no_role(call.request_id, oid, _DATA_ACTION), "forbidden")
        return oid

    def _handle(
        self, request: web.BaseRequest, call: Call, route: Route, body: bytes
    ) -> tuple[Admitted | None, Outgoing]:
        if route.surface == "models":
            return None, Outgoing.of(self._models(route, call))
        try:
            fields = _json_object(body)
            deployment = self._deployment(route, call, fields)
            self._refuse_by_fault(call, route, deployment)
            surface = SURFACES[route.surface]({**fields, "model": deployment.name})
            call.stream = surface.stream
            admitted = self._admit(call, route, deployment, surface, fields)
        except InvalidRequestError as error:
            reply = errors.bad_request(call.request_id, self.settings.region, error)
            raise RefusedError(reply, "bad_request") from None
        return admitted, self._reply(request, call, admitted)

    def _models(self, route: Route, call: Call) -> Reply:
        known = list(dict.fromkeys(one.model for one in self._deployments.values()))
        if route.item is None:
            body = models.listed(known, v1=route.api == "v1")
        elif route.item in known:
            body = models.one(route.item, v1=route.api == "v1")
        else:
            raise RefusedError(errors.no_path(call.request_id), "no_path")
        return errors.plain(200, "OK", call.request_id, self.settings.region, body)

    def _deployment(self, route: Route, call: Call, fields: Mapping[str, Any]) -> Deployment:
        call.deployment = route.deployment or str(fields.get("model") or "")
        deployment = self._deployments.get(call.deployment)
        if deployment is None:
            raise RefusedError(errors.no_deployment(call.request_id, self.settings.region), "no_deployment")
        return deployment

    def _refuse_by_fault(self, call: Call, route: Route, deployment: Deployment) -> None:
        call.drawn_faults = self._plan.draw(self.name, deployment.name, time.monotonic())
        hit = faults.Hit(call.request_id, self.settings.region, deployment.name, deployment.model, route.api)
        if (refused := faults.refusal(call.drawn_faults, hit)) is not None:
            call.changed_by([refused[0]])
            raise RefusedError(refused[1], "fault")

    def _admit(
        self, call: Call, route: Route, deployment: Deployment, surface: Surface, fields: Mapping[str, Any]
    ) -> Admitted:
        now = time.monotonic()
        admitted = self._try(call, route, deployment, surface, fields, now)
        spare = deployment.settings.spillover_to
        if isinstance(admitted, Refusal) and spare is not None:
            call.spilled_from, first = deployment.name, admitted
            admitted = self._try(call, route, self._deployments[spare], surface, fields, now)
            # The standard deployment's refusal does not count: the first reply comes back.
            admitted = first if isinstance(admitted, Refusal) else admitted
        if isinstance(admitted, Refusal):
            raise RefusedError(self._throttled(call, route, deployment, admitted, now), "throttled")
        call.charged = admitted.charged.tokens
        call.utilization = admitted.standing.utilization
        return admitted

    def _try(
        self,
        call: Call,
        route: Route,
        deployment: Deployment,
        surface: Surface,
        fields: Mapping[str, Any],
        now: float,
    ) -> Admitted | Refusal:
        prompt = surface.prompt_tokens(deployment)
        cached = deployment.cache.cached_tokens(surface.text(), prompt, now)
        load = Load(fields, surface.rule(deployment.settings.generation), prompt, cached, surface.max_tokens)
        charged = deployment.admit(load, now)
        if isinstance(charged, Refusal):
            return charged
        call.prompt_tokens, call.cached_tokens = prompt, cached
        return Admitted(route, surface, deployment, load, charged, deployment.standing(now))

    def _throttled(self, call: Call, route: Route, deployment: Deployment, refusal: Refusal, now: float) -> Reply:
        return errors.throttled(
            errors.Throttled(
                generation=deployment.settings.generation,
                foundry=route.foundry,
                request_id=call.request_id,
                region=self.settings.region,
                deployment=deployment.name,
                model=deployment.model,
                operation=OPERATIONS[route.surface],
                api=route.api,
                refusal=refusal,
                standing=deployment.standing(now),
            )
        )

    def _reply(self, request: web.BaseRequest, call: Call, admitted: Admitted) -> Outgoing:
        deployment, surface, load = admitted.deployment, admitted.surface, admitted.load
        created = call.arrived_wall // 10**9
        begun = Begun(deployment, created, load.prompt_tokens, load.cached_tokens, self._rng)
        answer = surface.answer(begun)
        call.completion_tokens = answer.completion_tokens * surface.choices
        call.drawn = drawn = self._draw(deployment, answer, created)
        last = drawn.at(answer.sent_tokens)
        told = Told(deployment, call.request_id, drawn.checkpoint(), last, self._rng)
        if not surface.stream:
            body = surface.whole(answer, told)
            head = self._headers(request, call, admitted, len(body), last)
            return Outgoing(200, "OK", head, [Timed(last, body, True)], head_due=last)
        held = surface.holds_headers and answer.reasoning_tokens > 0
        head_due = drawn.at(answer.reasoning_tokens) if held else drawn.at(-1)
        head = self._headers(request, call, admitted, None, head_due)
        events = _timed(surface, answer, told, drawn, head_due)
        return Outgoing(200, "OK", head, events, head_due=head_due)

    def _draw(self, deployment: Deployment, answer: Answer, at: int) -> Drawn:
        now = time.monotonic()
        latency = self.settings.latency.after(now - self._began)
        slowness = latency.slowness(deployment.standing(now).utilization, at)
        burst, hidden = deployment.settings.burst, answer.reasoning_tokens
        return draw(latency, answer.sent_tokens, slowness, burst, hidden, self._rng)

    def _headers(
        self, request: web.BaseRequest, call: Call, admitted: Admitted, length: int | None, due: float
    ) -> list[tuple[str, str]]:
        deployment = admitted.deployment
        return headers.answer_headers(
            headers.Replied(
                generation=deployment.settings.generation,
                route=_route(admitted.route),
                stream=admitted.surface.stream,
                length=length,
                request_id=call.request_id,
                deployment=deployment.name,
                model=deployment.model,
                region=self.settings.region,
                caller_id=request.headers.get("x-ms-client-request-id"),
                standing=admitted.standing,
                spilled_from=call.spilled_from,
                at=call.arrived_wall / 1e9 + due,
                elapsed=due,
                ours=is_openais(deployment.model),
            )
        )

    def _end(self, call: Call, admitted: Admitted | None) -> None:
        if admitted is not None:
            self._settle(call, admitted)
        self._write_log(call, admitted)

    def _settle(self, call: Call, admitted: Admitted) -> None:
        if call.outcome == "cut" and call.drawn is not None:
            # What was not generated when the client left is not billed.
            elapsed = (time.monotonic_ns() - call.arrived) / 1e9
            call.completion_tokens = sum(due <= elapsed for due in call.drawn.due)
        admitted.deployment.settle(admitted.charged, call.completion_tokens or 0, time.monotonic())

    def _write_log(self, call: Call, admitted: Admitted | None) -> None:
        deployment = None if admitted is None else admitted.deployment
        deployment = deployment or self._deployments.get(call.deployment or "")
        name, version = ("", "") if deployment is None else _name_and_version(deployment.model)
        properties: dict[str, Any] = {
            "apiName": f"Azure OpenAI API version {call.api}",
            "requestLength": call.request_bytes,
            "responseLength": call.response_bytes,
            "objectId": call.principal or "",
        }
        if call.stream is not None:
            properties["streamType"] = "Streaming" if call.stream else "Non-Streaming"
        if deployment is not None:
            properties |= {"modelDeploymentName": deployment.name, "modelName": name, "modelVersion": version}
        ended = call.ended_wall()
        self._log.request(
            correlation_id=call.request_id,
            # 499: the client went away before it had the reply.
            status=499 if call.status is None or call.outcome == "cut" else call.status,
            began_ns=call.arrived_wall,
            ended_ns=ended,
            operation=call.operation or "Unknown",
            properties=properties,
        )
        if admitted is not None:
            self._log.usage(
                correlation_id=call.request_id,
                at_ns=ended,
                prompt=admitted.load.prompt_tokens,
                cached=admitted.load.cached_tokens,
                generated=call.completion_tokens or 0,
                deployment=admitted.deployment.name,
                model=name,
                version=version,
            )


def _timed(surface: Surface, answer: Answer, told: Told, drawn: Drawn, head_due: float) -> Iterator[Timed]:
    visible = answer.reasoning_tokens
    for token, data in surface.events(answer, told):
        yield Timed(max(head_due, drawn.at(token)), data, token >= visible)


def _route(route: Route) -> headers.Route:
    if route.foundry:
        return "foundry"
    assert route.surface != "models"
    return route.surface


def _name_and_version(model: str) -> tuple[str, str]:
    """gpt-4.1-mini-2025-04-14 is version 2025-04-14 of gpt-4.1-mini."""
    name, mark, version = model.partition("-20")
    return (name, f"20{version}") if mark else (model, "1")


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise InvalidRequestError("We could not parse the JSON body of your request.") from None
    if not isinstance(fields, dict):
        raise InvalidRequestError("The body of your request is not a JSON object.")
    return fields
