"""Bytes of HTTP/1.1 replies, as they go onto the wire. Pure.

Our replies are written whole by ourselves, not by the server's own writer: order, case, repeats and even mistakes in
them are what a simulator is for.
"""

import random
from typing import NamedTuple

import msgspec

Header = tuple[str, str]


class Reply(NamedTuple):
    """A whole reply. `headers` are all that go onto the wire, in their order."""

    status: int
    reason: str
    headers: list[Header]
    body: bytes


class RefusedError(Exception):
    """A call that gets `reply` instead of what it asked for; `outcome` is the ledger's word for why."""

    def __init__(self, reply: Reply, outcome: str) -> None:
        super().__init__(outcome)
        self.reply = reply
        self.outcome = outcome


# Apart from all that a seed decides: no two calls of two runs may share an id.
_ids = random.Random()
dump = msgspec.json.Encoder().encode


def new_id() -> str:
    """A random UUID; the standard library's takes four times as long."""
    digits = f"{_ids.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def head(status: int, reason: str, headers: list[Header]) -> bytes:
    lines = [f"HTTP/1.1 {status} {reason}", *[f"{name}: {value}" for name, value in headers], "", ""]
    return "\r\n".join(lines).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; nothing for no data, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


LAST_CHUNK = b"0\r\n\r\n"


def is_chunked(headers: list[Header]) -> bool:
    return any(name == "transfer-encoding" and value == "chunked" for name, value in headers)
