"""A run that was late itself says so, and claims nothing that it cannot know."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run
from tests.runs import ended, load_of, only_run, results_in
from tests.test_analysis import invoked
from tests.test_client import WHOLE
from tests.wire import DONE, LAST_CHUNK, chunk, delta, reply, sends, serving, stream_head

# The scenario, in a process whose event loop is held up for half of the time.
HELD_UP = """
import locust
import gevent, time
from locustfiles.mixed import MixedUser

def hold_up():
    while True:
        gevent.sleep(0.06)
        until = time.perf_counter() + 0.06
        while time.perf_counter() < until:
            pass

locust.events.test_start.add_listener(lambda **_: gevent.spawn(hold_up))
"""
# The same, held up once for 200 ms; when that was is written into the results' folder.
HELD_UP_ONCE = """
import locust
import gevent, os, time
from pathlib import Path
from locustfiles.mixed import MixedUser

def hold_up():
    began, until = time.time(), time.perf_counter() + 0.2
    while time.perf_counter() < until:
        pass
    Path(os.environ["HEADROOM_RESULTS"], "held_up.txt").write_text(f"{began} {time.time()}")

locust.events.test_start.add_listener(lambda **_: gevent.spawn_later(1.5, hold_up))
"""
EVENTS = [delta("", role="assistant"), delta("Hello"), delta(" there"), delta(None, "stop"), DONE]
# Each event by itself, so far apart that no two are ever read together.
PACED = [stream_head(), *(piece for event in EVENTS for piece in (0.15, chunk(event))), LAST_CHUNK]


def held_up(folder: Path, *pieces: bytes | float, **settings: str) -> str:
    """What the run said."""
    (folder / "held_up.py").write_text(HELD_UP)
    with serving(sends(reply(WHOLE)), sends(*pieces)) as server:
        about = results_in(folder, server.url, HEADROOM_STREAM_SHARE="1", **settings)
        done = run("locust", "-f", str(folder / "held_up.py"), "--headless", "--run-time", "2s", settings=about)
    assert done.returncode == 0, done.stderr
    return done.stderr


def reported(folder: Path) -> tuple[dict[str, Any], str]:
    """What the report's figures are, and its text."""
    text = invoked(str(only_run(folder))).stdout
    return json.loads((only_run(folder) / "summary.json").read_text()), text


def test_first_tokens_that_a_late_process_stamped_itself_are_not_claimed(tmp_path: Path) -> None:
    said = held_up(tmp_path, *PACED, HEADROOM_CLOCK="user")
    figures, text = reported(tmp_path)
    calls = load_of(tmp_path)
    tainted = [call for call in calls if call.tainted]
    assert len(tainted) > len(calls) / 2 and {call.clock for call in calls} == {"user"}
    assert all(0.04 < (call.loop_lag or 0) < 0.5 for call in tainted)
    assert ended(tmp_path)["tainted"] == len(tainted) and ended(tmp_path)["first_tokens"] == len(calls)
    assert "no claim on time to first token" in said
    assert figures["tainted_share"] == pytest.approx(len(tainted) / len(calls))
    assert all(row["ttft_p50"] is None and row["duration_p50"] is not None for row in figures["targets"])
    assert "No claim on time to first token" in text
    page = (only_run(tmp_path) / "report.html").read_text()
    assert "No claim on time to first token" in page


def test_one_hold_up_taints_the_calls_that_were_open_then_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "once.py").write_text(HELD_UP_ONCE)
    with serving(sends(reply(WHOLE)), sends(*PACED)) as server:
        about = results_in(tmp_path, server.url, HEADROOM_STREAM_SHARE="1", HEADROOM_CLOCK="user")
        done = run("locust", "-f", str(tmp_path / "once.py"), "--headless", "-t", "4s", settings=about)
    began, ended_at = map(float, (tmp_path / "held_up.txt").read_text().split())
    calls = [(call.start_time_unix_nano / 1e9, call.duration or 0, call) for call in load_of(tmp_path)]
    # What begins in the moment in which the watchdog has not seen the end of it yet is taken for late too.
    sure = [(at, seconds, call) for at, seconds, call in calls if not ended_at <= at < ended_at + 0.05]
    open_then = {call.seq for at, seconds, call in sure if at < ended_at and at + seconds > began}
    held = {call.seq for _, _, call in sure if (call.loop_lag or 0) > 0.15}
    assert done.returncode == 0 and held == open_then and 0 < len(held) < len(sure)
    assert all(call.tainted for _, _, call in sure if call.seq in held)


def test_the_kernels_stamps_stay_right_in_a_late_process(tmp_path: Path) -> None:
    said = held_up(tmp_path, *PACED)
    calls = load_of(tmp_path)
    if calls[0].clock != "kernel":
        pytest.skip("this system has no receive stamps")
    assert max(call.loop_lag or 0 for call in calls) > 0.04
    assert not any(call.tainted for call in calls)
    # The second event is the first with content.
    assert sorted(call.time_to_first_token or 0 for call in calls)[len(calls) // 2] == pytest.approx(0.30, abs=0.03)
    figures, text = reported(tmp_path)
    assert "no claim" not in said + text and figures["tainted_share"] == 0


def test_a_first_token_that_was_read_together_with_a_later_one_is_tainted_also_by_the_kernels_stamp(
    tmp_path: Path,
) -> None:
    said = held_up(tmp_path, 0.05, stream_head() + b"".join(map(chunk, EVENTS)) + LAST_CHUNK)
    assert ended(tmp_path)["tainted"] and "no claim" in said
    assert all(call.coalesced for call in load_of(tmp_path))


def test_a_larger_share_can_be_allowed(tmp_path: Path) -> None:
    said = held_up(tmp_path, *PACED, HEADROOM_CLOCK="user", HEADROOM_MAX_TAINTED="1")
    figures, text = reported(tmp_path)
    assert "no claim" not in said and "No claim" not in text
    assert "may have been stamped late by this machine" in said
    assert all(row["ttft_p50"] for row in figures["targets"])
