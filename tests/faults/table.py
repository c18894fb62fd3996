"""The faults that one scripted reply can show, F07 to F58: a row each, with what its record must say.

The names begin with the numbers of the list of faults. Those that need more than a reply (a name that does not
resolve, a certificate, a proxy, a second server) are in test_faults.py beside the tests that go through these.
"""

import gzip
import itertools
import re
from typing import Any

import msgspec
import pytest

from tests.faults.fault import (
    NOTHING_KEPT,
    REGION,
    SERVED,
    SHORT,
    STREAM,
    TWO_KEPT,
    TWO_TOKENS,
    Fault,
    Holding,
    OneOf,
    Upto,
    fault,
    refusal,
    streamed,
)
from tests.wire import (
    DONE,
    FILTER_EVENT,
    GOOD_STREAM,
    LAST_CHUNK,
    USAGE_EVENT,
    Piece,
    chunk,
    delta,
    event,
    head,
    reply,
    sends,
    sends_and_closes,
    sends_and_resets,
    stream_head,
)

WHOLE = msgspec.json.encode(
    {
        "id": "chatcmpl-1",
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 1},
    }
)
END = delta(None, "stop") + USAGE_EVENT + DONE
GOOD = streamed(GOOD_STREAM + DONE) + LAST_CHUNK
# What a call keeps that came to its end.
READ: dict[str, Any] = {
    "id": "chatcmpl-1",
    "finish": ("stop",),
    "content_events": 2,
    "input_tokens": 30,
    "output_tokens": 2,
}
UNANSWERED: dict[str, Any] = {"status": None, "headers": {}, "headers_came": False, **NOTHING_KEPT}

DRIP: list[Piece] = [0.05, chunk(b":")] * 40
SILENCE = [
    fault("F07-never_answers", sends(), "timeout_first_byte", timeouts=SHORT, survives=False,
          seconds=pytest.approx(0.3, abs=0.1), **UNANSWERED),
    fault("F08-headers_and_no_body", sends(STREAM), "timeout_first_byte", timeouts=SHORT, survives=False,
          headers_came=True, **NOTHING_KEPT),
    fault("F08-headers_of_a_whole_reply", sends(head("200 OK", *SERVED, "content-length: 9")), "timeout_first_byte",
          stream=False, timeouts=SHORT, survives=False, headers_came=True),
    fault("F08-half_a_head", sends(STREAM[:-2]), "timeout_first_byte", timeouts=SHORT, survives=False,
          headers_came=False, **NOTHING_KEPT),
    fault("F25-a_byte_now_and_then", sends(streamed(TWO_TOKENS), *DRIP), "timeout_total",
          timeouts=SHORT, survives=False, seconds=pytest.approx(0.6, abs=0.12), **TWO_KEPT),
    fault("F25-slower_than_the_idle_limit", sends(streamed(TWO_TOKENS), 1.0, chunk(b":")), "stream_stalled",
          timeouts=SHORT, survives=False, **TWO_KEPT),
    fault("F53-silence_in_mid_stream", sends(streamed(TWO_TOKENS)), "stream_stalled", timeouts=SHORT, survives=False,
          seconds=pytest.approx(0.3, abs=0.1), says=Holding("0.3"), **TWO_KEPT),
]  # fmt: skip

