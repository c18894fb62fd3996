"""Microsoft Entra tokens, from an endpoint that azure-identity takes for an App Service's managed identity."""

import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from probe.identity import Provider, Token
from probe.target import SettingsError
from tests.commands import run, settings_of
from tests.runs import load_of, openai_shaped, results_in
from tests.simulators import AT_ONCE, simulating
from tests.test_client import GOOD, WHOLE
from tests.wire import answers, reply, sends, serving

TOKEN = "made-up.entra.token"


class IdentityEndpoint(BaseHTTPRequestHandler):
    asked: list[str]
    given: Callable[[], str]
    seconds: float

    def do_GET(self) -> None:
        self.asked.append(self.path)
        time.sleep(self.seconds)
        body = {"access_token": type(self).given(), "expires_on": str(int(time.time()) + 3600), "token_type": "Bearer"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def identity() -> Iterator[tuple[dict[str, str], list[str]]]:
    IdentityEndpoint.asked = []
    IdentityEndpoint.given = lambda: TOKEN
    IdentityEndpoint.seconds = 0.0
    with ThreadingHTTPServer(("127.0.0.1", 0), IdentityEndpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = {
            "HEADROOM_AUTH": "entra",
            "IDENTITY_ENDPOINT": f"http://127.0.0.1:{server.server_port}/msi/token",
            "IDENTITY_HEADER": "made-up",
        }
        yield settings, IdentityEndpoint.asked
        server.shutdown()


def test_without_a_key_calls_carry_one_token_of_the_machines_identity(
    identity: tuple[dict[str, str], list[str]],
) -> None:
    settings, asked = identity
    with serving(sends(GOOD), sends(reply(WHOLE))) as server:
        done = run("probe", "-o", "json", settings={**settings_of(server.url), **settings})
        heads = [request.partition(b"\r\n\r\n")[0] for request in server.requests]
    assert done.returncode == 0, done.stderr
    assert len(heads) == 2
    assert all(f"Authorization: Bearer {TOKEN}".encode() in head and b"made-up-key" not in head for head in heads)
    assert len(asked) == 1 and "cognitiveservices.azure.com" in asked[0]
    assert TOKEN not in done.stdout + done.stderr


def test_no_identity_at_all_ends_in_one_line() -> None:
    settings = settings_of("http://127.0.0.1:1", HEADROOM_AUTH="entra", AZURE_TOKEN_CREDENTIALS="EnvironmentCredential")
    done = run("probe", settings=settings)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "no Microsoft Entra token" in done.stderr


class Clock:
    """Unix seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


class Issuer:
    """Gives tokens of five minutes, or refuses; counts how often it was asked."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked = 0
        self.refuses = False

    def __call__(self) -> Token:
        self.asked += 1
        if self.refuses:
            raise SettingsError("no Microsoft Entra token: not now")
        return Token(f"made-up-token-{self.asked}", self.clock.now + 300)


def provider_of(issuer: Callable[[], Token], clock: Clock) -> Provider:
    return Provider(issuer, clock, random.Random(1).random)


def test_two_hundred_users_at_a_cold_start_ask_for_one_token() -> None:
    asked, answer = [], threading.Event()

    def slow() -> Token:
        asked.append(1)
        answer.wait()
        return Token("made-up-token", time.time() + 3600)

    provider, waiting = Provider(slow), threading.Barrier(201)

    def user() -> str:
        waiting.wait()
        return provider()

    with ThreadPoolExecutor(200) as users:
        given = [users.submit(user) for _ in range(200)]
        waiting.wait()
        answer.set()
        assert {one.result() for one in given} == {"made-up-token"}
    assert len(asked) == 1


def test_in_three_hours_of_five_minute_tokens_no_call_carries_an_expired_one() -> None:
    clock = Clock()
    issuer, began = Issuer(clock), clock.now
    provider = provider_of(issuer, clock)
    ends = {f"made-up-token-{1}": began + 300}
    ages = []
    while clock.now < began + 3 * 3600:
        assert clock.now < ends[provider()]
        clock.now += 1
        if not provider.seconds_left():
            ages.append(1 - (ends[provider()] - clock.now) / 300)
            provider.refresh()
            ends[provider()] = clock.now + 300
    assert issuer.asked == len(ages) + 1 < 3 * 3600 / 150 + 2
    # Jitter, so that a fleet that began together does not ask together.
    assert 0.5 <= min(ages) < 0.6 and 0.7 < max(ages) < 0.81


def test_a_failed_refresh_keeps_the_old_token_and_is_tried_again_soon() -> None:
    clock = Clock()
    issuer = Issuer(clock)
    provider = provider_of(issuer, clock)
    first = provider()
    clock.now += provider.seconds_left()
    issuer.refuses = True
    provider.refresh()
    assert provider() == first and 0 < provider.seconds_left() <= 30
    clock.now += provider.seconds_left()
    issuer.refuses = False
    provider.refresh()
    assert provider() != first


def test_a_refused_token_is_replaced_at_once_and_if_that_is_refused_too_there_is_no_other() -> None:
    clock = Clock()
    issuer = Issuer(clock)
    provider = provider_of(issuer, clock)
    first = provider()
    assert provider.seconds_left() > 0
    assert provider.refuse(first) is None and provider.seconds_left() == 0
    provider.refresh()
    second = provider()
    # Calls that were sent with the old one come back refused after it was replaced.
    assert second != first and provider.refuse(first) is None
    assert "refused as well" in (provider.refuse(second) or "")
    clock.now += provider.seconds_left()
    provider.refresh()
    assert provider.refuse(provider()) is None


def test_a_refused_token_that_cannot_be_replaced_is_the_end() -> None:
    clock = Clock()
    issuer = Issuer(clock)
    provider = provider_of(issuer, clock)
    first = provider()
    issuer.refuses = True
    assert provider.refuse(first) is None
    provider.refresh()
    assert "not now" in (provider.refuse(first) or "")


def test_a_named_credential_with_a_client_and_a_scope_asks_for_these(
    identity: tuple[dict[str, str], list[str]],
) -> None:
    settings, asked = identity
    chosen = {
        "HEADROOM_CREDENTIAL": "managed",
        "AZURE_CLIENT_ID": "made-up-client",
        "HEADROOM_SCOPE": "api://x/.default",
    }
    with serving(sends(GOOD), sends(reply(WHOLE))) as server:
        done = run("probe", "-o", "json", settings={**settings_of(server.url), **settings, **chosen})
    assert done.returncode == 0, done.stderr
    assert len(asked) == 1 and "client_id=made-up-client" in asked[0] and "resource=api://x" in asked[0]
    wrong = run("probe", settings={**settings_of(server.url), **settings, "HEADROOM_CREDENTIAL": "robot"})
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "robot" in wrong.stderr


def refused_from(number: int) -> Callable[[bytes], bytes]:
    """Answers until that many requests have come, and then says 401."""
    requests = itertools.count(1)
    good = openai_shaped()

    def make(request: bytes) -> bytes:
        return good(request) if next(requests) < number else REFUSED

    return make


def known_tokens(known: set[str]) -> Callable[[bytes], bytes]:
    good = openai_shaped(seconds=0.02)

    def make(request: bytes) -> bytes:
        sent = request.partition(b"Bearer ")[2].partition(b"\r\n")[0].decode()
        return good(request) if sent in known else REFUSED

    return make


REFUSED = reply(b'{"error":{"code":"401","message":"Access denied due to invalid key."}}', "401 Unauthorized")
RUN = ("locust", "-f", "locustfiles/sdk_retries.py", "--headless", "--users", "8", "--run-time", "60s")


def test_a_key_that_is_refused_in_mid_run_stops_it_in_one_line(tmp_path: Path) -> None:
    with serving(answers(refused_from(20))) as server:
        done = run(*RUN, settings=results_in(tmp_path, server.url))
    assert done.returncode == 4
    said, verdict = [line for line in done.stderr.splitlines() if "401" in line and line.startswith("headroom: ")]
    assert "its key is refused" in said and verdict.startswith("headroom: ended early: ")
    assert "made-up-key" not in done.stderr
    assert {call.outcome for call in load_of(tmp_path)} == {"ok", "auth"}


def test_a_token_that_is_refused_in_mid_run_is_replaced_once_and_the_run_goes_on(
    tmp_path: Path, identity: tuple[dict[str, str], list[str]]
) -> None:
    settings, asked = identity
    known = {TOKEN}
    IdentityEndpoint.given = lambda: f"{TOKEN}-{len(asked)}"
    known.add(f"{TOKEN}-1")
    with serving(answers(known_tokens(known))) as server:
        settings = {**results_in(tmp_path, server.url), **settings}
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(run, *RUN[:-1], "3s", settings=settings)
            assert server.wait_for_requests(30)
            known.clear()
            known.add(f"{TOKEN}-2")
            done = running.result()
    assert done.returncode == 0, done.stderr
    assert len(asked) == 2
    outcomes = [call.outcome for call in sorted(load_of(tmp_path), key=lambda call: call.start_time_unix_nano)]
    assert "auth" in outcomes and outcomes[-1] == "ok"
    assert TOKEN not in done.stderr


def test_a_second_refusal_after_signing_in_again_stops_the_run(
    tmp_path: Path, identity: tuple[dict[str, str], list[str]]
) -> None:
    settings, asked = identity
    IdentityEndpoint.given = lambda: f"{TOKEN}-{len(asked)}"
    with serving(answers(refused_from(20))) as server:
        done = run(*RUN, settings={**results_in(tmp_path, server.url), **settings})
    assert (done.returncode, len(asked)) == (4, 2), done.stderr
    assert "signing in again did not help (401)" in done.stderr


def test_two_hundred_users_of_a_run_with_a_slow_identity_ask_for_one_token(
    tmp_path: Path, identity: tuple[dict[str, str], list[str]]
) -> None:
    settings, asked = identity
    IdentityEndpoint.seconds = 1.0
    many = ("locust", "--headless", "--users", "200", "--spawn-rate", "200", "--run-time", "3s")
    with serving(answers(openai_shaped(seconds=0.3))) as server:
        done = run(*many, settings={**results_in(tmp_path, server.url), **settings, "HEADROOM_PAUSE": "1"})
        heads = [request.partition(b"\r\n\r\n")[0] for request in server.requests]
        connections = server.connections
    assert done.returncode == 0, done.stderr
    assert len(asked) == 1
    assert connections > 100 and all(TOKEN.encode() in head for head in heads)


ONE = f"""
[identity]
token_lifetime = 5
[resources.one]
region = "East US 2"
api_keys = false
{AT_ONCE}
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
tokens_per_minute = 10000000
"""


def test_a_token_that_ends_in_mid_run_is_replaced_before_and_by_one_of_all_users(tmp_path: Path) -> None:
    """Against the simulator, whose tokens are good for five seconds."""
    with simulating(tmp_path, ONE) as simulated:
        target = simulated.target("one")
        settings = {
            **results_in(tmp_path / "results", target.endpoint),
            **{name: simulated.ready["identity"][name] for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER")},
            "HEADROOM_AUTH": "entra",
            "AZURE_OPENAI_DEPLOYMENT": target.deployment,
            "HEADROOM_RATE": "20",
        }
        done = run("locust", "--headless", "--users", "1", "--run-time", "8s", settings=settings)
    assert done.returncode == 0, done.stderr
    calls = load_of(tmp_path / "results")
    assert len(calls) > 120 and "auth" not in {call.outcome for call in calls}


def test_with_two_workers_a_second_refusal_stops_all_of_them(
    tmp_path: Path, identity: tuple[dict[str, str], list[str]]
) -> None:
    settings, asked = identity
    IdentityEndpoint.given = lambda: f"{TOKEN}-{len(asked)}"
    two = ("locust", "--headless", "--processes", "2", "--users", "8", "--spawn-rate", "8", "--run-time", "60s")
    with serving(answers(refused_from(60))) as server:
        done = run(*two, settings={**results_in(tmp_path, server.url), **settings})
    assert done.returncode == 4 and "signing in again did not help (401)" in done.stderr, done.stderr
    # One token a process, and at most one more a worker.
    assert 4 <= len(asked) <= 5
    assert server.times[-1] < server.times[59] + 5
