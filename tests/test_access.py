"""`probe access` against every configuration of identity, network and gateway that the simulator has."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from probe.access import try_at
from probe.asking import Answer
from probe.outcome import Seen, classify
from probe.posture import MADE_UP, VALUES, Attempt, attempt, findings, held_against, is_private, read_expectation
from tests.commands import run, settings_of
from tests.simulators import Simulated, simulating
from tests.wire import head, reply, sends, serving

LATENCY = "latency = { prompt_filter = { median = 0.0 }, queue = { median = 0.0 }, engine = { median = 0.0 } }"


class Resource(NamedTuple):
    api_keys: bool
    entra: bool
    public: bool
    shape: str

    @property
    def name(self) -> str:
        return f"r-{self.api_keys:d}{self.entra:d}{self.public:d}-{self.shape.lower()}"


class Gateway(NamedTuple):
    keys: bool
    entra: bool
    identity: bool
    extra: str
    behind: Resource

    @property
    def name(self) -> str:
        return f"g-{self.keys:d}{self.entra:d}{self.identity:d}-{self.extra[:5].strip()}-{self.behind.name}".lower()


BOOLEANS = (True, False)
RESOURCES = [
    Resource(*switches) for switches in itertools.product(BOOLEANS, BOOLEANS, BOOLEANS, ("statusCode", "error"))
]
# What changes replies, and must not change what is found.
EXTRAS = ('strip_headers = ["apim-request-id", "x-ms-region"]', "error_headers = true")
GATEWAYS = [
    Gateway(*switches, extra, behind)
    for switches in itertools.product(BOOLEANS, BOOLEANS, BOOLEANS)
    for extra, shape in zip(EXTRAS, ("statusCode", "error"), strict=True)
    for behind in RESOURCES
    if behind.shape == shape
]


def toml(value: object) -> str:
    return json.dumps(value)


def configuration() -> str:
    lines = []
    for one in RESOURCES:
        lines += [
            f"[resources.{one.name}]",
            'region = "East US"',
            f"api_keys = {toml(one.api_keys)}",
            f"entra = {toml(one.entra)}",
            f"public_access = {toml(one.public)}",
            f"token_errors = {toml(one.shape)}",
            LATENCY,
            f'[resources.{one.name}.deployments.chat]\nmodel = "gpt-4.1-mini-2025-04-14"',
        ]
    for gateway in GATEWAYS:
        lines += [
            f"[gateways.{gateway.name}]",
            f"subscription_keys = {toml(gateway.keys)}",
            f"entra = {toml(gateway.entra)}",
            f"managed_identity = {toml(gateway.identity)}",
            gateway.extra,
            f"backends = [{{ resource = {toml(gateway.behind.name)} }}]",
        ]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("access"), configuration()) as running:
        yield running


def tried(simulated: Simulated, *names: str) -> tuple[list[Attempt], dict[str, str]]:
    attempts = [one for name in names for one in try_at(simulated.target(name, "chat"), 10)]
    return attempts, {one.name: one.value for one in findings(attempts)}


@pytest.mark.parametrize("one", RESOURCES, ids=lambda one: one.name)
def test_a_resource_is_found_to_be_what_it_is_configured_to_be(simulated: Simulated, one: Resource) -> None:
    attempts, found = tried(simulated, one.name)
    if not one.public:
        assert found == {"keys": "unknown", "entra": "unknown", "public": "closed", "refusals": "unknown"}
        return
    assert found == {
        "keys": "accepted" if one.api_keys else "disabled",
        "entra": "accepted" if one.entra else "off",
        "public": "open",
        "refusals": "right",
    }
    assert attempts[-1].meaning == ("let in" if one.api_keys else "keys disabled")


def lets_in(gateway: Gateway) -> bool:
    behind = gateway.behind
    return behind.public and (behind.entra if gateway.identity else behind.api_keys)


@pytest.mark.parametrize("one", GATEWAYS, ids=lambda one: one.name)
def test_a_gateway_is_found_to_demand_what_it_demands(simulated: Simulated, one: Gateway) -> None:
    _, found = tried(simulated, one.behind.name, one.name)
    assert found["gateway_keys"] == ("demanded" if one.keys else "not-demanded")
    assert found["gateway_entra"] == (("accepted" if one.entra else "off") if one.keys else "ignored")
    assert found["gateway_backend"] == ("reached" if lets_in(one) else "refused")
    assert found["bypass"] == ("open" if one.behind.public else "closed")
    assert (found["gateway_refusals"] == "wrong") == (not one.keys and lets_in(one))
    only_kind = {(True, False): "key", (False, True): "token"}.get((one.behind.api_keys, one.behind.entra), "unknown")
    assert found["gateway_signs_in"] == (only_kind if lets_in(one) else "unknown")


def test_a_bad_token_is_refused_in_either_shape_and_is_neither_time_the_gateways(simulated: Simulated) -> None:
    for shape, key in (("statusCode", "statusCode"), ("error", "error")):
        attempts, _ = tried(simulated, Resource(True, True, True, shape).name)
        by_trial = {one.trial: one.answer for one in attempts}
        for trial in ("no credential", "garbage token", "expired token", "token for another"):
            refusal = by_trial[trial]
            assert refusal.status == 401 and [*refusal.body] == [key] + ["message"] * (key == "statusCode")
        assert by_trial["wrong key"].code == "401"
        body = by_trial["garbage token"].body
        verdict = classify(Seen(stream=False, status=401, headers=by_trial["garbage token"].headers, body=body))
        assert verdict.outcome == "auth" and verdict.throttle_kind is None


def test_a_throttle_is_the_gateways_by_its_shape_only_where_the_services_id_is_missing() -> None:
    body = {"statusCode": 429, "message": "Rate limit is exceeded. Try again in 3 seconds."}
    kinds = [
        classify(Seen(stream=False, status=429, headers=headers, body=body)).throttle_kind
        for headers in ((), (("apim-request-id", "a"),))
    ]
    assert kinds == ["apim", "unknown"]


def test_an_identity_without_the_role_is_refused_and_the_gateway_with_it(tmp_path: Path) -> None:
    config = """
    identity = { principals = ["managed-identity"] }
    [resources.one]
    region = "East US"
    api_keys = false
    [resources.one.deployments.chat]
    model = "gpt-4.1-mini-2025-04-14"
    [gateways.apim]
    managed_identity = true
    backends = [{ resource = "one" }]
    """
    with simulating(tmp_path, config) as simulated:
        attempts, found = tried(simulated, "one", "apim")
    assert attempts[-1].meaning == "no role"
    assert (found["gateway_backend"], found["keys"], found["gateway_keys"]) == ("refused", "disabled", "demanded")


def test_what_is_sent_is_made_up_but_for_the_configured_credential_once() -> None:
    refusal = reply(b'{"error":{"code":"401","message":"no"}}', "401 PermissionDenied", "apim-request-id: a")
    with serving(sends(refusal)) as server:
        settings = settings_of(server.url, HEADROOM_EXTRA_HEADERS='{"x-second-secret": "canary"}')
        done = run("probe", "access", settings=settings)
        sent = server.requests
    assert (done.returncode, len(sent)) == (0, 6)
    assert [b"made-up-key" in one for one in sent] == [False] * 5 + [True]
    assert [b"canary" in one for one in sent] == [False] * 5 + [True]
    assert all(b'{"messages":[]}' in one for one in sent)
    assert "made-up-key" not in done.stdout + done.stderr and "canary" not in done.stdout + done.stderr


def answer(status: int, body: dict[str, Any], *headers: tuple[str, str]) -> Answer:
    return Answer(status=status, headers=headers, body=body)


SENTENCE = (
    "Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or "
    "have expired."
)


@pytest.mark.parametrize(
    ("reply_", "who", "meaning"),
    [
        (answer(401, {"statusCode": 401, "message": SENTENCE}), "service", "token refused"),
        (answer(401, {"statusCode": 401, "message": "Invalid JWT."}), "gateway", "token refused"),
        (answer(401, {"statusCode": 401, "message": "... invalid subscription key ..."}), "gateway", "key refused"),
        (answer(429, {"statusCode": 429, "message": "Token limit is exceeded."}), "gateway", "throttled"),
        (answer(403, {"statusCode": 403, "message": "Token quota is exceeded."}), "gateway", "forbidden"),
        (
            answer(403, {"error": {"code": "403", "message": "Access denied due to Virtual Network/Firewall rules."}}),
            "service",
            "network closed",
        ),
        (
            answer(503, {"statusCode": 503, "message": "Backend pool 'x' is temporarily unavailable."}),
            "gateway",
            "failed",
        ),
        (answer(404, {"statusCode": 404, "message": "Resource not found"}), "gateway", "unclear"),
        (answer(404, {"error": {"code": "DeploymentNotFound"}}), "service", "let in"),
        (answer(200, {}), "nobody", "unclear"),
        (answer(302, {}, ("location", "https://elsewhere")), "nobody", "unclear"),
    ],
)
def test_who_answered_and_what_it_means(reply_: Answer, who: str, meaning: str) -> None:
    one = attempt("x", True, "garbage token", reply_)
    assert (one.who, one.meaning) == (who, meaning)


def test_a_private_address_says_nothing_of_the_public_one() -> None:
    assert [is_private(one) for one in ("10.1.2.3", "192.168.0.4", "fd00::1", "20.1.2.3", "127.0.0.1", None, "x")] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip


def test_an_expectation_of_what_was_not_looked_at_fails() -> None:
    refused = answer(401, {"error": {"code": "401"}})
    attempts = [attempt("one", False, trial, refused) for trial in MADE_UP]
    judged = {one.name: one.verdict for one in held_against(findings(attempts), {"bypass": "closed", "entra": "off"})}
    assert (judged["bypass"], judged["entra"], judged["keys"]) == ("fail", "pass", "told")


@pytest.mark.parametrize("text", ["keys", "kets=disabled", "keys=maybe", "=disabled"])
def test_an_expectation_that_cannot_be_is_told_what_can(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME=VALUE|there are: keys|accepted, disabled"):
        read_expectation(text)


def test_every_value_that_is_found_is_one_that_can_be_expected() -> None:
    for name, values in VALUES.items():
        for value in (*values, "unknown"):
            assert read_expectation(f" {name} = {value} ") == (name, value)


def target_file(folder: Path, simulated: Simulated, *names: str) -> dict[str, str]:
    """A targets file, and the variables to use it."""
    settings, tables = {"HEADROOM_TARGETS_FILE": str(folder / "targets.toml")}, []
    for name in names:
        one = simulated.target(name, "chat")
        variable = f"KEY_{name.upper().replace('-', '_')}"
        settings[variable] = one.api_key or ""
        tables.append(
            f'["{name}"]\nendpoint = "{one.endpoint}"\ndeployment = "chat"\napi_version = "{one.api_version}"\n'
            f'gateway = "{one.gateway}"\napi_key_env = "{variable}"\n'
        )
    (folder / "targets.toml").write_text("\n".join(tables))
    return settings


def test_a_pipeline_is_stopped_by_what_is_not_as_expected(simulated: Simulated, tmp_path: Path) -> None:
    behind = Resource(False, True, True, "statusCode")
    gateway = next(one for one in GATEWAYS if one[:3] == (True, True, True) and one.behind == behind)
    settings = target_file(tmp_path, simulated, behind.name, gateway.name)
    file = tmp_path / "posture.txt"
    file.write_text("# before go-live\nkeys = disabled\ngateway_signs_in=token\n")
    arguments = ("probe", "access", gateway.name, "--direct", behind.name, "--expect", str(file))
    held = run(*arguments, "-o", "json", settings=settings)
    assert held.returncode == 0, held.stdout + held.stderr
    told = json.loads(held.stdout)
    assert [one["verdict"] for one in told["findings"] if "expected" in one] == ["pass", "pass"]
    assert len(told["attempts"]) == 12
    broken = run(*arguments, "--expect", "bypass=closed", settings=settings)
    assert broken.returncode == 7
    assert "fail  bypass" in broken.stdout and "answers without the gateway" in " ".join(broken.stdout.split())


def test_a_credential_that_nobody_has_given_out_and_that_is_let_in_fails_without_any_expectation() -> None:
    anyone = reply(b'{"error":{"code":"x","message":"no messages"}}', "400 Bad Request", "apim-request-id: a")
    with serving(sends(anyone)) as server:
        done = run("probe", "access", settings=settings_of(server.url))
    assert done.returncode == 7 and "let in: no credential" in " ".join(done.stdout.split())


def test_a_host_that_does_not_answer_is_unreachable_and_nothing_is_claimed() -> None:
    done = run("probe", "access", "-o", "json", settings=settings_of("http://127.0.0.1:1"))
    assert done.returncode == 3
    assert {one["value"] for one in json.loads(done.stdout)["findings"]} == {"unknown"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--expect", "keys=maybe"], "accepted, disabled, unknown"),
        (["--expect", "/nonexistent"], "no NAME=VALUE"),
        (["--via", "nowhere"], "no target 'nowhere'"),
        (["--direct", "127.0.0.1"], "one gateway and one resource"),
    ],
)
def test_a_wrong_option_ends_in_one_line_and_nothing_is_sent(arguments: list[str], says: str) -> None:
    with serving(sends(head("200 OK"))) as server:
        name = server.url.removeprefix("http://")
        arguments = [name if one == "127.0.0.1" else one for one in arguments]
        done = run("probe", "access", *arguments, settings=settings_of(server.url))
        assert server.requests == []
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and says in done.stderr
