"""`probe open`: calls that other tools have captured, as far as the captures know them."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.capture import CaptureError, Opened, read_capture
from probe.record import ObservedCall, encode
from tests.commands import run
from tests.test_client import GOOD, observe
from tests.wire import DONE, GOOD_STREAM, chunk, sends

HEADERS = [
    ("content-type", "text/event-stream"),
    ("apim-request-id", "81e688f9-d19a-41fc-984e-ff0dbbb03f4f"),
    ("x-ms-region", "West Europe"),
    ("x-ratelimit-remaining-tokens", "249993"),
]
BODY = GOOD_STREAM + DONE


def entry(**changes: Any) -> dict[str, Any]:
    """One call as browsers export it."""
    made = {
        "startedDateTime": "2026-08-19T14:35:05.123+00:00",
        "time": 400,
        "request": {
            "method": "POST",
            "url": "https://contoso.openai.azure.com/openai/deployments/chat%2D1/chat/completions?api-version=2024-10-21",
            "headers": [
                {"name": "api-key", "value": "canary-key"},
                {"name": "Authorization", "value": "Bearer canary"},
            ],
            "postData": {
                "mimeType": "application/json",
                "text": '{"stream": true, "messages": [{"content": "canary"}]}',
            },
        },
        "response": {
            "status": 200,
            "statusText": "OK",
            "httpVersion": "h2",
            "headers": [{"name": ":status", "value": "200"}, *({"name": n, "value": v} for n, v in HEADERS)],
            "content": {"size": len(BODY), "mimeType": "text/event-stream", "text": BODY.decode()},
        },
        "timings": {"blocked": 1, "dns": 5, "connect": 30, "ssl": 20, "send": 2, "wait": 98, "receive": 200},
    }
    return {**made, **changes}


def har(*entries: Any) -> bytes:
    return json.dumps({"log": {"version": "1.2", "creator": {"name": "Fiddler"}, "entries": entries}}).encode()


def opened(data: bytes, number: int | None = None) -> Opened:
    return read_capture(data, "a.har", number)


def said(call: ObservedCall, *names: str) -> list[Any]:
    return [getattr(call, name) for name in names]


def test_a_har_file_says_all_that_a_record_has_but_when_each_event_came() -> None:
    call = opened(har(entry())).call
    assert call.headers == tuple(HEADERS)
    assert (call.server_address, call.server_port, call.gateway, call.request_model) == (
        "contoso.openai.azure.com", 443, "direct", "chat-1",
    )  # fmt: skip
    assert call.start_time_unix_nano == 1_787_150_105_123_000_000
    assert (call.dns, call.connect, call.tls) == (0.005, 0.01, 0.02)
    assert said(call, "time_to_headers", "duration") == [0.1, 0.3]
    assert (call.outcome, call.request_stream, call.input_tokens, call.output_tokens) == ("ok", True, 30, 2)
    assert call.latency_checkpoint is not None and call.finish_reasons == ("stop",)
    assert (call.time_to_first_token, call.event_times, call.clock) == (None, (), None)
    assert b"canary" not in encode(call)


def test_a_body_in_base64_is_the_same_body() -> None:
    content = {"text": base64.b64encode(BODY).decode(), "encoding": "base64"}
    response = {**entry()["response"], "content": content}
    assert encode(opened(har(entry(response=response))).call) == encode(opened(har(entry())).call)


def test_of_many_entries_the_last_call_is_shown_and_others_by_their_number() -> None:
    page = entry(request={"method": "GET", "url": "https://portal.azure.com/"}, response={"status": 304, "headers": []})
    preflight = entry(request={**entry()["request"], "method": "OPTIONS"})
    refused = entry(response={"status": 429, "headers": [{"name": "Retry-After", "value": "7"}]})
    many = har(page, entry(), preflight, refused, {"request": None}, page)
    found = opened(many)
    assert (found.entry, found.like, found.entries, found.broken) == (4, [2, 4], 6, 1)
    # Its body is not there: what it came to is not known.
    assert said(found.call, "status_code", "outcome") == [429, None]
    assert opened(many, 2).call.outcome == "ok"
    assert opened(many, 1).call.status_code == 304
    for number, says in ((5, "no request"), (7, "there are 6")):
        with pytest.raises(CaptureError, match=says):
            opened(many, number)
    with pytest.raises(CaptureError, match="none of its 1 entries"):
        opened(har(page))


def test_what_does_not_apply_or_is_not_there_is_absent() -> None:
    bare = entry(timings={"dns": -1, "connect": -1, "ssl": -1, "wait": 98, "receive": 1}, startedDateTime="yesterday")
    call = opened(har(bare)).call
    times = ("dns", "connect", "tls", "time_to_headers", "duration", "start_time_unix_nano")
    assert said(call, *times) == [None] * 6
    assert not {"probe.dns", "probe.connect", "start_time_unix_nano"} & set(json.loads(encode(call)))


def test_repeats_that_a_browser_has_joined_are_repeats_again() -> None:
    response = {
        **entry()["response"],
        "headers": [{"name": "via", "value": "one\ntwo"}, {"name": "x", "value": "caf\u2014"}],
    }
    assert opened(har(entry(response=response))).call.headers == (
        ("via", "one"),
        ("via", "two"),
        ("x", "caf\xe2\x80\x94"),
    )


def raw(head: str, body: bytes, end: bytes) -> bytes:
    return head.encode().replace(b"\n", end) + end + end + body


@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["CRLF", "LF"])
@pytest.mark.parametrize("status", ["HTTP/1.1 200 OK", "HTTP/2 200 ", "HTTP/2 200"])
@pytest.mark.parametrize("body", [BODY, chunk(BODY[:100]) + chunk(BODY[100:]) + b"0\r\n\r\n"], ids=["plain", "chunked"])
def test_a_raw_response_is_read_however_its_lines_and_its_body_come(end: bytes, status: str, body: bytes) -> None:
    fields = "\n".join(f"{name}: {value}" for name, value in HEADERS)
    call = opened(raw(f"{status}\n{fields}\ntransfer-encoding: chunked", body, end)).call
    assert call.headers == (*HEADERS, ("transfer-encoding", "chunked"))
    assert (call.outcome, call.input_tokens, call.request_stream) == ("ok", 30, True)
    assert said(call, "server_address", "start_time_unix_nano", "duration", "gateway") == [None] * 4


def test_of_several_heads_the_last_is_the_reply() -> None:
    before = b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    found = opened(before + b'HTTP/1.1 401 PermissionDenied\r\nA: b\r\n\r\n{"error":{"code":"401","message":"no"}}')
    assert (found.call.outcome, found.call.error_message, found.entry, found.entries) == ("auth", "no", 3, 3)
    assert opened(before + b"HTTP/1.1 401 No\r\n\r\n", 1).call.status_code == 200


def test_heads_alone_say_nothing_of_what_the_call_came_to() -> None:
    call = opened(b"HTTP/2 200\r\nx-ms-region: East US\r\n").call
    assert said(call, "status_code", "outcome", "error_type", "body_size") == [200, None, None, None]


def test_a_journal_gives_back_the_record_as_it_is() -> None:
    call = observe(sends(GOOD))
    lines = encode(call) + b"\n{}\n" + encode(call) + b"\n" + encode(call)[:50]
    found = opened(lines)
    assert (found.call, found.entry, found.entries, found.broken) == (call, 2, 2, 2)
    assert opened(json.dumps(json.loads(encode(call)), indent=2).encode()).call == call


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "neither a HAR"),
        (b"\x89PNG\r\n", "neither a HAR"),
        (b"{}", "no HAR file: Object missing required field `log`"),
        (b'{"log": {"entries": 3}}', "no HAR file"),
        (b'{"log": {"entries": []}}', "none of its 0 entries"),
        (b"{" * 100_000, "no HAR file"),
        (b'{"log": ' * 100_000, "no HAR file"),
        (b"HTTP/1.1 abc\r\n\r\n", "no status line"),
        (b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", "line 2 is no header"),
        (b"HTTP/1.1 200 OK\r\na: " + b"x" * 70_000, "line 2 is no header"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300, "is no header"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n\x1f\x8b garbage", "gzip body is broken"),
        (b'{"probe.target": 3}', "none of its lines"),
        (har(entry(response={**entry()["response"], "content": {"text": "!", "encoding": "base64"}})), "no base64"),
    ],
)  # fmt: skip
def test_what_is_no_capture_ends_in_one_line(data: bytes, says: str) -> None:
    with pytest.raises(CaptureError, match=says) as raised:
        opened(data)
    assert "\n" not in str(raised.value)


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True).filter(
    lambda name: not {"cookie", "token", "key", "auth", "secret", "password", "credential"} & set(name.split("-"))
)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="=@?&;"), max_size=30)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=12), st.sampled_from([b"\r\n", b"\n"]), st.binary(max_size=60))
def test_every_header_comes_back_in_order_from_raw_and_from_har(
    headers: list[tuple[str, str]], end: bytes, body: bytes
) -> None:
    lines = [b"HTTP/1.1 200 OK", *(f"{name}: {value}".encode() for name, value in headers)]
    # What could be one more head, a chunk or gzip is read as that.
    raw_call = opened(end.join(lines) + end + end + b"{" + body).call
    pairs = [{"name": name, "value": value} for name, value in headers]
    content = {"text": base64.b64encode(b"{" + body).decode(), "encoding": "base64"}
    har_call = opened(har(entry(response={"status": 200, "headers": pairs, "content": content}))).call
    assert raw_call.headers == har_call.headers
    assert [name for name, _ in raw_call.headers] == [name for name, _ in headers]


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b'{"log": {"entries": [', b'{"probe.target"']),
)
def test_no_bytes_do_more_than_be_refused(data: bytes, start: bytes) -> None:
    try:
        call = opened(start + data).call
    except CaptureError as error:
        assert str(error)
    else:
        encode(call)


def test_the_command_shows_the_sheet_and_hides_what_the_request_carried(tmp_path: Path) -> None:
    file = tmp_path / "two.har"
    file.write_bytes(har(entry(), entry()))
    done = run("probe", "open", str(file))
    assert done.returncode == 0 and "2 of its 2 entries look like calls of Azure OpenAI, 1, 2" in done.stderr
    for shown in ("two.har · 200 · ok · West Europe", "deployment chat-1", "contoso.openai.azure.com:443", "249,993"):
        assert shown in done.stdout
    assert "canary" not in done.stdout + done.stderr
    asked = run("probe", "open", str(file), "--entry", "1", "--query", '"gen_ai.usage.input_tokens"')
    assert asked.stdout == "30\n"


@pytest.mark.parametrize(("name", "says"), [("nowhere", "No such file"), (".", "Is a directory"), ("junk", "neither")])
def test_a_file_that_cannot_be_read_ends_in_one_line(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "junk").write_bytes(b"\x00\x1b[2J")
    done = run("probe", "open", str(tmp_path / name))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert says in done.stderr and "\x1b" not in done.stderr
