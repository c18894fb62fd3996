"""The tab of the web UI, in a real browser where there is one, beside the journal of the run that it shows."""

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import run
from tests.runs import Start, load_of, openai_shaped, results_in
from tests.simulators import awaited
from tests.wire import answers, serving


def fetched(url: str, data: bytes | None = None) -> tuple[str, Any] | None:
    try:
        with urllib.request.urlopen(url, data, timeout=5) as reply:
            return reply.read().decode(), reply.headers
    except (urllib.error.URLError, OSError):
        return None


@pytest.mark.parametrize(
    ("processes", "base"), [((), "/load"), (("--processes", "2"), "")], ids=["alone, below a path", "two workers"]
)
def test_the_tabs_numbers_are_those_of_the_journal(
    tmp_path: Path, start: Start, processes: tuple[str, ...], base: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probing:
        port = probing.getsockname()[1]
    url = f"http://127.0.0.1:{port}{base}"
    mix = tmp_path / "mix.toml"
    sizes = "input_tokens = {median = 50, p90 = 50}\noutput_tokens = {median = 20, p90 = 20}"
    mix.write_text(f'[[class]]\nname = "<b>chat"\nweight = 1\n{sizes}\n')
    with serving(answers(openai_shaped(refuse_every=5))) as server:
        about = {"HEADROOM_RATE": "30", "HEADROOM_STREAM_SHARE": "1", "HEADROOM_MIX": str(mix)}
        settings = results_in(tmp_path, server.url, **about)
        locust = start("locust", "--web-port", str(port), "--web-base-path", base, *processes, settings=settings)
        _page, headers = awaited(lambda: fetched(f"{url}/headroom/"))
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        index = fetched(f"{url}/")
        assert index is not None and "./headroom/tab.js" in index[0] and '"extended_tabs"' in index[0]
        if processes:
            awaited(lambda: "2" in (fetched(f"{url}/worker-count") or ("",))[0] or None)
        assert fetched(f"{url}/swarm", b"user_count=1&spawn_rate=1") is not None
        assert server.wait_for_requests(50)
        assert fetched(f"{url}/stop", b"") is not None
        awaited(lambda: True if "ended" in next(tmp_path.glob("*/run.json")).read_text() else None)
        time.sleep(1.1)
        live = fetched(f"{url}/headroom/live.json")
        looks = shutil.which("chromium") is not None and not processes
        drawn = in_chromium(f"{url}/headroom/", tmp_path) if looks else None
        locust.send_signal(signal.SIGINT)
        locust.wait(30)
    assert live is not None
    calls = load_of(tmp_path)
    first = np.quantile([call.time_to_first_token for call in calls if call.time_to_first_token], [0.5, 0.95, 0.99])
    told = json.loads(live[0])
    (kept,) = tmp_path.glob("*/run.json")
    ended = json.loads(kept.read_text())["ended"]["verdict"]
    assert told["state"].endswith(f": {ended['text']}. Next: {ended['next']}")
    (_, row) = told["classes"]
    refused = sum(call.outcome == "throttled" for call in calls)
    assert row[2:6] == [str(len(calls)), str(len(calls) - refused), str(refused), "0"]
    shown = [float(text.split()[0]) * (1e-3 if text.endswith("ms") else 1) for text in row[6:9]]
    assert shown == pytest.approx(list(first), rel=6e-3)
    assert told["refusals"][1][2] == str(refused)
    if drawn is not None:
        assert all(f">{text}<" in drawn for text in row[2:])


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["alone", "two workers"])
def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path, processes: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("locust", "--web-port", port, "--loglevel", "ERROR", *processes, settings=results_in(tmp_path, "x"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and f"port {port} of 127.0.0.1: Address already in use" in done.stderr


def in_chromium(url: str, folder: Path) -> str:
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    profile = f"--user-data-dir={folder / 'profile'}"
    return subprocess.run([*command, profile, url], capture_output=True, text=True, timeout=60, check=False).stdout
