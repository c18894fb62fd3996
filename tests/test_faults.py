"""Every fault that a call can meet, F01 to F58, through the client over real sockets: each alone, and all of them at
5 % among healthy calls of one client.

`tests/faults/table.py` has the rows; here are those that need more than one scripted reply.
"""

import re
import socket
import ssl
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from rich.console import Console

from probe.advice import advice
from probe.client import Client
from probe.record import ObservedCall, decode, encode
from probe.render import render_call
from probe.transport import Timeouts
from tests.commands import ROOT, environment, run, settings_of
from tests.faults.fault import LONG, REGION, SHORT, STREAM, Fault, facts, streamed
from tests.faults.mixed import PLAN, asking, by_number, healthy, number_of, own, seen_as, target_at, wrong
from tests.faults.table import ALL, ODD_LINES, READ, TABLE, WHOLE, with_line
from tests.wire import (
    LAST_CHUNK,
    Script,
    blackhole,
    chunk,
    head,
    reply,
    sends,
    sends_and_closes,
    sends_and_resets,
    serving,
    tunnels,
)


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client(timeouts=LONG)
    yield made
    made.close()


class Alone(NamedTuple):
    """What became of a call that met the fault, and of the one after it."""

    call: ObservedCall
    after: ObservedCall
    connections: int
    requests: int


@cache
def alone(name: str) -> Alone:
    row = TABLE[name]
    client = Client(timeouts=row.timeouts)
    with serving(row.script, healthy) as server:
        target = target_at(server.url)
        call = client.observe(target, asking(1), stream=row.stream)
        after = client.observe(target, asking(2), stream=True)
        client.close()
        return Alone(call, after, server.connections, len(server.requests))


def test_every_number_of_the_list_has_a_row_or_a_test_of_its_own() -> None:
    tests = {int(found) for name in globals() for found in re.findall(r"^test_f(\d\d)_", name)}
    rows = {int(row.number[1:]) for row in TABLE.values()}
    assert tests | rows == set(range(1, 59))


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_a_fault_comes_out_as_what_it_is_with_what_had_come_until_then(row: Fault) -> None:
    expected = {"outcome": row.outcome, **row.keeps}
    assert facts(alone(row.name).call, expected) == expected


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_the_call_after_a_fault_is_unharmed_and_nothing_is_sent_twice(row: Fault) -> None:
    seen = alone(row.name)
    assert (seen_as(seen.after), seen.requests) == (own(2), 2)
    if row.survives is not None:
        assert (seen.connections == 1) is row.survives


def test_at_5_percent_among_healthy_calls_of_one_client_every_call_comes_out_as_its_own() -> None:
    with serving(by_number) as server:
        assert list(wrong(server, range(len(PLAN)))) == []
        assert len(server.requests) == len(PLAN)


def test_at_5_percent_under_gevent_every_call_comes_out_as_its_own_and_nothing_holds_up_the_hub() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.mixed"],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_whatever_came_is_shown_without_a_control_character_and_survives_the_journal(row: Fault) -> None:
    call = alone(row.name).call
    assert decode(encode(call)) == call
    screen = StringIO()
    render_call(call, Console(file=screen, width=100))
    shown = screen.getvalue() + (advice(call, target_at("http://127.0.0.1")) or "")
    assert [c for c in shown.replace("\n", "") if not c.isprintable()] == []
    for value in call.header("x-odd"):
        assert all(f"\\x{ord(c):02x}" in shown for c in value if not c.isprintable())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("F55-no_deployment", "AZURE_OPENAI_DEPLOYMENT"),
        ("F55-no_such_version", "OPENAI_API_VERSION"),
        ("F55-version_not_supported", "OPENAI_API_VERSION"),
        ("F54-token_expired", "AZURE_OPENAI_API_KEY"),
        ("F55-virtual_network", "network rules"),
        ("F53-silence_in_mid_stream", "4 min"),
    ],
)
def test_what_mends_it_is_named(name: str, says: str) -> None:
    assert says in (advice(alone(name).call, target_at("https://example.invalid")) or "")


