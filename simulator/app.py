"""Puts the resources and the gateway onto loopback ports of their own, in one process and one event loop."""

import asyncio
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from simulator.call import Call, only_our_headers
from simulator.gateway import Backend, Gateway
from simulator.latency import Latency
from simulator.limits import Limiter
from simulator.logs import DiagnosticLog, Lines
from simulator.resource import Deployment, Resource
from simulator.tokens import Counter, load_encoding
from simulator.wire import Served

API_VERSION = "2024-10-21"
DEPLOYMENT = "gpt-4.1-mini"
MODEL = "gpt-4.1-mini-2025-04-14"
# Name, region, and how much slower than the other one it is.
REGIONS = (("eastus2", "East US 2", 1.0), ("swedencentral", "Sweden Central", 1.3))
GATEWAY = "apim"
_LARGEST_BODY = 64 * 1024 * 1024


class Settings(msgspec.Struct, frozen=True):
    """Limits are for each deployment, a minute; times are seconds."""

    data: Path
    tokens_per_minute: float
    requests_per_minute: float
    first_token: float
    between_tokens: float
    jitter: float
    seed: int


class Simulation:
    """Everything that runs. `ready` is what a client needs to know of it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lines = Lines()
        self._logs = settings.data / "logs"
        self._ledger = settings.data / "ledger.jsonl"
        self._stack = AsyncExitStack()

    async def start(self) -> dict[str, Any]:
        settings = self._settings
        self._stack.callback(self._lines.close)
        counter = Counter(load_encoding())
        targets: dict[str, Any] = {}
        backends = []
        for number, (name, region, slower) in enumerate(REGIONS):
            resource = self._resource(name, region, slower, counter, random.Random(f"{settings.seed}-{number}"))
            port = await self._listen(name, resource.answer)
            targets[name] = _target(port, "direct", resource.key) | {"region": region}
            backends.append(Backend(targets[name]["endpoint"], resource.key))
        session = await self._stack.enter_async_context(_session())
        gateway = Gateway(GATEWAY, secrets.token_hex(16), backends, session)
        targets[GATEWAY] = _target(await self._listen(GATEWAY, gateway.answer), "apim", gateway.key)
        return {"targets": targets, "logs": str(self._logs), "ledger": str(self._ledger)}

    async def stop(self) -> None:
        await self._stack.aclose()

    def _resource(self, name: str, region: str, slower: float, counter: Counter, rng: random.Random) -> Resource:
        settings = self._settings
        limiter = Limiter(settings.requests_per_minute, settings.tokens_per_minute, time.monotonic())
        latency = Latency(settings.first_token * slower, settings.between_tokens * slower, settings.jitter)
        deployments = {DEPLOYMENT: Deployment(Served(DEPLOYMENT, MODEL, region), limiter, latency)}
        log = DiagnosticLog(self._logs, self._lines, name, region)
        return Resource(name, region, secrets.token_hex(16), deployments, counter, log, rng)

    async def _listen(self, name: str, answer: Callable[[web.Request, Call], Awaitable[web.StreamResponse]]) -> int:
        async def handle(request: web.Request) -> web.StreamResponse:
            call = Call(name, request.method, request.path)
            try:
                return await answer(request, call)
            except ConnectionResetError:
                # The client went away; nobody is left to answer.
                return web.Response()
            finally:
                self._lines.append(self._ledger, call.ledger())

        app = web.Application(client_max_size=_LARGEST_BODY)
        app.on_response_prepare.append(only_our_headers)
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        await web.SockSite(runner, listener).start()
        return int(listener.getsockname()[1])


def _target(port: int, gateway: str, key: str) -> dict[str, Any]:
    return {
        "endpoint": f"http://127.0.0.1:{port}",
        "gateway": gateway,
        "deployments": [DEPLOYMENT],
        "api_key": key,
        "api_version": API_VERSION,
    }


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        auto_decompress=False,
        skip_auto_headers=["User-Agent", "Accept", "Accept-Encoding", "Content-Type"],
    )


async def serve(settings: Settings, announce: Callable[[dict[str, Any]], None], stop: asyncio.Event) -> None:
    """Runs until `stop`; `announce` gets what a client needs to know, once everything listens."""
    simulation = Simulation(settings)
    try:
        announce(await simulation.start())
        await stop.wait()
    finally:
        await simulation.stop()
