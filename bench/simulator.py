"""How fast the simulator is, beside a bare aiohttp handler: `python -m bench.simulator`.

One core for the server, another for the client where the platform lets a process choose. Two figures each: replies of
100 tokens a second in one piece, and how late streamed events come at twenty thousand a second. The simulator's are
held against its own ledger: an event is due at the arrival and what was drawn. The peer says nothing of what was
due, and is held against the spacing that it was told to keep.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.load import Server, Streamed, requests_per_second, streams

_SECONDS = 6.0
_TOKENS = 100
_GAP = 0.02
_EVENTS_PER_SECOND = 20_000
_OPEN = round(_EVENTS_PER_SECOND * _GAP)
_PROMPT = "the of and to in is that for it as " * 10
_UNLIMITED = "1e12"


def _body(stream: bool) -> bytes:
    messages = [{"role": "user", "content": _PROMPT}]
    return json.dumps({"messages": messages, "max_tokens": _TOKENS, "stream": stream}).encode()


def pin(core: int) -> list[str]:
    return ["taskset", "-c", str(core)] if sys.platform == "linux" and (os.cpu_count() or 1) > 1 else []


@contextmanager
def _running(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*pin(0), sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _simulator(data: Path, first_token: float, gap: float) -> Iterator[tuple[subprocess.Popen[str], Server, Path]]:
    options = ["--data", str(data), "--tpm", _UNLIMITED, "--rpm", _UNLIMITED, "--jitter", "0"]
    options += ["--time-to-first-token", str(first_token), "--time-between-tokens", str(gap)]
    with _running("-m", "simulator", *options) as (process, line):
        ready: dict[str, Any] = json.loads(line)
        target = ready["targets"]["eastus2"]
        path = f"/openai/deployments/{target['deployments'][0]}/chat/completions?api-version={target['api_version']}"
        port = int(target["endpoint"].rpartition(":")[2])
        yield process, Server(port, path, target["api_key"]), Path(ready["ledger"])


def _cpu_seconds(process: subprocess.Popen[str]) -> float:
    if sys.platform != "linux":
        return float("nan")
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _lateness(streamed: list[Streamed], ledger: Path) -> list[float]:
    """Milliseconds of each event, against the ledger."""
    due = {}
    with ledger.open(encoding="utf-8") as lines:
        for line in lines:
            call = json.loads(line)
            if "drawn" in call:
                due[call["request_id"]] = [call["arrived"] / 1e6 + at / 1e3 for at in call["drawn"]["due_us"]]
    return [stamp / 1e6 - at for one in streamed for stamp, at in zip(one.received, due[one.request_id], strict=True)]


def _unevenness(streamed: list[Streamed]) -> list[float]:
    """Milliseconds of each event, against even spacing from the stream's first."""
    return [
        (stamp - one.received[0]) / 1e6 - number * _GAP * 1e3
        for one in streamed
        for number, stamp in enumerate(one.received)
    ]


def _whole(name: str, process: subprocess.Popen[str], server: Server) -> float:
    requests_per_second(server, _body(False), 8, 1.0)
    rate = requests_per_second(server, _body(False), 32, _SECONDS)
    print(f"{name:<12} {rate:8,.0f} replies/s of {_TOKENS} tokens")
    return rate


def _streamed(name: str, process: subprocess.Popen[str], server: Server, mark: bytes) -> list[Streamed]:
    before, start = _cpu_seconds(process), time.monotonic()
    load = streams(server, _body(True), mark, _OPEN, _SECONDS)
    share = (_cpu_seconds(process) - before) / (time.monotonic() - start)
    print(f"{name:<12} {load.events_per_second:8,.0f} events/s, {share:.0%} of a core", end="")
    return load.ended


def _say_late(late: list[float]) -> float:
    p99 = statistics.quantiles(late, n=100)[98]
    print(f", late p50 {statistics.median(late):.1f} ms, p99 {p99:.1f} ms, worst {max(late):.1f} ms")
    return p99


def main() -> None:
    if (pins := pin(1)) and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(pins[-1])})
    with tempfile.TemporaryDirectory() as folder:
        with _running("-m", "bench.bare") as (process, line):
            bare = _whole("bare", process, Server(int(line), "/whole", ""))
            _say_late(_unevenness(_streamed("bare", process, Server(int(line), "/stream", ""), b'"content":" the"')))
        with _simulator(Path(folder, "whole"), 0.0, 0.0) as (process, server, _):
            rate = _whole("simulator", process, server)
        with _simulator(Path(folder, "stream"), _GAP, _GAP) as (process, server, ledger):
            found = _streamed("simulator", process, server, b'"protected_material_text"')
        _say_late(_lateness(found, ledger))
    print(f"The simulator answers {rate / bare:.0%} of what the bare handler does.")


if __name__ == "__main__":
    main()
