"""A connected socket, plain or TLS, that never blocks: bytes out, bytes in with the stamp of their arrival.

TLS goes through memory buffers, so that what the kernel says of a segment's arrival is there for TLS as well.

The sockets are the interpreter's own, also under gevent, which replaces `socket.socket`: nothing here ever waits, so
there is nothing for it to do, and its wrapper would cost more than the call.
"""

import _socket
import contextlib
import socket
import ssl
import time
from typing import NamedTuple

from probe.stamps import ANCILLARY_BYTES, KERNEL_STAMPS, Ancillary, Stamp, ask_for_stamps

RECEIVE_BYTES = 65536

Socket = _socket.socket


# What was read, when by our own clock, and what the kernel says of it. The data is empty at the end of the stream, None
# where what came says nothing yet (half a TLS record).
Received = tuple[bytes | None, Stamp, Ancillary]


class Channel:
    """A plain connection. `stamps` says whether the kernel was asked for them."""

    def __init__(self, connection: Socket, stamps: bool) -> None:
        self._socket = connection
        self._stamps = stamps and KERNEL_STAMPS

    def fileno(self) -> int:
        return self._socket.fileno()

    def encode(self, data: bytes) -> bytes:
        """What has to be sent to say `data`."""
        return data

    def send(self, data: memoryview) -> int:
        """How much of it the socket takes now. Raises `OSError`."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def receive(self) -> Received:
        """What is there to be read. Raises `BlockingIOError` where there is nothing, `OSError` where it broke."""
        if self._stamps:
            data, ancillary, _, _ = self._socket.recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES)
            return data, time.perf_counter_ns(), ancillary
        data = self._socket.recv(RECEIVE_BYTES)
        return data, time.perf_counter_ns(), []

    def is_stale(self) -> bool:
        """Whether an idle connection was closed, or sent something unasked, since it was last used."""
        try:
            return self.receive()[0] is not None
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._socket.close()


class SecureChannel(Channel):
    """TLS over it. `handshake` has to come to an end before anything is sent."""

    def __init__(self, connection: Socket, stamps: bool, context: ssl.SSLContext, host: str) -> None:
        super().__init__(connection, stamps)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def handshake(self) -> bool:
        """Does what can be done now; whether that was all. Raises `ssl.SSLError`, `OSError`."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError:
            # The alert that tells the server why.
            with contextlib.suppress(OSError):
                self._flush()
            raise
        self._flush()
        return True

    def certificate(self) -> tuple[bytes, str]:
        """The other side's, as DER, and the protocol that was agreed on. After the handshake."""
        return self._tls.getpeercert(binary_form=True) or b"", self._tls.version() or ""

    def take(self) -> None:
        """Hands what has arrived to TLS, for `handshake` to look at. Raises like `receive`."""
        self._take(super().receive()[0])

    def encode(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._outgoing.read()

    def receive(self) -> Received:
        data, at, ancillary = super().receive()
        self._take(data)
        plain, ended = self._read()
        if self._outgoing.pending:
            # TLS answers some of what it reads, such as a change of keys.
            self._flush()
        return plain if plain or ended else None, at, ancillary

    def _take(self, data: bytes | None) -> None:
        self._incoming.write(data) if data else self._incoming.write_eof()

    def _read(self) -> tuple[bytes, bool]:
        pieces: list[bytes] = []
        try:
            while piece := self._tls.read(RECEIVE_BYTES):
                if not (self._incoming.pending or self._incoming.eof):
                    # Asking once more to be told that there is nothing costs as much as the reading.
                    return b"".join([*pieces, piece]), False
                pieces.append(piece)
        except ssl.SSLWantReadError:
            return b"".join(pieces), False
        except ssl.SSLEOFError:
            # It hung up without saying so in TLS. Whether the reply was whole is for HTTP to say.
            pass
        return b"".join(pieces), True

    def _flush(self) -> None:
        """A handshake's messages and TLS's own answers are small: a socket that takes nothing of them is broken."""
        if self._outgoing.pending:
            self._socket.send(self._outgoing.read())


class Address(NamedTuple):
    """As `getaddrinfo` gives it."""

    family: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def begin_connect(address: Address, stamps: bool) -> tuple[Socket, bool]:
    """A socket on its way to `address`, and whether it is there already. Raises `OSError`."""
    connection = Socket(address.family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if stamps and KERNEL_STAMPS:
            ask_for_stamps(connection)
        connection.connect(address.sockaddr)
    except BlockingIOError:
        return connection, False
    except BaseException:
        connection.close()
        raise
    return connection, True
