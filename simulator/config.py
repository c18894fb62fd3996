"""What is to be simulated: one TOML file. `default.toml`, beside this file, is the default and explains each key.

Facts.    msgspec names an unknown key and its place; the nearest known one is looked for here.
Decided.  A file replaces whole tables of resources and gateways, not single keys in them: what is simulated can then be
          read in one place.
"""

import difflib
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import msgspec

from simulator.service.latency import Latency, Spread
from simulator.service.limits import DebitRule
from simulator.service.provisioned import provisioned_model

Generation = Literal["2023", "2024", "2025", "2026-02", "2026-03", "2026-06", "2026-08"]
# What the tokens of a storage account's callers may do.
Role = Literal["contributor", "reader", "none"]


class ConfigError(ValueError):
    """One line: what is wrong with a configuration, where, and how to mend it."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Reduction(_Table, frozen=True):
    """For a time the platform allows only a share of the limits."""

    after: float
    until: float
    share: float


class Deployment(_Table, frozen=True):
    model: str
    generation: Generation = "2026-06"
    tokens_per_minute: float = 50_000
    requests_per_minute: float = 600
    # The seconds over which the limit of requests is kept.
    request_period: float = 60
    # The seconds over which the limit of tokens is kept.
    token_period: float = 60
    # Which rule charges a request; by default the generation's.
    debit: DebitRule | None = None
    ptu: int | None = None
    # Of a provisioned one: how many seconds of what was bought a full bucket is.
    bucket_seconds: float = 60
    spillover_to: str | None = None
    reasoning_tokens: int = 0
    content_filter: Literal["default", "asynchronous"] = "default"
    # The filter holds text back for so many seconds and lets it out at once.
    burst: float = 0.0
    reductions: tuple[Reduction, ...] = ()


class Resource(_Table, frozen=True):
    region: str
    deployments: dict[str, Deployment]
    port: int = 0
    api_keys: bool = True
    entra: bool = True
    token_errors: Literal["statusCode", "error"] = "statusCode"
    public_access: bool = True
    latency: Latency = Latency()


class Backend(_Table, frozen=True):
    resource: str
    priority: int = 1
    weight: int = 1


class Breaker(_Table, frozen=True):
    failures: int = 1
    within: float = 60
    open_for: float = 60
    accept_retry_after: bool = True


class Retry(_Table, frozen=True):
    count: int = 2
    interval: float = 1


class TokenLimit(_Table, frozen=True):
    tokens_per_minute: float | None = None
    token_quota: int | None = None
    quota_period: float = 3600
    estimate_prompt_tokens: bool = True
    remaining_tokens_header: str | None = None
    remaining_quota_header: str | None = None
    consumed_tokens_header: str | None = None
    retry_after_header: str = "Retry-After"


class SemanticCache(_Table, frozen=True):
    seconds: float = 60


class Gateway(_Table, frozen=True):
    backends: tuple[Backend, ...]
    port: int = 0
    subscription_keys: bool = True
    entra: bool = False
    managed_identity: bool = False
    # What its policies take before a call goes on.
    latency: Spread = Spread(0.0, 0.0)
    buffer_response: bool = False
    # A stream goes out in pieces of so many bytes, or as often as this; 0: as it comes.
    buffer_bytes: int = 0
    buffer_seconds: float = 0.0
    block_streaming: bool = False
    log_bodies: bool = False
    error_headers: bool = False
    trace: bool = False
    strip_headers: tuple[str, ...] = ()
    log_headers: tuple[str, ...] = ()
    llm_log: bool = True
    llm_messages: bool = False
    breaker: Breaker | None = None
    retry: Retry | None = None
    token_limit: TokenLimit | None = None
    semantic_cache: SemanticCache | None = None


class Identity(_Table, frozen=True):
    token_lifetime: float = 3600
    principals: tuple[str, ...] = ()


class Logs(_Table, frozen=True):
    blobs: bool = True
    event_hub: bool = False
    log_analytics: bool = False
    workspace_role: Literal["reader", "none"] = "reader"
    delay: tuple[float, float] = (0.0, 0.0)
    duplicates: float = 0.0
    missing: float = 0.0
    properties: Literal["string", "object"] = "string"
    byte_order_mark: bool = False
    mask_addresses: bool = True


class Storage(_Table, frozen=True):
    account: str = ""
    container: str = "results"
    role: Role = "contributor"


class Fault(_Table, frozen=True):
    """`after` and `until` are seconds since the start."""

    name: str
    share: float = 1.0
    resource: str | None = None
    deployment: str | None = None
    after: float = 0.0
    until: float | None = None


class Config(_Table, frozen=True):
    resources: dict[str, Resource]
    gateways: dict[str, Gateway] = {}
    seed: int = 1
    tls: Literal["none", "good", "expired", "wrong_host"] = "none"
    identity: Identity = Identity()
    logs: Logs = Logs()
    storage: Storage = Storage()
    faults: tuple[Fault, ...] = ()


def default_text() -> str:
    return files("simulator").joinpath("default.toml").read_text(encoding="utf-8")


def load(path: Path | None) -> Config:
    """The default with what `path` says instead. Raises `ConfigError`."""
    tables = tomllib.loads(default_text())
    if path is not None:
        own = _read(path)
        if "resources" in own:
            # The default's gateways stand in front of the default's resources.
            del tables["gateways"]
        tables |= own
    return _converted(tables, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def _converted(tables: dict[str, Any], path: Path | None) -> Config:
    try:
        return msgspec.convert(tables, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_mended(str(error))}") from None


def check(config: Config) -> None:
    """Raises `ConfigError` for what is well-formed and cannot be."""
    for problem in _contradictions(config):
        raise ConfigError(problem)


def _mended(message: str) -> str:
    """msgspec's message, with the known key nearest to an unknown one."""
    unknown = re.search(r"unknown field `(.+?)`", message)
    near = difflib.get_close_matches(unknown[1], _known_keys(), n=1) if unknown else []
    hint = f"; did you mean `{near[0]}`?" if near else ""
    return message.replace("Object contains unknown field", "unknown key") + hint


