"""Runs in rounds, `gateway.py` and `regions.py`: against a simulator whose gateways and regions are known."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from probe.record import ObservedCall
from tests.commands import run
from tests.runs import Start, ended, load_of, only_run
from tests.simulators import Simulated, simulating

DEPLOYMENT = """
model = "gpt-4.1-mini-2025-04-14"
tokens_per_minute = 100000000
requests_per_minute = 1000000
"""
LATENCY = """
prompt_filter = {{ median = 0.005, spread = 0.35 }}
queue = {{ median = {queue}, spread = 0.5 }}
engine = {{ median = 0.005, spread = 0.2 }}
between_tokens = {{ median = 0.003, spread = 0.05 }}
"""


def resource(name: str, queue: float) -> str:
    return f"""
[resources.{name}]
region = "{name}"
[resources.{name}.latency]{LATENCY.format(queue=queue)}
[resources.{name}.deployments.chat]{DEPLOYMENT}"""


def gateway(name: str, policy: str = "") -> str:
    return f'\n[gateways.{name}]\nbackends = [{{ resource = "one" }}]\n{policy}\n'


BUFFERS = {
    "whole": "buffer_response = true",
    "late": "buffer_bytes = 1000000",
    "pieces": "buffer_bytes = 4096",
    "ticking": "buffer_seconds = 0.05",
}
CONFIG = "".join(
    [
        resource("one", 0.02),
        resource("two", 0.05),
        resource("three", 0.10),
        gateway("plain"),
        gateway("slow", "latency = { median = 0.015, spread = 0 }"),
        *(gateway(name, policy) for name, policy in BUFFERS.items()),
    ]
)
MIX = """
[[class]]
name = "chat"
weight = 3
stream_share = 1
input_tokens = { median = 100, p90 = 150 }
output_tokens = { median = 25, p90 = 35 }
[[class]]
name = "json"
weight = 1
stream_share = 0
input_tokens = { median = 50, p90 = 60 }
output_tokens = { median = 5, p90 = 8 }
"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("rounds"), CONFIG) as running:
        yield running


def settings(folder: Path, simulated: Simulated, **changes: str) -> dict[str, str]:
    """Of a run against all that the simulator has."""
    known, keys = "", {}
    for name, about in simulated.ready["targets"].items():
        keys[f"KEY_{name}"] = about["api_key"]
        known += (
            f'[{name}]\nendpoint = "{about["endpoint"]}"\ndeployment = "chat"\ngateway = "{about["gateway"]}"\n'
            f'api_version = "{about["api_version"]}"\napi_key_env = "KEY_{name}"\n'
        )
    (folder / "targets.toml").write_text(known)
    (folder / "mix.toml").write_text(MIX)
    files = {"HEADROOM_TARGETS_FILE": str(folder / "targets.toml"), "HEADROOM_MIX": str(folder / "mix.toml")}
    return {**files, **keys, "HEADROOM_RESULTS": str(folder / "results"), **changes}


