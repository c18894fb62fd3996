"""Server-sent events: bytes in, events out, whatever the chunks they came in. No I/O.

The format is that of the HTML standard (9.2.6, "Interpreting an event stream"): lines end in LF, CR or CRLF; a leading
byte order mark is dropped; a line that begins with a colon is a comment; `data` lines are joined by LF; an empty line
ends an event, and one without data is none. Data stays bytes: whether it is JSON, or even UTF-8, is for the reader.

Two departures. The standard drops an event that the end of the stream cuts off before its empty line. Servers do end on
`data: [DONE]` and a single line end, so `close` hands that event out. And a line `[DONE]` by itself, with which
Microsoft's own simulator of Azure OpenAI ends its streams, is the event that it was meant to be.
"""

import re

import msgspec

# A single event larger than this is not a chat chunk; holding it would only cost memory.
MAX_EVENT_BYTES = 4 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_DATA = b"data: "
DONE = b"[DONE]"
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Event(msgspec.Struct, frozen=True, gc=False):
    """`type` is the `event:` field, empty where none was sent."""

    type: bytes
    data: bytes


class EventTooLargeError(ValueError):
    """More than `MAX_EVENT_BYTES` arrived without an event ending."""


class SSEReader:
    """Feed it the body as it arrives. `comments` counts the lines that servers send to keep a connection open."""

    def __init__(self) -> None:
        self.comments = 0
        self._partial = b""
        self._data: list[bytes] = []
        self._held = 0
        self._type = b""
        self._at_start = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes. Raises `EventTooLargeError`."""
        if chunk.startswith(_DATA) and self._is_one_event(chunk):
            return [Event(b"", chunk[len(_DATA) : -2])]
        return self._read(self._lines(chunk))

    def _is_one_event(self, chunk: bytes) -> bool:
        """Whether it is what nearly every read brings: an event of one line, whole. It costs a third then."""
        begun = self._partial or self._data or self._type or self._at_start or self._after_cr
        one_line = chunk.find(b"\n") == len(chunk) - 2 and chunk.endswith(b"\n\n") and b"\r" not in chunk
        return one_line and not begun and len(chunk) <= MAX_EVENT_BYTES

    @property
    def holds_part(self) -> bool:
        """Whether more came than made whole events."""
        return bool(self._partial or self._data)

    def close(self) -> list[Event]:
        """The event that the end of the stream left without its empty line, if there is one."""
        last, self._partial = self._partial, b""
        return self._read([last, b""])

    def _lines(self, chunk: bytes) -> list[bytes]:
        if self._after_cr and chunk:
            # A CR ended its line when it came; an LF that follows belongs to it.
            chunk = chunk[1:] if chunk[0] == 0x0A else chunk
            self._after_cr = False
        text = self._partial + chunk
        if self._at_start:
            if len(text) < len(_BOM) and _BOM.startswith(text):
                self._partial = text
                return []
            text = text.removeprefix(_BOM)
            self._at_start = False
        if b"\r" in text:
            self._after_cr = text.endswith(b"\r")
            lines = _LINE_END.split(text)
        else:
            lines = text.split(b"\n")
        self._partial = lines.pop()
        if self._held + len(self._partial) > MAX_EVENT_BYTES:
            raise EventTooLargeError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return lines

    def _read(self, lines: list[bytes]) -> list[Event]:
        events = []
        for line in lines:
            if line:
                self._field(line)
            elif self._data:
                events.append(Event(self._type, b"\n".join(self._data)))
                self._data, self._type, self._held = [], b"", 0
            else:
                self._type = b""
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = (_DATA + line if line == DONE else line).partition(b":")
        if not name:
            self.comments += 1
            return
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._held += len(value)
            if self._held > MAX_EVENT_BYTES:
                raise EventTooLargeError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        elif name == b"event":
            self._type = value
