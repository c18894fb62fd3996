"""The soak: drift against closed cases, what is kept over hours, and the commands as run."""

import json
import random
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from locustfiles._capacity import given
from locustfiles._drift import FEWEST, Drift, drift
from locustfiles._soak import MOST, OF_CALLS, Kept, Offered, Soaked, part
from probe.prompts import CONVERSATION, Size
from probe.record import ObservedCall
from probe.target import SettingsError, Target
from simulator.service.latency import Latency, Spread, draw
from tests.commands import run, settings_of
from tests.runs import Start, ended, load_of, only_run, openai_shaped, results_in, short_calls
from tests.simulators import simulating
from tests.test_render import a_call
from tests.wire import answers, serving

HOURS = 3600.0


def drifted(times: Sequence[float], values: Sequence[float]) -> Drift:
    found = drift(times, values)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("values", "slope", "low", "high", "found"),
    [
        ([4.2, 4.0, 4.6, 4.5, 5.1, 4.7, 5.0, 5.4, 5.2, 5.9, 5.3, 5.8], 0.16, 0.0875, 0.2375, 1),
        ([0, 0, 0, 1, 0, 2, 1, 3, 2, 5, 4, 6], 0.5, 0.2, 0.75, 1),
        ([5, 3, 6, 2, 5, 4, 6, 3, 5, 2, 6, 4], 0.0, -0.5, 0.5, 0),
        ([-1, -2, -3, -4, -5, -6, -7, -8], -1.0, -1.0, -1.0, -1),
        ([7.0] * 20, 0.0, 0.0, 0.0, 0),
    ],
)
def test_slope_and_interval_are_those_of_theilslopes(
    values: list[float], slope: float, low: float, high: float, found: int
) -> None:
    """Of SciPy 1.17 at 99 %; no neighbours are alike in these."""
    made = drifted(range(len(values)), values)
    assert (made.slope, made.low, made.high) == pytest.approx((slope, low, high))
    assert made.found == found


@for_all(
    st.lists(st.integers(-50, 50), min_size=FEWEST, max_size=30),
    st.sampled_from([0.5, 2.0, 60.0]),
    st.integers(-100, 100),
)
@settings(max_examples=50)
def test_another_unit_or_level_changes_no_finding(values: list[int], unit: float, level: int) -> None:
    times = range(len(values))
    plain = drifted(times, values)
    other = drifted([at / unit for at in times], [level + 4 * value for value in values])
    assert other.found == plain.found
    assert (other.slope, other.low, other.high) == pytest.approx([4 * unit * one for one in plain[:3]])


def share_found(make: Callable[[random.Random], list[float]], of: int = 150) -> float:
    made = [make(random.Random(seed)) for seed in range(of)]
    return sum(abs(drifted(range(len(values)), values).found) for values in made) / of


def in_spells(rng: random.Random) -> list[float]:
    """Each half as far off as the one before, and its own luck: without a drift."""
    values = [0.0]
    for _ in range(60):
        values.append(0.5 * values[-1] + rng.gauss(0, 1))
    return values


def test_chance_is_seldom_taken_for_drift_also_where_a_service_is_slow_for_spells() -> None:
    assert share_found(lambda rng: [rng.gauss(0, 1) for _ in range(60)]) <= 0.02
    assert share_found(in_spells) <= 0.06


def test_what_begins_late_and_stays_is_found_though_most_pairs_know_nothing_of_it() -> None:
    errors = [0.0] * 36 + [0.01, 0.0, 0.02, 0.01, 0.03, 0.01, 0.02, 0.01, 0.0, 0.02, 0.01, 0.02]
    found = drifted(range(48), errors)
    assert (found.slope, found.found, found.first, found.last) == (0.0, 1, 0.0, 0.01)


def test_of_too_few_values_nothing_is_said() -> None:
    assert drift(range(FEWEST - 1), range(FEWEST - 1)) is None


def soaked(calls: Iterator[ObservedCall], *, processes: int = 1) -> dict[str, Any]:
    """What the run's file would have of it."""
    kept = [Kept() for _ in range(processes)]
    for number, call in enumerate(calls):
        kept[number % processes].take(call)
    together = Kept()
    for one in kept:
        together.add(one.packed())
    return Soaked([Offered("std", "chat", 60, 100, "a test")], together).about()


def calls(latency: Latency, *, hours: float, number: int) -> Iterator[ObservedCall]:
    """As the simulator would answer them, on a clock of the test's own."""
    rng = random.Random(1)
    for one in range(number):
        at = one * hours * HOURS / number
        drawn = draw(latency.after(at), 20, 1.0, 0.0, 0, rng)
        made = {"time_to_first_token": drawn.first_token, "duration": drawn.due[-1]}
        yield a_call(target="std", scheduled=at, issued=at + 0.001, request_stream=True, **made)


