"""Where calls go: an Azure OpenAI resource, or a gateway in front of one, and the deployment behind it.

Two paths lead to chat completions. The dated one names the deployment in the path and the version in the query; the v1
one has neither, and the deployment's name goes into the body as `model`:

    /openai/deployments/D/chat/completions?api-version=2024-10-21
    /openai/v1/chat/completions

Settings come from the environment under the names the official SDK reads, or from a `targets.toml`. A key comes from a
variable, a file or the system's keyring, never from an argument, which every process on the machine could read; and it
is never written anywhere: not into a run's folder, a message or a `repr`.

Where it may go is decided here, before there is a socket: over TLS or to loopback, and to a host that is known to be
Azure's unless the user names another. A name that resolves to what no service has is refused in `dialing`.
"""

import difflib
import os
import re
import ssl
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import field

from probe.errors import SettingsError as SettingsError
from probe.hosts import check_endpoint, check_host, is_plain
from probe.keys import key_of_file, key_of_keyring
from probe.secrecy import lets_act, masked, remember

Surface = Literal["chat", "responses", "embeddings"]

DEFAULT_FILE = "targets.toml"
V1 = "v1"
_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]+")

# The scope of Azure OpenAI's data plane, on the dated paths and on v1 alike.
SCOPE = "https://cognitiveservices.azure.com/.default"
CredentialName = Literal["default", "managed", "workload", "environment", "cli"]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs in with Microsoft Entra: which of azure-identity's credentials, and for what."""

    credential: CredentialName = "default"
    # Of a user-assigned identity.
    client_id: str | None = None
    scope: str = SCOPE


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """Whose certificates are good: those of the system's authorities and, in the file `ca_bundle` (PEM), of others."""

    ca_bundle: str | None = None
    verified: bool = True


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
    identity: Identity = Identity()
    trust: Trust = Trust()
    # Sent as given, over what we would send.
    extra_body: dict[str, Any] = field(default_factory=dict)
    extra_headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_endpoint(f"target {self.name}", self.endpoint)
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

    def public(self) -> dict[str, Any]:
        """What may be written down of it."""
        fields = ("name", "endpoint", "deployment", "api_version", "gateway")
        shown = {name: getattr(self, name) for name in fields}
        given = {"body": self.extra_body, "headers": self.extra_headers}
        shown |= {name: masked(value) for name, value in given.items() if value}
        return shown | ({"tls_verified": self.trust.verified} if self.tls else {})


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
            raise SettingsError(f"{where}: {name!r} is no header; use a name, and one line of ASCII for its value")
        if name.lower() in _NOT_TO_BE_GIVEN | {key_header.lower()}:
            raise SettingsError(f"{where}: the header {name!r} is Headroom's own to send; leave it out")


def configured(
    environ: Mapping[str, str] = os.environ, folder: Path | None = None, *, verified: bool = True
) -> dict[str, Target]:
    """The configured targets by name; none where nothing is configured, which means the simulator.

    `AZURE_OPENAI_ENDPOINT` wins over `targets.toml` (in `folder`, the current one by default); `HEADROOM_TARGETS_FILE`
    names another file and wins over both. `HEADROOM_SIMULATE=1` asks for the simulator whatever is configured. Each
    target is one that credentials may go to. That certificates are not `verified` is said by the caller alone, never by
    the environment. Raises `SettingsError`.
    """
    found = _found(environ, folder)
    allowed = [name for name in environ.get("HEADROOM_ALLOW_HOST", "").split(",") if name.strip()]
    for target in found.values():
        check_host(f"target {target.name}", target.host, allowed)
    if found and verified:
        check_authorities(environ)
    if not verified:
        unsafe = {name: msgspec.structs.replace(one.trust, verified=False) for name, one in found.items()}
        return {name: msgspec.structs.replace(one, trust=unsafe[name]) for name, one in found.items()}
    return found


def _found(environ: Mapping[str, str], folder: Path | None) -> dict[str, Target]:
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
    check_endpoint("AZURE_OPENAI_ENDPOINT", endpoint)
    deployment = environ.get("AZURE_OPENAI_DEPLOYMENT", "").strip()
    if not deployment:
        raise SettingsError("AZURE_OPENAI_DEPLOYMENT is not set; set it to the name of the deployment to call")
    entra = environ.get("HEADROOM_AUTH", "key")
    if entra not in ("key", "entra"):
        raise SettingsError(f"HEADROOM_AUTH is {entra!r}; it can be 'key' (the default) or 'entra'")
    api_key = _key_of_environment(environ) if entra == "key" else None
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
        "identity": _identity(None, None, None, environ),
        "trust": _trust(None, environ),
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
    api_key_file: str | None = None
    api_key_keyring: str | None = None
    credential: CredentialName | None = None
    client_id: str | None = None
    scope: str | None = None
    ca_bundle: str | None = None
    key_header: str = "api-key"
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    surface: Surface = "chat"
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def read_targets(path: Path, environ: Mapping[str, str]) -> dict[str, Target]:
    """A table a target; the key itself stays in a variable, a file or the keyring. Raises `SettingsError`."""
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
        raise SettingsError(f"{path}: [{name}]: {error}{_did_you_mean(str(error))}") from None
    where = f"{path}: [{name}]"
    settings = {
        "name": name,
        "endpoint": entry.endpoint,
        "deployment": entry.deployment,
        "api_key": _key_of_entry(where, path.parent, entry, environ),
        "api_version": _api_version(entry.api_version, entry.endpoint),
        "gateway": entry.gateway or _gateway_of(entry.endpoint),
        "key_header": entry.key_header,
        "max_tokens_field": entry.max_tokens_field,
        "surface": entry.surface,
        "identity": _identity(entry.credential, entry.client_id, entry.scope, environ),
        "trust": _trust(None if entry.ca_bundle is None else str(path.parent / entry.ca_bundle), environ),
        "extra_body": entry.body,
        "extra_headers": entry.headers,
    }
    return _convert(settings, str(path))


