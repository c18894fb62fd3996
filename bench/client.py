"""How exact and how dear our client is, beside what it could have been: `python -m bench.client`.

One server of known timings (`bench.streams`) on one core, one process of Locust's on the other, a client at a time:
streams of 100 events, 20 ms apart, the first after 300 ms, over and over. A time to first token is wrong by what lies
between the server's stamp, taken as it writes the event, and the client's. `bound` is the share of ours that the record
itself marks as no more than an upper bound; they are counted like the others. CPU is the process's own, from start to
end, for each stream that the server saw through; memory is what it grew by at most, for each stream.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

import trustme

from bench.load import Server as Address
from bench.load import streams
from bench.simulator import pin
from probe.journal import read_calls

ROOT = Path(__file__).parents[1]
SECONDS = 10
# Of a call that is open when the time is up: its end.
PATIENCE = "30s"
MIX = """
[[class]]
name = "bench"
weight = 1
input_tokens = { median = 60, p90 = 60 }
output_tokens = { median = 100, p90 = 100 }
"""
# As long as the prompt of the mix.
PROMPT = "the of and to in is that for it as " * 6


class Kind(NamedTuple):
    name: str
    file: str
    user: str
    clock: str = "kernel"
    processes: int = 1


KINDS = {
    kind.name: kind
    for kind in (
        Kind("sdk", "peers.py", "SDK"),
        Kind("http", "peers.py", "Http"),
        Kind("fast", "peers.py", "FastHttp"),
        Kind("ours", "ours.py", "Ours"),
        Kind("ours-user", "ours.py", "Ours", clock="user"),
        Kind("ours-2", "ours.py", "Ours", processes=2),
    )
}


class Row(NamedTuple):
    """`late` in ns, one a recorded stream; `cpu` in seconds a stream that ended while it was looked at."""

    kind: str
    open_at_once: int
    completed: int
    late: list[int]
    bounds: int
    cpu: float
    kilobytes: float
    server: dict[str, Any]


@contextmanager
def server(*options: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Its port, and what it did, once it has ended."""
    process = subprocess.Popen(
        [*pin(0), sys.executable, "-m", "bench.streams", *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    did: dict[str, Any] = {}
    try:
        yield int(process.stdout.readline()), did
    finally:
        process.stdin.close()
        did.update(json.loads(process.stdout.readline()))
        process.wait()


def certificate(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Options for the server, and settings for the clients."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return ["--certificate", str(folder / "server.pem")], {"SSL_CERT_FILE": str(folder / "ca.pem")}


def measure(kind: Kind, open_at_once: int, tls: bool, seconds: float) -> Row:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "mix.toml").write_text(MIX)
        options, trust = certificate(folder) if tls else ([], {})
        with server(*options) as (port, did):
            settings = {
                "AZURE_OPENAI_ENDPOINT": f"{'https' if tls else 'http'}://127.0.0.1:{port}",
                "AZURE_OPENAI_API_KEY": "made-up-key",
                "AZURE_OPENAI_DEPLOYMENT": "chat",
                "OPENAI_API_VERSION": "2024-10-21",
                "HEADROOM_RESULTS": made,
                "HEADROOM_MIX": str(folder / "mix.toml"),
                "HEADROOM_STREAM_SHARE": "1",
                "HEADROOM_CLOCK": kind.clock,
                "BENCH_NOTES": made,
                "BENCH_PROMPT": PROMPT,
                **trust,
            }
            said = _locust(kind, open_at_once, seconds, settings)
        notes = [json.loads(path.read_text()) for path in folder.glob("*.json")]
        if not notes:
            raise SystemExit(f"{kind.name} at {open_at_once} streams left no notes:\n{said}")
        bounds = sum(_add_ours(folder, note, did["written"]) for note in notes) if kind.file == "ours.py" else 0
    late = [late for note in notes for _, late in note["calls"]]
    cpu = sum(note["cpu"] for note in notes) / max(sum(map(_in_window, notes)), 1)
    grown = sum(note["kilobytes"] for note in notes)
    return Row(kind.name, open_at_once, did["completed"], late, bounds, cpu, grown, did)


def _in_window(note: dict[str, Any]) -> int:
    began, ended = note["window"]
    return sum(began <= at < ended for at, _ in note["calls"])


def _locust(kind: Kind, open_at_once: int, seconds: float, settings: dict[str, str]) -> str:
    command = [*pin(1), sys.executable, "-m", "locust", "-f", f"bench/{kind.file}", kind.user, "--headless"]
    command += ["-u", str(open_at_once), "-r", str(open_at_once), "-t", f"{seconds:.0f}s", "-s", PATIENCE]
    command += ["--processes", str(kind.processes)] if kind.processes > 1 else []
    done = subprocess.run(
        command, env={**os.environ, **settings}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr


def _add_ours(folder: Path, note: dict[str, Any], written: dict[str, int]) -> int:
    """Adds the journal's calls to the notes of the process that made them; how many of them are marked as bounds."""
    (run,) = (path.parent for path in folder.glob("*/run.json"))
    bounds = 0
    for call in read_calls(run).calls:
        if call.worker_id != note["worker"] or call.outcome != "ok" or call.traffic == "preflight":
            continue
        assert call.issued is not None and call.duration is not None and call.time_to_first_token is not None
        at = note["began"] + round((call.issued + call.time_to_first_token) * 1e9)
        ended = note["began"] + round((call.issued + call.duration) * 1e9)
        note["calls"].append((ended, at - written[call.service_request_id or ""]))
        bounds += bool(call.coalesced) and call.coalesced[0][0] == 0
    return bounds


def ceiling() -> str:
    """What the server does at most, read by a client that parses nothing."""
    with server("--first", "0", "--gap", "0") as (port, did):
        began = time.monotonic()
        streams(Address(port, "/chat", ""), b'{"stream":true}', b'"content":" ', 64, 2.0)
        took = time.monotonic() - began
    return f"The server's own ceiling: {did['events'] / took:,.0f} events/s on one core."


def show(row: Row, ours: Row | None) -> None:
    centiles = quantiles(row.late, n=100) if len(row.late) > 1 else [float("nan")] * 99
    print(
        f"{row.kind:<10} {row.open_at_once:>7} {row.completed:>9} {len(row.late):>8}"
        f" {centiles[49] / 1e6:>9.3f} {centiles[98] / 1e6:>9.3f} {row.bounds / max(len(row.late), 1):>6.1%}"
        f" {row.cpu * 1e3:>7.2f} {row.cpu / (ours or row).cpu if row.cpu else 1:>6.1f}"
        f" {row.kilobytes / row.open_at_once:>10.0f} {row.server['late_ms'][1]:>11.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256, 1000])
    parser.add_argument("--clients", nargs="+", choices=KINDS, default=["ours", "ours-user", "sdk", "http", "fast"])
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    print(ceiling())
    print("client     streams completed recorded  late p50  late p99  bound  CPU ms  ratio  kB/stream  server late")
    for open_at_once in options.streams:
        ours = None
        for name in options.clients:
            row = measure(KINDS[name], open_at_once, options.tls, options.seconds)
            show(row, ours)
            ours = ours or row


if __name__ == "__main__":
    main()