def test_a_service_that_gets_slower_is_found_with_its_slope_and_a_steady_one_is_not() -> None:
    """0.01 s a minute, whatever the rest takes, is 0.6 s an hour at every quantile."""
    (rising,) = soaked(calls(Latency(queue=Spread(0.2, 0), queue_rise=0.01), hours=2, number=6000))["targets"]
    for name in ("ttft_p50_s", "ttft_p95_s", "duration_p50_s", "duration_p95_s"):
        found = rising["drift"][name]
        assert found["drifts"] and found["low"] <= 0.6 <= found["high"] < found["low"] + 0.1
    (steady,) = soaked(calls(Latency(), hours=2, number=6000))["targets"]
    assert not any(found["drifts"] for found in steady["drift"].values())


def test_what_several_processes_keep_is_together_what_one_would_have_kept() -> None:
    def some() -> Iterator[ObservedCall]:
        return calls(Latency(), hours=3, number=3000)

    one, three = soaked(some()), soaked(some(), processes=3)
    assert one["targets"] == three["targets"]
    assert sum(spell["sent"] for spell in three["generator"]["spells"]) == 3000


def test_calls_count_where_they_were_due_however_late_they_end_and_by_what_they_came_to() -> None:
    kept = Kept()
    refused = {"outcome": "throttled", "throttle_kind": "tokens", "duration": 0.01}
    for at in range(400):
        kept.take(a_call(target="std", scheduled=float(at), issued=float(at), duration=1.0))
    for at in range(0, 100, 2):
        kept.take(a_call(target="std", scheduled=float(at), issued=500.0, **refused))
    kept.take(a_call(target="std", scheduled=399.0, outcome="dropped_not_sent", duration=None))
    kept.take(a_call(target="std", scheduled=3.0, issued=3.0, outcome="cancelled_user"))
    rows = part(kept.targets["std"], OF_CALLS).rows
    throttled = [row.outcomes and row.outcomes.get("throttled: tokens") for row in rows]
    assert sum(one or 0 for one in throttled) == 50 and sum(row.sent for row in rows) == 450
    assert [bool(one) for one in throttled] == [row.begins < 100 for row in rows]
    assert rows[0].values["throttled_share"] == pytest.approx(1 / 3, abs=0.02)
    assert rows[-1].values["throttled_share"] == rows[-1].values["failed_share"] == 0
    assert sum((row.outcomes or {}).get("dropped_not_sent", 0) for row in rows) == 1


