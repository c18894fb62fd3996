"""The open model end to end: when calls are sent, what is dropped, and that a stall is seen in full."""

import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.commands import run
from tests.runs import Start, ended, load_of, only_run, openai_shaped, results_in
from tests.simulators import awaited
from tests.test_analysis import report
from tests.test_client import WHOLE
from tests.wire import answers, reply, sends, sends_then_waits, serving

# Of the stall test, at any scale.
CALLS = 240


def due(results: Path) -> list[float]:
    return sorted(call.scheduled for call in load_of(results) if call.scheduled is not None)


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["alone", "two workers"])
def test_constant_arrivals_are_due_at_even_gaps_whichever_process_sends_them(
    tmp_path: Path, processes: tuple[str, ...]
) -> None:
    with serving(answers(openai_shaped())) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_RATE="25", HEADROOM_ARRIVALS="constant")
        done = run("locust", "--headless", "--run-time", "3s", "--users", "2", *processes, settings=settings)
    times = due(tmp_path)
    assert done.returncode == 0 and "25 calls a second, evenly spaced (open model)" in done.stderr
    assert len(times) > 40 and times == [number / 25 for number in range(len(times))]
    assert ended(tmp_path)["scheduled"] == ended(tmp_path)["sent"] == len(times)


def test_a_schedule_is_sent_as_it_says_and_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "schedule.txt").write_text("# two bursts\n0.1\n0.1\n0.1\n1.25\n1.25\n")
    with serving(answers(openai_shaped())) as server:
        changes = {"HEADROOM_SCHEDULE": str(tmp_path / "schedule.txt")}
        done = run("locust", "--headless", settings=results_in(tmp_path, server.url, **changes))
    assert done.returncode == 0
    assert due(tmp_path) == [0.1, 0.1, 0.1, 1.25, 1.25]
    late = [(call.issued or 0) - (call.scheduled or 0) for call in load_of(tmp_path)]
    assert min(late) >= 0 and max(late) < 0.5


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["alone", "two workers"])
def test_a_call_that_is_due_while_all_places_are_taken_is_dropped_and_counted_and_delays_none(
    tmp_path: Path, start: Start, processes: tuple[str, ...]
) -> None:
    released = threading.Event()
    options = {"HEADROOM_RATE": "50", "HEADROOM_ARRIVALS": "constant", "HEADROOM_MAX_IN_FLIGHT": "4"}
    with serving(sends(reply(WHOLE)), sends_then_waits(released)) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_CALL_TIMEOUT="20", **options)
        command = ("locust", "--headless", "-t", "3s", "--stop-timeout", "1s", "--users", "2", *processes)
        process = start(*command, settings=settings)
        said = process.communicate(timeout=60)[1]
        received = len(server.requests)
        released.set()
    calls, counted = load_of(tmp_path), ended(tmp_path)
    dropped = [call for call in calls if call.outcome == "dropped_not_sent"]
    in_flight = 4 * (2 if processes else 1)
    assert received - 1 == in_flight == counted["sent"] == len(calls) - len(dropped)
    assert counted["dropped"] == len(dropped) > 60
    assert counted["scheduled"] == len(calls) and due(tmp_path) == [number / 50 for number in range(len(calls))]
    assert all(call.duration is None and call.status_code is None for call in dropped)
    assert f"{len(calls)} calls were due: {in_flight} sent, {len(dropped)} dropped" in said
    assert "--max-in-flight allows more" in said


def test_dropped_calls_are_told_apart_in_the_report(tmp_path: Path) -> None:
    options = {"HEADROOM_RATE": "50", "HEADROOM_MAX_IN_FLIGHT": "1"}
    with serving(sends(reply(WHOLE)), sends(0.2, reply(WHOLE))) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_STREAM_SHARE="0", **options)
        run("locust", "--headless", "--run-time", "3s", settings=settings)
    reported = report(only_run(tmp_path))
    outcomes = Counter(call.outcome for call in load_of(tmp_path))
    assert set(outcomes) == {"ok", "dropped_not_sent"}
    assert reported["counts"]["dropped"] == outcomes["dropped_not_sent"]
    assert reported["counts"]["answered"] == outcomes["ok"] == reported["from_due"][0]["n"]
    assert "dropped and never sent" in reported["verdict"] and reported["verdict"].startswith("It did not hold")
    assert reported["queueing"] == "measured"


