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

from probe.counting import Count, RanksUnavailableError, input_tokens
from probe.escaping import printable as printable
from probe.explaining import explained
from probe.headers import Reading, contents, describe, grouped, retry_after
from probe.headroom import Level, headroom
from probe.prompts import rebuild
from probe.record import Headers, ObservedCall
from probe.seen import News
from probe.shares import Shares, call_shares, first_token_shares

_INDENT = "  "
_LONGEST_BAR = 100
_SHORTEST_BAR = 8
# From here on meanings have a column of their own; on a narrower screen they go under their header.
_WIDE = 140
_LONGEST_NAME = 36
_LONGEST_VALUE = 44

_AS_HOPED = {"ok", "ok_length"}
_AS_RULED = {"throttled", "filtered_prompt", "filtered_output", "cancelled_user", "cancelled_deadline", "budget_stop"}

_Part = tuple[str, str]


def render_call(
    call: ObservedCall, console: Console, *, above: ObservedCall | None = None, news: News | None = None
) -> None:
    """One call's sheet. Of a call with another one `above` it only those headers are shown that differ."""
    print_lines(_Sheet(console).lines(call, above, news), console)


def print_lines(lines: Iterable[Text], console: Console) -> None:
    """Lines that are as wide as they are meant to be, without styling where there is to be no colour."""
    for line in lines:
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
        self._bar, self._rail, self._dot = ("#", ".", " - ") if self._ascii else ("━", "─", " · ")

    def lines(self, call: ObservedCall, above: ObservedCall | None, news: News | None) -> Iterator[Text]:
        yield from self._flow(_verdict(call), indent="")
        yield from self._flow(_circumstances(call), indent="")
        yield from self._section("error", [*self._flow(_error(call)), *self._flow(_explained(call))])
        if news is not None:
            title = f"since the last look, {_ago(news.age)} ago"
            yield from self._section(title, (line for part in _news(news) for line in self._flow([part])))
        yield from self._section("headroom", (line for level in headroom(call.headers) for line in self._level(level)))
        yield from self._section(_timing_title(call), self._timing(call))
        yield from self._shares(call)
        yield from self._section("tokens", (line for row in _tokens(call) for line in self._flow(row)))
        yield from self._section("the service's own timings, ms", self._flow(_checkpoint(call)))
        yield from self._headers(call.headers if above is None else _differing(call.headers, above.headers))
        if above is not None and call.headers:
            yield Text()
            yield from self._flow([(_unchanged(call.headers, above.headers), "dim")], indent="")

    def _section(self, title: str, lines: Iterable[Text]) -> Iterator[Text]:
        shown = list(lines)
        if shown:
            yield from (Text(), *self._wrapped(Text(title, "bold"), self._width), *shown)

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
        if not spans:
            return
        began, ended = spans[0].start, spans[-1].end
        room = min(self._width - 29, _LONGEST_BAR)
        scale = room / (ended - began) if ended > began else 0.0
        for span in spans:
            left = min(round((span.start - began) * scale), room - 1)
            length = max(1, round((span.end - began) * scale) - left)
            shown = f"{_INDENT}{span.label:<11}{span.shown * 1000:>12,.1f}  "
            yield Text.assemble(shown, " " * left, (self._bar * length, span.style))

    def _level(self, level: Level) -> Iterator[Text]:
        free, room = level.free, min(self._width - 60, 40)
        said = f"{amount(level)}{_renewal(level)}"
        if free is None or room < _SHORTEST_BAR:
            yield from self._flow([(f"{level.name:<15}{said}", "")])
            return
        full = min(room, round((free if level.used is None else 1 - free) * room))
        style = "green" if free > 0.25 else "yellow" if free > 0.05 else "red"
        bar = (self._bar * full, style), (self._rail * (room - full), "dim")
        yield Text.assemble(f"{_INDENT}{level.name:<15}", *bar, f"  {said}")

    def _shares(self, call: ObservedCall) -> Iterator[Text]:
        first_token, whole = first_token_shares(call), call_shares(call)
        if first_token is not None:
            yield from self._section(
                "where the time went, ms to the first token (~ inferred)", self._parts(first_token)
            )
        if whole is not None:
            yield from self._section("where the time went, ms to the last byte (~ inferred)", self._parts(whole))
            if whole.note is not None and call.outcome in _AS_HOPED:
                yield from self._flow([(whole.note, "dim")])

    def _parts(self, shares: Shares) -> Iterator[Text]:
        room = min(self._width - 41, _LONGEST_BAR)
        if room < _SHORTEST_BAR:
            room = 0
        before = 0.0
        for share in shares.parts:
            part = share.seconds / shares.whole if shares.whole else 0.0
            left = max(0, min(round(before * room), room - 1))
            length = min(room, max(1, round((before + part) * room) - left))
            before += part
            mark = "~" if share.basis == "inferred" else " "
            shown = f"{_INDENT}{share.part:<21}{mark}{share.seconds * 1000:>9,.1f}{part:>5.0%}"
            yield Text.assemble(
                shown, "  " * (room > 0), " " * left, (self._bar * length, "magenta" if mark == "~" else "cyan")
            )

    def _headers(self, headers: Headers) -> Iterator[Text]:
        columns = self._columns(headers)
        for group, readings in grouped(headers).items():
            yield from self._section(group, (line for one in readings for line in self._header(one, columns)))

    def _columns(self, headers: Headers) -> _Columns:
        longest_name = max((cell_len(self._safe(name)) for name, _ in headers), default=0) or 1
        longest_value = max((cell_len(self._safe(value)) for _, value in headers), default=0)
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
        for part, text in contents(reading.name, reading.value):
            yield from self._flow([(f"{part}: {text}", "dim")], indent=_INDENT * 2)

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
    # A capture without a body does not say what its call came to.
    outcome = (call.outcome or "").replace("_", " ")
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


