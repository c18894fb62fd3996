"""The `locust` command as a user runs it: what it sends, what it keeps, what it says."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from analysis.cli import analysis
from probe.journal import read_calls
from probe.simulated import Simulator
from probe.traces import read_trace
from tests.commands import ROOT, run, settings_of
from tests.runs import Start, ended, load_of, only_run, openai_shaped, results_in, short_calls
from tests.test_client import WHOLE
from tests.wire import answers, reply, sends, sends_then_waits, serving

TRACE = ROOT.parent / "shared" / "fixtures" / "traces" / "AzureLLMInferenceTrace_conv.csv"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    running = Simulator(tmp_path_factory.mktemp("simulator"))
    yield running
    running.stop()


def logged_ids(logs: Path, category: str) -> list[str]:
    lines = [line for path in logs.glob(f"insights-logs-{category}/**/PT1H.json") for line in path.open()]
    return [json.loads(line)["correlationId"] for line in lines]


@pytest.fixture(scope="module")
def without_endpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run where none is configured: its results, and what it said."""
    folder = tmp_path_factory.mktemp("without")
    settings = {"HEADROOM_RESULTS": str(folder / "results"), "HEADROOM_MIX": short_calls(folder)}
    return folder / "results", run("locust", "--headless", "--run-time", "3s", settings=settings)


