"""How long each analysis takes and what memory, beside plain pandas and DuckDB: `python -m bench.analyses [CALLS]`.

The run and its logs are written here (`bench.written`): 26 headers a call, 200,000 calls unless said otherwise. Each
command runs as a user would start it, so its start is in its time. Plain pandas reads the same journal, and nothing
more: its `read_json` needs some 20 kB a call, so it has at most 200,000 calls, and the ratio is of time a call. DuckDB
takes one quantile by one header from the journal, which no analysis of it can be faster than.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.written import write_run

CALLS = 200_000
_MOST_FOR_PANDAS = 200_000
_READ_JSON = """
import pandas, pathlib, sys
files = sorted(pathlib.Path(sys.argv[1]).glob("calls-*.jsonl"))
print(len(pandas.concat([pandas.read_json(file, lines=True) for file in files])))
"""
_QUANTILE = """
import duckdb, sys
print(duckdb.execute('''
    SELECT list_filter("probe.response.headers", lambda pair: pair[1] = 'x-ms-region')[1][2] AS region,
        quantile_cont("probe.time_to_first_token", 0.95)
    FROM read_json(?, format = 'newline_delimited', columns = {
        'probe.time_to_first_token': 'DOUBLE', 'probe.response.headers': 'VARCHAR[][]'
    }) GROUP BY region
''', [sys.argv[1] + "/calls-*.jsonl"]).fetchall())
"""


class Took(NamedTuple):
    seconds: float
    mebibytes: float


def measure(command: Sequence[str]) -> Took:
    """Of a process, from its start to its end. Raises `CalledProcessError`."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Took(time.perf_counter() - began, usage.ru_maxrss / 1024)


def commands(run: Path, logs: Path, into: Path) -> dict[str, list[str]]:
    analysis = [sys.executable, "-m", "analysis"]
    given = [str(run), "--logs", str(logs)]
    return {
        "throttling": [*analysis, "throttling", *given, "-o", "json"],
        "regions": [*analysis, "regions", *given, "-o", "json"],
        "gateway": [*analysis, "gateway", *given, "-o", "json"],
        "tokens": [*analysis, "tokens", *given, "-o", "json"],
        "verify": [*analysis, "verify", str(run), "-o", "json"],
        "report": [*analysis, "report", *given, "-o", "json"],
        "export": [*analysis, "export", *given, "--into", str(into)],
    }


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    with tempfile.TemporaryDirectory() as folder:
        run, logs = write_run(Path(folder, "run"), calls)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.json*")) / 1e6
        few, _ = (run, logs) if calls <= _MOST_FOR_PANDAS else write_run(Path(folder, "few"), _MOST_FOR_PANDAS)
        peer = measure([sys.executable, "-c", _READ_JSON, str(few)])
        read = min(calls, _MOST_FOR_PANDAS)
        print(f"analysis: {calls:,} calls and their logs, {size:,.0f} MB; plain pandas only reads the journal")
        print(f"{'pandas':>10}  {peer.seconds:5.1f} s  {peer.mebibytes:6,.0f} MiB  ({read:,} calls)")
        floor = measure([sys.executable, "-c", _QUANTILE, str(run)])
        print(f"{'DuckDB':>10}  {floor.seconds:5.1f} s  {floor.mebibytes:6,.0f} MiB")
        for name, command in commands(run, logs, Path(folder, "export")).items():
            took = measure(command)
            ratio = (took.seconds / calls) / (peer.seconds / read)
            of_floor = took.seconds / floor.seconds
            print(
                f"{name:>10}  {took.seconds:5.1f} s  {took.mebibytes:6,.0f} MiB  {ratio:.2f} of pandas' time a call,"
                f" {of_floor:.1f} times DuckDB's"
            )


if __name__ == "__main__":
    main()
