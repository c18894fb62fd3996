"""A run's files as they grow: whole lines, file by file, each from its start.

Nothing is kept here but how far each file was taken. What a destination has not taken yet is on the disk, and is read
from there again, so that one that is down for an hour costs no memory.
"""

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import NamedTuple

CHUNK_BYTES = 512 * 1024
# As `analysis verify` has it: more than a record with every header that is kept.
_LONGEST_LINE = 64 * 1024 * 1024


class Chunk(NamedTuple):
    """`data` are the bytes of `file` (its name) from `offset` on: whole lines, but for what a killed process left
    behind the last one."""

    file: str
    offset: int
    data: bytes


class Follower:
    """The files of a run's folder whose names match one of `patterns`."""

    def __init__(self, folder: Path, patterns: Iterable[str]) -> None:
        self.folder = folder
        self._patterns = tuple(patterns)
        self._taken: dict[str, int] = {}

    def read(self, *, at_end: bool = False) -> Generator[Chunk]:
        """What has come since. A chunk is taken when the next one is asked for. `at_end` says that nothing more comes:
        then a line that is cut off is read too. Raises `OSError`."""
        for path in self._files():
            while chunk := self._next(path, at_end):
                yield chunk
                self._taken[path.name] = chunk.offset + len(chunk.data)

    def lines(self) -> int:
        """How many there are in all the files, counted anew; one that is cut off is one too. Raises `OSError`."""
        return sum(_count(path) for path in self._files())

    def _files(self) -> list[Path]:
        return sorted({path for pattern in self._patterns for path in self.folder.glob(pattern)})

    def _next(self, path: Path, at_end: bool) -> Chunk | None:
        offset = self._taken.get(path.name, 0)
        left = path.stat().st_size - offset
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(min(left, CHUNK_BYTES))
            whole = data.rfind(b"\n") + 1
            if not whole and left > len(data):
                data += file.readline(_LONGEST_LINE)
                whole = data.rfind(b"\n") + 1
        is_last = at_end and left == len(data)
        taken = data if is_last or (not whole and at_end) else data[:whole]
        return Chunk(path.name, offset, taken) if taken else None


def _count(path: Path) -> int:
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            lines += data.count(b"\n")
            last = data[-1:]
    return lines + (last != b"\n")