def test_f01_a_name_that_does_not_resolve_is_dns_and_the_other_target_is_unharmed(client: Client) -> None:
    nowhere = target_at("https://no-such-host.invalid", "nowhere")
    with serving(healthy) as server:
        calls = [
            client.observe(target, asking(number), stream=True)
            for number, target in enumerate((nowhere, target_at(server.url), nowhere))
        ]
    assert [(call.outcome, call.status_code, call.connect) for call in calls[::2]] == [("dns", None, None)] * 2
    assert seen_as(calls[1]) == own(1)


def test_f02_a_refused_connection_is_connect_until_something_listens(client: Client) -> None:
    with serving(healthy) as server:
        target = target_at(server.url)
        assert client.observe(target, asking(0), stream=True).outcome == "ok"
    client.close()
    refused = Client(timeouts=LONG)
    call = refused.observe(target, asking(1), stream=True)
    assert (call.outcome, call.status_code, call.headers, call.connect) == ("connect", None, (), None)
    assert call.time_to_first_token is None
    refused.close()


def connecting(endpoint: str) -> list[ObservedCall]:
    """Calls that do not get so far, the last of them in time: a busy machine can hold up one or two, hardly three."""
    client = Client(timeouts=SHORT)
    limit = pytest.approx(SHORT.connect, rel=0.1)
    calls = [client.observe(target_at(endpoint), asking(0), stream=True)]
    while calls[-1].duration != limit and len(calls) < 3:
        calls.append(client.observe(target_at(endpoint), asking(0), stream=True))
    assert calls[-1].duration == limit
    with serving(healthy) as server:
        assert seen_as(client.observe(target_at(server.url, "other"), asking(1), stream=True)) == own(1)
    client.close()
    return calls


def test_f03_a_swallowed_syn_is_a_timeout_of_connecting_at_the_limit() -> None:
    with blackhole() as port:
        calls = connecting(f"http://127.0.0.1:{port}")
    assert {(call.outcome, call.status_code, call.connect) for call in calls} == {("timeout_connect", None, None)}


def test_f03_a_tls_handshake_that_is_never_answered_is_a_timeout_of_connecting_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        calls = connecting(f"https://127.0.0.1:{silent.getsockname()[1]}")
    assert {(call.outcome, call.status_code) for call in calls} == {("timeout_connect", None)}


class Authority(NamedTuple):
    """A certificate authority that only `file` makes known."""

    made: trustme.CA
    file: Path

    def server(self, name: str, *, valid_for: timedelta = timedelta(days=1)) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        now = datetime.now(UTC)
        self.made.issue_cert(name, not_before=now - timedelta(days=2), not_after=now + valid_for).configure_cert(
            context
        )
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made, file = trustme.CA(), tmp_path_factory.mktemp("authority") / "ca.pem"
    made.cert_pem.write_to_path(file)
    return Authority(made, file)


def looked_at(endpoint: str, **settings: str) -> list[ObservedCall]:
    """The two calls of one `probe`, on one client in a process of its own: one trusts what its environment says."""
    named = settings_of(endpoint, HEADROOM_ALLOW_HOST="resource.invalid", **settings)
    done = run("probe", "-o", "json", "--timeout", "5", settings=named)
    calls = [decode(line) for line in done.stdout.splitlines()]
    assert len(calls) == 2, done.stderr
    return calls


def test_f04_an_unknown_authority_is_refused_and_the_key_stays_here(client: Client, authority: Authority) -> None:
    with serving(healthy, tls=authority.server("127.0.0.1")) as server, serving(healthy) as other:
        call = client.observe(target_at(server.url), asking(0), stream=True)
        after = client.observe(target_at(other.url, "other"), asking(1), stream=True)
        assert (server.requests, server.connections) == ([], 1)
    assert (call.outcome, call.status_code, call.tls) == ("tls", None, None)
    assert "certificate" in (call.error_message or "")
    assert seen_as(after) == own(1)


@pytest.mark.parametrize(
    ("name", "valid_for", "says"),
    [
        ("elsewhere.example", timedelta(days=1), "not valid for"),
        ("127.0.0.1", timedelta(days=-1), "expired"),
    ],
    ids=["F05-another_host", "F05-expired"],
)
def test_f05_a_certificate_that_does_not_hold_is_refused_and_never_tried_without_verification(
    authority: Authority, name: str, valid_for: timedelta, says: str
) -> None:
    with serving(healthy, tls=authority.server(name, valid_for=valid_for)) as server:
        calls = looked_at(server.url, SSL_CERT_FILE=str(authority.file))
        assert (server.requests, server.connections) == ([], 2)
    assert [call.outcome for call in calls] == ["tls", "tls"]
    assert all(says in (call.error_message or "") for call in calls)


