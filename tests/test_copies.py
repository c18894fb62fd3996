"""Runs copied to a container of blobs while they are on; Azure Load Testing's folder and the image for Kubernetes."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.destinations import connect
from analysis.sending import Sender, Sent
from analysis.verify import verify
from tests.commands import BIN, environment, run
from tests.runs import only_run, openai_shaped, results_in
from tests.simulators import Simulated, awaited, simulating
from tests.test_analysis import call, write_run
from tests.test_blobs import CONFIG
from tests.wire import answers, serving

CALLS = [call(n) for n in range(30)]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("blobs"), CONFIG) as running:
        yield running


@pytest.fixture
def account(simulated: Simulated) -> dict[str, str]:
    """What an engine's environment says of its managed identity, and where to copy to."""
    return {
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": simulated.ready["identity"]["AZURE_POD_IDENTITY_AUTHORITY_HOST"],
        "HEADROOM_CA_BUNDLE": simulated.ready["ca"],
        "HEADROOM_CREDENTIAL": "managed",
        "HEADROOM_SEND_BLOBS": simulated.ready["storage"]["container"] + "/one/two",
    }


def kept(simulated: Simulated, run: Path, prefix: str = "one/two") -> Path:
    """Where the simulated account has a run's blobs."""
    return simulated.logs.parent / "blobs" / "results" / prefix / run.name


def contents(folder: Path) -> dict[str, bytes]:
    names = [*folder.glob("*.jsonl"), folder / "run.json"]
    return {path.name: path.read_bytes() for path in names}


def copied(folder: Path, account: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Sent:
    for name, value in account.items():
        monkeypatch.setenv(name, value)
    ended = threading.Event()
    ended.set()
    return Sender(folder, connect({"blobs": account["HEADROOM_SEND_BLOBS"]}, folder), ended, 0.0).run()


def test_a_runs_files_are_in_the_container_as_they_are_and_what_is_there_is_not_sent_again(
    tmp_path: Path, simulated: Simulated, account: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path, CALLS)
    done = copied(folder, account, monkeypatch)
    assert done.is_whole and done.lines == 61, done
    assert contents(kept(simulated, folder)) == contents(folder)
    # A copy that was cut off in the middle of a line is gone on with, and a torn last line is copied as it is.
    (calls,) = kept(simulated, folder).glob("calls-*.jsonl")
    calls.write_bytes(calls.read_bytes()[:777])
    with next(folder.glob("calls-*.jsonl")).open("ab") as file:
        file.write(b'{"torn')
    assert copied(folder, account, monkeypatch).is_whole
    assert contents(kept(simulated, folder)) == contents(folder)


def test_a_blob_that_is_not_the_files_begin_is_no_whole_copy(
    tmp_path: Path, simulated: Simulated, account: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path, CALLS)
    assert copied(folder, account, monkeypatch).is_whole
    (calls,) = kept(simulated, folder).glob("calls-*.jsonl")
    calls.write_bytes(calls.read_bytes() + b"more")
    done = copied(folder, account, monkeypatch)
    assert not done.is_whole and "bytes" in str(done.why)


def test_an_engine_that_is_killed_has_what_it_recorded_in_the_container(
    tmp_path: Path, simulated: Simulated, account: dict[str, str]
) -> None:
    with serving(answers(openai_shaped())) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_RATE="20", **account)
        process = subprocess.Popen(
            [str(BIN / "locust"), "--headless"], env=environment(settings), stderr=subprocess.PIPE
        )
        here = awaited(lambda: next(tmp_path.glob("*/run.json"), None)).parent
        there = kept(simulated, here)
        awaited(lambda: next((one for one in there.glob("calls-*.jsonl") if one.stat().st_size > 3000), None))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    awaited(lambda: True if contents(there) == contents(only_run(tmp_path)) else None)
    assert verify(there).adds_up and verify(there).processes[0].ended is False


def test_a_container_that_is_not_there_is_said_in_one_line(
    tmp_path: Path, simulated: Simulated, account: dict[str, str]
) -> None:
    where = simulated.ready["storage"]["account"] + "/nowhere"
    done = run(
        "analysis", "send", str(write_run(tmp_path, CALLS)), "--blobs", where, "--give-up", "0", settings=account
    )
    assert done.returncode == 75 and "there is no such container" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1
