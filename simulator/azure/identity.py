"""Microsoft Entra as far as a caller of Azure sees it: tokens, and the endpoints that give a machine its tokens.

Facts.   Documented: a managed identity's token is of version 1.0: `aud` is the resource as it was asked for, `iss` is
         https://sts.windows.net/<tenant>/, `oid` and `sub` are the identity's object, `appid` its client. A virtual
         machine asks /metadata/identity/oauth2/token with the header `Metadata: true`; App Service the address in
         IDENTITY_ENDPOINT with X-IDENTITY-HEADER. Numbers are strings in both replies. The SDK takes `expires_in` of
         the former and `expires_on` of the latter, which it compares with its own wall clock, and asks again once
         less than five minutes are left: with shorter-lived tokens, for every call.
         Observed: the bodies for a missing Metadata header and for an unknown identity, at both endpoints. In a
         chain of credentials the SDK first asks without the header, and takes any HTTP error for "it is there".
Decided. HS256 with a secret of this process, as nobody but the simulator checks the tokens. No leeway on expiry. A
         token is given for any resource: who receives it checks the audience. The first identity is the one of the
         machine itself. Inferred: the bodies of the other refusals. Nothing here writes a token to a log or an error.
"""

import secrets
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jwt
from aiohttp import web

TENANT = "00000000-0000-4000-8000-0000000000a1"
# Each is as good with a slash at its end.
AZURE_OPENAI = frozenset({"https://cognitiveservices.azure.com", "https://ai.azure.com"})

IMDS_PATH = "/metadata/identity/oauth2/token"
APP_SERVICE_PATH = "/msi/token"

_ALGORITHM = "HS256"
_CLAIMS = ("aud", "iss", "iat", "nbf", "exp", "oid", "appid", "tid")
# The simulator's clock decides about times, and several audiences may do: both are looked at here, not by PyJWT.
_OURS = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}


class TokenError(Exception):
    """Why a token is refused."""


class InvalidTokenError(TokenError):
    """Not a token, not one of ours, or not valid yet."""


class ExpiredTokenError(TokenError):
    """A good token, once."""


class WrongAudienceError(TokenError):
    """A good token, for somebody else."""


class Identity(NamedTuple):
    """A managed identity. `resource_id` is the path of a user-assigned one in Azure."""

    client_id: str
    object_id: str
    resource_id: str | None = None


# The name of the machine's own identity; a gateway's is the gateway's.
MANAGED_IDENTITY = "managed-identity"


def identity_of(name: str) -> Identity:
    """A made-up identity, the same at every start."""
    client, principal = (uuid.uuid5(uuid.NAMESPACE_DNS, f"{part}.{name}.example") for part in ("client", "object"))
    return Identity(str(client), str(principal))


class Principal(NamedTuple):
    """Who a token speaks for."""

    object_id: str
    client_id: str
    tenant_id: str
    audience: str
    expires_on: int


@dataclass(frozen=True)
class Token:
    text: str = field(repr=False)
    not_before: int
    expires_on: int


class Issuer:
    """`clock` returns Unix seconds; `lifetime` is in seconds."""

    def __init__(self, clock: Callable[[], float], *, tenant_id: str = TENANT, lifetime: float = 86400) -> None:
        self._clock = clock
        self._tenant_id = tenant_id
        self._lifetime = lifetime
        self._issuer = f"https://sts.windows.net/{tenant_id}/"
        self._secret = secrets.token_bytes(32)

    def issue(self, audience: str, identity: Identity) -> Token:
        now = int(self._clock())
        expires_on = now + int(self._lifetime)
        claims = {
            "aud": audience,
            "iss": self._issuer,
            "iat": now,
            "nbf": now,
            "exp": expires_on,
            "appid": identity.client_id,
            "appidacr": "2",
            "idp": self._issuer,
            "idtyp": "app",
            "oid": identity.object_id,
            "sub": identity.object_id,
            "tid": self._tenant_id,
            "uti": secrets.token_urlsafe(16),
            "ver": "1.0",
        }
        return Token(jwt.encode(claims, self._secret, _ALGORITHM), now, expires_on)

    def check(self, token: str, now: float, audiences: Collection[str] = AZURE_OPENAI) -> Principal:
        """Raises one of the `TokenError`s. `audiences` are without a slash at their ends."""
        claims = self._claims(token)
        if now < claims["nbf"]:
            raise InvalidTokenError("not valid yet")
        if now >= claims["exp"]:
            raise ExpiredTokenError(f"expired at {claims['exp']}, now {now:.0f}")
        if claims["aud"].removesuffix("/") not in audiences:
            raise WrongAudienceError(f"meant for {claims['aud']}")
        return Principal(claims["oid"], claims["appid"], claims["tid"], claims["aud"], claims["exp"])

    def _claims(self, token: str) -> dict[str, Any]:
        options: Any = {"require": list(_CLAIMS), **_OURS}
        try:
            return jwt.decode(token, self._secret, [_ALGORITHM], options, issuer=self._issuer)
        except jwt.PyJWTError as error:
            raise InvalidTokenError(type(error).__name__) from None


