"""The run that is on (`_board`) in ten lines of the terminal, which stay in their place below what is said meanwhile.

Whatever this process writes to the terminal goes above them, Locust's log too. Children that it forks (`--processes`)
would write across them, so their lines come through here.
"""

import atexit
import logging
import os
import secrets
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TextIO

import gevent
from gevent.fileobject import FileObject
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from locustfiles._board import SPENT

LOOK_SECONDS = 1.0
LINES = 10
# Of classes and targets: the limits have to have room too.
ROWS = 5
_LABEL = 10
# Columns of the board's table of classes, and how wide they are.
_COLUMNS = {2: 7, 4: 6, 6: 8, 7: 8, 8: 8, 9: 8, 10: 8}
_HEADS = ("sent", "429", "TTFT p50", "p95", "p99", "gap p50", "p95")


class View:
    """From its making until `close`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        to_here = sys.stdout.isatty()
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=to_here, vertical_overflow="crop")
        before = sys.stderr
        self._live.start()
        self._hand_over(before, sys.stderr)
        atexit.register(self.close)

    def show(self, board: dict[str, Any]) -> None:
        if self._live.is_started:
            # The terminal may be gone.
            with suppress(OSError):
                self._live.update(Group(*lines(board, self._console.width)), refresh=True)

    def close(self) -> None:
        """What it shows stays there, and the cursor is below it."""
        if self._live.is_started:
            during = sys.stderr
            with suppress(OSError):
                self._live.stop()
            self._hand_over(during, sys.stderr)
            atexit.unregister(self.close)

    def _hand_over(self, before: TextIO, after: TextIO) -> None:
        """Loggers keep the stream that there was when they were set up."""
        for name in (None, "locust", "locust.stats_logger"):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                    handler.setStream(after)


def view(parsed: Any) -> View | None:
    """`parsed` are Locust's options. None where lines of progress are to be told instead: where nobody looks at a
    terminal that can do it, or Locust prints tables of its own."""
    can = sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal
    return View() if can and parsed.headless and parsed.only_summary else None


class Children:
    """What forked children say, through a pipe that is made before they are forked. They have its `key`."""

    def __init__(self) -> None:
        self._key: str = secrets.token_hex(8)
        self._ours, self._theirs = os.pipe()
        self._reading: gevent.Greenlet[..., None] | None = None

    def join(self, key: str | None) -> None:
        """In a child, when its parent has begun to `listen` and has told it the key."""
        if key == self._key:
            os.dup2(self._theirs, sys.stderr.fileno())
            os.close(self._ours)

    def listen(self) -> str:
        """In the parent; the key to be told."""
        os.close(self._theirs)
        self._reading = gevent.spawn(self._read)
        return self._key

    def close(self) -> None:
        """When the children are gone."""
        if self._reading is not None:
            self._reading.join(1.0)

    def _read(self) -> None:
        with FileObject(self._ours, "r", errors="replace") as said:
            for line in said:
                sys.stderr.write(line)


def lines(board: dict[str, Any], width: int) -> list[Text]:
    """At most `LINES`, each of at most `width` columns."""
    sums = dict(board["sums"])
    left = "" if sums["time left"] == "-" else f", {sums['time left']} left"
    rates = f"{sums['calls a second']} calls/s, {sums['tokens a minute']} tokens/min"
    side = [f"late by {sums['late at worst']} at worst", f"CPU {sums['CPU']}"]
    side += [f"{sums['open calls']} calls open", f"{sums['dropped']} dropped"]
    above = [
        _line("headroom", f"{sums['time so far']}{left}; {sums[SPENT]} spent; {rates}", "bold"),
        *_classes(board["classes"], board["left_out"], width),
        _refused(board["refusals"], board["failures"], width),
    ]
    shown = [
        *above,
        *_limits(board["limits"], width, LINES - len(above) - 1),
        _line("this side", ", ".join(side)),
    ]
    for one in shown:
        one.truncate(width, overflow="ellipsis")
    return shown


def _line(label: str, text: str, style: str = "") -> Text:
    return Text.assemble((f"{label:<{_LABEL}}", "dim"), (text, style), no_wrap=True)


def _classes(rows: Sequence[Sequence[str]], left_out: int, width: int) -> Iterator[Text]:
    """Where all are of one target, or of one class, that is not said of each."""
    room = max(0, width - sum(_COLUMNS.values()) - len(_COLUMNS))
    told = [number for number in (0, 1) if len({row[number] for row in rows[1:]}) > 1] or [1]
    more = f"{left_out} more not shown" if left_out else ""
    yield Text(f"{more:{room}}"[:room] + _cells(_HEADS), "dim", no_wrap=True)
    for row in rows[1:]:
        name = Text(" ".join(row[number] for number in told))
        name.truncate(room, overflow="ellipsis", pad=True)
        yield name.append(_cells([row[number] for number in _COLUMNS]))


def _cells(texts: Iterable[str]) -> str:
    return "".join(f" {text:>{room}}" for text, room in zip(texts, _COLUMNS.values(), strict=True))


def _refused(refusals: Sequence[Sequence[str]], failures: Sequence[Sequence[str]], width: int) -> Text:
    """By cause and target, or where that is too long by cause."""
    for at_targets in (True, False):
        made = _line("429", _causes(refusals, "by ", at_targets) or "none", "yellow" if len(refusals) > 1 else "")
        if len(failures) > 1:
            made.append("; failed ").append(_causes(failures, "", at_targets), "red")
        if len(made) <= width:
            break
    return made


def _causes(rows: Sequence[Sequence[str]], by: str, at_targets: bool) -> str:
    met = Counter[str]()
    for cause, target, times in rows[1:]:
        met[f"{cause} at {target}" if at_targets else cause] += int(times.replace(",", ""))
    return ", ".join(f"{times:,} {by}{cause}" for cause, times in met.most_common())


def _limits(limits: Sequence[dict[str, Any]], width: int, most: int) -> list[Text]:
    """All of them, or where that takes too many lines the scarcest of each target, or what is left of it alone."""
    scarcest = sorted(limits, key=lambda one: 1.0 if one["free"] is None else one["free"], reverse=True)
    kept = {one["target"]: one for one in scarcest}
    few = [one for one in limits if one is kept[one["target"]]]
    for some, by, other, says_of in (
        (limits, "target", "what", True),
        (few, "target", "what", True),
        (few, "what", "target", False),
    ):
        parts: dict[str, list[str]] = {}
        for one in some:
            of = f" of {one['of']}" if one["of"] and says_of else ""
            parts.setdefault(one[by], []).append(f"{one[other]} {one['now']}{of}")
        packed = _packed([f"{name}: {', '.join(said)}" for name, said in parts.items()], width - _LABEL)
        if len(packed) <= most:
            break
    return [_line("" if number else "limits", text) for number, text in enumerate(packed[:most])]


def _packed(parts: Sequence[str], room: int) -> list[str]:
    """As many on a line as fit."""
    packed: list[str] = []
    for part in parts:
        if packed and len(packed[-1]) + len(part) + 2 <= room:
            packed[-1] += f"; {part}"
        else:
            packed.append(part)
    return packed
