"""Runs that are ended at moments nobody chose, amid faults: the record holds against the simulator's own ledger.

A moment is a random time after the run's first call, from a seed, so that a failure can be met again.
"""

import math
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from analysis.verify import Verdict, verify
from probe.journal import read_calls
from tests.commands import settings_of
from tests.runs import Start, only_run
from tests.simulators import Simulated, simulating

# What a call can meet, in all 5 % of them.
_FAULTS = "stream_reset closed_unanswered no_answer stream_truncated unhinted_429 bad_chunk_size stream_stalled garbage"
FAULTS = [word for name in _FAULTS.split() for word in ("--fault", f"{name}:0.6%")]
FAST = "--tpm 100000000 --rpm 1000000 --time-to-first-token 0.05 --time-between-tokens 0.002".split()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("simulator"), "", *FAST, *FAULTS) as running:
        yield running


Ending = Callable[[psutil.Process], None]


def ctrl_c(master: psutil.Process) -> None:
    os.killpg(master.pid, signal.SIGINT)


def sigterm(master: psutil.Process) -> None:
    master.terminate()


def kill_worker(master: psutil.Process) -> None:
    master.children()[0].kill()


def kill_master(master: psutil.Process) -> None:
    master.kill()


# How it is ended, and with which codes it may end: a worker's death is known half a second later, or at the end.
ENDINGS: dict[Ending, tuple[str | None, int]] = {
    ctrl_c: ("interrupted", 130),
    sigterm: ("interrupted", 143),
    kill_worker: ("completed", 70),
    kill_master: (None, -9),
}


def begun(
    start: Start, run_time: str, settings: dict[str, str], simulated: Simulated, folder: Path
) -> tuple[subprocess.Popen[str], int]:
    """A run whose first calls were served, and how many calls the ledger had before it. Where a fault hits the check of
    the target there is no run, and another try."""
    while True:
        before = len(simulated.ledger())
        process = start(
            "locust", "--headless", "--processes", "2", "-t", run_time, "--loglevel", "WARNING", settings=settings
        )
        while process.poll() is None and len(simulated.ledger()) < before + 2:
            time.sleep(0.02)
        if process.poll() is None:
            return process, before
        assert not any(folder.glob("*/run.json")), process.communicate()


def ended_at(moment: float, ending: Ending, start: Start, simulated: Simulated, folder: Path) -> None:
    target = simulated.target("eastus2")
    settings = settings_of(
        target.endpoint,
        AZURE_OPENAI_API_KEY=target.api_key or "",
        AZURE_OPENAI_DEPLOYMENT=target.deployment,
        HEADROOM_RESULTS=str(folder),
        HEADROOM_CALL_TIMEOUT="1",
        HEADROOM_PAUSE="0",
    )
    # Long enough that a worker is killed before it has ended by itself.
    run_time = f"{math.ceil(moment) + 2}s" if ending is kill_worker else "60s"
    process, before = begun(start, run_time, settings, simulated, folder)
    time.sleep(moment)
    ending(psutil.Process(process.pid))
    # Until master and workers are gone: all of them hold the other end.
    said = process.communicate(timeout=30)[1]
    how, code = ENDINGS[ending]
    assert process.returncode == code, said
    assert "Traceback" not in said
    held_against_the_ledger(only_run(folder), simulated.ledger()[before:], how)


def held_against_the_ledger(folder: Path, ledger: list[dict[str, Any]], how: str | None) -> Verdict:
    verdict = verify(folder)
    assert verdict.adds_up and verdict.how == how, verdict
    served = {line["request_id"] for line in ledger}
    recorded = [call.service_request_id for call in read_calls(folder).calls]
    named = {one for one in recorded if one is not None}
    assert named <= served
    # A call that the service had and that has no record under its name is one without a name, or was in flight.
    nameless = sum(one is None for one in recorded) + verdict.total.in_flight
    assert len(served) <= verdict.total.sent and len(served - named) <= nameless
    return verdict


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
def test_whenever_a_run_is_ended_its_record_adds_up(
    ending: Ending, start: Start, simulated: Simulated, tmp_path: Path
) -> None:
    moment = random.Random(f"{ending.__name__}-1").uniform(0, 1.5)
    ended_at(moment, ending, start, simulated, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(50))
@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
def test_at_fifty_moments_a_run_is_ended_and_its_record_adds_up(
    ending: Ending, number: int, start: Start, simulated: Simulated, tmp_path: Path
) -> None:
    ended_at(random.Random(f"{ending.__name__}-{number}").uniform(0, 4), ending, start, simulated, tmp_path)