BEHIND_A_PROXY = "https://resource.invalid"
PROXIES: dict[str, tuple[Script, int | None]] = {
    "F06-407": (
        sends(head("407 Proxy Authentication Required", "proxy-authenticate: Basic", "content-length: 0")),
        407,
    ),
    "F06-refuses_to_connect": (sends(head("403 Forbidden", "content-length: 0")), 403),
    "F06-cannot_connect": (sends(head("502 Bad Gateway", "content-length: 0")), 502),
    "F06-closes": (sends_and_closes(), None),
    "F06-no_HTTP": (sends_and_closes(b"\x05\x00nonsense\r\n\r\n"), None),
}


def whole_or_stream(connection: socket.socket, request: bytes) -> None:
    connection.sendall(streamed(ALL) + LAST_CHUNK if b'"stream":true' in request else reply(WHOLE, "200 OK", REGION))


@pytest.mark.parametrize(("script", "status"), PROXIES.values(), ids=PROXIES)
def test_f06_a_proxy_that_does_not_let_us_through_is_proxy_and_never_sees_the_key(
    authority: Authority, script: Script, status: int | None
) -> None:
    with (
        serving(whole_or_stream, tls=authority.server("resource.invalid")) as resource,
        serving(script, tunnels(resource.port)) as proxy,
    ):
        refused, after = looked_at(BEHIND_A_PROXY, HTTPS_PROXY=proxy.url, SSL_CERT_FILE=str(authority.file))
        sent = b"".join(proxy.requests)
    assert (refused.outcome, refused.status_code) == ("proxy", status)
    assert (after.outcome, after.response_id) == ("ok", "chatcmpl-1")
    assert sent.startswith(b"CONNECT resource.invalid:443 HTTP/1.1\r\n") and b"made-up-key" not in sent


def test_f06_a_proxy_that_is_not_there_is_proxy() -> None:
    with serving() as gone:
        pass
    assert [call.outcome for call in looked_at(BEHIND_A_PROXY, HTTPS_PROXY=gone.url)] == ["proxy", "proxy"]


def test_f06_a_host_of_no_proxy_is_called_directly(authority: Authority) -> None:
    with serving(whole_or_stream, tls=authority.server("127.0.0.1")) as server, serving(sends_and_closes()) as proxy:
        calls = looked_at(
            server.url, HTTPS_PROXY=proxy.url, NO_PROXY="127.0.0.1,localhost", SSL_CERT_FILE=str(authority.file)
        )
        assert proxy.connections == 0
    assert [call.outcome for call in calls] == ["ok", "ok"]


@pytest.mark.parametrize("ends", [sends_and_closes(), sends_and_resets()], ids=["F09-closed", "F09-reset"])
def test_f09_a_connection_that_ends_as_we_send_is_connect_or_a_recorded_reconnection(
    client: Client, ends: Script
) -> None:
    with serving(healthy, ends, healthy) as server:
        calls = [client.observe(target_at(server.url), asking(number), stream=True) for number in range(3)]
        requests, connections = len(server.requests), server.connections
    assert (seen_as(calls[0]), seen_as(calls[2])) == (own(0), own(2))
    assert connections == 2
    if calls[1].outcome == "connect":
        assert (requests, calls[1].status_code) == (3, None)
    else:
        assert (seen_as(calls[1]), calls[1].warnings, requests) == (own(1), ("reconnected",), 4)


def test_f09_once_a_byte_of_the_reply_has_come_nothing_is_sent_again(client: Client) -> None:
    with serving(healthy, sends_and_resets(b"HTTP/1.1 200 O"), healthy) as server:
        calls = [client.observe(target_at(server.url), asking(number), stream=True) for number in range(3)]
        requests = [number_of(request) for request in server.requests]
    assert requests == [0, 1, 2]
    assert calls[1].outcome in ("connect", "protocol_error") and seen_as(calls[2]) == own(2)


