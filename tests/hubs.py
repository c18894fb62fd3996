"""An event hub on loopback, as far as a sender sees of one: AMQP 1.0 without TLS, as Azure's emulator speaks it.

The bytes are read and written by the codec in the official client; what a peer has to say is made up here. It takes
every token ($cbs), has one hub's name for any, and keeps the events it was sent.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from azure.eventhub._pyamqp import _decode, _encode, endpoints, outcomes, performatives
from azure.eventhub._pyamqp.message import Message, Properties

_SASL, _AMQP = b"\x01", b"\x00"
_LARGEST_FRAME = 65536


class Hub:
    """`refuse` drops the connection of the next batch, once."""

    def __init__(self, largest_message: int) -> None:
        self.largest_message = largest_message
        # Each with `data` and `properties`; and of each batch, how many.
        self.events: list[Message] = []
        self.batches: list[int] = []
        self.tokens: list[Message] = []
        self.refuse = threading.Event()
        self.namespace = ""

    def serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, _GoneError):
            _Peer(self, connection).run()


class _GoneError(Exception):
    pass


class _Peer:
    def __init__(self, hub: Hub, connection: socket.socket) -> None:
        self._hub = hub
        self._connection = connection
        # By handles the addresses that are sent to, and where answers to $cbs and $management go.
        self._addresses: dict[int, str] = {}
        self._answers: dict[str, int] = {}
        self._next_delivery = 0
        # Of the frame that is answered.
        self._channel = 0
        self._parts = b""

    def run(self) -> None:
        self._header()
        self._send(performatives.SASLMechanism([b"ANONYMOUS"]), _SASL)
        self._frame()
        self._send(performatives.SASLOutcome(0, None), _SASL)
        self._header()
        while True:
            kind, fields = self._frame()
            if self._answer(kind, fields):
                return

    def _answer(self, kind: int, fields: list[Any]) -> bool:
        """Whether that was the last."""
        if kind == 16:
            self._send(performatives.OpenFrame("hub", "hub", _LARGEST_FRAME, 1, None, *[None] * 5))
        elif kind == 17:
            self._send(performatives.BeginFrame(self._channel, 0, 5000, 5000, 255, None, None, None))
        elif kind == 18:
            self._attach(fields)
        elif kind == 20:
            self._take(fields)
        elif kind == 22:
            self._send(performatives.DetachFrame(fields[0], True, None))
        elif kind == 23:
            self._send(performatives.EndFrame(None))
        elif kind == 24:
            self._send(performatives.CloseFrame(None))
        return kind == 24

    def _attach(self, fields: list[Any]) -> None:
        name, handle, is_receiver, (source, *_), (target, *_) = *fields[:3], *fields[5:7]
        here, there = endpoints.Source(source, *[None] * 10), endpoints.Target(target, *[None] * 6)
        limits = (None, None, 0 if is_receiver else None, self._hub.largest_message, None, None, None)
        self._send(performatives.AttachFrame(name, handle, not is_receiver, 0, 0, here, there, *limits))
        if is_receiver:
            self._answers[bytes(source).decode()] = handle
        else:
            self._addresses[handle] = bytes(target).decode()
            self._send(performatives.FlowFrame(0, 5000, 0, 5000, handle, 0, 1000, *[None] * 4))

    def _take(self, fields: list[Any]) -> None:
        handle, delivery, more, payload = fields[0], fields[1], fields[5], bytes(fields[-1])
        self._parts += payload
        if more:
            return
        message, self._parts = _decode.decode_payload(memoryview(self._parts)), b""
        address = self._addresses[handle]
        if address == "$cbs":
            self._hub.tokens.append(message)
            self._reply(address, message, None)
        elif address == "$management":
            self._reply(address, message, {b"name": b"calls", b"created_at": 0, b"partition_ids": [b"0"]})
        else:
            if self._hub.refuse.is_set():
                self._hub.refuse.clear()
                raise _GoneError
            parts: Any = message.data or ()
            events = [_decode.decode_payload(memoryview(one)) for one in parts]
            self._hub.events += events
            self._hub.batches.append(len(events))
        self._send(performatives.DispositionFrame(True, delivery, delivery, True, outcomes.Accepted(), None))

    def _reply(self, address: str, message: Message, value: Any) -> None:
        assert message.properties is not None
        payload = bytearray()
        status: dict[str | bytes, Any] = {b"status-code": 202, b"status-description": b"Accepted"}
        asked_by: Any = message.properties.message_id
        asked = Properties(correlation_id=asked_by)
        _encode.encode_payload(payload, Message(properties=asked, application_properties=status, value=value))
        number = self._next_delivery
        self._next_delivery += 1
        self._send(
            performatives.TransferFrame(
                self._answers[address], number, b"%d" % number, 0, True, False, payload=bytes(payload)
            )
        )

    def _send(self, frame: Any, kind: bytes = _AMQP) -> None:
        header, data = _encode.encode_frame(frame, kind)
        self._connection.sendall(header + self._channel.to_bytes(2, "big") + (data or b""))

    def _header(self) -> None:
        self._connection.sendall(self._read(8))

    def _frame(self) -> tuple[int, list[Any]]:
        while True:
            head = self._read(8)
            self._channel = int.from_bytes(head[6:], "big")
            size, offset = int.from_bytes(head[:4], "big"), head[4] * 4
            body = self._read(size - 8)[offset - 8 :]
            if body:
                return _decode.decode_frame(memoryview(body))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (piece := self._connection.recv(size - len(data))):
                raise _GoneError
            data += piece
        return data


@contextmanager
def hub_on_loopback(largest_message: int = 1024 * 1024) -> Iterator[Hub]:
    hub = Hub(largest_message)
    listener = socket.create_server(("127.0.0.1", 0))
    hub.namespace = f"127.0.0.1:{listener.getsockname()[1]}"

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=hub.serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield hub
    listener.close()
