"""What a run costs the process that measures, in CPU, and how soon a thousand users are at work:

    python -m bench.scale

At 300 calls a second, beside the same run alone: with the tab of the web UI looked at as a browser does (beside the web
UI that nobody looks at), with the terminal's ten lines, with each call sent to a collector while it is on, and with a
second process. What two processes can carry is told by what a call costs them, beside one with half of the calls: with
the server on the same two cores, calls a second would measure the server. A sender is a process of its own, whose CPU
is told beside it.
"""

import os
import pty
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from tests.collectors import collecting
from tests.commands import BIN, environment
from tests.runs import load_of, openai_shaped, results_in
from tests.test_client import WHOLE
from tests.wire import answers, reply, sends, sends_then_waits, serving

SECONDS, RATE, ROUNDS = 10, 300, 5
USERS = 1000
# As often as the page asks.
LOOK_SECONDS = 2.0


class Cost(NamedTuple):
    """Microseconds of CPU a call: of the processes of Locust that call, and of what they started besides."""

    measuring: float
    others: float


def cost(url: str, *options: str, terminal: bool = False, **more: str) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        settings = results_in(Path(folder), url, **{"HEADROOM_RATE": str(RATE), **more})
        command = [str(BIN / "locust"), "--run-time", f"{SECONDS}s", *(options or ["--headless"])]
        ours, theirs = pty.openpty()
        stderr = theirs if terminal else subprocess.DEVNULL
        process = psutil.Popen(command, env=environment(settings) | {"TERM": "xterm"}, stderr=stderr)
        threading.Thread(target=_read_all, args=(ours,), daemon=True).start()
        measuring, others = _watched(process, Path(folder))
        os.close(theirs)
        calls = len(load_of(Path(folder)))
    return Cost(measuring / calls * 1e6, others / calls * 1e6)


def _watched(process: psutil.Popen, results: Path) -> tuple[float, float]:
    """CPU seconds of the processes of Locust and of those that they started, from the run's begin to the last look
    before each one's end: to start Locust takes a second, whatever the run is."""
    before: dict[int, float] = {}
    seconds: dict[int, float] = {}
    senders: set[int] = set()
    while process.poll() is None:
        with suppress(psutil.Error, subprocess.TimeoutExpired):
            for one in [process, *process.children()]:
                seconds[one.pid] = sum(one.cpu_times()[:2])
                if "locust" not in " ".join(one.cmdline()):
                    senders.add(one.pid)
            if not any(results.glob("*/calls-*.jsonl")):
                before = dict(seconds)
            process.wait(0.05)
    spent = {pid: value - before.get(pid, 0.0) for pid, value in seconds.items()}
    others = sum(value for pid, value in spent.items() if pid in senders)
    return sum(spent.values()) - others, others


def _read_all(terminal: int) -> None:
    with suppress(OSError):
        while os.read(terminal, 65536):
            pass


def with_web_ui(url: str, *, is_looked_at: bool) -> Cost:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    over = threading.Event()
    looking = threading.Thread(target=_look, args=(f"http://127.0.0.1:{port}/headroom/live.json", over))
    if is_looked_at:
        looking.start()
    try:
        return cost(url, "--web-port", str(port), "--autostart", "--autoquit", "0", "--users", "12")
    finally:
        over.set()


def _look(url: str, over: threading.Event) -> None:
    while not over.wait(LOOK_SECONDS):
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=5).read()  # noqa: S310


def seconds_to_start() -> float:
    """From the start of the command until each user has called: the check of the target is answered, and no other call,
    so that nobody calls twice."""
    over = threading.Event()
    with serving(sends(reply(WHOLE)), sends_then_waits(over)) as server, tempfile.TemporaryDirectory() as folder:
        command = [str(BIN / "locust"), "--headless", "--users", str(USERS), "--spawn-rate", str(USERS), "-t", "20s"]
        process = subprocess.Popen(
            command, env=environment(results_in(Path(folder), server.url)), stderr=subprocess.DEVNULL
        )
        try:
            began = time.perf_counter()
            if not server.wait_for_requests(USERS + 1):
                raise TimeoutError("a thousand users have not begun within half a minute")
            return time.perf_counter() - began
        finally:
            over.set()
            process.kill()
            process.wait()


def main() -> None:
    with serving(answers(openai_shaped())) as server, collecting() as collector:
        ways: dict[str, Callable[[], Cost]] = {
            "alone": lambda: cost(server.url),
            "web UI": lambda: with_web_ui(server.url, is_looked_at=False),
            "its tab": lambda: with_web_ui(server.url, is_looked_at=True),
            "ten lines": lambda: cost(server.url, terminal=True),
            "--send-otlp": lambda: cost(server.url, HEADROOM_SEND_OTLP=collector.url),
            "half the rate": lambda: cost(server.url, HEADROOM_RATE=str(RATE // 2)),
            "two": lambda: cost(server.url, "--headless", "--processes", "2"),
        }
        # In turn, so that a spell in which the machine is slower is in all of them.
        rounds = [{way: measure() for way, measure in ways.items()} for _ in range(ROUNDS)]
    ready = seconds_to_start()
    of = {way: median(one[way].measuring for one in rounds) for way in ways}
    print(f"a call costs the measuring process {of['alone']:,.0f} us of CPU; so much of a core is taken besides by")
    for way, beside in (("its tab", "web UI"), ("ten lines", "alone"), ("--send-otlp", "alone")):
        print(f"  {way}: {(of[way] - of[beside]) * RATE / 1e6:+.1%} (at most 5%)")
    sender = median(one["--send-otlp"].others for one in rounds)
    print(f"  the sender, a process of its own at lower priority: {sender * RATE / 1e6:.1%}")
    carried = 2 * of["half the rate"] / of["two"]
    print(f"two processes: {of['two']:,.0f} us a call; together they carry {carried:.2f} times one (at least 1.8)")
    print(f"{USERS:,} users have called after {ready:.1f} s, Locust's own start with it (at most 10)")


if __name__ == "__main__":
    main()