def bearer(request: web.BaseRequest) -> str | None:
    """The token a request carries."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


class ManagedIdentities:
    """Both endpoints; `header` is what App Service puts into IDENTITY_HEADER."""

    def __init__(self, issuer: Issuer, identities: Sequence[Identity], header: str) -> None:
        self._issuer = issuer
        self._identities = identities
        self._header = header

    def routes(self) -> Iterable[web.RouteDef]:
        return [web.get(IMDS_PATH, self.imds), web.get(APP_SERVICE_PATH, self.app_service)]

    async def imds(self, request: web.Request) -> web.Response:
        if request.headers.get("Metadata", "").lower() != "true":
            return _imds_refusal("Required metadata header not specified")
        missing = next((name for name in ("api-version", "resource") if not request.query.get(name)), None)
        if missing is not None:
            return _imds_refusal(f"Required query variable '{missing}' is missing")
        identity = self._asked_for(request)
        if identity is None:
            return _imds_refusal("Identity not found")
        token, given = self._given(request, identity)
        lasts = str(token.expires_on - token.not_before)
        return _uncached({**given, "expires_in": lasts, "ext_expires_in": lasts, "not_before": str(token.not_before)})

    async def app_service(self, request: web.Request) -> web.Response:
        if not secrets.compare_digest(request.headers.get("X-IDENTITY-HEADER", "").encode(), self._header.encode()):
            return _app_service_refusal(401, "Invalid or missing X-IDENTITY-HEADER.")
        if not (request.query.get("resource") and request.query.get("api-version")):
            return _app_service_refusal(400, "The parameters api-version and resource are required.")
        identity = self._asked_for(request)
        if identity is None:
            wanted = "for specified ClientId/ResourceId/PrincipalId."
            return _app_service_refusal(400, f"No User Assigned or Delegated Managed Identity found {wanted}")
        return _uncached(self._given(request, identity)[1])

    def _asked_for(self, request: web.Request) -> Identity | None:
        asked = {
            "client_id": request.query.get("client_id"),
            "object_id": request.query.get("object_id") or request.query.get("principal_id"),
            "resource_id": request.query.get("msi_res_id") or request.query.get("mi_res_id"),
        }
        named = {name: value.lower() for name, value in asked.items() if value}
        return next((identity for identity in self._identities if _answers_to(identity, named)), None)

    def _given(self, request: web.Request, identity: Identity) -> tuple[Token, dict[str, str]]:
        resource = request.query["resource"]
        token = self._issuer.issue(resource, identity)
        return token, {
            "access_token": token.text,
            "client_id": identity.client_id,
            "expires_on": str(token.expires_on),
            "resource": resource,
            "token_type": "Bearer",
        }


def _answers_to(identity: Identity, named: dict[str, str]) -> bool:
    return all((getattr(identity, name) or "").lower() == value for name, value in named.items())


def _uncached(body: dict[str, str]) -> web.Response:
    return web.json_response(body, headers={"Cache-Control": "no-store"})


def _imds_refusal(description: str) -> web.Response:
    return web.json_response({"error": "invalid_request", "error_description": description}, status=400)


def _app_service_refusal(status: int, message: str) -> web.Response:
    return web.json_response(
        {"statusCode": status, "message": message, "correlationId": str(uuid.uuid4())}, status=status
    )
