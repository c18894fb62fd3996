"""A question that costs nothing: a request without a prompt, with a credential of the asker's choice, and its refusal.

Decided.  The body has no messages (or no input). A service that lets the caller in finds that out last and answers 400:
          nothing is generated and nothing is billed, but the request counts against the limit of requests.
Inferred. That the service looks at network, credential, path and deployment in this order, and at the body after them.
Secrets.  A credential is whatever headers the asker gives: with none given, none of the target's own is sent, and
          neither are its extra headers, which may carry one.
"""

import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

import msgspec

from probe.client import text_headers
from probe.errors import ErrorKind
from probe.record import Headers
from probe.request import framed
from probe.secrecy import scrubbed_bytes
from probe.target import Target
from probe.transport import BodyReader, Connection, Exchange, Timeouts

# As much of a refusal as is looked at.
_KEPT_BYTES = 64 * 1024

Credential = Mapping[str, str]
NOTHING: Credential = {}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`error` is set where there was no reply; `body` is its JSON object, empty where it is none. `wall` is the wall
    clock (Unix seconds) in the middle of the exchange."""

    status: int | None
    headers: Headers = ()
    body: dict[str, Any] = {}
    error: ErrorKind | None = None
    error_message: str = ""
    peer: str | None = None
    wall: float = 0.0

    def header(self, name: str) -> str | None:
        return next((value for sent, value in reversed(self.headers) if sent.lower() == name), None)

    @property
    def code(self) -> str:
        error = self.body.get("error")
        code = error.get("code") if isinstance(error, dict) else self.body.get("statusCode")
        return "" if code is None else str(code)

    @property
    def message(self) -> str:
        error = self.body.get("error", self.body)
        return str(error.get("message") or "") if isinstance(error, dict) else str(error)


def ask(target: Target, credential: Credential, timeout: float, *, api_version: str | None = None) -> Answer:
    """Never raises for what the network or the server does."""
    asked = target if api_version is None else msgspec.structs.replace(target, api_version=api_version)
    limits = Timeouts(connect=min(10.0, timeout), first_byte=timeout, idle=timeout, total=timeout)
    connection = Connection(target.host, target.port, tls=target.tls, trust=target.trust, timeouts=limits)
    body = bytearray()

    def read_headers(_: Exchange) -> BodyReader:
        def read(piece: bytes, __: int) -> bool:
            body.extend(piece[: _KEPT_BYTES - len(body)])
            return len(body) >= _KEPT_BYTES

        return read

    exchange = connection.exchange(_request(asked, credential), read_headers)
    connection.close()
    if exchange.interrupt is not None:
        raise exchange.interrupt
    error = exchange.error if exchange.headers_at is None else None
    return Answer(
        status=exchange.status,
        headers=text_headers(exchange.headers),
        body=_object(scrubbed_bytes(bytes(body))),
        error=None if error is None else error.kind,
        error_message="" if error is None else str(error),
        peer=exchange.dialed.peer,
        wall=(exchange.wall_ns + (exchange.ended - exchange.issued) / 2) / 1e9,
    )


def configured(target: Target, token: str | None) -> Credential:
    """What the target's own calls carry: its key or `token`, and its extra headers."""
    own = {target.key_header: target.api_key} if target.api_key is not None else {"Authorization": f"Bearer {token}"}
    return {**own, **target.extra_headers}


def made_up_key() -> str:
    """A key of the length that keys have."""
    return secrets.token_hex(16)


def made_up_token(audience: str, expires_in: float) -> str:
    """A token that looks like Microsoft Entra's, and that nobody has signed."""
    now = int(time.time())
    head = {"typ": "JWT", "alg": "RS256", "kid": secrets.token_urlsafe(20)}
    claims = {
        "aud": audience,
        "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000000/",
        "iat": now - 7200,
        "nbf": now - 7200,
        "exp": now + int(expires_in),
        "oid": "00000000-0000-0000-0000-000000000000",
    }
    parts = (msgspec.json.encode(head), msgspec.json.encode(claims), secrets.token_bytes(256))
    return ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def _request(target: Target, credential: Credential) -> bytes:
    without_prompt: dict[str, Any] = {"messages": []} if target.surface == "chat" else {"input": []}
    named = {"model": target.deployment} if target.names_model else {}
    content = msgspec.json.encode(named | without_prompt)
    return framed(target, {"Accept": "application/json"}, content, credential)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
