"""Microsoft Entra tokens for targets without an API key, through azure-identity.

Facts.   azure-identity keeps the token it has until five minutes before its end, whoever asks, and then has everyone
         who asks wait, and ask again themselves. Making a credential costs a millisecond, its first token 25 to 100.
Promise. One provider an identity and process. The first token is fetched once, however many ask for it at the same
         time; from then on a call takes the token that is there and never waits. The next one is fetched in the
         background, by one, when half to four fifths of the life of this one have passed; where that fails, the old one
         stays and it is tried again soon. A token that a service refuses (401) is replaced at once, and once.
Decided. Each fetch is a new credential's, because an old one would give back what it keeps. Signing in is always over
         verified TLS, also where calls are not. A thread fetches, which under gevent is a greenlet.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from probe.request import TokenProvider
from probe.secrecy import remember
from probe.target import Identity, SettingsError, Target, Trust

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

_RETRY_SECONDS = 30.0
# A clock that is put right, or a machine that slept, is noticed so soon.
_LONGEST_WAIT_SECONDS = 60.0


class Token(NamedTuple):
    """`expires_on` is in Unix seconds."""

    text: str
    expires_on: float


class Provider:
    """Gives the token there is. `fetch` may raise `SettingsError`; `clock` is Unix seconds; `draw` from 0 to 1."""

    def __init__(
        self,
        fetch: Callable[[], Token],
        clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._draw = draw
        self._first = threading.Lock()
        self._token: Token | None = None
        self._due = 0.0
        self._wake = threading.Event()
        # Whether the service has refused the token there is, and whether that one replaced a refused one.
        self._refused = False
        self._replaced = False
        self._failure = ""

    def __call__(self) -> str:
        """Raises `SettingsError`, where there is no first token."""
        token = self._token
        if token is None:
            with self._first:
                token = self._token or self._take(self._fetch())
        return token.text

    def seconds_left(self) -> float:
        """Until the next token is due to be fetched."""
        return 0.0 if self._refused else max(0.0, self._due - self._clock())

    def refresh(self) -> None:
        """Fetches the next token, in whichever thread calls it; only one may."""
        refused, now = self._refused, self._clock()
        try:
            self._take(self._fetch())
            self._replaced = refused
        except SettingsError as error:
            self._failure = str(error) if refused else ""
            self._due = now + _RETRY_SECONDS * (0.5 + self._draw() / 2)
        self._refused = False

    def refuse(self, bearer: str | None) -> str | None:
        """The service has refused `bearer`. Says why there is no other to try, and None where there is, or may be."""
        token = self._token
        if token is None or bearer != token.text:
            return None
        if self._replaced:
            return "a token fetched after the first refusal was refused as well"
        if self._failure:
            return self._failure
        self._refused = True
        self._wake.set()
        return None

    def keep_fresh(self) -> None:
        """From now on, in the background, for as long as the process lives."""
        threading.Thread(target=self._keep_fresh, daemon=True).start()

    def _keep_fresh(self) -> None:
        while True:
            self._wake.wait(min(self.seconds_left(), _LONGEST_WAIT_SECONDS))
            self._wake.clear()
            if not self.seconds_left():
                self.refresh()

    def _take(self, token: Token) -> Token:
        remember(token.text, passing=True)
        now = self._clock()
        life = max(0.0, token.expires_on - now)
        self._due = now + max(1.0, life * (0.5 + 0.3 * self._draw()))
        self._failure = ""
        self._token = token
        return token


def sign_in(targets: Iterable[Target]) -> TokenProvider | None:
    """A function that gives each target's token, with the first ones fetched; None where all have keys.

    Raises `SettingsError`.
    """
    keyless = [target for target in targets if target.api_key is None]
    for target in keyless:
        token_provider(target.identity, target.trust)()
    return (lambda target: token_provider(target.identity, target.trust)()) if keyless else None


@cache
def token_provider(identity: Identity = Identity(), trust: Trust = Trust()) -> Provider:  # noqa: B008 - both frozen
    """The process's one provider of an identity's tokens. Raises `SettingsError`."""
    provider = Provider(lambda: _fetched(identity, trust.ca_bundle))
    provider()
    provider.keep_fresh()
    return provider


def _fetched(identity: Identity, ca_bundle: str | None) -> Token:
    # Imported here: it takes 0.6 s, and most users come with a key.
    from azure.core.exceptions import AzureError

    # What it would log on several lines is in the one line below.
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    try:
        credential = credential_of(identity, ca_bundle)
        try:
            given = credential.get_token(identity.scope)
        finally:
            credential.close()  # type: ignore[attr-defined]
    except (AzureError, OSError, ValueError) as error:
        reason = str(getattr(error, "message", None) or error).strip().partition("\n")[0]
        raise SettingsError(f"no Microsoft Entra token: {reason}; {_mend(identity)}") from None
    return Token(given.token, given.expires_on)


def _mend(identity: Identity) -> str:
    return {
        "default": "run `az login`, or set an API key",
        "cli": "run `az login`",
        "managed": "does this machine have the identity? AZURE_CLIENT_ID names a user-assigned one",
        "workload": "is the pod labelled azure.workload.identity/use, with AZURE_FEDERATED_TOKEN_FILE set?",
        "environment": "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
    }[identity.credential]


def credential_of(identity: Identity, ca_bundle: str | None) -> "TokenCredential":
    from azure import identity as azure

    named: dict[str, Any] = {} if identity.client_id is None else {"client_id": identity.client_id}
    options: dict[str, Any] = {"transport": transport(ca_bundle)}
    if identity.credential == "cli":
        return azure.AzureCliCredential()
    if identity.credential == "managed":
        return azure.ManagedIdentityCredential(**named, **options)
    if identity.credential == "workload":
        return azure.WorkloadIdentityCredential(**named, **options)
    if identity.credential == "environment":
        return azure.EnvironmentCredential(**options)
    return azure.DefaultAzureCredential(managed_identity_client_id=identity.client_id, **options)


def transport(ca_bundle: str | None) -> Any:
    """azure-core's own, but with the trust that calls have: it would know certifi's authorities only."""
    from azure.core.pipeline.transport import RequestsTransport
    from requests.adapters import HTTPAdapter

    from probe.dialing import new_context

    context = new_context(Trust(ca_bundle=ca_bundle))

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, ssl_context=context, **options)

        def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
            return super().proxy_manager_for(proxy, ssl_context=context, **options)

        def cert_verify(self, *_: Any) -> None:
            """The context verifies."""

    class Transport(RequestsTransport):  # type: ignore[misc]
        def _init_session(self, session: Any) -> None:
            super()._init_session(session)
            session.mount("https://", Adapter())

    return Transport()