CONNECTION = [
    fault("F10-reset_after_events", sends_and_resets(streamed(TWO_TOKENS)), "stream_reset", survives=False, **TWO_KEPT),
    fault("F10-reset_after_headers", sends_and_resets(STREAM), "stream_reset", survives=False, headers_came=True,
          **NOTHING_KEPT),
    fault("F10-reset_in_the_head", sends_and_resets(STREAM[:-2]), OneOf("protocol_error", "connect"), survives=False,
          headers_came=False, **NOTHING_KEPT),
    fault("F10-reset_in_mid_event", sends_and_resets(streamed(TWO_TOKENS + b'data: {"cho')), "stream_reset",
          survives=False, **TWO_KEPT),
    fault("F10-reset_of_a_whole_reply", sends_and_resets(reply(WHOLE, "200 OK", *SERVED)[:-20]), "protocol_error",
          stream=False, survives=False, code="reset", size=len(WHOLE) - 20),
    fault("F11-clean_end_without_done", sends(streamed(TWO_TOKENS) + LAST_CHUNK), "stream_truncated", **TWO_KEPT),
    fault("F11-closed_in_mid_stream", sends_and_closes(streamed(TWO_TOKENS)), "stream_truncated", survives=False,
          **TWO_KEPT),
    fault("F11-closed_in_the_head", sends_and_closes(STREAM[:-2]), OneOf("protocol_error", "connect"),
          survives=False, headers_came=False, **NOTHING_KEPT),
    fault("F11-closed_in_mid_event", sends_and_closes(streamed(TWO_TOKENS + b'data: {"cho')), "stream_truncated",
          survives=False, **TWO_KEPT),
    fault("F11-closed_in_a_chunk_size", sends_and_closes(streamed(TWO_TOKENS) + b"4"), "stream_truncated",
          survives=False, **TWO_KEPT),
    fault("F11-a_body_that_ends_with_its_connection",
          sends_and_closes(head("200 OK", *SERVED, "content-type: text/event-stream") + TWO_TOKENS),
          "stream_truncated", survives=False, **TWO_KEPT),
    fault("F12-no_last_chunk_after_done", sends_and_closes(streamed(GOOD_STREAM + DONE)), "ok", survives=False,
          warnings={"unterminated_chunked"}, **READ),
    fault("F12-reset_after_done", sends_and_resets(streamed(GOOD_STREAM + DONE)), "ok", survives=False,
          warnings={"unterminated_chunked"}, **READ),
    fault("F13-no_done", sends(streamed(GOOD_STREAM) + LAST_CHUNK), "ok", survives=True, warnings={"no_done"}, **READ),
]  # fmt: skip


def bad_chunk(size: bytes) -> bytes:
    return streamed(TWO_TOKENS) + size + b"\r\nabc\r\n"


FRAMING = [
    *[
        fault(f"F14-chunk_size_{name}", sends(bad_chunk(size)), "protocol_error", survives=False, headers_came=True,
              **TWO_KEPT)
        for name, size in (("no_number", b"ZZ"), ("negative", b"-1"), ("of_2^64", b"1" + b"0" * 16), ("empty", b""))
    ],
    fault("F14-chunk_without_its_line_end", sends(streamed(TWO_TOKENS) + b"3\r\nabcde\r\n"), "protocol_error",
          survives=False, **TWO_KEPT),
    fault("F15-chunk_extensions",
          sends(STREAM + b"%x;name=value\r\n%b\r\n" % (len(GOOD_STREAM + DONE), GOOD_STREAM + DONE) + LAST_CHUNK),
          "ok", survives=True, **READ),
    fault("F15-trailers", sends(streamed(GOOD_STREAM + DONE) + b"0\r\nx-trailer: 1\r\n\r\n"), "ok", survives=True,
          warnings={"trailers"}, **READ),
    fault("F16-longer_length_than_body", sends_and_closes(head("200 OK", *SERVED, "content-length: 500") + b"hello"),
          "protocol_error", stream=False, survives=False, size=5),
    fault("F16-surplus_after_the_body", sends(reply(WHOLE, "200 OK", *SERVED) + b"surplus"), "ok", stream=False,
          survives=False, size=len(WHOLE), id="chatcmpl-1"),
    fault("F16-a_second_reply_unasked",
          sends(reply(WHOLE, "200 OK", *SERVED) + reply(b'{"error":"not yours"}', "500 Oops")), "ok", stream=False,
          survives=False, id="chatcmpl-1"),
    fault("F16-shorter_length_than_body",
          sends(head("200 OK", *SERVED, "content-length: 20") + WHOLE), "payload_error", stream=False, survives=False),
    fault("F17-two_lengths", sends(head("200 OK", *SERVED, "content-length: 5", "content-length: 6") + b"hello!"),
          "protocol_error", survives=False),
    fault("F17-length_and_chunks",
          sends(stream_head(*SERVED, "content-length: 5") + chunk(GOOD_STREAM + DONE) + LAST_CHUNK),
          "protocol_error", survives=False),
    *[
        fault(f"F18-{name}", sends(interim + GOOD), "ok", survives=True, **READ)
        for name, interim in (
            ("continue", head("100 Continue")),
            ("early_hints", head("103 Early Hints", "x-ms-region: Nowhere", "link: </x>")),
            ("several", head("100 Continue") + head("102 Processing") + head("103 Early Hints", "link: </x>")),
        )
    ],
    fault("F18-early_hints_in_a_packet_of_their_own", sends(head("103 Early Hints", "link: </x>"), 0.02, GOOD), "ok",
          survives=True, **READ, headers={"x-ms-region": ("East US",), "link": ()}),
    fault("F19-garbage", sends_and_closes(b"\x00\x01garbage\r\n\r\n"), "protocol_error", survives=False,
          says=Holding(r"\x00\x01garbage"), began_with=b"\x00\x01garbage\r\n\r\n", **UNANSWERED),
    fault("F19-a_TLS_alert", sends_and_closes(b"\x15\x03\x03\x00\x02\x02\x16"), "protocol_error", survives=False,
          says=Holding(r"\x15\x03\x03"), began_with=b"\x15\x03\x03\x00\x02\x02\x16", **UNANSWERED),
    fault("F19-another_protocol", sends(b"SSH-2.0-OpenSSH_9.6\r\n"), "protocol_error", survives=False,
          says=Holding("SSH-2.0"), **UNANSWERED),
]  # fmt: skip