def test_with_nothing_configured_it_starts_the_simulator_and_says_so(
    without_endpoint: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    results, done = without_endpoint
    assert done.returncode == 0, done.stderr
    assert "no endpoint configured: starting the simulator" in done.stderr
    calls = load_of(results)
    assert {call.target for call in calls} == {"eastus2", "swedencentral", "apim"}
    assert {call.gateway for call in calls} == {"direct", "apim"}
    assert {call.request_stream for call in calls} == {True, False}
    assert ended(results)["how"] == "completed"


def test_every_call_in_the_journal_is_in_the_simulators_logs_and_the_other_way_round(
    without_endpoint: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder = only_run(without_endpoint[0])
    (logs,) = json.loads((folder / "run.json").read_text())["logs"]
    journalled = [call.service_request_id for call in read_calls(folder).calls]
    logged = logged_ids(folder / logs, "requestresponse")
    assert len(journalled) > 20
    assert Counter(journalled) == Counter(logged)
    answered = [call.service_request_id for call in read_calls(folder).calls if call.status_code == 200]
    assert Counter(answered) == Counter(logged_ids(folder / logs, "azureopenairequestusage"))


def test_two_runs_with_workers_at_once_keep_to_themselves(tmp_path: Path, start: Start) -> None:
    with serving(answers(openai_shaped())) as server:
        folders = [tmp_path / "one", tmp_path / "other"]
        command = ("locust", "--headless", "--run-time", "2s", "--processes", "2")
        runs = [start(*command, settings=results_in(folder, server.url, HEADROOM_RATE="5")) for folder in folders]
        assert [one.wait(60) for one in runs] == [0, 0]
    for folder in folders:
        assert len({call.worker_id for call in load_of(folder)}) == 2


def test_every_request_a_server_received_is_one_line_of_the_journal(tmp_path: Path) -> None:
    with serving(answers(openai_shaped(refuse_every=5, seconds=0.02))) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_PAUSE="0")
        done = run("locust", "--headless", "--run-time", "1s", "--users", "5", settings=settings)
        received = len(server.requests)
    calls = read_calls(only_run(tmp_path)).calls
    assert done.returncode == 0, done.stderr
    assert len(calls) == received == ended(tmp_path)["calls"]
    assert received > 20
    assert sorted(call.seq or 0 for call in calls) == list(range(1, received + 1))
    assert Counter(call.outcome for call in calls)["throttled"] == received // 5


def test_the_stream_share_and_the_mix_are_as_asked(tmp_path: Path) -> None:
    mix = tmp_path / "mix.toml"
    mix.write_text(
        '[[class]]\nname = "chat"\nweight = 3\ninput_tokens = {median = 50, p90 = 50}\n'
        'output_tokens = {median = 20, p90 = 20}\n[[class]]\nname = "json"\nweight = 1\nstream_share = 0\n'
        "input_tokens = {median = 10, p90 = 10}\noutput_tokens = {median = 5, p90 = 5}\n"
    )
    with serving(answers(openai_shaped(seconds=0.01))) as server:
        changes = {"HEADROOM_RESULTS": str(tmp_path), "HEADROOM_STREAM_SHARE": "1", "HEADROOM_MIX": str(mix)}
        run("locust", "--headless", "--run-time", "1s", settings=settings_of(server.url, **changes))
    calls = load_of(tmp_path)
    kinds = Counter((call.traffic, call.request_stream, call.request_max_tokens) for call in calls)
    assert set(kinds) == {("chat", True, 20), ("json", False, 5)}
    assert kinds["chat", True, 20] / len(calls) == pytest.approx(0.75, abs=0.1)


def test_the_time_to_first_token_is_a_row_of_its_own_that_adds_no_requests(tmp_path: Path) -> None:
    with serving(answers(openai_shaped(seconds=0.05))) as server:
        settings = results_in(tmp_path, server.url)
        done = run("locust", "--headless", "--run-time", "1s", settings=settings)
    table = done.stdout + done.stderr
    counts = {kind: int(number) for kind, number in re.findall(r"^(TTFT|chat) .*stream +(\d+) +\d+\(", table, re.M)}
    total = re.search(r"Aggregated +(\d+) ", table)
    calls = load_of(tmp_path)
    assert counts["TTFT"] == counts["chat"] == sum(call.request_stream for call in calls)
    assert total is not None and int(total[1]) == len(calls)


def test_a_rate_is_kept_however_slow_the_service_is(tmp_path: Path) -> None:
    released = threading.Event()

    def slow(connection: socket.socket, request: bytes) -> None:
        released.wait()
        answers(openai_shaped())(connection, request)

    with serving(sends(reply(WHOLE)), slow) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_RATE="40")
        threading.Timer(4, released.set).start()
        run("locust", "--headless", "--run-time", "3s", "--users", "1", settings=settings)
    calls = load_of(tmp_path)
    assert len(calls) == pytest.approx(100, rel=0.35)
    late = [call.issued - call.scheduled for call in calls if call.issued is not None and call.scheduled is not None]
    assert len(late) == len(calls) and min(late) >= 0 and sorted(late)[len(late) // 2] < 0.05


@pytest.mark.parametrize("processes", [(), ("--processes", "2")])
def test_every_row_of_a_trace_is_sent_once_at_its_time_and_the_run_ends_with_the_last(
    tmp_path: Path, processes: tuple[str, ...]
) -> None:
    trace = tmp_path / "trace.csv"
    rows = "".join(f"2023-11-16 18:15:{n // 10:02}.{n % 10}000000,{30 + n},{n + 1}\n" for n in range(100))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    with serving(answers(openai_shaped())) as server:
        changes = {"HEADROOM_TRACE": str(trace), "HEADROOM_TRACE_SPEED": "5", "HEADROOM_RESULTS": str(tmp_path)}
        done = run("locust", "--headless", *processes, settings=settings_of(server.url, **changes))
    assert done.returncode == 0, done.stderr
    calls = load_of(tmp_path)
    assert sorted(call.request_max_tokens or 0 for call in calls) == list(range(1, 101))
    assert sorted(round(call.scheduled or 0, 6) for call in calls) == [round(n / 50, 6) for n in range(100)]
    assert all(call.traffic == "trace" for call in calls)


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["alone", "two workers"])
def test_an_interrupted_run_lets_its_open_calls_end_and_keeps_them(
    tmp_path: Path, start: Start, by: int, code: int, processes: tuple[str, ...]
) -> None:
    released = threading.Event()

    def hold(connection: socket.socket, request: bytes) -> None:
        if b'"max_tokens":16,' not in request:
            released.wait()
        answers(openai_shaped())(connection, request)

    with serving(hold) as server:
        process = start("locust", "--headless", "--users", "3", *processes, settings=results_in(tmp_path, server.url))
        assert process.stderr is not None
        assert server.wait_for_requests(4)
        if by == signal.SIGINT:
            # As a terminal does: to all of them.
            os.killpg(process.pid, by)
        else:
            process.send_signal(by)
        said = next(line for line in process.stderr if "open calls have" in line)
        released.set()
        said += process.communicate(timeout=30)[1]
        received = len(server.requests)
    assert process.returncode == code, said
    assert "Traceback" not in said and "KeyboardInterrupt" not in said
    calls = read_calls(only_run(tmp_path)).calls
    assert len(calls) == received and {call.outcome for call in calls} == {"ok"}
    assert ended(tmp_path)["how"] == "interrupted"


