"""Runs in rounds, `gateway.py` and `regions.py`: against a simulator whose gateways and regions are known."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from analysis.cli import analysis
from analysis.verify import verify
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
output_tokens = { median = 18, p90 = 24 }
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


class Compared(NamedTuple):
    """A run of `gateway.py`: its calls, what it said, and what `analysis gateway` says of it."""

    calls: list[ObservedCall]
    told: dict[str, dict[str, Any]]
    said: str
    added: dict[str, dict[str, Any]]
    buffering: set[str]


def compare(folder: Path, simulated: Simulated, paths: list[str], rounds: int, *options: str) -> Compared:
    targets = ",".join(paths)
    done = send("gateway", folder, simulated, "--rounds", str(rounds), *options, HEADROOM_TARGETS=targets)
    assert done.returncode == 0, done.stderr
    analysed = CliRunner().invoke(analysis, ["gateway", str(only_run(folder / "results")), "-o", "json"])
    found = json.loads(analysed.stdout)
    told: Any = ended(folder / "results")["gateway"]
    return Compared(
        load_of(folder / "results"),
        {path["through"]: path for path in told},
        done.stderr,
        {
            row["through"]: row
            for row in found["added"]
            if row["mark"] == "first token, less the service's own" and row["paired"]
        },
        {row["through"] for row in found["behaviour"] if row["what"].startswith("buffers")},
    )


def test_a_gateway_run_finds_what_each_gateway_costs_and_each_that_buffers(
    tmp_path: Path, simulated: Simulated
) -> None:
    buffers = {"ticking"}
    found = compare(tmp_path, simulated, ["one", "plain", "slow", *buffers], 45, "--users", "6")
    slow, plain = found.added["slow"], found.added["plain"]
    truth = true_cost(simulated, found.calls, "slow")
    # Its policies' 15 ms, and what the simulator takes itself.
    assert slow["added_low"] - 0.002 <= truth <= slow["added_high"] + 0.002 and truth >= 0.015
    assert slow["added"] - plain["added"] == pytest.approx(0.015, abs=0.004)
    assert found.buffering == buffers
    # The run has said so itself, and what it takes to know it better.
    assert "slow adds +" in found.said and "slow: " in found.said
    assert found.told["slow"]["added"] == pytest.approx(slow["added"]) and found.told["slow"]["rounds"] == 45
    assert all(f"{name} buffers streams" in found.said for name in buffers)
    assert "plain buffers" not in found.said


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


# The regions' medians are about 30 and 50 ms apart.
RANKED = ["one", "two", "three"]


def rank(folder: Path, simulated: Simulated, rounds: int, *options: str, precision: str) -> tuple[dict[str, Any], str]:
    """What a run of `regions.py` has found, and what it said."""
    folder.mkdir(exist_ok=True)
    done = send("regions", folder, simulated, "--rounds", str(rounds), "--precision", precision, *options)
    found = ended(folder / "results")["regions"]
    assert isinstance(found, dict), done.stderr
    return found, done.stderr


def test_a_first_run_over_regions_says_how_many_rounds_rank_them_and_compares_pairs_of_calls(
    tmp_path: Path, simulated: Simulated
) -> None:
    found, said = rank(tmp_path, simulated, 45, "--users", "6", precision="5ms")
    assert found["rounds"] == 45 and not found["enough"] and found["needed_rounds"] > 45
    assert f"takes --rounds {found['needed_rounds']}; there were 45" in said
    calls = load_of(tmp_path / "results")
    # What a gateway chooses by itself is left out.
    assert Counter(call.target for call in calls) == dict.fromkeys(RANKED, 45)
    plan = next(line for line in said.splitlines() if "streaming; to " in line)
    assert "(direct)" in plan and "(apim)" not in plan
    assert all(len({call.prompt_id for call in calls}) == 1 for calls in in_rounds(calls).values())
    analysed = CliRunner().invoke(analysis, ["regions", str(only_run(tmp_path / "results")), "-o", "json"])
    streams = sum(call.request_stream for call in calls if call.target == "one")
    assert {(row["n"], row["paired"]) for row in json.loads(analysed.stdout)["differences"]} == {(streams, True)}


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
    assert verify(only_run(tmp_path / "results")).adds_up


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
    command = ("locust", "-f", "locustfiles/regions.py", "--headless", "--rounds", "100000", "-t", "1s")
    process = start(*command, settings=settings(tmp_path, simulated))
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert "regions by their median time to the first token: 1. one" in said
    assert verify(only_run(tmp_path / "results")).adds_up
