"""Runs that come to their end in ways that nobody planned: what is left, what is said, and with which code."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from analysis.verify import Verdict, verify
from probe.descriptors import none_left
from probe.journal import Journal, JournalError, Run, read_calls, start_run
from tests.commands import BIN, ROOT, environment, run
from tests.runs import Start, ended, load_of, only_run, openai_shaped, results_in
from tests.test_client import WHOLE
from tests.wire import WireServer, answers, reply, sends, sends_then_waits, serving

HEADLESS = ("locust", "--headless", "--loglevel", "WARNING")
WORKERS = ("--processes", "2")


def kept(results: Path) -> Verdict:
    verdict = verify(only_run(results))
    assert verdict.adds_up, verdict
    return verdict


@pytest.fixture
def server() -> Iterator[WireServer]:
    with serving(answers(openai_shaped(seconds=0.02))) as running:
        yield running


@pytest.fixture
def silent() -> Iterator[WireServer]:
    """Answers the check of the target, and nothing else."""
    released = threading.Event()
    with serving(sends(reply(WHOLE)), sends_then_waits(released)) as running:
        yield running
        released.set()


def test_when_its_time_is_over_a_run_says_what_it_waits_for(tmp_path: Path, silent: WireServer) -> None:
    once = ("--users", "2", "--run-time", "1s", "--stop-timeout", "3")
    done = run(*HEADLESS, *once, settings=results_in(tmp_path, silent.url))
    assert "; waiting for 2 open calls\n" in done.stderr and "2 cut off at the end" in done.stderr


def test_out_of_descriptors_is_this_sides_own_and_stops_the_run_at_once(tmp_path: Path, silent: WireServer) -> None:
    command = " ".join([str(BIN / "locust"), *HEADLESS[1:], "--users", "60", "--spawn-rate", "60", "-t", "60s"])
    began = time.monotonic()
    done = subprocess.run(
        ["sh", "-c", f"ulimit -n 60; exec {command}"],
        cwd=ROOT,
        env=environment(results_in(tmp_path, silent.url)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert time.monotonic() - began < 30
    assert done.returncode == 74 and "Traceback" not in done.stderr, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if "the run stops" in line]
    assert "a process may have 60 here (RLIMIT_NOFILE); `ulimit -n` raises it" in said
    assert kept(tmp_path).how == "failed" and str(ended(tmp_path)["why"]) in said
    calls = load_of(tmp_path)
    assert {call.outcome for call in calls} == {"internal", "cancelled_user"}
    assert {call.error_type for call in calls if call.outcome == "internal"} == {"descriptors"}


def test_want_of_descriptors_is_found_in_what_caused_an_error() -> None:
    try:
        try:
            raise OSError(errno.ENFILE, "Too many open files in system")
        except OSError as cause:
            raise RuntimeError("no connection") from cause
    except RuntimeError as error:
        assert "fs.file-max" in (none_left(error) or "")
    assert none_left(OSError(errno.ECONNREFUSED, "refused")) is None


BUGGY = """
from itertools import count
from locust import task
from locustfiles._run import listen, running
from locustfiles._scenario import Scenario
from locustfiles._user import AzureOpenAIUser
from probe.client import Client

listen(Scenario("buggy"))

class Buggy(Client):
    calls = count(1)

    def observe(self, *args, **options):
        if next(self.calls) % 3 == 0:
            raise ZeroDivisionError("with made-up-key in it")
        return super().observe(*args, **options)

class BuggyUser(AzureOpenAIUser):
    def on_start(self):
        super().on_start()
        self.client = Buggy()

    @task
    def ask(self):
        load = running()
        self.call(load.next_target(), load.mix.draw())
        raise_here
