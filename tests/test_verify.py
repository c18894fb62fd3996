"""What `analysis verify` says of a record that is whole, cut off, or tampered with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.runs import RunError, read_run
from analysis.verify import Verdict, verify
from probe.journal import Journal, Run, end_run, read_calls, start_run
from probe.lines import SealError, seal, unseal
from tests.commands import run
from tests.test_record import made

CALLS = 5


def recorded(results: Path, *, in_flight: int = 0, ends: bool = True, calls: int = CALLS) -> Path:
    """A run of one process: `calls` that ended, one that was dropped, and some that have not ended."""
    run = start_run(results, "mixed", {})
    journal = Journal(run)
    numbers = [journal.send("eastus", "chat", scheduled=0.1 * n) for n in range(calls + in_flight)]
    # They end in another order than they were sent in.
    for seq in reversed(numbers[:calls]):
        journal.append(made(), seq)
    journal.append(made(outcome="dropped_not_sent", error_type="dropped", duration=None, scheduled=9.0))
    if ends:
        journal.close(scheduled=calls + in_flight + 1)
        end_run(run, "completed", {"calls": calls + 1, "scheduled": calls + 1, "sent": calls, "dropped": 1})
    return Path(run.folder)


def told(verdict: Verdict) -> str:
    return "\n".join(f"{one.file}:{one.line}: {one.what}" for one in verdict.problems)


@given(st.dictionaries(st.text(), st.integers() | st.text(), min_size=1), st.integers(1, 10**9))
def test_a_sealed_line_is_one_line_and_gives_back_what_was_sealed(body: dict[str, Any], number: int) -> None:
    text = json.dumps(body).encode()
    line = seal(text, number)
    assert line.endswith(b"}\n") and line.count(b"\n") == 1
    assert unseal(line[:-1]) == (text, number)
    assert json.loads(line) == body | {"probe.line": number, "probe.crc32": json.loads(line)["probe.crc32"]}


@given(st.data())
def test_no_change_of_a_byte_goes_unseen(data: st.DataObject) -> None:
    line = seal(b'{"probe.seq":12,"a":"' + bytes(data.draw(st.lists(st.integers(35, 90)))) + b'"}', 7)[:-1]
    place = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != line[place]))
    with pytest.raises(SealError):
        unseal(line[:place] + bytes([other]) + line[place + 1 :])


def test_a_whole_record_adds_up(tmp_path: Path) -> None:
    verdict = verify(recorded(tmp_path))
    assert verdict.adds_up, told(verdict)
    assert verdict.total == (CALLS + 1, CALLS, 1, CALLS, 0, 0, 0)


def test_what_a_killed_process_had_open_is_in_flight_and_no_fault(tmp_path: Path) -> None:
    folder = recorded(tmp_path, in_flight=3, ends=False)
    verdict = verify(folder)
    assert verdict.adds_up, told(verdict)
    assert verdict.total == (CALLS + 4, CALLS + 3, 1, CALLS, 3, 0, 0)
    done = run("analysis", "verify", str(folder))
    assert done.returncode == 0 and done.stderr == ""
    assert "3 calls were in flight when their process was killed" in done.stdout
    assert "1 of 1 processes came to no end of their own, unless the run is still on" in done.stdout
    assert read_run(folder).in_flight == 3
    (process,) = json.loads(run("analysis", "verify", str(folder), "-o", "json").stdout)["processes"]
    assert (process["sent"], process["ended"], process["in_flight"], process["end"]) == (8, 5, 3, "none")


def test_a_process_that_came_to_its_end_has_nothing_in_flight(tmp_path: Path) -> None:
    assert "in flight" in told(verify(recorded(tmp_path, in_flight=1)))


Change = Callable[[list[bytes]], list[bytes]]
CHANGES: dict[str, tuple[Change, str]] = {
    "gone": (lambda lines: lines[:2] + lines[3:], "line 3 is missing before it"),
    "doubled": (lambda lines: [*lines[:2], lines[1], *lines[2:]], "it is numbered 2"),
    "out of place": (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "missing before it"),
    "edited": (lambda lines: [lines[0].replace(b"eastus", b"westus"), *lines[1:]], "checksum"),
    "a stranger's": (lambda lines: [*lines, b'{"not":"ours"}'], "no checksum"),
    "gone from the end": (lambda lines: lines[:-1], "its last line"),
    "all gone": (lambda lines: [], "missing"),
}


@pytest.mark.parametrize("kind", ["sent", "calls"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_line_that_is_changed_missing_doubled_or_out_of_place_is_found(tmp_path: Path, kind: str, name: str) -> None:
    folder = recorded(tmp_path)
    change, says = CHANGES[name]
    (path,) = folder.glob(f"{kind}-*.jsonl")
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().splitlines())))
    verdict = verify(folder)
    assert not verdict.adds_up and says in told(verdict)
    assert {problem.file for problem in verdict.problems} & {path.name}


def test_where_it_does_not_add_up_file_and_line_are_named_and_the_exit_code_says_so(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    (path,) = folder.glob("calls-*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"probe.seq":3', b'"probe.seq":4'))
    done = run("analysis", "verify", str(folder))
    assert done.returncode == 7 and "the record does not add up" in done.stdout
    assert f"{path.name}     3  its checksum is another's" in done.stdout


@pytest.mark.parametrize("kind", ["sent", "calls"])
def test_a_file_that_is_gone_is_missed(tmp_path: Path, kind: str) -> None:
    folder = recorded(tmp_path)
    (path,) = folder.glob(f"{kind}-*.jsonl")
    path.unlink()
    assert not verify(folder).adds_up


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("killed"), ends=False)


@settings(max_examples=150)
@given(data=st.data(), kind=st.sampled_from(["sent", "calls"]))
def test_a_file_cut_off_anywhere_loses_its_last_line_at_most_and_is_told(whole: Path, data: Any, kind: str) -> None:
    (path,) = whole.glob(f"{kind}-*.jsonl")
    before = path.read_bytes()
    length = data.draw(st.integers(0, len(before) - 2))
    try:
        path.write_bytes(before[:length])
        verdict = verify(whole)
        assert not verdict.adds_up
        if kind == "calls":
            complete = before[: length + 1].count(b"\n")
            assert len(read_calls(whole).calls) == complete
            cut = before[:length].rpartition(b"\n")[2] != b"" and before[length : length + 1] != b"\n"
            assert verdict.total.torn == cut and verdict.total.bad == 0
    finally:
        path.write_bytes(before)


@settings(max_examples=150)
@given(data=st.data(), kind=st.sampled_from(["sent", "calls"]))
def test_any_byte_that_is_changed_in_any_file_is_found(killed: Path, data: Any, kind: str) -> None:
    (path,) = killed.glob(f"{kind}-*.jsonl")
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != before[place]))
    try:
        path.write_bytes(before[:place] + bytes([byte]) + before[place + 1 :])
        assert not verify(killed).adds_up
    finally:
        path.write_bytes(before)


def test_what_cannot_be_verified_is_one_line(tmp_path: Path) -> None:
    empty = Path(start_run(tmp_path / "results", "mixed", {}).folder)
    unreadable = recorded(tmp_path / "results")
    (path,) = unreadable.glob("calls-*.jsonl")
    path.unlink()
    path.mkdir()
    for folder, says in (
        (tmp_path, "is no run"),
        (tmp_path / "gone", "is no run"),
        (empty, "a run without a journal"),
        (unreadable, "cannot be read"),
    ):
        with pytest.raises(RunError, match=says):
            verify(folder)
    done = run("analysis", "verify", str(empty))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_process_started_again_under_the_same_name_writes_files_of_its_own(tmp_path: Path) -> None:
    folder = recorded(tmp_path, ends=False)
    run = Run(id=json.loads((folder / "run.json").read_text())["run_id"], folder=str(folder), wall_ns=0)
    (path,) = folder.glob("calls-*.jsonl")
    path.write_bytes(path.read_bytes()[:-100])
    again = Journal(run)
    again.append(made())
    again.close()
    verdict = verify(folder)
    assert verdict.adds_up and verdict.total.torn == 1
    assert [process.counts.ended for process in verdict.processes] == [CALLS, 1]
    read = read_calls(folder)
    assert (len(read.calls), read.skipped) == (CALLS + 1, 1)


def test_a_run_verifies_wherever_it_is_moved(tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere ünï"
    shutil.move(recorded(tmp_path), moved)
    assert verify(moved).adds_up
