"""Puts resources, gateways and what stands around them onto loopback ports, in one process and one event loop."""

import asyncio
import gc
import random
import secrets
import socket
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from simulator.azure.blobs import LARGEST_BODY, Account
from simulator.azure.certificates import Certificates
from simulator.azure.identity import APP_SERVICE_PATH, MANAGED_IDENTITY, Issuer, ManagedIdentities, identity_of
from simulator.azure.logs import DiagnosticLog, Lines, Records
from simulator.azure.workspace import Workspace
from simulator.call import Call
from simulator.config import Config, ConfigError
from simulator.faults import Plan
from simulator.gateway.gateway import Gateway, Upstream
from simulator.gateway.log import GatewayLog
from simulator.play import Stage
from simulator.service.resource import Resource

API_VERSION = "2024-10-21"
_BACKLOG = 4096

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Answer = Callable[[web.BaseRequest, Call], Awaitable[web.StreamResponse]]


class Place(NamedTuple):
    """Where a simulation keeps what it writes."""

    data: Path

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def blobs(self) -> Path:
        return self.data / "blobs"

    @property
    def ledger(self) -> Path:
        return self.data / "ledger.jsonl"


class Simulation:
    """Everything that runs."""

    def __init__(self, config: Config, data: Path) -> None:
        self._config = config
        self._place = Place(data)
        self._exits = AsyncExitStack()
        self._ledger = Lines(asyncio.get_running_loop())
        self._stage = Stage(asyncio.get_running_loop())
        self._issuer = Issuer(time.time, lifetime=config.identity.token_lifetime)
        self._certificates: Certificates | None = None
        self._handling: set[asyncio.Task[Any]] = set()

    async def start(self) -> dict[str, Any]:
        """What a client needs to know of it. Raises `ConfigError`, and `OSError` for a port that is taken."""
        config, place = self._config, self._place
        self._exits.callback(self._ledger.close)
        records = Records(place.logs, config.logs, self._own_rng("logs"), asyncio.get_running_loop())
        self._exits.callback(records.close)
        # Between the end of the servers and that of what they write to.
        self._exits.push_async_callback(self._handled)
        tls = None if config.tls == "none" else self._authority().server_context(config.tls)
        resources = await self._start_resources(records, tls)
        gateways = await self._start_gateways(records, resources, tls)
        ready: dict[str, Any] = {
            "targets": {**resources, **gateways},
            "logs": str(place.logs),
            "ledger": str(place.ledger),
            "identity": await self._start_identity(),
        }
        if config.logs.log_analytics:
            ready["log_analytics"] = await self._start_workspace(records)
        if config.storage.account:
            ready["storage"] = await self._start_storage()
        if self._certificates is not None:
            ready["ca"] = str(self._certificates.file)
        return ready

    async def stop(self) -> None:
        await self._exits.aclose()

    async def _handled(self) -> None:
        """The calls that were still open have been written down."""
        if self._handling:
            for task in self._handling:
                task.cancel()
            await asyncio.wait(self._handling)

    def _own_rng(self, name: str) -> random.Random:
        return random.Random(f"{self._config.seed}-{name}")

    def _authority(self) -> Certificates:
        if self._certificates is None:
            self._certificates = Certificates(self._place.data)
        return self._certificates

    async def _start_resources(self, records: Records, tls: ssl.SSLContext | None) -> dict[str, Any]:
        config, targets = self._config, {}
        principals = frozenset(identity_of(one).object_id for one in config.identity.principals)
        for name, settings in config.resources.items():
            log = DiagnosticLog(records, name, settings.region, config.logs.mask_addresses)
            plan = Plan(config.faults, self._own_rng(f"{name}-faults"), time.monotonic())
            key = secrets.token_hex(16)
            resource = Resource(
                name, settings, key, self._issuer, principals, log, plan, self._stage, self._own_rng(name)
            )
            port = await self._listen_as(name, self._recorded(name, resource.answer), settings.port, tls)
            deployments = list(settings.deployments)
            targets[name] = _target(port, "direct", deployments, key, tls) | {"region": settings.region}
            log.audit(time.time_ns(), "ListKey")
        return targets

    async def _start_gateways(
        self, records: Records, resources: dict[str, Any], tls: ssl.SSLContext | None
    ) -> dict[str, Any]:
        targets = {}
        for name, settings in self._config.gateways.items():
            pool = [
                Upstream(one.resource, resources[one.resource]["endpoint"], resources[one.resource]["api_key"])
                for one in settings.backends
            ]
            key = secrets.token_hex(16)
            log = GatewayLog(records, name, self._config.logs.mask_addresses)
            trusted = None if self._certificates is None else self._certificates.client_context()
            plan = Plan(self._config.faults, self._own_rng(f"{name}-faults"), time.monotonic())
            rng = self._own_rng(name)
            gateway = Gateway(name, settings, key, pool, self._issuer, log, plan, self._stage, trusted, rng)
            self._exits.push_async_callback(gateway.close)
            port = await self._listen_as(name, self._recorded(name, gateway.answer), settings.port, tls)
            deployments = resources[settings.backends[0].resource]["deployments"]
            targets[name] = _target(port, "apim", deployments, key, tls)
        return targets

    async def _start_identity(self) -> dict[str, Any]:
        """What to put into the environment of a client that is to have this managed identity, and who that is."""
        header, identity = secrets.token_hex(16), identity_of(MANAGED_IDENTITY)
        endpoint = await self._serve(ManagedIdentities(self._issuer, [identity], header).routes(), None)
        return {
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": endpoint,
            "IDENTITY_ENDPOINT": f"{endpoint}{APP_SERVICE_PATH}",
            "IDENTITY_HEADER": header,
            "object_id": identity.object_id,
        }

    async def _start_workspace(self, records: Records) -> dict[str, Any]:
        workspace = Workspace(
            str(uuid.uuid4()), self._issuer, records.records, time.time, self._config.logs.workspace_role == "reader"
        )
        endpoint = await self._serve(workspace.routes(), self._authority().server_context())
        return {"endpoint": endpoint, "workspace_id": workspace.id}

    async def _start_storage(self) -> dict[str, str]:
        settings, place = self._config.storage, self._place
        account = Account(settings.account, place.logs, place.blobs, settings.role, self._issuer, time.time)
        account.create(settings.container)
        endpoint = await self._serve(account.routes(), self._authority().server_context())
        url = f"{endpoint}/{settings.account}"
        return {"account": url, "container": f"{url}/{settings.container}"}

    async def _serve(self, routes: Iterable[web.AbstractRouteDef], tls: ssl.SSLContext | None) -> str:
        """Ordinary handlers, on a port of their own; returns their address."""
        app = web.Application(client_max_size=LARGEST_BODY)
        app.add_routes(routes)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._exits.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        return f"{'http' if tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"

    def _recorded(self, name: str, answer: Answer) -> Handler:
        """Each request as a `Call`, and each call in the ledger."""

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            call = Call(name, request.method, request.path)
            task = asyncio.current_task()
            assert task is not None
            self._handling.add(task)
            try:
                return await answer(request, call)
            except ConnectionResetError:
                # The client went away; nobody is left to answer.
                return web.Response()
            finally:
                self._ledger.append(self._place.ledger, call.ledger())
                self._handling.discard(task)

        return handle

    async def _listen_as(self, name: str, handler: Handler, port: int, tls: ssl.SSLContext | None) -> int:
        try:
            return await self._listen(handler, port, tls)
        except OSError as error:
            raise ConfigError(f"port {port} of {name} is taken or not allowed: {error.strerror}") from None

    async def _listen(self, handler: Handler, port: int, tls: ssl.SSLContext | None) -> int:
        # A call ends as soon as its client has gone, however long the next event would have been.
        server = web.Server(handler, access_log=None, handler_cancellation=True)
        self._exits.push_async_callback(server.shutdown, 0.2)
        listener = socket.create_server(("127.0.0.1", port), backlog=_BACKLOG)
        listening = await asyncio.get_running_loop().create_server(server, sock=listener, ssl=tls, backlog=_BACKLOG)
        self._exits.callback(listening.close)
        return int(listener.getsockname()[1])


def _target(port: int, gateway: str, deployments: list[str], key: str, tls: ssl.SSLContext | None) -> dict[str, Any]:
    return {
        "endpoint": f"{'http' if tls is None else 'https'}://127.0.0.1:{port}",
        "gateway": gateway,
        "deployments": deployments,
        "api_key": key,
        "api_version": API_VERSION,
    }


async def serve(config: Config, data: Path, announce: Callable[[dict[str, Any]], None], stop: asyncio.Event) -> None:
    """Runs until `stop`; `announce` gets what a client needs to know, once everything listens."""
    simulation = Simulation(config, data)
    try:
        ready = await simulation.start()
        # A collection that looks at everything there is stops all streams for tens of milliseconds.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        announce(ready)
        await stop.wait()
    finally:
        await simulation.stop()