def with_line(line: bytes) -> bytes:
    """A good stream with one more line at the end of its head."""
    return STREAM[:-2] + line + b"\r\n\r\n" + chunk(GOOD_STREAM + DONE) + LAST_CHUNK


LARGE, MANY = 200_000, 500
TRUNCATED: dict[str, Any] = {"warnings": {"headers_truncated"}, "longest_value": Upto(65536), "header_count": Upto(256)}
# A line that HTTP forbids, and what may be kept of it where the reply is not refused.
ODD_LINES: dict[str, tuple[bytes, dict[str, tuple[str, ...]]]] = {
    "NUL_in_a_name": (b"x-b\x00ad: 1", {"x-b\x00ad": ("1",)}),
    "NUL_in_a_value": (b"x-bad: 1\x002", {"x-bad": ("1\x002",)}),
    "bare_LF": (b"x-bare: 1\nx-next: 2", {"x-bare": ("1",), "x-next": ("2",)}),
    "bare_CR": (b"x-bare: 1\rx-next: 2", {"x-bare": ("1\rx-next: 2",)}),
    # RFC 9112 5.2 has the line end of a fold replaced by a space.
    "folded": (b"x-folded: one\r\n two", {"x-folded": ("one two",)}),
    "space_before_the_colon": (b"x-space : 1", {"x-space ": ("1",)}),
    "no_colon": (b"x-nothing", {"x-nothing": ("",)}),
}
HEADERS = [
    *[
        fault(f"F20-{name}", sends(with_line(line)), OneOf("protocol_error", "ok"), refused_or_kept=kept)
        for name, (line, kept) in ODD_LINES.items()
    ],
    *[
        fault(f"F21-{name}", sends(with_line(b"x-odd: " + value)), "ok", survives=True, **READ,
              headers={"x-odd": (value.decode("latin-1"),)})
        for name, value in (
            ("ESC", b"\x1b[31mred\x1b[0m"),
            ("DEL", b"a\x7fb"),
            ("C1", b"\x9b31mred"),
            ("bidi", "\u202etxt.exe\u2066".encode()),
            ("no_UTF-8", b"caf\xe9\xff\xfe"),
        )
    ],
    fault("F22-a_value_of_200_kB", sends(with_line(b"x-large: " + b"a" * LARGE)), "ok", **READ, **TRUNCATED),
    fault("F22-500_headers", sends(with_line(b"\r\n".join(b"x-many-%d: 1" % number for number in range(MANY)))), "ok",
          **READ, **TRUNCATED),
    fault("F23-a_header_twice", sends(reply(WHOLE, "200 OK", REGION, "X-MS-Region: West US")), "ok", stream=False,
          survives=True, headers={"x-ms-region": ("East US", "West US")}),
]  # fmt: skip

