"""Where calls go: an Azure OpenAI resource, or a gateway in front of one, and the deployment behind it.

Two paths lead to chat completions. The dated one names the deployment in the path and the version in the query; the v1
one has neither, and the deployment's name goes into the body as `model`:

    /openai/deployments/D/chat/completions?api-version=2024-10-21
    /openai/v1/chat/completions

Settings come from the environment under the names the official SDK reads, or from a `targets.toml`. A key is never
written anywhere: not into a run's folder, a message or a `repr`.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import field

from probe.secrecy import lets_act, remember

Surface = Literal["chat", "responses", "embeddings"]

DEFAULT_FILE = "targets.toml"
V1 = "v1"
_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+")


class SettingsError(ValueError):
    """A setting that the user has to mend; the message is one line and says how."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """`api_version` is a dated version, or "v1". Without `api_key` the calls carry a Microsoft Entra token."""

    name: str
    endpoint: str
    deployment: str
    api_version: str
    gateway: Literal["direct", "apim"] = "direct"
    api_key: str | None = None
    key_header: str = "api-key"
    # Reasoning models refuse `max_tokens`; servers and API versions before September 2024 know nothing else.
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    surface: Surface = "chat"
    # Sent as given, over what we would send.
    extra_body: dict[str, Any] = field(default_factory=dict)
    extra_headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_endpoint(f"target {self.name}", self.endpoint)
        if not (self.deployment and self.deployment.isprintable()):
            raise SettingsError(f"target {self.name}: deployment {self.deployment!r} is no name")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise SettingsError(f"target {self.name}: the API key is empty or has characters no key has")
        for secret in self._secrets():
            remember(secret)
        if not _HEADER_NAME.fullmatch(self.key_header):
            raise SettingsError(f"target {self.name}: {self.key_header!r} is no header's name")
        _check_headers(f"target {self.name}", self.extra_headers, self.key_header)

    def _secrets(self) -> Iterator[str]:
        if self.api_key is not None:
            yield self.api_key
        given = {**self.extra_headers, **self.extra_body}
        yield from (value for name, value in given.items() if isinstance(value, str) and lets_act(name))

    def __repr__(self) -> str:
        return f"Target({self.name!r}, {self.endpoint!r}, {self.deployment!r}, {self.api_version!r}, {self.gateway!r})"

    @property
    def tls(self) -> bool:
        return urlsplit(self.endpoint).scheme == "https"

    @property
    def host(self) -> str:
        return urlsplit(self.endpoint).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.endpoint).port or (443 if self.tls else 80)

    @property
    def path(self) -> str:
        """The request target of a call, query included."""
        base = urlsplit(self.endpoint).path.rstrip("/")
        surface = _PATHS[self.surface]
        if self.api_version == V1:
            return f"{base}/{surface}" if base.endswith("/v1") else f"{base}/openai/v1/{surface}"
        if self.names_model:
            return f"{base}/openai/{surface}?api-version={self.api_version}"
        deployment = quote(self.deployment, safe="")
        return f"{base}/openai/deployments/{deployment}/{surface}?api-version={self.api_version}"

    @property
    def names_model(self) -> bool:
        """Whether the body, not the path, says which deployment is meant."""
        return self.api_version == V1 or self.surface == "responses"

    def public(self) -> dict[str, str]:
        """What may be written down of it."""
        fields = ("name", "endpoint", "deployment", "api_version", "gateway")
        return {name: getattr(self, name) for name in fields}


_PATHS: Mapping[Surface, str] = {
    "chat": "chat/completions",
    "responses": "responses",
    "embeddings": "embeddings",
}
# They say who calls, where a request ends, or whom it is for.
_NOT_TO_BE_GIVEN = {"authorization", "host", "content-length", "transfer-encoding", "api-key", "connection"}


def _check_headers(where: str, headers: Mapping[str, str], key_header: str) -> None:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise SettingsError(f"{where}: {name!r}: {value!r} is no header; use a name, and one line of ASCII")
        if name.lower() in _NOT_TO_BE_GIVEN | {key_header.lower()}:
            raise SettingsError(f"{where}: the header {name!r} is Headroom's own to send; leave it out")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_endpoint(where: str, endpoint: str) -> None:
    hint = "give it as https://NAME.openai.azure.com or, for a gateway, https://NAME.azure-api.net/PATH"
    try:
        parts = urlsplit(endpoint)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        raise SettingsError(f"{where}: {endpoint!r} is no URL; {hint}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
        raise SettingsError(f"{where}: {endpoint!r} is no http(s) URL; {hint}")
    if parts.username is not None or parts.query or parts.fragment or not _printable(endpoint):
        raise SettingsError(f"{where}: the endpoint must be scheme, host, port and path alone; {hint}")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise SettingsError(f"{where}: a key is only sent over https; use https://{parts.netloc}{parts.path}")


def _printable(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def configured(environ: Mapping[str, str] = os.environ, folder: Path | None = None) -> dict[str, Target]:
    """The configured targets by name; none where nothing is configured, which means the simulator.

    `AZURE_OPENAI_ENDPOINT` wins over `targets.toml` (in `folder`, the current one by default); `HEADROOM_TARGETS_FILE`
    names another file and wins over both. `HEADROOM_SIMULATE=1` asks for the simulator whatever is configured. Raises
    `SettingsError`.
    """
    if environ.get("HEADROOM_SIMULATE", "0") not in ("", "0"):
        return {}
    named_file = environ.get("HEADROOM_TARGETS_FILE")
    if named_file:
        return read_targets(Path(named_file), environ)
    if environ.get("AZURE_OPENAI_ENDPOINT"):
        target = from_environment(environ)
        return {target.name: target}
    orphan = next((name for name in ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_DEPLOYMENT") if environ.get(name)), None)
    default_file = (folder or Path()) / DEFAULT_FILE
    if default_file.exists():
        return read_targets(default_file, environ)
    if orphan:
        raise SettingsError(
            f"{orphan} is set but AZURE_OPENAI_ENDPOINT is not; set it too, or unset {orphan} to use the simulator"
        )
    return {}


def _json_setting(environ: Mapping[str, str], name: str) -> dict[str, Any]:
    text = environ.get(name, "").strip()
    try:
        value = msgspec.json.decode(text) if text else {}
    except msgspec.DecodeError as error:
        raise SettingsError(f"{name} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise SettingsError(f'{name} must be a JSON object, such as {{"temperature": 0}}')
    return value


def from_environment(environ: Mapping[str, str]) -> Target:
    """The target that `AZURE_OPENAI_*` and `OPENAI_API_VERSION` describe. Raises `SettingsError`."""
    endpoint = environ["AZURE_OPENAI_ENDPOINT"].strip()
    _check_endpoint("AZURE_OPENAI_ENDPOINT", endpoint)
    deployment = environ.get("AZURE_OPENAI_DEPLOYMENT", "").strip()
    if not deployment:
        raise SettingsError("AZURE_OPENAI_DEPLOYMENT is not set; set it to the name of the deployment to call")
    entra = environ.get("HEADROOM_AUTH", "key")
    if entra not in ("key", "entra"):
        raise SettingsError(f"HEADROOM_AUTH is {entra!r}; it can be 'key' (the default) or 'entra'")
    api_key = environ.get("AZURE_OPENAI_API_KEY", "").strip() if entra == "key" else None
    if api_key == "":
        raise SettingsError(
            "AZURE_OPENAI_API_KEY is not set; set it, or set HEADROOM_AUTH=entra to sign in with Microsoft Entra"
        )
    settings = {
        "name": _name_of(endpoint),
        "endpoint": endpoint,
        "deployment": deployment,
        "api_key": api_key,
        "api_version": _api_version(environ.get("OPENAI_API_VERSION", "").strip(), endpoint),
        "gateway": environ.get("HEADROOM_GATEWAY") or _gateway_of(endpoint),
        "key_header": environ.get("HEADROOM_KEY_HEADER", "api-key"),
        "max_tokens_field": environ.get("HEADROOM_MAX_TOKENS_FIELD", "max_tokens"),
        "surface": environ.get("HEADROOM_SURFACE") or "chat",
        "extra_body": _json_setting(environ, "HEADROOM_EXTRA_BODY"),
        "extra_headers": _json_setting(environ, "HEADROOM_EXTRA_HEADERS"),
    }
    return _convert(settings, "environment")


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One `[NAME]` table of a targets file."""

    endpoint: str
    deployment: str
    api_version: str = ""
    gateway: Literal["direct", "apim"] | None = None
    api_key_env: str | None = None
    key_header: str = "api-key"
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    surface: Surface = "chat"
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def read_targets(path: Path, environ: Mapping[str, str]) -> dict[str, Target]:
    """A table a target; the key itself stays in the variable that `api_key_env` names. Raises `SettingsError`."""
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None
    if not tables:
        raise SettingsError(f"{path}: no targets in it; add a table such as [eastus] with endpoint and deployment")
    return {name: _from_entry(path, name, table, environ) for name, table in tables.items()}