def send(
    scenario: str, folder: Path, simulated: Simulated, *options: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    command = ("locust", "-f", f"locustfiles/{scenario}.py", "--headless", *options)
    return run(*command, settings=settings(folder, simulated, **changes))


def in_rounds(calls: list[ObservedCall]) -> dict[int, list[ObservedCall]]:
    found: dict[int, list[ObservedCall]] = {}
    for call in sorted(calls, key=lambda one: one.issued or 0.0):
        assert call.round is not None
        found.setdefault(call.round, []).append(call)
    return found


def true_cost(simulated: Simulated, calls: list[ObservedCall], name: str) -> float:
    """By the simulator's own clock: what its gateway `name` adds to the head of a reply, in seconds, at the median."""
    ours = {call.service_request_id for call in calls if call.target == name}
    lines: dict[str, dict[str, Any]] = {}
    for line in simulated.ledger():
        lines.setdefault(line["request_id"], {})[line["resource"]] = line
    costs = sorted(
        (two[name]["headers_at"] - two[name]["arrived"]) - (two["one"]["headers_at"] - two["one"]["arrived"])
        for request_id, two in lines.items()
        if request_id in ours and {name, "one"} <= set(two)
    )
    return float(costs[len(costs) // 2]) / 1e9


def test_a_gateway_run_finds_what_each_gateway_costs_and_each_that_buffers(
    tmp_path: Path, simulated: Simulated
) -> None:
    targets = ",".join(["one", "plain", "slow", *BUFFERS])
    done = send("gateway", tmp_path, simulated, "--rounds", "50", "--users", "2", HEADROOM_TARGETS=targets)
    assert done.returncode == 0, done.stderr
    calls = load_of(tmp_path / "results")
    found = json.loads(
        run("analysis", "gateway", "-o", "json", settings={"HEADROOM_RESULTS": str(tmp_path / "results")}).stdout
    )
    added = {
        row["through"]: row
        for row in found["added"]
        if row["mark"] == "first token, less the service's own" and row["paired"]
    }
    slow, plain = added["slow"], added["plain"]
    truth = true_cost(simulated, calls, "slow")
    # Its policies' 15 ms, and what the simulator takes itself.
    assert slow["added_low"] - 0.002 <= truth <= slow["added_high"] + 0.002 and truth >= 0.015
    assert slow["added"] - plain["added"] == pytest.approx(0.015, abs=0.004)
    buffering = {row["through"] for row in found["behaviour"] if row["what"].startswith("buffers")}
    assert buffering == set(BUFFERS)
    # The run has said so itself, and what it takes to know it better.
    assert "slow adds +" in done.stderr and "slow: " in done.stderr
    told = {path["through"]: path for path in ended(tmp_path / "results")["gateway"]}  # type: ignore[attr-defined]
    assert told["slow"]["added"] == pytest.approx(slow["added"]) and told["slow"]["rounds"] == 50
    assert all(f"{name} buffers streams" in done.stderr for name in BUFFERS)
    assert "plain buffers" not in done.stderr


def test_each_round_calls_every_path_once_one_after_the_other_in_an_order_of_its_own(
    tmp_path: Path, simulated: Simulated
) -> None:
    done = send("gateway", tmp_path, simulated, "--rounds", "12", "--users", "3", HEADROOM_TARGETS="one,plain,slow")
    assert done.returncode == 0, done.stderr
    made = in_rounds(load_of(tmp_path / "results"))
    assert sorted(made) == list(range(1, 13))
    for calls in made.values():
        assert {call.target for call in calls} == {"one", "plain", "slow"} and len(calls) == 3
        assert len({(call.input_tokens, call.request_max_tokens, call.request_stream) for call in calls}) == 1
        # What one path has put into a cache, no other finds there.
        assert len({call.prompt_id for call in calls}) == 3
        ends = [(call.issued or 0) + (call.duration or 0) for call in calls]
        assert all((later.issued or 0) >= end for later, end in zip(calls[1:], ends, strict=False))
    assert len({tuple(call.target for call in calls) for calls in made.values()}) > 2


def test_regions_are_ranked_rightly_at_the_sample_size_that_a_first_run_asks_for(
    tmp_path: Path, simulated: Simulated
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    # Their medians are about 30 and 50 ms apart.
    ask = ("--users", "8", "--precision", "15ms")
    small = send("regions", first, simulated, "--rounds", "10", *ask)
    asked = ended(first / "results")["regions"]
    assert isinstance(asked, dict) and asked["rounds"] == 10 and not asked["enough"]
    assert f"takes --rounds {asked['needed_rounds']}; there were 10" in small.stderr
    send("regions", second, simulated, "--rounds", str(asked["needed_rounds"]), *ask)
    found = ended(second / "results")["regions"]
    assert isinstance(found, dict) and found["ranking"] == ["one", "two", "three"]
    # What a gateway chooses by itself is left out.
    calls = load_of(second / "results")
    assert Counter(call.target for call in calls) == dict.fromkeys(["one", "two", "three"], asked["needed_rounds"])
    assert all(len({call.prompt_id for call in calls}) == 1 for calls in in_rounds(calls).values())
    said = run("analysis", "regions", "-o", "json", settings={"HEADROOM_RESULTS": str(second / "results")}).stdout
    streams = sum(call.request_stream for call in calls if call.target == "one")
    assert {(row["n"], row["paired"]) for row in json.loads(said)["differences"]} == {(streams, True)}


def test_two_processes_share_the_rounds_and_a_rate_spreads_them(tmp_path: Path, simulated: Simulated) -> None:
    done = send(
        "regions", tmp_path, simulated, "--rounds", "15", "--processes", "2", "--rate", "30", "--arrivals", "constant"
    )
    assert done.returncode == 0, done.stderr
    calls = load_of(tmp_path / "results")
    made = in_rounds(calls)
    assert sorted(made) == list(range(1, 16)) and all(len(one) == 3 for one in made.values())
    assert all(len({call.worker_id for call in one}) == 1 for one in made.values())
    assert len({call.worker_id for call in calls}) == 2
    # Thirty calls a second are ten rounds a second; what follows in a round is due when the call before it has ended.
    assert sorted(one[0].scheduled or 0.0 for one in made.values()) == pytest.approx([n / 10 for n in range(15)])
    assert run("analysis", "verify", str(only_run(tmp_path / "results"))).returncode == 0


@pytest.mark.parametrize(
    ("scenario", "changes", "says"),
    [
        ("gateway", {"HEADROOM_TARGETS": "one,two"}, "none of one, two is behind a gateway"),
        ("regions", {"HEADROOM_TARGETS": "one,plain"}, "there is only one that it can; name several"),
        ("regions", {"HEADROOM_PRECISION": "20"}, "it takes a time such as 20ms"),
        ("gateway", {"HEADROOM_TRACE": "trace.csv"}, "replays no --trace"),
    ],
)
def test_wrong_settings_end_in_one_line(
    tmp_path: Path, simulated: Simulated, scenario: str, changes: dict[str, str], says: str
) -> None:
    done = send(scenario, tmp_path, simulated, "--loglevel", "WARNING", **changes)
    assert done.returncode == 2 and says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_that_is_stopped_in_the_middle_of_its_rounds_says_what_it_has_found(
    tmp_path: Path, simulated: Simulated, start: Start
) -> None:
    command = ("locust", "-f", "locustfiles/regions.py", "--headless", "--rounds", "100000", "-t", "3s")
    process = start(*command, settings=settings(tmp_path, simulated))
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert "regions by their median time to the first token: 1. one" in said
    assert run("analysis", "verify", str(only_run(tmp_path / "results"))).returncode == 0