def test_the_closed_model_is_labelled_in_plan_run_and_report(tmp_path: Path) -> None:
    with serving(answers(openai_shaped(seconds=0.05))) as server:
        settings = results_in(tmp_path, server.url)
        done = run("locust", "--headless", "--run-time", "1s", settings=settings)
    about = json.loads((only_run(tmp_path) / "run.json").read_text())
    reported = report(only_run(tmp_path))
    assert "queueing not measured" in done.stderr
    assert about["queueing"] == reported["queueing"] == "not measured"
    assert any("queueing is not measured" in caveat for caveat in reported["caveats"])
    assert reported["from_due"] == [] and "scheduled" not in about["ended"]


def stalled(folder: Path, start: Start, seconds: float) -> dict[str, float]:
    """What the report says of whole calls from when they were due, where the server stood still for a sixth of the run.

    Calls are due at even gaps, and the server answers at once except in its freeze; so the share of calls that wait
    longer than x is (freeze - x) / run, and every quantile follows from that.
    """
    gap, thawed = seconds / CALLS, threading.Event()
    thawed.set()
    (folder / "schedule.txt").write_text("".join(f"{number * gap}\n" for number in range(CALLS)))

    def answers_unless_frozen(connection: socket.socket, request: bytes) -> None:
        thawed.wait()
        answers(openai_shaped())(connection, request)

    with serving(answers_unless_frozen) as server:
        changes = {"HEADROOM_SCHEDULE": str(folder / "schedule.txt"), "HEADROOM_STREAM_SHARE": "0"}
        settings = results_in(folder, server.url, **changes)
        process = start("locust", "--headless", settings=settings)
        run_file = awaited(lambda: next(folder.glob("*/run.json"), None))
        began = json.loads(run_file.read_text())["started_unix_nano"] / 1e9
        # Half a gap off the arrivals, so that none is due at the very moment.
        for at, change in ((seconds / 3, thawed.clear), (seconds / 2, thawed.set)):
            time.sleep(began + at - gap / 2 - time.time())
            change()
        process.communicate(timeout=2 * seconds + 60)
    reported = report(only_run(folder))
    (whole,) = reported["from_due"]
    assert whole["n"] == CALLS
    return dict(whole)


def test_a_tenth_of_the_stall_with_a_closed_form_answer_is_seen_in_full(tmp_path: Path, start: Start) -> None:
    found = stalled(tmp_path, start, 6.0)
    assert found["p90"] == pytest.approx(0.4, rel=0.05) and found["p99"] == pytest.approx(0.94, rel=0.05)
    assert found["p50"] < 0.1


def test_the_closed_model_does_not_see_that_stall(tmp_path: Path, start: Start) -> None:
    """What is asked of the open model above would be wrong of this one: it stops asking when nothing comes back."""
    thawed = threading.Event()
    thawed.set()

    def answers_unless_frozen(connection: socket.socket, request: bytes) -> None:
        thawed.wait()
        sends(0.02, reply(WHOLE))(connection, request)

    with serving(answers_unless_frozen) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_STREAM_SHARE="0")
        process = start("locust", "--headless", "-u", "4", "-t", "3s", settings=settings)
        assert server.wait_for_requests(20)
        thawed.clear()
        time.sleep(0.5)
        thawed.set()
        process.communicate(timeout=60)
    took = sorted(call.duration or 0 for call in load_of(tmp_path))
    assert took[-1] > 0.4
    # Frozen for 0.5 s of 3 s: at even arrivals the 90th percentile is 0.2 s.
    assert took[len(took) * 9 // 10] < 0.1


@pytest.mark.soak
def test_the_stall_with_a_closed_form_answer_is_seen_in_full(tmp_path: Path, start: Start) -> None:
    found = stalled(tmp_path, start, 60.0)
    assert found["p90"] == pytest.approx(4.0, rel=0.05) and found["p99"] == pytest.approx(9.4, rel=0.05)
    assert found["p50"] < 0.1
