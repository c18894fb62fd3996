"""Managed identities of the simulator, asked by azure-identity as it is, and the tokens they give."""

import asyncio
import json
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

import jwt
import pytest
from aiohttp import web
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

from simulator.azure.certificates import Certificates
from simulator.azure.identity import (
    APP_SERVICE_PATH,
    IMDS_PATH,
    ExpiredTokenError,
    Identity,
    InvalidTokenError,
    Issuer,
    ManagedIdentities,
    TokenError,
    WrongAudienceError,
)

MACHINE = Identity("00000000-0000-4000-8000-00000000c001", "00000000-0000-4000-8000-00000000d001")
ASSIGNED = Identity(
    "00000000-0000-4000-8000-00000000c002",
    "00000000-0000-4000-8000-00000000d002",
    "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/loader",
)
STRANGER = "00000000-0000-4000-8000-00000000c003"
OPENAI = "https://cognitiveservices.azure.com"
HEADER = "made-up-header"
NOW = 1_788_000_000


@contextmanager
def serving(routes: Iterable[web.RouteDef], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a server on loopback that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    loop.run_until_complete(site.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def virtual_machine(url: str, env: pytest.MonkeyPatch) -> None:
    env.delenv("IDENTITY_ENDPOINT", raising=False)
    env.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)


def app_service(url: str, env: pytest.MonkeyPatch) -> None:
    env.setenv("IDENTITY_ENDPOINT", url + APP_SERVICE_PATH)
    env.setenv("IDENTITY_HEADER", HEADER)


Machine = Callable[[str, pytest.MonkeyPatch], None]
either_machine = pytest.mark.parametrize("machine", [virtual_machine, app_service])


@pytest.fixture
def issuer() -> Issuer:
    return Issuer(time.time)


@pytest.fixture
def url(issuer: Issuer) -> Iterator[str]:
    with serving(ManagedIdentities(issuer, (MACHINE, ASSIGNED), HEADER).routes()) as url:
        yield url


@either_machine
def test_a_machine_gets_a_token_for_the_resource_it_names(
    machine: Machine, url: str, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(url, monkeypatch)
    with ManagedIdentityCredential() as credential:
        token = credential.get_token(f"{OPENAI}/.default")
    principal = issuer.check(token.token, time.time())
    assert (principal.object_id, principal.client_id) == (MACHINE.object_id, MACHINE.client_id)
    assert principal.audience == OPENAI
    assert abs(principal.expires_on - token.expires_on) <= 1


@either_machine
def test_an_assigned_identity_is_found_by_any_of_its_ids(
    machine: Machine, url: str, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(url, monkeypatch)
    for credential in (
        ManagedIdentityCredential(client_id=ASSIGNED.client_id),
        ManagedIdentityCredential(identity_config={"object_id": ASSIGNED.object_id}),
        ManagedIdentityCredential(identity_config={"resource_id": ASSIGNED.resource_id or ""}),
    ):
        with credential:
            token = credential.get_token(f"{OPENAI}/.default").token
        assert issuer.check(token, time.time()).client_id == ASSIGNED.client_id


@either_machine
def test_an_unknown_identity_is_refused_with_a_reason(
    machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(url, monkeypatch)
    with (
        ManagedIdentityCredential(client_id=STRANGER) as credential,
        pytest.raises(ClientAuthenticationError, match=r"Identity not found|No User Assigned or Delegated"),
    ):
        credential.get_token(f"{OPENAI}/.default")


def test_app_service_gives_nothing_without_its_header(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app_service(url, monkeypatch)
    monkeypatch.setenv("IDENTITY_HEADER", "another")
    with ManagedIdentityCredential() as credential, pytest.raises(ClientAuthenticationError, match="401"):
        credential.get_token(f"{OPENAI}/.default")


def test_the_default_credential_finds_the_machines_identity(
    url: str, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    virtual_machine(url, monkeypatch)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    with DefaultAzureCredential() as credential:
        token = credential.get_token("https://ai.azure.com/.default").token
    assert issuer.check(token, time.time()).object_id == MACHINE.object_id


def test_a_probe_without_the_metadata_header_gets_an_error_at_once(url: str) -> None:
    with pytest.raises(HTTPError) as raised:
        urllib.request.urlopen(f"{url}{IMDS_PATH}?api-version=2018-02-01&resource={OPENAI}")
    with raised.value as refusal:
        assert refusal.code == 400
        assert json.loads(refusal.read()) == {
            "error": "invalid_request",
            "error_description": "Required metadata header not specified",
        }


def test_a_client_asks_again_when_its_token_does_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = Issuer(time.time, lifetime=90)
    with serving(ManagedIdentities(issuer, (MACHINE,), HEADER).routes()) as url:
        virtual_machine(url, monkeypatch)
        with ManagedIdentityCredential() as credential:
            tokens = [credential.get_token(f"{OPENAI}/.default") for _ in range(2)]
    assert tokens[0].token != tokens[1].token
    assert all(token.expires_on <= time.time() + 91 for token in tokens)


@pytest.mark.parametrize("audience", [OPENAI, f"{OPENAI}/", "https://ai.azure.com", "https://ai.azure.com/"])
def test_a_token_is_good_until_its_last_second(audience: str) -> None:
    issuer = Issuer(lambda: NOW, lifetime=90)
    token = issuer.issue(audience, MACHINE).text
    assert issuer.check(token, NOW + 89.9).expires_on == NOW + 90
    with pytest.raises(ExpiredTokenError):
        issuer.check(token, NOW + 90)
    with pytest.raises(InvalidTokenError):
        issuer.check(token, NOW - 1)


def test_a_token_for_another_resource_is_refused_as_that() -> None:
    issuer = Issuer(lambda: NOW)
    token = issuer.issue("https://management.azure.com", MACHINE).text
    with pytest.raises(WrongAudienceError, match=r"management\.azure\.com"):
        issuer.check(token, NOW)
    assert issuer.check(token, NOW, {"https://management.azure.com"}).object_id == MACHINE.object_id


def test_what_another_issuer_signed_or_nobody_is_no_token() -> None:
    issuer, claims = Issuer(lambda: NOW), {"aud": OPENAI, "exp": NOW + 90}
    of_another = Issuer(lambda: NOW).issue(OPENAI, MACHINE).text
    changed = issuer.issue(OPENAI, MACHINE).text[:-3] + "abc"
    unsigned = jwt.encode(claims, "", algorithm="none")
    for token in (of_another, changed, unsigned, "", "a.b.c", "not a token"):
        with pytest.raises(InvalidTokenError):
            issuer.check(token, NOW + 10**6)


def test_claims_are_those_of_a_managed_identitys_token() -> None:
    claims = jwt.decode(Issuer(lambda: NOW).issue(OPENAI, MACHINE).text, options={"verify_signature": False})
    assert claims["iss"] == f"https://sts.windows.net/{claims['tid']}/"
    assert (claims["aud"], claims["oid"], claims["appid"]) == (OPENAI, MACHINE.object_id, MACHINE.client_id)
    assert (claims["iat"], claims["nbf"], claims["exp"]) == (NOW, NOW, NOW + 86400)


def test_a_token_is_in_no_description_and_no_error() -> None:
    issuer = Issuer(lambda: NOW, lifetime=90)
    token = issuer.issue("https://elsewhere.example", MACHINE)
    assert token.text not in repr(token)
    for now in (NOW - 1, NOW, NOW + 90):
        with pytest.raises(TokenError) as raised:
            issuer.check(token.text, now)
        assert token.text not in repr(raised.value)


def test_the_authoritys_certificate_is_what_a_client_has_to_trust(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "new")
    trusting = ssl.create_default_context(cafile=str(certificates.file))

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    with serving([web.get("/", hello)], certificates.server_context()) as url:
        for address in (url, url.replace("127.0.0.1", "localhost")):
            with urllib.request.urlopen(address, context=trusting) as reply:
                assert reply.read() == b"hello"
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(url, context=ssl.create_default_context())
    assert [path.name for path in certificates.file.parent.iterdir()] == ["ca.pem"]