GZIPPED = gzip.compress(WHOLE)
NOT_DECODED = "content-encoding is not looked at"
ENCODED = "content-encoding: gzip"
BODIES = [
    fault("F24-gzip_header_on_a_plain_body", sends(reply(WHOLE, "200 OK", *SERVED, ENCODED)), "payload_error",
          stream=False, size=len(WHOLE)),
    fault("F24-gzip_header_on_a_plain_stream",
          sends(stream_head(*SERVED, ENCODED) + chunk(GOOD_STREAM + DONE) + LAST_CHUNK), "payload_error",
          size=len(GOOD_STREAM + DONE)),
    fault("F24-gzip_cut_short", sends(reply(GZIPPED[:-12], "200 OK", *SERVED, ENCODED)), "payload_error", stream=False,
          size=len(GZIPPED) - 12),
    fault("F26-an_event_of_50_MB", sends(streamed(TWO_TOKENS + b"data: "), *[chunk(b"x" * 2**20)] * 50),
          "payload_error", survives=False, size=Upto(6 * 2**20), **TWO_KEPT),
    fault("F41-no_event", sends(STREAM + LAST_CHUNK), "empty_stream", survives=True, **NOTHING_KEPT),
    fault("F41-a_length_of_0", sends(head("200 OK", *SERVED, "content-type: text/event-stream", "content-length: 0")),
          "empty_stream", survives=True, **NOTHING_KEPT),
    fault("F41-comments_only", sends(streamed(b": ping\n\n: ping\n\n") + LAST_CHUNK), "empty_stream", survives=True,
          **NOTHING_KEPT),
    fault("F41-done_and_no_event", sends(streamed(DONE) + LAST_CHUNK), "empty_stream", survives=True, **NOTHING_KEPT),
    fault("F42-JSON_instead_of_a_stream", sends(reply(WHOLE, "200 OK", *SERVED)), "payload_error", survives=True,
          code="not_sse", size=len(WHOLE), says=Holding("chatcmpl-1")),
    *[
        fault(f"F43-a_page_under_{status[:3]}",
              sends(head(status, REGION, "content-type: text/html", f"content-length: {len(page)}") + page),
              outcome, stream=stream, survives=True, status=int(status[:3]), says=Holding(says))
        for page, says in (
            (b"<html><head><title>Web\x1b[31m App\nblocked</title></head><body>1</body></html>", "App"),
        )
        for status, outcome, stream in (
            ("200 OK", "payload_error", True),
            ("502 Bad Gateway", "gateway_error", False),
            ("403 Forbidden", "forbidden", False),
        )
    ],
]  # fmt: skip


def each_byte(body: bytes) -> bytes:
    return STREAM + b"".join(chunk(body[place : place + 1]) for place in range(len(body))) + LAST_CHUNK


def mixed_line_ends(body: bytes) -> bytes:
    """Each event with line ends of its own kind: a CR and an LF side by side would be one line end."""
    ends = itertools.cycle((b"\r\n", b"\n", b"\r"))
    return b"".join(one.replace(b"\n", next(ends)) for one in re.findall(rb".+?\n\n", body, re.DOTALL))