def _from_entry(path: Path, name: str, table: object, environ: Mapping[str, str]) -> Target:
    try:
        entry = msgspec.convert(table, _Entry)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: [{name}]: {error}") from None
    api_key = None
    if entry.api_key_env is not None:
        api_key = environ.get(entry.api_key_env, "").strip()
        if not api_key:
            raise SettingsError(f"{path}: [{name}]: the variable {entry.api_key_env} (api_key_env) is not set")
    settings = {
        "name": name,
        "endpoint": entry.endpoint,
        "deployment": entry.deployment,
        "api_key": api_key,
        "api_version": _api_version(entry.api_version, entry.endpoint),
        "gateway": entry.gateway or _gateway_of(entry.endpoint),
        "key_header": entry.key_header,
        "max_tokens_field": entry.max_tokens_field,
        "surface": entry.surface,
        "extra_body": entry.body,
        "extra_headers": entry.headers,
    }
    return _convert(settings, str(path))


def _convert(settings: dict[str, Any], where: str) -> Target:
    try:
        return msgspec.convert(settings, Target)
    except SettingsError:
        raise
    except msgspec.ValidationError as error:
        cause = error.__cause__
        raise (cause if isinstance(cause, SettingsError) else SettingsError(f"{where}: {error}")) from None


def _api_version(given: str, endpoint: str) -> str:
    if given:
        if not _printable(given) or set("/?#&") & set(given):
            raise SettingsError(f"OPENAI_API_VERSION {given!r} is no version; use one such as 2024-10-21, or v1")
        return given
    return V1


def _name_of(endpoint: str) -> str:
    host = urlsplit(endpoint).netloc.rpartition("@")[2] or "target"
    return host.split(".")[0] if host.endswith((".azure.com", ".azure-api.net")) else host


def _gateway_of(endpoint: str) -> str:
    return "apim" if (urlsplit(endpoint).hostname or "").endswith(".azure-api.net") else "direct"
