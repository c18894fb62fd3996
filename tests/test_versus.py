"""Two targets side by side: what a gateway of each kind does to calls is found out from the calls alone."""

from collections.abc import Iterator

import pytest

from probe.client import Client
from probe.prompts import numbered
from probe.record import ObservedCall
from probe.versus import differences, findings, times
from tests.commands import run
from tests.simulators import Simulated, simulating
from tests.test_render import a_call

CONFIG = """
[resources.one]
region = "East US 2"
[resources.one.latency]
prompt_filter = { median = 0.0 }
queue = { median = 0.0 }
engine = { median = 0.05, spread = 0.0 }
between_tokens = { median = 0.02, spread = 0.0 }
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
[resources.two]
region = "Sweden Central"
[resources.two.latency]
prompt_filter = { median = 0.0 }
queue = { median = 0.0 }
engine = { median = 0.05, spread = 0.0 }
between_tokens = { median = 0.02, spread = 0.0 }
[resources.two.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
[gateways.plain]
backends = [{ resource = "one" }]
[gateways.buffering]
backends = [{ resource = "one" }]
buffer_response = true
[gateways.blocking]
backends = [{ resource = "one" }]
block_streaming = true
[gateways.breaking]
backends = [{ resource = "one" }]
log_bodies = true
error_headers = true
[gateways.stripping]
backends = [{ resource = "one" }]
strip_headers = ["apim-request-id", "x-ms-region", "x-ratelimit-remaining-tokens"]
[gateways.storing]
backends = [{ resource = "one" }]
semantic_cache = { seconds = 60 }
[gateways.limiting]
backends = [{ resource = "one" }]
token_limit = { tokens_per_minute = 1 }
"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("versus"), CONFIG) as one:
        yield one


def called(simulated: Simulated, name: str, kinds: tuple[bool, ...] = (True, True, False, False)) -> list[ObservedCall]:
    client = Client()
    try:
        return [client.observe(simulated.target(name), numbered(1, 30, 16), stream=stream) for stream in kinds]
    finally:
        client.close()


@pytest.fixture(scope="module")
def direct(simulated: Simulated) -> list[ObservedCall]:
    return called(simulated, "one")


@pytest.mark.parametrize(
    ("gateway", "says", "known_by"),
    [
        ("buffering", "buffers the stream", "in 2 of 2 streams all content came at once"),
        ("blocking", "blocks streaming", "2 of 2 streams were refused with HTTP 404 and none by the service"),
        ("breaking", "breaks streams", "2 of 2 streams were refused with HTTP 500"),
        ("stripping", "strips headers", "in all 2 answers of one, in none of 2"),
        ("storing", "answers from a store", "an apim-request-id that had come before"),
        ("limiting", "answered in the service's place: HTTP 429", "no apim-request-id"),
    ],
)
def test_what_a_gateway_does_is_told_with_how_it_is_known(
    simulated: Simulated, direct: list[ObservedCall], gateway: str, says: str, known_by: str
) -> None:
    found = [one for one in findings(direct, called(simulated, gateway)) if one.says.startswith(says)]
    assert len(found) == 1
    assert found[0].side == gateway and known_by in found[0].known_by


def test_which_headers_are_stripped_is_told(simulated: Simulated, direct: list[ObservedCall]) -> None:
    (found,) = findings(direct, called(simulated, "stripping"))
    assert found.says.endswith(": apim-request-id, x-ms-region, x-ratelimit-remaining-tokens")


def test_of_a_gateway_that_only_passes_on_nothing_is_said(simulated: Simulated, direct: list[ObservedCall]) -> None:
    plain = called(simulated, "plain")
    assert findings(direct, plain) == []
    assert [one.what for one in differences(direct, plain)] == []


def test_of_two_regions_the_region_differs(simulated: Simulated, direct: list[ObservedCall]) -> None:
    (found,) = differences(direct, called(simulated, "two"))
    assert (found.what, found.ours, found.theirs) == ("region", "East US 2", "Sweden Central")


def test_streaming_against_not_is_told_apart_by_its_headers() -> None:
    streams = [a_call(request_stream=True, headers=(("x-a", "1"), ("x-b", "2")))] * 2
    whole = [a_call(headers=(("x-a", "1"),))] * 2
    assert differences(streams, whole) == []
    assert findings(streams, whole) == []


@pytest.mark.parametrize(
    ("gaps", "slower", "luck"),
    [
        ([0.1] * 6, 6, 0.03125),
        ([0.1] * 5, 5, 0.0625),
        ([0.1, 0.1, 0.1, -0.1, -0.1, -0.1], 3, 1.0),
        ([0.0, 0.0], 0, 1.0),
        ([-0.1] * 6, 0, 0.03125),
    ],
)
def test_a_difference_in_time_comes_with_its_chance_of_being_luck(gaps: list[float], slower: int, luck: float) -> None:
    ours = [a_call(duration=0.5) for _ in gaps]
    theirs = [a_call(duration=0.5 + gap) for gap in gaps]
    (found,) = times(ours, theirs)
    assert (found.what, found.pairs, found.theirs_slower, found.luck) == ("last byte", len(gaps), slower, luck)


def test_a_pair_of_which_one_failed_is_not_timed() -> None:
    failed = a_call(outcome="auth", status_code=401, error_type="401", duration=0.1)
    assert times([a_call(), a_call(), a_call()], [failed, a_call(), a_call()])[0].pairs == 2
    assert times([a_call()], [a_call()]) == []


def settings_of_both(simulated: Simulated, *names: str) -> str:
    tables = []
    for name in names:
        target = simulated.target(name)
        tables.append(
            f'[{name}]\nendpoint = "{target.endpoint}"\ndeployment = "{target.deployment}"\n'
            f'api_version = "{target.api_version}"\ngateway = "{target.gateway}"\napi_key_env = "KEY_{name.upper()}"\n'
        )
    return "".join(tables)


def test_the_command_shows_findings_differences_and_times(
    simulated: Simulated, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("targets")
    (folder / "targets.toml").write_text(settings_of_both(simulated, "one", "buffering"))
    keys = {f"KEY_{name.upper()}": simulated.target(name).api_key or "" for name in ("one", "buffering")}
    ask = ("probe", "one", "--vs", "buffering", "--max-tokens", "12")
    done = run(*ask, "--pairs", "2", settings=keys, folder=folder)
    assert done.returncode == 0, done.stderr
    assert "one against buffering\npairs of calls in turn: 2 streaming, 2 not\n" in done.stdout
    assert "\nbuffering buffers the stream\nknown by: in 2 of 2 streams" in done.stdout
    assert "slower in 2 of 2: may be luck" in done.stdout
    lines = run(*ask, "--pairs", "1", "-o", "jsonl", settings=keys, folder=folder).stdout.splitlines()
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--vs", "west"), "there are: 127.0.0.1:1, streaming, not-streaming, key, entra"),
        (("--vs", "127.0.0.1:1"), "that is the same target"),
        (("--vs", "key"), "is called in this way already"),
    ],
)
def test_a_second_side_that_is_none_is_named(arguments: tuple[str, ...], says: str) -> None:
    settings = {
        "AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:1",
        "AZURE_OPENAI_API_KEY": "made-up-key",
        "AZURE_OPENAI_DEPLOYMENT": "chat",
    }
    done = run("probe", *arguments, settings=settings)
    assert done.returncode == 2 and says in done.stderr