ALL = GOOD_STREAM + DONE
FOREIGN = (
    delta("Grüße 😀").replace(b"gpt-4o-2024-08-06", "modèle-😀".encode()) + delta("é") + delta(None, "stop") + DONE
)
TOOLS = delta(None, tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}])
LAST_WITH_USAGE = event(
    id="chatcmpl-1",
    model="gpt-4o-2024-08-06",
    choices=[{"index": 0, "delta": {"content": "b"}, "finish_reason": None}],
    usage={"prompt_tokens": 30, "completion_tokens": 2},
)
LATE = event(id="", choices=[{"index": 0, "content_filter_offsets": {"check_offset": 44}, "finish_reason": None}])
SORRY = {"message": "The server had an error", "type": "server_error", "code": "model_overloaded"}
SPACED = [piece for _ in range(20) for piece in (0.004, chunk(delta("a")))]
EVENTS = [
    fault("F28-every_byte_in_a_chunk_of_its_own", sends(each_byte(ALL)), "ok", survives=True, **READ),
    fault("F28-every_byte_in_a_packet_of_its_own",
          sends(STREAM, *[chunk(ALL[place : place + 1]) for place in range(len(ALL))], LAST_CHUNK), "ok",
          survives=True, **READ),
    *[
        fault(f"F29-{name}", sends(streamed(body) + LAST_CHUNK), "ok", survives=True, **READ)
        for name, body in (
            ("CRLF", ALL.replace(b"\n", b"\r\n")),
            ("CR", ALL.replace(b"\n", b"\r")),
            ("mixed_line_ends", mixed_line_ends(ALL)),
            ("BOM", b"\xef\xbb\xbf" + delta("a") + delta("b") + END),
            ("no_space_after_data", ALL.replace(b"data: ", b"data:")),
            ("comments", ALL.replace(b"data: ", b": ping\n\ndata: ")),
            ("fields_beside_data", ALL.replace(b"data: ", b"id: 7\nretry: 10\nevent: message\ndata: ")),
        )
    ],
    fault("F29-pings_set_no_mark", sends(streamed(b": ping\n\n"), 0.2, chunk(ALL) + LAST_CHUNK), "ok", survives=True,
          **READ, first_chunk_at=pytest.approx(0.2, abs=0.08)),
    fault("F30-data_over_two_lines", sends(streamed(ALL.replace(b',"choices"', b',\ndata: "choices"')) + LAST_CHUNK),
          "ok", survives=True, **READ),
    fault("F31-characters_split", sends(each_byte(FOREIGN)), "ok", survives=True, content_events=2, model="modèle-😀"),
    *[
        fault(f"F32-{name}", sends(streamed(TWO_TOKENS + bad + END) + LAST_CHUNK), "ok", survives=True,
              warnings={"bad_event"}, **READ)
        for name, bad in (
            ("an_event_cut_off", b'data: {"choices":[{"delta\n\n'),
            ("an_event_that_is_no_UTF-8", b'data: {"id":"\xff\xfe"}\n\n'),
            ("an_event_that_is_no_object", b"data: 42\n\n"),
            ("an_event_of_other_types", b'data: {"choices":"none"}\n\n'),
        )
    ],
    fault("F32-no_event_that_can_be_read", sends(streamed(b"data: nonsense\n\n" * 3) + LAST_CHUNK), "payload_error",
          survives=True, code="bad_event", **NOTHING_KEPT),
    *[
        fault(f"F33-{name}", sends(streamed(*parts) + LAST_CHUNK), "stream_error_event", survives=True,
              code="model_overloaded", says=Holding("The server had an error"), content_events=events)
        for name, parts, events in (
            ("error_first", (event(error=SORRY),), 0),
            ("error_after_text", (TWO_TOKENS + event(error=SORRY),), 2),
            ("error_and_done", (TWO_TOKENS + event(error=SORRY) + DONE,), 2),
            ("error_of_its_own_type", (TWO_TOKENS + b"event: error\n" + event(error=SORRY),), 2),
        )
    ],
    fault("F33-error_and_reset", sends_and_resets(streamed(TWO_TOKENS + event(error=SORRY))), "stream_error_event",
          survives=False, code="model_overloaded", content_events=2),
    fault("F34-filter_results_first", sends(streamed(FILTER_EVENT), 0.2, chunk(TWO_TOKENS + END) + LAST_CHUNK), "ok",
          survives=True, **READ, first_chunk_at=Upto(0.15), first_token_at=pytest.approx(0.2, abs=0.08)),
    fault("F35-late_annotation", sends(streamed(TWO_TOKENS + delta(None, "stop") + LATE + USAGE_EVENT + DONE)
          + LAST_CHUNK), "ok", survives=True, **READ),
    fault("F36-events_after_done", sends(streamed(ALL, event(choices=[])) + LAST_CHUNK), "ok", survives=True,
          warnings={"events_after_done"}, **READ),
    fault("F36-another_done", sends(streamed(ALL, DONE) + LAST_CHUNK), "ok", survives=True,
          warnings={"events_after_done"}, **READ),
    fault("F37-no_usage", sends(streamed(TWO_TOKENS + delta(None, "stop") + DONE) + LAST_CHUNK), "ok", survives=True,
          content_events=2, input_tokens=None, output_tokens=None),
    fault("F38-usage_unlike_the_text",
          sends(streamed(ALL.replace(b'"completion_tokens":2', b'"completion_tokens":99')) + LAST_CHUNK), "ok",
          survives=True, content_events=2, output_tokens=99),
    fault("F39-usage_in_the_last_content_too",
          sends(streamed(delta("a") + LAST_WITH_USAGE + END) + LAST_CHUNK), "ok", survives=True, **READ),
    fault("F39-usage_twice", sends(streamed(GOOD_STREAM + USAGE_EVENT + DONE) + LAST_CHUNK), "ok", survives=True,
          **READ),
    fault("F40-tool_call_only", sends(streamed(TOOLS + TOOLS + delta(None, "tool_calls") + DONE) + LAST_CHUNK), "ok",
          survives=True, content_events=2, first_token=True, finish=("tool_calls",)),
    fault("F40-reasoning_only",
          sends(streamed(delta(None, reasoning_content="hm") + delta(None, "stop") + DONE) + LAST_CHUNK), "ok",
          survives=True, content_events=0, first_token=False, first_reasoning_token=True),
    fault("F40-empty_content",
          sends(streamed(delta("", role="assistant") + delta("") + delta(None, "stop") + DONE) + LAST_CHUNK), "ok",
          survives=True, content_events=0, first_token=False, first_chunk=True),
    fault("F52-all_events_in_one_burst", sends(STREAM, 0.15, chunk(delta("a") * 20 + END) + LAST_CHUNK), "ok",
          survives=True, content_events=20, buffered=True),
    fault("F52-events_as_they_are_made", sends(STREAM, *SPACED, chunk(END) + LAST_CHUNK), "ok", survives=True,
          content_events=20, buffered=False),
]  # fmt: skip