"""


@pytest.mark.parametrize("processes", [(), WORKERS], ids=["alone", "two workers"])
def test_a_bug_of_ours_in_a_call_is_on_record_and_ends_in_another_code_than_0(
    tmp_path: Path, server: WireServer, processes: tuple[str, ...]
) -> None:
    scenario = tmp_path / "buggy.py"
    scenario.write_text(BUGGY.replace("raise_here", ""))
    settings = results_in(tmp_path, server.url, HEADROOM_PAUSE="0.05")
    done = run(*HEADLESS, *processes, "-f", str(scenario), "-t", "2s", "-u", "2", settings=settings)
    assert done.returncode == 70, done.stderr
    assert kept(tmp_path).how == "completed"
    broken = [call for call in load_of(tmp_path) if call.outcome == "internal"]
    assert len(broken) == ended(tmp_path)["internal"] and len(broken) > 1
    assert {call.error_type for call in broken} == {"ZeroDivisionError"}
    # Once a process.
    assert done.stderr.count("Traceback") == len({call.worker_id for call in broken})
    assert "made-up-key" not in done.stderr + "".join(path.read_text() for path in only_run(tmp_path).iterdir())


def test_a_task_that_raises_ends_in_another_code_than_0(tmp_path: Path, server: WireServer) -> None:
    scenario = tmp_path / "raising.py"
    scenario.write_text(BUGGY.replace("raise_here", "raise KeyError('ours')"))
    done = run(*HEADLESS, *WORKERS, "-f", str(scenario), "-t", "1s", settings=results_in(tmp_path, server.url))
    assert done.returncode == 70, done.stderr


def test_a_listener_that_raises_in_a_worker_ends_in_another_code_than_0(tmp_path: Path, server: WireServer) -> None:
    scenario = tmp_path / "listening.py"
    listens = "from locust import events\nevents.request.add_listener(lambda **_: 1 / 0)\n"
    scenario.write_text((ROOT / "locustfiles" / "mixed.py").read_text() + listens)
    done = run(*HEADLESS, *WORKERS, "-f", str(scenario), "-t", "1s", settings=results_in(tmp_path, server.url))
    assert done.returncode == 70, done.stderr
    assert kept(tmp_path).how == "completed"


def interrupted(process: subprocess.Popen[str], by: int, results: Path) -> str:
    """What it said when it was ended by a signal, with the record whole."""
    process.send_signal(by)
    said = process.communicate(timeout=30)[1]
    assert "Traceback" not in said, said
    assert kept(results).how == "interrupted"
    return said


def test_a_terminal_that_is_closed_ends_a_run_as_sigterm_does(tmp_path: Path, server: WireServer, start: Start) -> None:
    process = start(*HEADLESS, settings=results_in(tmp_path, server.url))
    assert server.wait_for_requests(5)
    interrupted(process, signal.SIGHUP, tmp_path)
    assert process.returncode == 129


def test_a_run_that_a_shell_started_with_ctrl_c_ignored_ends_on_sigterm(
    tmp_path: Path, server: WireServer, start: Start
) -> None:
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = start(
        "python", "-c", ignoring, str(BIN / "locust"), *HEADLESS[1:], settings=results_in(tmp_path, server.url)
    )
    assert server.wait_for_requests(5)
    process.send_signal(signal.SIGINT)
    assert server.wait_for_requests(len(server.requests) + 3)
    interrupted(process, signal.SIGTERM, tmp_path)
    assert process.returncode == 143


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_workers_calls_at_once_and_keeps_them(
    tmp_path: Path, silent: WireServer, start: Start, by: int
) -> None:
    process = start(*HEADLESS, *WORKERS, "--users", "4", settings=results_in(tmp_path, silent.url))
    assert process.stderr is not None
    assert silent.wait_for_requests(5)
    os.killpg(process.pid, by) if by == signal.SIGINT else process.send_signal(by)
    said = next(line for line in process.stderr if "open calls have" in line)
    os.killpg(process.pid, by) if by == signal.SIGINT else process.send_signal(by)
    said += process.communicate(timeout=30)[1]
    assert process.returncode == 128 + by and "Traceback" not in said, said
    assert kept(tmp_path).how == "interrupted"
    assert [call.outcome for call in load_of(tmp_path)] == ["cancelled_user"] * 4


def test_two_runs_in_one_folder_at_once_keep_to_themselves(tmp_path: Path, server: WireServer, start: Start) -> None:
    settings = results_in(tmp_path, server.url)
    processes = [start(*HEADLESS, "-t", "1s", settings=settings) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    folders = [path.parent for path in tmp_path.glob("*/run.json")]
    assert len(folders) == 2 and all(verify(folder).adds_up for folder in folders)
    assert sum(len(read_calls(folder).calls) for folder in folders) == len(server.requests)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system that nothing can be written to, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_results_folder_that_cannot_be_written_to_ends_it_before_anything_is_sent(
    read_only: Path, server: WireServer
) -> None:
    for results in (read_only, read_only / "results"):
        done = run(*HEADLESS, settings=results_in(results, server.url))
        assert done.returncode == 74 and done.stderr.count("\n") == 1, done.stderr
        assert str(results) in done.stderr and not server.requests


def test_a_runs_folder_that_is_a_link_or_anothers_is_refused(tmp_path: Path) -> None:
    run = start_run(tmp_path, "mixed", {})
    link = tmp_path / "link"
    link.symlink_to(run.folder)
    with pytest.raises(JournalError, match="is a symbolic link"):
        Journal(Run(id=run.id, folder=str(link), wall_ns=0))
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(run.folder, 12345, -1)
    with pytest.raises(JournalError, match="belongs to another user"):
        Journal(run)
    assert [path.name for path in Path(run.folder).iterdir()] == ["run.json"]


CONTAINED = ["unshare", "--pid", "--fork", "--mount-proc"]


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*CONTAINED, "true"], capture_output=True).returncode != 0,
    reason="needs the right to make a namespace of processes",
)
@pytest.mark.parametrize("processes", [(), WORKERS], ids=["alone", "two workers"])
def test_as_the_first_process_of_a_container_it_ends_on_sigterm_and_loses_nothing(
    tmp_path: Path, server: WireServer, processes: tuple[str, ...]
) -> None:
    process = subprocess.Popen(
        [*CONTAINED, "--kill-child", str(BIN / "locust"), *HEADLESS[1:], *processes],
        cwd=ROOT,
        env=environment(results_in(tmp_path, server.url)),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.wait_for_requests(10)
    (first,) = psutil.Process(process.pid).children()
    first.terminate()
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 143 and "Traceback" not in said, said
    assert kept(tmp_path).total.in_flight == 0
    assert len(read_calls(only_run(tmp_path)).calls) == len(server.requests)


def test_workers_that_hear_nothing_of_their_master_send_nothing_more_after_ten_seconds(
    tmp_path: Path, server: WireServer, start: Start
) -> None:
    process = start(*HEADLESS, *WORKERS, "--users", "2", settings=results_in(tmp_path, server.url, HEADROOM_RATE="5"))
    assert server.wait_for_requests(5)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGSTOP)
    silent_from = time.monotonic()
    gone, alive = psutil.wait_procs(workers, timeout=15, callback=None)
    stopped = [worker for worker in workers if worker in gone or worker.status() == psutil.STATUS_ZOMBIE]
    assert len(stopped) == 2, alive
    assert server.times[-1] < silent_from + 10
    process.kill()
    process.communicate(timeout=30)
    assert kept(tmp_path).total.in_flight == 0


def children_of(process: subprocess.Popen[str], at_least: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 30
    while len(found := psutil.Process(process.pid).children()) < at_least:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    return found


def test_workers_that_come_when_their_master_has_gone_go_too(tmp_path: Path, server: WireServer, start: Start) -> None:
    process = start(*HEADLESS, *WORKERS, settings=results_in(tmp_path, server.url))
    for worker in (workers := children_of(process, 2)):
        worker.suspend()
    process.kill()
    for worker in workers:
        worker.resume()
    # Until all are gone: they hold the other end.
    process.communicate(timeout=30)


def test_a_worker_that_dies_before_there_is_a_run_ends_the_command(
    tmp_path: Path, server: WireServer, start: Start
) -> None:
    process = start(*HEADLESS, *WORKERS, settings=results_in(tmp_path, server.url))
    children_of(process, 2)[0].kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 70 and "ended before the run could begin" in said, said
    assert list(tmp_path.iterdir()) == [] and "Traceback" not in said


@pytest.mark.parametrize("asked", [("--master",), WORKERS], ids=["alone", "with its workers"])
def test_a_masters_port_that_is_taken_is_said_in_one_line_and_its_workers_go(
    tmp_path: Path, server: WireServer, asked: tuple[str, ...], start: Start
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = (*asked, "--master-bind-port", port, "--master-port", port)
        process = start(*HEADLESS, *options, settings=results_in(tmp_path, server.url))
        # Until all are gone: they hold the other end.
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert said.count("\n") == 1 and f"port {port} of 127.0.0.1: Address already in use; --master-bind-port" in said
    assert list(tmp_path.iterdir()) == [] and not server.requests


def test_a_worker_whose_part_of_a_cap_is_spent_begins_no_other(tmp_path: Path, start: Start) -> None:
    def slow(connection: Any, request: bytes) -> None:
        time.sleep(2 if b'"max_tokens":16,' not in request else 0)
        answers(openai_shaped())(connection, request)

    with serving(slow) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_MAX_REQUESTS="5")
        done = run(*HEADLESS, *WORKERS, "--users", "30", "--spawn-rate", "4", settings=settings)
        received = len(server.requests)
    assert done.returncode == 0 and received == 5, done.stderr
    assert (
        len(kept(tmp_path).processes) == 3
        and json.loads((only_run(tmp_path) / "run.json").read_text())["ended"]["calls"] == 5
    )
