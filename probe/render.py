"""One observed call as text for a person: what came of it, when, at what cost, and every header with its meaning.

Hostile text.  Names, values and messages come from servers. Whatever is not printable (control codes, bidirectional
               marks, line separators, lone surrogates) is shown as an escape such as \\x1b, and all of it is printed as
               rich's `Text`, never as markup. rich by itself lets C1 and bidirectional marks through.
Nothing lost.  Every header is shown as received, repeats included; what is too long for its column goes on below.
Plain.         No styling with NO_COLOR or off a terminal; ASCII only where the output's encoding is not UTF.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import zip_longest
from typing import NamedTuple

import msgspec
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from probe.escaping import printable as printable
from probe.headers import Reading, describe, grouped, retry_after
from probe.record import ObservedCall

_INDENT = "  "
_LONGEST_BAR = 100
# From here on meanings have a column of their own; on a narrower screen they go under their header.
_WIDE = 140
_LONGEST_NAME = 36
_LONGEST_VALUE = 44

_AS_HOPED = {"ok", "ok_length"}
_AS_RULED = {"throttled", "filtered_prompt", "filtered_output", "cancelled_user", "cancelled_deadline", "budget_stop"}

_Part = tuple[str, str]


def render_call(call: ObservedCall, console: Console) -> None:
    for line in _Sheet(console).lines(call):
        console.print(Text(line.plain) if console.no_color else line, soft_wrap=True)


class _Columns(NamedTuple):
    name: int
    value: int
    meaning: int
    meaning_below: bool


class _Sheet:
    """Turns calls into lines that fit one console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._width = max(console.width, 40)
        self._ascii = console.options.ascii_only
        self._bar, self._dot = ("#", " - ") if self._ascii else ("━", " · ")

    def lines(self, call: ObservedCall) -> Iterator[Text]:
        yield from self._flow(_verdict(call), indent="")
        yield from self._flow(_circumstances(call), indent="")
        yield from self._section("error", self._flow(_error(call)))
        yield from self._section(_timing_title(call), self._timing(call))
        yield from self._section("usage", self._flow(_usage(call)))
        yield from self._section("the service's own timings, ms", self._flow(_checkpoint(call)))
        yield from self._headers(call)

    def _section(self, title: str, lines: Iterable[Text]) -> Iterator[Text]:
        shown = list(lines)
        if shown:
            yield from (Text(), Text(title, "bold"), *shown)

    def _flow(self, parts: list[_Part], indent: str = _INDENT) -> Iterator[Text]:
        """Parts side by side, on as many lines as they need."""
        line = Text(indent)
        for text, style in parts:
            for piece in self._wrapped(Text(self._safe(text), style), self._width - len(indent)):
                begun = line.cell_len > len(indent)
                if begun and line.cell_len + len(self._dot) + piece.cell_len > self._width:
                    yield line
                    line, begun = Text(indent), False
                line.append(self._dot if begun else "", "dim").append_text(piece)
        if line.cell_len > len(indent):
            yield line

    def _timing(self, call: ObservedCall) -> Iterator[Text]:
        spans = _spans(call)
        began, ended = spans[0].start, spans[-1].end
        room = min(self._width - 29, _LONGEST_BAR)
        scale = room / (ended - began) if ended > began else 0.0
        for span in spans:
            left = min(round((span.start - began) * scale), room - 1)
            length = max(1, round((span.end - began) * scale) - left)
            shown = f"{_INDENT}{span.label:<11}{span.shown * 1000:>12,.1f}  "
            yield Text.assemble(shown, " " * left, (self._bar * length, span.style))

    def _headers(self, call: ObservedCall) -> Iterator[Text]:
        columns = self._columns(call)
        for group, readings in grouped(call.headers).items():
            yield from self._section(group, (line for one in readings for line in self._header(one, columns)))

    def _columns(self, call: ObservedCall) -> _Columns:
        longest_name = max((cell_len(self._safe(name)) for name, _ in call.headers), default=0) or 1
        longest_value = max((cell_len(self._safe(value)) for _, value in call.headers), default=0)
        if self._width >= _WIDE:
            name = min(longest_name, self._width // 4)
            value = min(max(longest_value, len("(empty)")), _LONGEST_VALUE)
            return _Columns(name, value, self._width - name - value - 6, meaning_below=False)
        name = min(longest_name, _LONGEST_NAME, self._width // 2 - 4)
        return _Columns(name, self._width - name - 4, self._width - 4, meaning_below=True)

    def _header(self, reading: Reading, columns: _Columns) -> Iterator[Text]:
        names = chop_cells(self._safe(reading.name), columns.name)
        values = chop_cells(self._safe(reading.value), columns.value) or ["(empty)"]
        meanings = self._wrapped(self._meaning(reading), columns.meaning)
        beside = [] if columns.meaning_below else meanings
        for name, value, meaning in zip_longest(names, values, beside):
            line = Text(_INDENT + _padded(name or "", columns.name) + _INDENT)
            line.append(value or "", "dim" if not reading.value else "bold")
            if meaning is not None:
                line.append(" " * (columns.value - cell_len(value or "")) + _INDENT)
                line.append_text(meaning)
            yield line
        if columns.meaning_below:
            yield from (Text(_INDENT * 2) + meaning for meaning in meanings)

    def _meaning(self, reading: Reading) -> Text:
        if reading.meaning is None:
            return Text("unknown", "yellow")
        said = _said(reading)
        return Text.assemble(said, (self._dot if said else "", "dim"), (reading.meaning, "dim"))

    def _wrapped(self, text: Text, width: int) -> list[Text]:
        lines = text.wrap(self._console, width, overflow="fold")
        for line in lines:
            line.rstrip()
        return list(lines)

    def _safe(self, text: str) -> str:
        return printable(text, self._ascii)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _said(reading: Reading) -> str:
    """The parsed value with its unit, where that adds to the text received."""
    parsed = reading.parsed
    if reading.unit is None or isinstance(parsed, bool):
        return ""
    if isinstance(parsed, int):
        return f"{parsed:,} {reading.unit}"
    if isinstance(parsed, float):
        return f"{parsed:,.3f}".rstrip("0").rstrip(".") + f" {reading.unit}"
    if isinstance(parsed, str) and parsed != reading.value.strip():
        return f"{reading.unit} {parsed}"
    return ""


def _verdict(call: ObservedCall) -> list[_Part]:
    outcome = call.outcome.replace("_", " ")
    if call.throttle_kind is not None:
        outcome += f" ({call.throttle_kind.replace('_', ' ')})"
    style = "green" if call.outcome in _AS_HOPED else "yellow" if call.outcome in _AS_RULED else "red"
    wait = retry_after(call.headers)
    parts = [
        (call.target, "bold"),
        ("no status" if call.status_code is None else str(call.status_code), style),
        (outcome, style),
        ("" if wait is None else f"retry after {wait:g} s", style),
        (_region(call), ""),
        (_model(call), ""),
    ]
    return [part for part in parts if part[0]]


def _region(call: ObservedCall) -> str:
    resource = (call.header("x-ms-region") or ("",))[-1]
    readings = [describe(name, value) for name, value in call.headers]
    ran = next((str(one.parsed) for one in readings if one.unit == "serving region" and one.parsed), "")
    if not ran or ran == resource.replace(" ", "").lower():
        return resource
    return f"{resource}, model in {ran}" if resource else f"model in {ran}"


def _model(call: ObservedCall) -> str:
    return (call.header("x-ms-served-model") or ("",))[-1] or call.response_model or ""


def _circumstances(call: ObservedCall) -> list[_Part]:
    issued = datetime.fromtimestamp(call.start_time_unix_nano / 1e9, UTC)
    parts = [
        "streaming" if call.request_stream else "not streaming",
        "direct" if call.gateway == "direct" else "through API Management",
        f"deployment {call.request_model}",
        f"{call.server_address}:{call.server_port}",
        f"{issued:%Y-%m-%d %H:%M:%S} UTC",
    ]
    return [(part, "dim") for part in parts]


def _error(call: ObservedCall) -> list[_Part]:
    parts = [(call.error_type, "red"), (call.error_message, ""), (", ".join(call.warnings), "yellow")]
    return [(text, style) for text, style in parts if text]


class _Span(NamedTuple):
    label: str
    start: float
    end: float
    # Of connection set-up how long it took, of everything else when it came.
    shown: float
    style: str


def _timing_title(call: ObservedCall) -> str:
    connection = "the connection came before" if call.connect is not None else "on an open connection"
    known = call.connect is not None or call.connection_reused
    return "timing, ms since the request was issued" + (f"; {connection}" if known else "")


def _spans(call: ObservedCall) -> list[_Span]:
    connect, tls = call.connect or 0.0, call.tls or 0.0
    spans = []
    if call.connect is not None:
        spans.append(_Span("connect", -connect - tls, -tls, connect, "blue"))
    if call.tls is not None:
        spans.append(_Span("tls", -tls, 0.0, tls, "blue"))
    marks = (
        ("headers", call.time_to_headers, "cyan"),
        ("first event", call.time_to_first_chunk, "cyan"),
        ("first token", call.time_to_first_token, "cyan"),
        ("done", call.duration, "green"),
    )
    before = 0.0
    for label, mark, style in marks:
        if mark is not None:
            spans.append(_Span(label, before, mark, mark, style))
            before = mark
    return spans


def _usage(call: ObservedCall) -> list[_Part]:
    if call.input_tokens is None and call.output_tokens is None:
        return []
    cached = "" if call.cached_tokens is None else f" ({call.cached_tokens:,} cached)"
    reasoning = "" if call.reasoning_tokens is None else f" ({call.reasoning_tokens:,} reasoning)"
    parts = [
        None if call.input_tokens is None else f"input {call.input_tokens:,}{cached}",
        None if call.output_tokens is None else f"output {call.output_tokens:,}{reasoning}",
        None if call.request_max_tokens is None else f"max_tokens {call.request_max_tokens:,}",
        *(f"finish {reason}" for reason in call.finish_reasons),
    ]
    return [(part, "") for part in parts if part is not None]


def _checkpoint(call: ObservedCall) -> list[_Part]:
    if call.latency_checkpoint is None:
        return []
    timings = msgspec.structs.asdict(call.latency_checkpoint).items()
    return [
        (f"{key.removesuffix('_ms').replace('_', ' ')} {value:,}", "") for key, value in timings if value is not None
    ]