def error(code: str | None, message: str) -> bytes:
    return msgspec.json.encode({"error": {"code": code, "message": message}})


TOKENS = error("429", "Requests have exceeded token rate limit of your current OpenAI S0 pricing tier.")
DAY = error("429", "Your requests have exceeded token rate limit. Please retry after 86400 seconds.")
APIM = b'{ "statusCode": 429, "message": "Rate limit is exceeded. Try again in 50 seconds." }'
POOL = b'{ "statusCode": 429, "message": "Backend pool \'aoai\' is temporarily unavailable." }'
ID = "apim-request-id: f-1"
DATE = "date: Wed, 21 Oct 2026 07:28:00 GMT"
TOO_MANY = "429 Too Many Requests"


def throttled(name: str, body: bytes, kind: str, *headers: str, **keeps: Any) -> Fault:
    return fault(name, sends(refusal(body, TOO_MANY, *headers)), "throttled", survives=True, status=429, kind=kind,
                 size=len(body), **keeps)  # fmt: skip


THROTTLING = [
    throttled("F44-neither", TOKENS, "tokens", ID, retry_after=None),
    throttled("F44-retry-after", TOKENS, "tokens", ID, "retry-after: 20", headers={"retry-after": ("20",)},
              retry_after=20),
    throttled("F44-retry-after-ms", TOKENS, "tokens", ID, "retry-after-ms: 1500",
              headers={"retry-after-ms": ("1500",)}, retry_after=1.5),
    throttled("F44-both", TOKENS, "tokens", ID, "retry-after: 2", "retry-after-ms: 1500",
              headers={"retry-after": ("2",), "retry-after-ms": ("1500",)}, retry_after=1.5),
    throttled("F45-in_a_day", DAY, "quota_day", ID, "retry-after: 86400", retry_after=86400),
    throttled("F45-in_a_day_by_the_header", TOKENS, "quota_day", ID, "retry-after: 86400", retry_after=86400),
    throttled("F46-another_spelling", TOKENS, "tokens", ID, "X-Rate-Limit-Reset-Tokens: 7",
              headers={"x-rate-limit-reset-tokens": ("7",)}, parsed={"X-Rate-Limit-Reset-Tokens": 7}),
    throttled("F47-unknown_numbers", TOKENS, "tokens", ID, "x-ratelimit-remaining-tokens: -1",
              "x-ratelimit-limit-tokens: -1", "x-ratelimit-reset-tokens: 0", retry_after=None,
              headers={"x-ratelimit-remaining-tokens": ("-1",)},
              parsed={"x-ratelimit-remaining-tokens": None, "x-ratelimit-limit-tokens": None}),
    *[
        throttled(f"F49-{name}", TOKENS, "tokens", ID, DATE, f"retry-after: {value}",
                  headers={"retry-after": (value,)}, retry_after=seconds)
        for name, value, seconds in (
            ("a_date", "Wed, 21 Oct 2026 07:28:30 GMT", 30),
            ("a_date_long_ago", "Sun, 06 Nov 1994 08:49:37 GMT", 0),
            ("a_fraction", "1.5", 1.5),
            ("negative", "-1", None),
            ("a_word", "soon", None),
            ("empty", "", None),
            ("endless", "9" * 400, None),
            ("other_digits", "\xb2", None),
        )
    ],
    throttled("F51-the_services_own", TOKENS, "tokens", ID, "policy-id: DeploymentRatelimit-Token"),
    throttled("F51-the_gateways", APIM, "apim", "retry-after: 50", retry_after=50),
    throttled("F51-the_gateways_pool", POOL, "pool"),
    throttled("F51-nobody_knows", b"", "unknown"),
    throttled("F51-the_services_through_the_gateway", TOKENS, "tokens", ID, "request-context: appId=cid-v1:1"),
]  # fmt: skip