@pytest.mark.parametrize("number", [3_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_memory_does_not_grow_with_the_number_of_calls(number: int) -> None:
    kept, many = Kept(), calls(Latency(), hours=30, number=number)
    tracemalloc.start()
    try:
        for call in many:
            kept.take(call)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10e6
    assert len(kept.targets["std"]) <= MOST and len(kept.own) <= MOST
    assert sum(row.sent for row in part(kept.targets["std"], OF_CALLS).rows) == number


# The commands.

SOAK = ("locust", "-f", "locustfiles/soak.py", "--headless")
FAST = """
[resources.std]
region = "East US 2"
[resources.std.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
tokens_per_minute = 6000000
requests_per_minute = 1200
[resources.std.latency]
prompt_filter = { median = 0.01 }
queue = { median = 0.05, spread = 0 }
engine = { median = 0.01 }
between_tokens = { median = 0.001 }
"""


def settings_for(target: Target, folder: Path) -> dict[str, str]:
    return {
        **settings_of(target.endpoint),
        "AZURE_OPENAI_API_KEY": target.api_key or "",
        "HEADROOM_RESULTS": str(folder / "results"),
        "HEADROOM_MIX": short_calls(folder),
        "HEADROOM_MAX_TAINTED": "1",
    }


def test_a_soak_of_two_processes_that_is_stopped_says_what_it_has_found_so_far(tmp_path: Path, start: Start) -> None:
    with simulating(tmp_path, FAST) as simulated:
        settings = settings_for(simulated.target("std"), tmp_path)
        process = start(*SOAK, "--share", "0.5", "--processes", "2", settings=settings)
        deadline = time.monotonic() + 30
        while not list((tmp_path / "results").glob("*/calls-*.jsonl")) or len(load_of(tmp_path / "results")) < 15:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert ": 600 calls a minute, 50.0 % of 1,200 (the limits that it states)" in said
    assert "ended early: interrupted" in said and ": 600 calls a minute: too little to tell a drift" in said
    made = load_of(tmp_path / "results")
    assert len({call.worker_id for call in made}) == 2
    found: Any = ended(tmp_path / "results")["soak"]
    (target,) = found["targets"]
    assert (found["share"], target["offered_rpm"], target["capacity_rpm"]) == (0.5, 600, 1200)
    assert sum(spell["sent"] for spell in target["spells"]) == len(made)
    assert sum(spell["sent"] for spell in found["generator"]["spells"]) == len(made)
    assert found["generator"]["spells"][0]["memory_bytes"] > 20e6


@pytest.mark.soak
@pytest.mark.parametrize("rise", [0.0, 0.12])
def test_the_drift_of_a_simulator_is_found_and_of_a_steady_one_none(rise: float, tmp_path: Path) -> None:
    with simulating(tmp_path, FAST + f"queue_rise = {rise}") as simulated:
        settings = settings_for(simulated.target("std"), tmp_path)
        done = run(*SOAK, "--run-time", "60s", settings=settings)
    assert done.returncode == 0, done.stderr
    found: Any = ended(tmp_path / "results")["soak"]
    drift = found["targets"][0]["drift"]
    assert drift["ttft_p50_s"]["low"] <= rise * 60 <= drift["ttft_p50_s"]["high"]
    assert drift["ttft_p50_s"]["drifts"] == bool(rise)
    says = "first token p50 rises by" if rise else "no detectable drift"
    assert says in done.stderr.split("p95 first token")[1]
    assert run("analysis", "report", str(only_run(tmp_path / "results"))).returncode == 0


def test_a_target_that_states_no_limits_needs_to_be_given_a_capacity(tmp_path: Path) -> None:
    with serving(answers(openai_shaped())) as server:
        done = run(*SOAK, settings=results_in(tmp_path, server.url))
    lines = [line for line in done.stderr.splitlines() if line.startswith("headroom:")]
    assert done.returncode == 2 and len(lines) == 1 and "states no limits" in lines[0] and "--capacity" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rate", "5"), "--rate says what is offered"),
        (("--capacity", "6000"), "is 70 calls a second, above --max-rate"),
    ],
)
def test_what_cannot_be_a_soak_is_said_in_one_line(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = run(*SOAK, *arguments, settings=results_in(tmp_path, "http://127.0.0.1:9"))
    lines = [line for line in done.stderr.splitlines() if line.startswith("headroom:")]
    assert done.returncode == 2 and len(lines) == 1 and says in lines[0]


def knee_in(folder: Path, held: dict[str, float | None]) -> None:
    """A run of `knee.py`, as far as its file is read here."""
    folder.mkdir(parents=True)
    knees = [
        {"target": name, "broke_by": "throttled<1%"}
        | ({} if rate is None else {"held": {"requests_per_minute": {"value": rate, "low": rate}}})
        for name, rate in held.items()
    ]
    options = {"mix": msgspec.to_builtins(CONVERSATION)}
    (folder / "run.json").write_text(json.dumps({"options": options, "ended": {"knee": knees}}))


def test_a_capacity_is_what_held_in_the_newest_run_that_found_a_knee(tmp_path: Path) -> None:
    knee_in(tmp_path / "20260101T000000Z-knee-1", {"std": 100.0})
    knee_in(tmp_path / "20260102T000000Z-knee-2", {"std": 240.0, "ptu": 90.0})
    (tmp_path / "20260103T000000Z-mixed-3").mkdir()
    (tmp_path / "20260103T000000Z-mixed-3" / "run.json").write_text('{"options": {"mix": []}, "ended": {}}')
    (tmp_path / "20260104T000000Z-mixed-4").mkdir()
    (tmp_path / "20260104T000000Z-mixed-4" / "run.json").write_text("no run")
    found = given(str(tmp_path), CONVERSATION, ["std", "ptu"])
    assert {name: one.per_minute for name, one in found.items()} == {"std": 240.0, "ptu": 90.0}
    assert found["std"].source == "what held in 20260102T000000Z-knee-2"
    older = given(str(tmp_path / "20260101T000000Z-knee-1"), CONVERSATION, ["std"])
    assert older["std"].per_minute == 100.0


def test_a_knee_of_other_targets_or_of_other_calls_is_no_capacity(tmp_path: Path) -> None:
    knee_in(tmp_path / "knee", {"std": 100.0, "east": None})
    with pytest.raises(SettingsError, match="found a rate that holds only for std, and none for east"):
        given(str(tmp_path), CONVERSATION, ["std", "east"])
    (only, *_) = CONVERSATION
    larger = msgspec.structs.replace(only, input_tokens=Size(9000, 9000))
    with pytest.raises(SettingsError, match="and these are of 9,000 tokens in"):
        given(str(tmp_path), [larger], ["std"])
    with pytest.raises(SettingsError, match="calls a minute, above 0"):
        given("-3", CONVERSATION, ["std"])
    with pytest.raises(SettingsError, match=r"'.*nowhere', which is no number of calls a minute and no run of knee.py"):
        given(str(tmp_path / "nowhere"), CONVERSATION, ["std"])