def test_a_second_ctrl_c_ends_the_open_calls_at_once_and_keeps_them(tmp_path: Path, start: Start) -> None:
    released = threading.Event()
    with serving(sends(reply(WHOLE)), sends_then_waits(released)) as server:
        process = start("locust", "--headless", "--users", "3", settings=results_in(tmp_path, server.url))
        assert process.stderr is not None
        # The check of the target, and a call of each user.
        assert server.wait_for_requests(4)
        process.send_signal(signal.SIGINT)
        said = next(line for line in process.stderr if "Ctrl-C again" in line)
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=30)[1]
        released.set()
    assert process.returncode == 130 and "Traceback" not in said
    calls = read_calls(only_run(tmp_path)).calls
    assert Counter(call.outcome for call in calls) == {"ok": 1, "cancelled_user": 3}
    assert ended(tmp_path) == ended(tmp_path) | {"how": "interrupted", "calls": 4}


def test_calls_that_outlast_the_stop_timeout_are_on_record_as_cancelled(tmp_path: Path) -> None:
    released = threading.Event()
    with serving(sends(reply(WHOLE)), sends_then_waits(released)) as server:
        settings = results_in(tmp_path, server.url)
        run("locust", "--headless", "--users", "3", "-t", "1s", "--stop-timeout", "1s", settings=settings)
        received = len(server.requests)
        released.set()
    calls = read_calls(only_run(tmp_path)).calls
    assert len(calls) == received == 4
    assert Counter(call.outcome for call in calls) == {"ok": 1, "cancelled_user": 3}