def _known_keys() -> set[str]:
    known, open_types = set(), [Config]
    while open_types:
        for field in msgspec.structs.fields(open_types.pop()):
            known.add(field.name)
            open_types += _structs_in(field.type)
    return known


def _structs_in(kind: Any) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [struct for part in getattr(kind, "__args__", ()) for struct in _structs_in(part)]


def _misplaced(fault: Fault, config: Config) -> list[str]:
    """A place that a fault names and that there is not."""
    if fault.resource is not None and fault.resource not in {*config.resources, *config.gateways}:
        return [f"{fault.name}: there is no resource or gateway {fault.resource}"]
    resources = [config.resources[fault.resource]] if fault.resource in config.resources else config.resources.values()
    if fault.deployment is None or any(fault.deployment in one.deployments for one in resources):
        return []
    return [f"{fault.name}: {fault.resource or 'no resource'} has no deployment {fault.deployment}"]


def _not_provisioned(place: str, model: str) -> list[str]:
    try:
        provisioned_model(model)
    except LookupError as error:
        return [f"{place}: {error.args[0]}"]
    return []


def _contradictions(config: Config) -> list[str]:
    """What is well-formed and cannot be."""
    problems = [f"{name}: no deployments" for name, resource in config.resources.items() if not resource.deployments]
    for name, resource in config.resources.items():
        for deployment, one in resource.deployments.items():
            place = f"resources.{name}.deployments.{deployment}"
            if one.spillover_to is not None and one.spillover_to not in resource.deployments:
                problems.append(f"{place}: spillover_to names no deployment of {name}: {one.spillover_to}")
            if one.ptu is not None:
                problems += _not_provisioned(place, one.model)
            if one.bucket_seconds <= 0:
                problems.append(f"{place}.bucket_seconds: it must be above 0")
            if one.tokens_per_minute <= 0 or one.requests_per_minute <= 0:
                problems.append(f"{place}: limits must be above 0")
            if one.token_period <= 0 or one.request_period <= 0:
                problems.append(f"{place}: a limit is kept over more than 0 s")
        if len(resource.latency.by_hour) not in (0, 24):
            problems.append(f"resources.{name}.latency.by_hour: 24 factors or none")
    for name, gateway in config.gateways.items():
        problems += [
            f"gateways.{name}.backends: there is no resource {backend.resource}"
            for backend in gateway.backends
            if backend.resource not in config.resources
        ]
        if gateway.buffer_bytes < 0 or gateway.buffer_seconds < 0:
            problems.append(f"gateways.{name}: a buffer has no less than 0 bytes or seconds")
        if not gateway.backends:
            problems.append(f"gateways.{name}: no backends")
    problems += [problem for fault in config.faults for problem in _misplaced(fault, config)]
    both = config.resources.keys() & config.gateways.keys()
    return problems + [f"{name} is the name of a resource and of a gateway" for name in sorted(both)]