def test_f09_a_connection_that_ended_while_idle_is_replaced_before_anything_is_sent(client: Client) -> None:
    ended = threading.Event()

    def answers_and_closes(connection: socket.socket, request: bytes) -> None:
        healthy(connection, request)
        connection.shutdown(socket.SHUT_RDWR)
        ended.set()

    with serving(answers_and_closes, healthy) as server:
        first = client.observe(target_at(server.url), asking(0), stream=True)
        assert ended.wait(5)
        after = client.observe(target_at(server.url), asking(1), stream=True)
        assert (len(server.requests), server.connections) == (2, 2)
    assert (seen_as(first), seen_as(after)) == (own(0), own(1))
    assert after.connection_reused is False


def test_f16_bytes_that_come_after_a_reply_never_reach_the_next_call(client: Client) -> None:
    came = threading.Event()

    def says_more(connection: socket.socket, request: bytes) -> None:
        healthy(connection, request)
        came.wait(0.05)
        connection.sendall(reply(b'{"error":"not yours"}', "500 Oops"))
        came.set()

    with serving(says_more, healthy) as server:
        calls = []
        for number in range(2):
            calls.append(client.observe(target_at(server.url), asking(number), stream=True))
            assert came.wait(5)
        assert server.connections == 2
    assert [seen_as(call) for call in calls] == [own(0), own(1)]


@pytest.mark.parametrize("name", ODD_LINES)
def test_f20_a_forbidden_header_is_taken_the_same_way_however_its_bytes_come(client: Client, name: str) -> None:
    whole = with_line(ODD_LINES[name][0])
    pieces = [whole[place : place + 7] for place in range(0, len(whole), 7)]
    calls = []
    for script in (sends(whole), sends(*pieces), sends(whole)):
        with serving(script) as server:
            calls.append(client.observe(target_at(server.url, server.url), asking(0), stream=True))
    assert len({(call.outcome, call.outcome == "ok" and call.headers) for call in calls}) == 1


def most_held(client: Client, script: Script) -> tuple[ObservedCall, int, int]:
    """A call, and how many bytes were held in the course of it and after it."""
    with serving(script) as server:
        tracemalloc.start()
        try:
            call = client.observe(target_at(server.url), asking(0), stream=True)
            held, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return call, most, held


def test_f26_an_event_of_50_mb_is_not_held(client: Client) -> None:
    call, most, held = most_held(client, sends(STREAM, *[chunk(b"data: " + b"x" * 2**20)] * 50))
    assert call.outcome == "payload_error"
    assert most < 24 * 2**20 and held < 2**20


def test_f22_a_header_without_an_end_is_not_held() -> None:
    client = Client(timeouts=Timeouts(first_byte=2.0, total=2.0))
    call, most, held = most_held(client, sends_and_closes(STREAM[:-2] + b"x-endless: ", *[b"a" * 2**18] * 64))
    client.close()
    assert call.status_code == 200 and call.outcome == "protocol_error"
    assert most < 8 * 2**20 and held < 2**20


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_f27_a_redirect_is_refused_and_no_one_else_is_called(client: Client, status: int) -> None:
    with serving(healthy) as elsewhere:
        location = f"{elsewhere.url}/openai"
        moved = sends(head(f"{status} Moved", REGION, f"location: {location}", "content-length: 0"))
        with serving(moved, healthy) as server:
            call, after = (client.observe(target_at(server.url), asking(number), stream=True) for number in range(2))
        assert (elsewhere.connections, elsewhere.requests) == (0, [])
    assert (call.outcome, call.status_code) == ("redirect_refused", status)
    assert (call.header("location"), call.header("x-ms-region")) == ((location,), ("East US",))
    assert seen_as(after) == own(1)


def test_f28_a_stream_cut_in_two_anywhere_is_the_same_stream(client: Client) -> None:
    def cut(connection: socket.socket, request: bytes) -> None:
        place = number_of(request)
        connection.sendall(STREAM + chunk(ALL[:place]))
        connection.sendall(chunk(ALL[place:]) + LAST_CHUNK)

    expected = {"outcome": "ok", "warnings": set[str](), **READ}
    with serving(cut) as server:
        for place in range(1, len(ALL)):
            call = client.observe(target_at(server.url), asking(place), stream=True)
            assert facts(call, expected) == expected, place
        assert server.connections == 1