def test_runs_are_started_and_stopped_in_locusts_web_ui_and_each_has_a_folder_of_its_own(
    tmp_path: Path, start: Start
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    page = f"http://127.0.0.1:{port}"
    with serving(answers(openai_shaped())) as server:
        process = start("locust", "--web-port", str(port), settings=results_in(tmp_path, server.url))
        assert process.stderr is not None
        said = next(line for line in process.stderr if "Starting web interface" in line)
        assert page in said
        assert server.wait_for_requests(1)
        for run_number in (1, 2):
            form = b"user_count=2&spawn_rate=2"
            fetch(urllib.request.Request(f"{page}/swarm", data=form))
            assert server.wait_for_requests(len(server.requests) + 5)
            assert "made-up-key" not in fetch(page) + fetch(f"{page}/stats/requests")
            fetch(urllib.request.Request(f"{page}/stop", data=b""))
            said = next(line for line in process.stderr if "run completed" in line)
            assert len(list(tmp_path.glob("*/run.json"))) == run_number
        process.terminate()
        process.communicate(timeout=30)
        received = len(server.requests)
    runs = [read_calls(path.parent).calls for path in tmp_path.glob("*/run.json")]
    assert sum(len(calls) for calls in runs) == received
    assert Counter(call.traffic == "preflight" for calls in runs for call in calls)[True] == 1
    assert all(sorted(call.seq or 0 for call in calls) == list(range(1, len(calls) + 1)) for calls in runs)


def fetch(what: str | urllib.request.Request) -> str:
    """A page of the web UI; it may take a moment to be up."""
    for _ in range(200):
        try:
            with urllib.request.urlopen(what, timeout=60) as response:
                return str(response.read().decode())
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
            threading.Event().wait(0.05)
    raise TimeoutError(what)


def replayed(folder: Path, seconds: int) -> int:
    """How many calls a stretch of the published trace came to; at ten times its speed, each sent, kept and reported."""
    settings = {
        "HEADROOM_RESULTS": str(folder),
        "HEADROOM_TRACE": str(TRACE),
        "HEADROOM_TRACE_SPEED": "10",
        "HEADROOM_TRACE_SECONDS": str(seconds),
        # Its longest answers would take ten times the stretch.
        "HEADROOM_SIMULATOR_TIME_BETWEEN_TOKENS": "0.001",
    }
    rows = read_trace(TRACE, seconds)
    done = run("locust", "--headless", settings=settings, timeout=200)
    assert done.returncode == 0, done.stderr
    calls = {call.prompt_id: call for call in load_of(folder)}
    for number, row in enumerate(rows):
        call = calls[f"{max(row.input_tokens, 8)}-{number}"]
        assert call.scheduled == row.at / 10 and call.request_max_tokens == row.output_tokens
    found = json.loads(CliRunner().invoke(analysis, ["report", str(only_run(folder)), "-o", "json"]).stdout)
    assert found["counts"]["calls"] == found["logs"]["matched"] == len(calls) == len(rows)
    assert found["logs"]["only_log"] == found["logs"]["only_client"] == 0
    return len(calls)


@pytest.mark.skipif(not TRACE.exists(), reason="the published trace is not beside this checkout")
def test_half_a_minute_of_the_published_trace_at_ten_times_its_speed_is_sent_kept_and_reported(tmp_path: Path) -> None:
    assert replayed(tmp_path, 30) == 59


@pytest.mark.soak
@pytest.mark.skipif(not TRACE.exists(), reason="the published trace is not beside this checkout")
def test_ten_minutes_of_the_published_trace_at_ten_times_its_speed_are_sent_kept_and_reported(tmp_path: Path) -> None:
    assert replayed(tmp_path, 600) == 2867


WRONG = [
    ({"AZURE_OPENAI_API_KEY": ""}, 2, "AZURE_OPENAI_API_KEY is not set"),
    ({"AZURE_OPENAI_ENDPOINT": "eastus"}, 2, "no http(s) URL"),
    ({"AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:1"}, 3, "is anything listening"),
    ({"HEADROOM_TARGETS": "west"}, 2, "no target 'west'; there are: 127.0.0.1"),
    ({"HEADROOM_STREAM_SHARE": "70%"}, 2, "HEADROOM_STREAM_SHARE"),
    ({"HEADROOM_RATE": "0"}, 2, "HEADROOM_RATE"),
    ({"HEADROOM_RATE": "1", "HEADROOM_TRACE": "x"}, 2, "one of them"),
    ({"HEADROOM_TRACE": "/nonexistent.csv"}, 2, "/nonexistent.csv"),
    ({"HEADROOM_MIX": "/nonexistent.toml"}, 2, "/nonexistent.toml"),
    ({"HEADROOM_RESULTS": "/dev/null/results"}, 74, "/dev/null/results"),
]


@pytest.mark.parametrize(("changes", "code", "says"), WRONG)
def test_a_wrong_setting_ends_in_one_line_before_there_is_a_run(
    tmp_path: Path, changes: dict[str, str], code: int, says: str
) -> None:
    with serving(answers(openai_shaped())) as server:
        settings = {**results_in(tmp_path, server.url), **changes}
        done = run("locust", "--headless", "--loglevel", "WARNING", settings=settings)
    assert done.returncode == code
    assert done.stdout == "" and done.stderr.count("\n") == 1 and says in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"AZURE_OPENAI_API_KEY": "wrong"}, "check the key (AZURE_OPENAI_API_KEY)"),
        ({"AZURE_OPENAI_DEPLOYMENT": "gone"}, "there is no deployment 'gone'; check AZURE_OPENAI_DEPLOYMENT"),
    ],
)
@pytest.mark.parametrize("processes", [(), ("--processes", "2")])
def test_a_wrong_key_and_a_missing_deployment_end_before_there_is_a_run(
    tmp_path: Path, simulator: Simulator, changes: dict[str, str], says: str, processes: tuple[str, ...]
) -> None:
    target = simulator.targets["eastus2"]
    right = {"AZURE_OPENAI_API_KEY": target.api_key or "", "AZURE_OPENAI_DEPLOYMENT": target.deployment}
    settings = {**settings_of(target.endpoint, HEADROOM_RESULTS=str(tmp_path)), **right, **changes}
    done = run("locust", "--headless", "--loglevel", "ERROR", *processes, settings=settings)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr and says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_stops_the_traffic_within_a_second_and_says_where(
    tmp_path: Path, small_disk: Path, start: Start
) -> None:
    with serving(answers(openai_shaped())) as server:
        settings = settings_of(server.url, HEADROOM_RESULTS=str(small_disk / "results"))
        process = start("locust", "--headless", "--run-time", "60s", settings=settings)
        # Until then the last of it is not taken, and whoever writes next finds none left.
        while os.statvfs(small_disk).f_bavail and process.poll() is None:
            time.sleep(0.005)
        full = time.monotonic()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 74
    assert "the disk is full" in said or "No space left" in said
    assert str(small_disk) in said and "Traceback" not in said
    assert server.times[-1] < full + 1
    read = read_calls(only_run(small_disk / "results"))
    assert 0 < len(read.calls) <= len(server.requests) and read.skipped <= 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)
