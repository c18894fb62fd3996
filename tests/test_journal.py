import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from probe.journal import Journal, JournalError, Run, end_run, read_calls, start_run
from tests.test_record import made


def test_a_run_is_a_folder_with_what_was_asked_and_how_it_ended(tmp_path: Path) -> None:
    run = start_run(tmp_path, "mixed", {"arrivals": "closed"})
    folder = Path(run.folder)
    begun = json.loads((folder / "run.json").read_text())
    assert folder.name.endswith(f"-mixed-{run.id}")
    assert begun["arrivals"] == "closed" and begun["run_id"] == run.id and "ended" not in begun
    end_run(run, "completed", {"calls": 3})
    ended = json.loads((folder / "run.json").read_text())
    assert ended.pop("ended")["calls"] == 3
    assert ended == begun


def test_only_the_owner_can_read_a_run_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run = start_run(tmp_path, "mixed", {})
        Journal(run).append(made())
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [Path(run.folder), *Path(run.folder).iterdir()]}
    assert {mode & 0o077 for mode in modes.values()} == {0}, modes


def test_calls_come_back_as_they_were_with_the_runs_id_and_a_gapless_number(tmp_path: Path) -> None:
    run = start_run(tmp_path, "mixed", {})
    journal = Journal(run)
    written = [journal.append(made(duration=float(n))) for n in range(3)]
    read = read_calls(Path(run.folder))
    assert read.calls == written and read.skipped == 0
    assert [(call.run_id, call.seq, call.duration) for call in read.calls] == [
        (run.id, n + 1, float(n)) for n in range(3)
    ]


def test_a_cut_off_line_is_skipped_and_counted(tmp_path: Path) -> None:
    run = start_run(tmp_path, "mixed", {})
    journal = Journal(run)
    for _ in range(3):
        journal.append(made())
    whole = journal.path.read_bytes()
    for length in range(len(whole)):
        journal.path.write_bytes(whole[:length])
        read = read_calls(Path(run.folder))
        lines, _, rest = whole[:length].rpartition(b"\n")
        complete = lines.count(b"\n") + 1 if lines else 0
        # A line that lacks nothing but its line end is whole.
        lucky = bool(rest) and whole[length : length + 1] == b"\n"
        assert len(read.calls) == complete + lucky
        assert read.skipped == (1 if rest and not lucky else 0)


WRITER = """
import resource, signal, sys
from pathlib import Path
from probe.journal import RESERVE_BYTES, Journal, JournalError, Run
from tests.test_record import made

resource.setrlimit(resource.RLIMIT_FSIZE, (RESERVE_BYTES + 990, RESERVE_BYTES + 990))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Run(id="r", folder=sys.argv[1], wall_ns=0))
failures = []
for _ in range(20):
    try:
        journal.append(made(error_message="x" * 100_000))
    except JournalError as error:
        failures.append(str(error))
print(journal.counts["calls"], len(failures), len(set(failures)), failures[0])
"""


def test_once_a_line_does_not_fit_nothing_more_is_written(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], capture_output=True, text=True, check=True)
    calls, failures, kinds, message = done.stdout.split(" ", 3)
    read = read_calls(tmp_path)
    assert len(read.calls) == int(calls) == 20 - int(failures) > 0
    assert (read.skipped, kinds) == (1, "1")
    assert str(tmp_path) in message and "MB free" in message


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(JournalError, match="results"):
        start_run(tmp_path / "results", "mixed", {})
    with pytest.raises(JournalError, match="gone"):
        Journal(Run(id="r", folder=str(tmp_path / "gone"), wall_ns=0))