def _explained(call: ObservedCall) -> list[_Part]:
    said = explained(call)
    return [] if said is None else [(said, "")]


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
    parts = [
        "streaming" if call.request_stream else "not streaming",
        {"direct": "direct", "apim": "through API Management"}.get(call.gateway),
        call.request_model and f"deployment {call.request_model}",
        call.server_address and f"{call.server_address}:{call.server_port}",
        _at(call.start_time_unix_nano),
    ]
    # What a measured call always has, a captured one may not (`probe.capture`).
    return [(part, "dim") for part in parts if part]


def _at(unix_nano: int | None) -> str | None:
    return None if unix_nano is None else f"{datetime.fromtimestamp(unix_nano / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"


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
    steps = [("dns", call.dns), ("tcp", call.connect), ("tls", call.tls)]
    before = -sum(took for _, took in steps if took is not None)
    spans = []
    for label, took in steps:
        if took is not None:
            spans.append(_Span(label, before, before + took, took, "blue"))
            before += took
    marks = (
        ("headers", call.time_to_headers, "cyan"),
        ("first event", call.time_to_first_chunk, "cyan"),
        ("first token", call.time_to_first_token, "cyan"),
        ("last byte", call.duration, "green"),
    )
    before = 0.0
    for label, mark, style in marks:
        if mark is not None:
            spans.append(_Span(label, before, mark, mark, style))
            before = mark
    return spans


def amount(level: Level) -> str:
    if level.used is not None:
        return f"{level.used:.1%} used"
    return f"{level.left:,.0f}" + (" left" if level.limit is None else f" of {level.limit:,.0f} left")


def _renewal(level: Level) -> str:
    return "" if level.period is None else f", renewed over {level.period:g} s"


def _tokens(call: ObservedCall) -> Iterator[list[_Part]]:
    """What was counted by us, estimated by the limiters, and billed: three numbers that differ, and so three names."""
    counted = _counted(call)
    if counted is not None:
        yield [
            (f"counted    input {counted.tokens:,}" if counted.reason is None else f"counted    {counted.reason}", "")
        ]
    estimated = _estimated(call.headers)
    if estimated:
        yield [(f"estimated  {estimated[0]}", ""), *((more, "") for more in estimated[1:])]
    billed = _billed(call)
    if billed:
        yield [(f"billed     {billed[0]}", ""), *((more, "") for more in billed[1:])]


def _counted(call: ObservedCall) -> Count | None:
    """By our own rules, for the model that answered; None where the prompt is not at hand or nothing was billed."""
    if call.prompt_id is None or call.input_tokens is None or call.surface not in (None, "chat"):
        return None
    try:
        messages = rebuild(call.prompt_id).messages
        return input_tokens({"model": _model(call), "messages": messages})
    except (ValueError, RanksUnavailableError):
        return None


def _estimated(headers: Headers) -> list[str]:
    said = {name.lower(): describe(name, value) for name, value in headers}
    found = [
        f"gateway {one.parsed:,}" for name, one in said.items() if name in _GATEWAYS_ESTIMATE and one.parsed is not None
    ]
    tokens = next((level for level in headroom(headers) if level.name == "tokens"), None)
    if tokens is not None and tokens.left is not None and tokens.limit is not None:
        found.append(f"limiter {tokens.limit - tokens.left:,.0f} in use after this call")
    return found


_GATEWAYS_ESTIMATE = {"consumed-tokens", "x-consumed-tokens", "x-tokens-consumed"}


def _billed(call: ObservedCall) -> list[str]:
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
    return [part for part in parts if part is not None]


def _ago(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit != "days" and seconds >= size):
            return f"{seconds / size:,.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _news(news: News) -> Iterator[_Part]:
    if news.new:
        yield f"new: {', '.join(news.new)}", "yellow"
    if news.gone:
        yield f"gone: {', '.join(news.gone)}", "yellow"
    for name, before, now in news.changed:
        yield f"changed: {name}: {before or '(empty)'} became {now or '(empty)'}", "yellow"
    if not (news.new or news.gone or news.changed):
        yield "the same headers, and the same deployment behind them", "dim"


def _differing(headers: Headers, above: Headers) -> Headers:
    shown = set(above)
    return tuple(header for header in headers if header not in shown)


def _unchanged(headers: Headers, above: Headers) -> str:
    same = len(headers) - len(_differing(headers, above))
    now = {name.lower() for name, _ in headers}
    gone = [name for name in dict.fromkeys(name.lower() for name, _ in above) if name not in now]
    absent = f"; not here: {', '.join(gone)}" if gone else ""
    return f"{same} headers as in the call above{absent}"


def _checkpoint(call: ObservedCall) -> list[_Part]:
    if call.latency_checkpoint is None:
        return []
    timings = msgspec.structs.asdict(call.latency_checkpoint).items()
    return [
        (f"{key.removesuffix('_ms').replace('_', ' ')} {value:,}", "") for key, value in timings if value is not None
    ]
