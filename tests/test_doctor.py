"""`probe doctor`: each step of the way to a target, with the remedy for what fails."""

import json
import subprocess
from collections.abc import Iterator
from email.utils import formatdate
from time import time

import pytest

from tests.commands import run, settings_of
from tests.simulators import AT_ONCE, Simulated, simulating
from tests.test_tls import Authority
from tests.test_tls import authority as authority
from tests.wire import head, reply, sends, serving, tunnels

LET_IN = b'{"error":{"code":"x","message":"no messages"}}'
CONFIG = (
    """
[resources.one]
region = "East US"
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
[resources.keyless]
region = "East US"
api_keys = false
[resources.keyless.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
[resources.closed]
region = "East US"
public_access = false
[resources.closed.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
[gateways.apim]
backends = [{ resource = "one" }]
"""
    + AT_ONCE
)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("doctor"), CONFIG) as running:
        yield running


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    assert "Traceback" not in done.stderr
    return {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}


def examined(url: str, **changes: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = run("probe", "doctor", "-o", "json", settings=settings_of(url, **changes))
    return done.returncode, checks(done)


def at(simulated: Simulated, name: str, **changes: str) -> tuple[int, dict[str, dict[str, str]]]:
    target = simulated.target(name)
    return examined(target.endpoint, **{"AZURE_OPENAI_API_KEY": target.api_key or "", **changes})


def test_where_all_is_well_nothing_fails(simulated: Simulated) -> None:
    code, found = at(simulated, "one")
    assert code == 0
    assert {one["state"] for name, one in found.items() if name != "entra"} == {"ok"}
    assert "the v1 API, which needs none, answers here too" in found["api-version"]["said"]
    signed_in = {name: value for name, value in simulated.ready["identity"].items() if name != "object_id"}
    assert at(simulated, "one", **signed_in)[1]["entra"]["state"] == "ok"


@pytest.mark.parametrize(
    ("name", "changes", "step", "remedy"),
    [
        ("one", {"AZURE_OPENAI_API_KEY": "made-up-key"}, "credential", "check the key"),
        ("one", {"AZURE_OPENAI_DEPLOYMENT": "nowhere"}, "deployment", "not the model's"),
        ("one", {"AZURE_OPENAI_ENDPOINT": "/wrong"}, "api-version", "unset OPENAI_API_VERSION"),
        ("keyless", {}, "credential", "HEADROOM_AUTH=entra"),
        ("closed", {}, "credential", "private endpoint"),
        ("apim", {"AZURE_OPENAI_API_KEY": "made-up-key"}, "credential", "check the key"),
    ],
)
def test_what_the_service_refuses_has_a_remedy(
    simulated: Simulated, name: str, changes: dict[str, str], step: str, remedy: str
) -> None:
    if path := changes.get("AZURE_OPENAI_ENDPOINT"):
        changes = {"AZURE_OPENAI_ENDPOINT": simulated.target(name).endpoint + path}
    code, found = at(simulated, name, **changes)
    assert (code, found[step]["state"]) == (4, "fail"), found
    assert remedy in found[step]["remedy"]
    assert [one["name"] for one in found.values() if one["state"] == "fail"] == [step]


def test_what_comes_after_a_step_that_fails_is_skipped() -> None:
    code, found = examined("http://127.0.0.1:1")
    assert (code, found["tcp"]["state"]) == (3, "fail")
    after = ["tls", "http", "clock", "credential", "api-version", "deployment", "entra"]
    assert [name for name, one in found.items() if one["state"] == "skipped"] == after


def test_a_name_that_nobody_knows_stops_at_the_name() -> None:
    code, found = examined("https://nowhere.invalid", HEADROOM_ALLOW_HOST="nowhere.invalid")
    assert (code, found["dns"]["state"], found["tcp"]["state"]) == (3, "fail", "skipped")


def test_a_certificate_that_is_not_trusted_is_said_to_be_whose(authority: Authority) -> None:
    with serving(sends(reply(LET_IN, "400 No")), tls=authority.server("127.0.0.1")) as server:
        code, found = examined(server.url)
        assert server.requests == []
        trusted = examined(server.url, HEADROOM_CA_BUNDLE=str(authority.file))[1]
    assert (code, found["tls"]["state"], found["tcp"]["state"]) == (3, "fail", "ok")
    assert "signed by" in found["tls"]["said"] and "trustme" in found["tls"]["said"]
    assert "HEADROOM_CA_BUNDLE" in found["tls"]["remedy"]
    assert trusted["tls"]["state"] in ("ok", "warn") and "TLSv1." in trusted["tls"]["said"]


def test_the_options_of_trust_are_taken_like_everywhere(authority: Authority) -> None:
    with serving(sends(reply(LET_IN, "400 No")), tls=authority.server("127.0.0.1")) as server:
        done = run("probe", "doctor", "--ca-bundle", str(authority.file), settings=settings_of(server.url))
    assert done.returncode == 0 and "TLSv1." in done.stdout, done.stderr


def test_a_proxy_is_named_without_its_password(authority: Authority) -> None:
    answer = reply(LET_IN, "400 No", "apim-request-id: a")
    with serving(sends(answer), tls=authority.server("127.0.0.1")) as server, serving(tunnels(server.port)) as proxy:
        way = proxy.url.replace("http://", "http://someone:canary-word@")
        _, found = examined(server.url, HTTPS_PROXY=way, HEADROOM_CA_BUNDLE=str(authority.file))
    assert f"***@127.0.0.1:{proxy.port}" in found["proxy"]["said"] and found["credential"]["state"] == "ok"
    assert "canary" not in json.dumps(found) and "someone" not in json.dumps(found)


@pytest.mark.parametrize(("ahead", "state"), [(0, "ok"), (60, "warn"), (-4000, "fail")])
def test_a_clock_that_differs_from_the_servers_is_noticed(ahead: int, state: str) -> None:
    date = f"date: {formatdate(time() + ahead, usegmt=True)}"
    with serving(sends(reply(LET_IN, "400 No", "apim-request-id: a", date))) as server:
        _, found = examined(server.url)
    assert found["clock"]["state"] == state
    assert ("behind" in found["clock"]["said"]) == (ahead > 0) or state == "ok"


def test_what_is_slow_is_not_taken_for_something_else() -> None:
    with serving(sends(1.0, reply(LET_IN, "400 No"))) as server:
        done = run("probe", "doctor", "-o", "json", "--timeout", "0.3", settings=settings_of(server.url))
    assert done.returncode == 3 and "--timeout gives it longer" in done.stdout


def test_what_is_no_azure_openai_is_said_to_be_none() -> None:
    with serving(sends(b"SSH-2.0-OpenSSH_9.2\r\n")) as server:
        code, found = examined(server.url)
    assert (code, found["http"]["state"]) == (3, "fail")
    with serving(sends(head("200 OK", "content-length: 0"))) as server:
        code, found = examined(server.url)
    assert (code, found["credential"]["state"]) == (4, "fail")