def _did_you_mean(message: str) -> str:
    unknown = re.search(r"unknown field `(\w+)`", message)
    if unknown is None:
        return ""
    if unknown[1] in ("api_key", "key"):
        return "; a key is not written here: name its variable (api_key_env), file (api_key_file) or api_key_keyring"
    near = difflib.get_close_matches(unknown[1], _Entry.__struct_fields__, 1)
    return f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(_Entry.__struct_fields__)}"


def _key_of_environment(environ: Mapping[str, str]) -> str:
    given = [name for name in _KEY_SETTINGS if environ.get(name, "").strip()]
    if len(given) > 1:
        raise SettingsError(f"{given[0]} and {given[1]} are both set; a key comes from one of them")
    if not given:
        raise SettingsError(
            "AZURE_OPENAI_API_KEY is not set; set it, or AZURE_OPENAI_API_KEY_FILE to a file with the key, "
            "HEADROOM_API_KEY_KEYRING to SERVICE/USER, or HEADROOM_AUTH=entra to sign in with Microsoft Entra"
        )
    value = environ[given[0]].strip()
    if given[0] == "AZURE_OPENAI_API_KEY_FILE":
        return key_of_file(given[0], Path(value))
    return value if given[0] == "AZURE_OPENAI_API_KEY" else key_of_keyring(given[0], value)


_KEY_SETTINGS = ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_API_KEY_FILE", "HEADROOM_API_KEY_KEYRING")


def _key_of_entry(where: str, folder: Path, entry: _Entry, environ: Mapping[str, str]) -> str | None:
    """None where the target is called with Microsoft Entra."""
    given = [name for name in ("api_key_env", "api_key_file", "api_key_keyring", "credential") if getattr(entry, name)]
    if len(given) > 1:
        raise SettingsError(f"{where}: {given[0]} and {given[1]} exclude each other")
    if entry.api_key_file:
        return key_of_file(f"{where}: api_key_file", folder / entry.api_key_file)
    if entry.api_key_keyring:
        return key_of_keyring(f"{where}: api_key_keyring", entry.api_key_keyring)
    if entry.api_key_env is None:
        return None
    api_key = environ.get(entry.api_key_env, "").strip()
    if not api_key:
        raise SettingsError(f"{where}: the variable {entry.api_key_env} (api_key_env) is not set")
    return api_key


def _identity(credential: str | None, client_id: str | None, scope: str | None, environ: Mapping[str, str]) -> Any:
    """As settings of an `Identity`, for `_convert`. What a target does not say itself the environment says for all."""
    return {
        "credential": credential or environ.get("HEADROOM_CREDENTIAL") or "default",
        "client_id": client_id or environ.get("AZURE_CLIENT_ID") or None,
        "scope": scope or environ.get("HEADROOM_SCOPE") or SCOPE,
    }


def _trust(ca_bundle: str | None, environ: Mapping[str, str]) -> dict[str, str | None]:
    given = ca_bundle or environ.get("HEADROOM_CA_BUNDLE") or environ.get("REQUESTS_CA_BUNDLE") or None
    if given is not None:
        _check_bundle("the CA bundle", given)
    return {"ca_bundle": given}


def signing_in(environ: Mapping[str, str]) -> tuple[Identity, str | None]:
    """As whom, and with which authorities, where no target says it. Raises `SettingsError`."""
    try:
        identity = msgspec.convert(_identity(None, None, None, environ), Identity)
    except msgspec.ValidationError as error:
        raise SettingsError(f"HEADROOM_CREDENTIAL: {error}") from None
    return identity, _trust(None, environ)["ca_bundle"]


def check_authorities(environ: Mapping[str, str]) -> None:
    """OpenSSL says nothing of a file that is not there, and then trusts nobody. Raises `SettingsError`."""
    if given := environ.get("SSL_CERT_FILE"):
        _check_bundle("SSL_CERT_FILE", given)


def _check_bundle(what: str, path: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if Path(path).is_dir():
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(path)
    except ssl.SSLError:
        raise SettingsError(f"{what}: {path}: no certificates in it; it takes a file of them in PEM") from None
    except OSError as error:
        raise SettingsError(f"{what}: {path}: {error.strerror}") from None


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
        if not is_plain(given) or set("/?#&") & set(given):
            raise SettingsError(f"OPENAI_API_VERSION {given!r} is no version; use one such as 2024-10-21, or v1")
        return given
    return V1


def _name_of(endpoint: str) -> str:
    host = urlsplit(endpoint).netloc.rpartition("@")[2] or "target"
    return host.split(".")[0] if host.endswith((".azure.com", ".azure-api.net")) else host


def _gateway_of(endpoint: str) -> str:
    return "apim" if (urlsplit(endpoint).hostname or "").endswith(".azure-api.net") else "direct"
