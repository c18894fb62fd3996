"""More than one machine: workers that share only the network with their master, engines that share nothing."""

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from analysis.cli import analysis
from analysis.sending import call_id
from analysis.verify import verify
from probe.journal import read_calls
from tests.collectors import Collector, attributes_of, collecting
from tests.commands import BIN, ROOT, environment, run, settings_of
from tests.runs import ended, load_of, only_run, openai_shaped, results_in
from tests.simulators import awaited
from tests.test_analysis import call, invoked, write_run
from tests.wire import WireServer, answers, serving


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture
def server() -> Iterator[WireServer]:
    with serving(answers(openai_shaped())) as running:
        yield running


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["alone", "two workers"])
def test_a_run_sends_each_call_to_a_collector_while_it_is_on(
    tmp_path: Path, server: WireServer, collector: Collector, processes: tuple[str, ...]
) -> None:
    settings = results_in(tmp_path, server.url, HEADROOM_RATE="20", HEADROOM_SEND_OTLP=collector.url)
    done = run("locust", "--headless", "-t", "3s", *processes, settings=settings)
    assert done.returncode == 0, done.stderr
    calls = read_calls(only_run(tmp_path)).calls
    spans = [attributes_of(span)["probe.call.id"] for span in collector.spans]
    assert sorted(spans) == sorted(call_id(call) for call in calls)
    assert len([one for one in collector.headers if "x" not in one]) > 3, "not all at the end"
    assert f"{len(calls)} of {len(calls)} lines sent to the collector" in done.stderr


def test_a_collector_that_is_down_hurts_no_run_and_its_code_says_so(tmp_path: Path, server: WireServer) -> None:
    settings = results_in(tmp_path, server.url, HEADROOM_RATE="20", HEADROOM_SEND_OTLP="http://127.0.0.1:9")
    process = subprocess.Popen(
        [str(BIN / "locust"), "--headless", "-t", "2s"],
        env=environment(settings),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if "Ctrl-C leaves it unsent" in said and "takes nothing" in said:
            process.send_signal(signal.SIGINT)
    assert process.wait(30) == 75, said
    assert said.count("takes nothing: it cannot be reached") == 1
    assert ended(tmp_path)["how"] == "completed" and len(load_of(tmp_path)) > 20


@pytest.mark.parametrize("given", ["127.0.0.1:4318", "ftp://x"])
def test_a_wrong_address_is_said_before_there_is_a_run(tmp_path: Path, server: WireServer, given: str) -> None:
    done = run("locust", "--headless", settings=results_in(tmp_path, server.url, HEADROOM_SEND_OTLP=given))
    assert done.returncode == 2 and "--send-otlp" in done.stderr.splitlines()[-1]
    assert not server.requests


def a_free_port() -> str:
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        return str(probing.getsockname()[1])


def on_a_machine(folder: Path, settings: dict[str, str], *options: str) -> subprocess.Popen[str]:
    """`locust` where nothing else is: a current folder of its own."""
    folder.mkdir()
    scenario = str(ROOT / "locustfiles" / "mixed.py")
    return subprocess.Popen(
        [str(BIN / "locust"), "-f", scenario, "--headless", "--stop-timeout", "10", *options],
        cwd=folder,
        env=environment({**settings, "HEADROOM_RESULTS": "results"}),
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def test_a_killed_workers_loss_is_in_the_record_of_a_run_on_three_machines(
    tmp_path: Path, server: WireServer, collector: Collector
) -> None:
    settings = settings_of(server.url, HEADROOM_RATE="30", HEADROOM_SEND_OTLP=collector.url)
    port = a_free_port()
    master = on_a_machine(
        tmp_path / "master",
        settings,
        *("--master", "--expect-workers", "2", "--master-bind-port", port, "-t", "6s", "-u", "8", "-r", "8"),
    )
    names = [tmp_path / "one", tmp_path / "other"]
    workers = [on_a_machine(name, settings, "--worker", "--master-port", port) for name in names]
    killed = awaited(lambda: next(names[0].glob("results/*/calls-*.jsonl"), None))
    awaited(lambda: killed.read_bytes().count(b"\n") > 10 or None)
    workers[0].kill()
    said = [process.communicate(timeout=60)[1] for process in (master, *workers)]
    assert [process.returncode for process in (master, *workers)] == [70, -9, 0], said
    assert "part of the run is kept in results/" in said[2]
    whole = only_run(tmp_path / "master" / "results")
    assert not verify(whole).adds_up, "the workers' files are not there yet"
    done = run("analysis", "gather", str(tmp_path))
    assert (done.returncode, done.stdout.strip()) == (0, str(whole)), done.stderr
    verdict = verify(whole)
    assert verdict.adds_up and verdict.how == "completed", verdict.problems
    assert sorted(process.ended for process in verdict.processes) == [False, True, True]
    calls = read_calls(whole).calls
    assert verdict.total.ended == len(calls) and len({call.worker_id for call in calls}) == 3
    assert len(calls) < 30 * 6
    # Also what the killed one had recorded was sent on.
    spans = {attributes_of(span)["probe.call.id"] for span in collector.spans}
    assert spans >= {call_id(call) for call in calls if call.worker_id != killed.stem.removeprefix("calls-")}


def engine(results: Path, server: WireServer, number: int) -> Path:
    settings = results_in(
        results / str(number), server.url, HEADROOM_RATE="40", HEADROOM_ENGINES="2", HEADROOM_MAX_REQUESTS="61"
    )
    done = run("locust", "--headless", "-t", "2s", settings=settings)
    assert done.returncode in (0, 8), done.stderr
    return only_run(results / str(number))


def test_engines_that_know_nothing_of_each_other_share_a_rate_and_a_cap_and_become_one_run(
    tmp_path: Path, server: WireServer
) -> None:
    folders = [engine(tmp_path, server, number) for number in range(2)]
    asked = [json.loads((folder / "run.json").read_text())["options"] for folder in folders]
    assert [(one["rate"], one["caps"]["requests"]) for one in asked] == [(20, 30), (20, 30)]
    assert len({one["seed"] for one in asked}) == 2
    done = run("analysis", "gather", *map(str, folders), "--into", str(tmp_path / "whole"))
    assert done.returncode == 0, done.stderr
    verdict = verify(tmp_path / "whole")
    assert verdict.adds_up, verdict.problems
    assert verdict.total.ended == sum(verify(folder).total.ended for folder in folders) <= 60
    assert invoked(str(tmp_path / "whole")).exit_code == 0
    redacted = CliRunner().invoke(analysis, ["redact", str(tmp_path / "whole")])
    assert redacted.exit_code == 0 and verify(tmp_path / "whole-redacted").adds_up
    calls = next((tmp_path / "whole").glob("calls-*.jsonl"))
    calls.write_bytes(calls.read_bytes()[:-200])
    assert not verify(tmp_path / "whole").adds_up


def test_a_copy_that_was_cut_off_is_made_whole_and_another_file_of_its_name_is_not_taken(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", [call(n) for n in range(5)])
    other = tmp_path / "other" / folder.name
    shutil.copytree(folder, other)
    (calls,) = folder.glob("calls-*.jsonl")
    whole = calls.read_bytes()
    calls.write_bytes(whole[:700])
    assert CliRunner().invoke(analysis, ["gather", str(folder), str(other)]).exit_code == 0
    assert calls.read_bytes() == whole
    (other / calls.name).write_bytes(whole.replace(b"short", b"SHORT"))
    done = run("analysis", "gather", str(folder), str(other))
    assert done.returncode == 2 and "two files of one name" in done.stderr
