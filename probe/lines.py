"""Lines that prove themselves: each is one JSON object, with its number in its file and a checksum as its last keys.

    {...,"probe.line":7,"probe.crc32":"9f3c01aa"}

The checksum (CRC-32, in hexadecimal) is of every byte of the line before `,"probe.crc32"`. So a changed line shows, and
by the numbers, which have no gap, one that is missing, doubled or out of its place. It is no signature: both can be
computed again by whoever wants to.
"""

import os
import re
from binascii import crc32
from pathlib import Path

# Windows would turn each line end into two bytes, and has no symbolic links to refuse.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_SEAL = re.compile(rb',"probe\.line":([1-9][0-9]{0,18}),"probe\.crc32":"([0-9a-f]{8})"\}\Z')
_LONGEST_SEAL = 70


class SealError(ValueError):
    """A line that has no seal, or whose bytes are not those that were sealed."""


def seal(body: bytes, line: int) -> bytes:
    """`body`, a JSON object with at least one key, as line number `line` (from 1) of a file, line end included."""
    numbered = b'%b,"probe.line":%d' % (body[:-1], line)
    return b'%b,"probe.crc32":"%08x"}\n' % (numbered, crc32(numbered))


def unseal(line: bytes) -> tuple[bytes, int]:
    """What `seal` was given. `line` is without its line end. Raises `SealError`."""
    found = _SEAL.search(line, max(0, len(line) - _LONGEST_SEAL))
    if found is None:
        raise SealError("it has no checksum")
    if crc32(line[: found.end(1)]) != int(found[2], 16):
        raise SealError("its checksum is another's")
    return line[: found.start()] + b"}", int(found[1])


class SealedFile:
    """A file of such lines, made new; nobody else can read it. A line is a single write, so that a killed process loses
    at most the one it was writing. Raises `OSError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self._file = os.open(path, _FLAGS, 0o600)
        # What a full disk did not take of the last line.
        self._rest = b""

    def append(self, body: bytes) -> None:
        """Raises `OSError` where the line could not be written whole; `finish` may write what is missing of it."""
        if self._rest:
            raise OSError(None, "the line before is not whole")
        line = seal(body, self.lines + 1)
        self._write(line)

    def finish(self) -> None:
        """The rest of a line that could not be written. Raises `OSError`."""
        if self._rest:
            self._write(self._rest)

    def _write(self, data: bytes) -> None:
        self._rest = data
        while self._rest:
            # A full disk takes part of a line without an error; the next write has it.
            self._rest = self._rest[os.write(self._file, self._rest) :]
        self.lines += 1

    def sync(self) -> None:
        """Blocks until the disk has it (milliseconds); without this only a crash of the machine can lose lines."""
        os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)