UTILISATION = "azure-openai-deployment-utilization"
SERVER_SIDE = (
    "408 Request Timeout",
    "499 Client Closed Request",
    "500 Internal Server Error",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Timeout",
    "529 Site Overloaded",
)
NOT_MY_REGION: dict[str, Any] = {"headers": {"x-ms-region": ("West US",)}}


def answered(name: str, *headers: str, **keeps: Any) -> Fault:
    return fault(name, sends(reply(WHOLE, "200 OK", *SERVED, *headers)), "ok", stream=False, survives=True, **keeps)


def refused(name: str, status: str, body: bytes, outcome: str, *headers: str, **keeps: Any) -> Fault:
    return fault(name, sends(refusal(body, status, *headers)), outcome, survives=True, status=int(status[:3]),
                 size=len(body), **keeps)  # fmt: skip


SEMANTICS = [
    answered("F48-remaining_tokens_that_never_change", "x-ratelimit-remaining-tokens: 777",
             headers={"x-ratelimit-remaining-tokens": ("777",)}, parsed={"x-ratelimit-remaining-tokens": 777}),
    *[
        answered(f"F50-utilisation_{name}", f"{UTILISATION}: {value}", headers={UTILISATION: (value,)},
                 parsed={UTILISATION: parsed})
        for name, value, parsed in (
            ("empty", "", None),
            ("above_100", "101.5%", 101.5),
            ("without_percent", "83", OneOf(None, 83)),
            ("a_word", "high", None),
        )
    ],
    answered("F50-utilisation_missing", headers={UTILISATION: ()}),
    refused("F54-token_expired", "401 Unauthorized", error("401", "Access token expired"), "auth", ID,
            code="401", says=Holding("expired")),
    refused("F55-virtual_network", "403 Forbidden",
            error("403", "Access denied due to Virtual Network/Firewall rules."), "forbidden", ID,
            says=Holding("Virtual Network")),
    refused("F55-no_role", "401 PermissionDenied", error("PermissionDenied", "The principal lacks the data action"),
            "auth", ID, code="PermissionDenied"),
    refused("F55-no_deployment", "404 Not Found", error("DeploymentNotFound", "The API deployment does not exist"),
            "not_found", ID, code="DeploymentNotFound"),
    refused("F55-no_such_version", "404 Resource Not Found", error("404", "Resource not found"), "not_found", ID),
    refused("F55-version_not_supported", "400 Bad Request", error("BadRequest", "API version not supported"),
            "bad_request", ID, code="BadRequest", says=Holding("API version")),
    refused("F56-the_prompt", "400 Bad Request", error("content_filter", "The response was filtered"),
            "filtered_prompt", ID, code="content_filter"),
    fault("F56-the_answer", sends(streamed(TWO_TOKENS + delta(None, "content_filter") + DONE) + LAST_CHUNK),
          "filtered_output", survives=True, **TWO_KEPT, finish=("content_filter",)),
    *[
        refused(f"F57-{status[:3]}_of_the_service", status, error(None, "Sorry about that"), "server_error", ID,
                says=Holding("Sorry about that"))
        for status in SERVER_SIDE
    ],
    *[
        refused(f"F57-{status[:3]}_of_the_gateway", status, b'{"statusCode":1,"message":"No back end"}',
                "gateway_error", says=Holding("No back end"))
        for status in SERVER_SIDE
    ],
    fault("F57-500_with_its_body_cut_off",
          sends_and_closes(head("500 Server Error", *SERVED, "content-length: 99") + b"{"), "server_error",
          survives=False, status=500, size=1, warnings={"closed"}),
    fault("F58-another_region", sends(reply(WHOLE, "200 OK", "x-ms-region: West US", ID)), "ok", stream=False,
          survives=True, **NOT_MY_REGION),
]  # fmt: skip

TABLE: dict[str, Fault] = {
    row.name: row
    for row in (
        *SILENCE,
        *CONNECTION,
        *FRAMING,
        *HEADERS,
        *BODIES,
        *EVENTS,
        *THROTTLING,
        *SEMANTICS,
    )
}
