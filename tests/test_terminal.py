"""The ten lines of a run that is on, as a person sees them on a terminal."""

import re
import termios
from itertools import product
from pathlib import Path

import pytest

from locustfiles._board import board
from locustfiles._live import Process, Seen, Standing
from locustfiles._terminal import LINES, ROWS, lines
from tests.runs import load_of, openai_shaped, results_in
from tests.terminals import Terminal, on_a_terminal
from tests.test_render import a_call
from tests.test_slo import THROTTLED
from tests.test_verdict import FAILED, FIRST
from tests.wire import answers, serving

HEAD = re.compile(r"headroom  \d+ s(, \d+ s left)?; \S+ spent; ")


def view_on(terminal: Terminal) -> list[str]:
    """From its head to its last line, which there is once."""
    shown = terminal.lines
    (first,) = (number for number, line in enumerate(shown) if HEAD.match(line))
    (last,) = (number for number, line in enumerate(shown) if line.startswith("this side "))
    return shown[first : last + 1]


@pytest.mark.parametrize(("columns", "colour"), [(80, True), (200, False)], ids=["80, colour", "200, plain"])
def test_ten_lines_stay_in_their_place_and_end_with_the_journals_numbers(
    tmp_path: Path, columns: int, colour: bool
) -> None:
    with serving(answers(openai_shaped(refuse_every=5))) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_RATE="30", HEADROOM_STREAM_SHARE="1")
        settings |= {} if colour else {"NO_COLOR": "1"}
        with on_a_terminal("locust", "--headless", "-t", "3s", columns=columns, settings=settings) as terminal:
            terminal.wait_for(HEAD.pattern)
            assert view_on(terminal)[-1] == [line for line in terminal.lines if line][-1]
            assert terminal.wait_for_end(20) == 0, terminal.shown
    assert terminal.coloured is colour
    shown = view_on(terminal)
    assert len(shown) <= LINES and max(map(len, shown)) <= columns
    calls = load_of(tmp_path)
    refused = sum(call.outcome == "throttled" for call in calls)
    classes = tuple({call.traffic or "" for call in calls})
    sent = [line.split()[1:3] for line in shown if line.startswith(classes)]
    assert [sum(int(number) for number in column) for column in zip(*sent, strict=True)] == [len(calls), refused]
    assert any(line.startswith(f"429       {refused} by ") for line in shown)
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")


def test_lines_that_come_meanwhile_are_whole_and_those_of_workers_too(tmp_path: Path) -> None:
    with serving(answers(openai_shaped())) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_RATE="20")
        command = ("locust", "--headless", "-t", "2s", "--processes", "2")
        with on_a_terminal(*command, columns=150, settings=settings) as terminal:
            assert terminal.wait_for_end(30) == 0, terminal.shown
    view_on(terminal)
    # Workers end while the master has its lines on the screen.
    told = [line for line in terminal.lines if "Shutting down" in line]
    assert len(told) == 3 and all(re.match(r"\[\d{4}-[^]]+\] \S+/INFO/.*\)$", line) for line in told), told


def test_ctrl_c_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    with serving(answers(openai_shaped())) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_RATE="20")
        with on_a_terminal("locust", "--headless", settings=settings) as terminal:
            before = termios.tcgetattr(terminal.ours)
            terminal.wait_for(HEAD.pattern)
            terminal.type("\x03")
            assert terminal.wait_for_end(20) == 130, terminal.shown
            assert termios.tcgetattr(terminal.ours) == before
    view_on(terminal)
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")
    assert any(line.startswith("headroom: stopping; ") for line in terminal.lines)


def test_a_terminal_that_cannot_move_its_cursor_has_lines_of_progress(tmp_path: Path) -> None:
    with serving(answers(openai_shaped())) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_RATE="20", TERM="dumb")
        with on_a_terminal("locust", "--headless", "-t", "3s", settings=settings) as terminal:
            terminal.wait_for("calls ended, 0 not answered")
            assert b"\x1b" not in terminal.raw


def many(targets: int, classes: int) -> Standing:
    seen, made = Seen(), Standing("a run", 600)
    names = product((f"target-{n}-of-a-long-name" for n in range(targets)), (f"class {n}" for n in range(classes)))
    for target, traffic in names:
        headers = (("x-ratelimit-remaining-tokens", "70"), ("x-ratelimit-remaining-requests", "9"))
        about = {"target": target, "traffic": traffic, "headers": headers, "request_stream": True}
        for one in (THROTTLED, FAILED, FIRST):
            seen.take(a_call(**{**about, **one}))
    seen.look_at_limits(1.0)
    made.take("one", seen.report(Process(0.5, 0.02, 7, 0, 12_345, 1.5)))
    made.look_at_rates(61.0)
    return made


@pytest.mark.parametrize(("targets", "classes"), [(0, 0), (1, 1), (1, 8), (9, 1), (9, 9)])
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_any_number_of_targets_and_classes_fits(targets: int, classes: int, columns: int) -> None:
    shown = [line.plain for line in lines(board(many(targets, classes), ROWS), columns)]
    assert len(shown) <= LINES and max(map(len, shown)) <= columns
    assert any(line.startswith("limits    ") and "target-0" in line for line in shown) is (targets > 0)
    assert shown[0].startswith("headroom  1 min 1 s, 8 min 59 s left"[:columns])
    assert any("3 more not shown" in line for line in shown) is (classes == 8 and columns > 40)


def test_what_is_the_same_in_all_rows_is_not_said_in_each() -> None:
    by_class, by_target, one = (lines(board(many(*size), ROWS), 120) for size in ((1, 2), (2, 1), (1, 1)))
    assert [line.plain.split("  ")[0] for line in by_class[2:4]] == ["class 0", "class 1"]
    assert [line.plain.split("  ")[0] for line in by_target[2:4]] == [f"target-{n}-of-a-long-name" for n in (0, 1)]
    assert one[2].plain.startswith("class 0  ")
