"""A terminal with a person before it: keys are typed, the screen is read."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyte
from rich.cells import cell_len

from tests.commands import BIN, ROOT, environment


class Terminal:
    """What a command shows, in so many columns. `raw` is every byte that it wrote."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int, columns: int, rows: int) -> None:
        self.process = process
        self.raw = b""
        self.ours = ours
        self._screen = pyte.HistoryScreen(columns, rows, history=2000, ratio=1)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        """Also what has gone out of sight."""
        above = ["".join(line[x].data for x in range(self._screen.columns)) for line in self._screen.history.top]
        return [line.rstrip() for line in (*above, *self._screen.display)]

    @property
    def shown(self) -> str:
        return "\n".join(self.lines)

    @property
    def coloured(self) -> bool:
        return re.search(rb"\x1b\[([0-9;]*;)?([349][0-7]|[34]8)(;[0-9;]*)?m", self.raw) is not None

    @property
    def widest(self) -> int:
        """Columns of the longest line that was written at once, which a screen would have broken anywhere; of data, and
        not of what is said beside it."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode(errors="replace"))
        return max((cell_len(line) for line in re.split(r"[\r\n]+", text) if not line.startswith("probe: ")), default=0)

    def type(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def wait_for(self, pattern: str, seconds: float = 15) -> str:
        """Until the screen shows this; what it shows then."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.shown):
            assert self._read(deadline), f"{pattern!r} never came:\n{self.shown}"
        return self.shown

    def wait_for_end(self, seconds: float = 15) -> int:
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        """One more piece of what is written; False at its end, or when it is too late."""
        if not select.select([self.ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            piece = os.read(self.ours, 65536)
        except OSError:
            # Linux says so when the other end of a terminal is closed.
            return False
        self.raw += piece
        self._stream.feed(piece)
        if b"\x1b[6n" in piece:
            # What a terminal answers when it is asked where the cursor is.
            os.write(self.ours, b"\x1b[1;1R")
        return bool(piece)


@contextmanager
def on_a_terminal(
    *command: str, columns: int = 80, rows: int = 50, settings: Mapping[str, str], folder: Path = ROOT
) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [str(BIN / command[0]), *command[1:]],
        env={**environment(settings), "TERM": "xterm-256color", "LANG": "C.UTF-8", **settings},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        # Ctrl-C goes to the group in front of the terminal.
        preexec_fn=_in_front_of_the_terminal,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours, columns, rows)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _in_front_of_the_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
