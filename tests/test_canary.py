"""Canaries: secrets that must be in no byte that is written, printed or served, whatever is switched on or fails."""

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

import pytest

from tests.commands import BIN, ROOT, environment, run
from tests.runs import Start, only_run, openai_shaped, results_in
from tests.simulators import awaited
from tests.test_identity import IdentityEndpoint, identity
from tests.wire import WireServer, answers, reply, sends_then_waits, serving

__all__ = ["identity"]

KEY = "canary/key+0123456789=made&up"
TOKEN = "canary.token.0123456789-made_up"
COOKIE = "canary-cookie-0123456789"
HEADER = "canary-header-0123456789"
BODY = "canary-body-0123456789"

# Every switch that makes a library talk.
LOUD = {"OPENAI_LOG": "debug", "AZURE_LOG_LEVEL": "debug", "HTTPX_LOG_LEVEL": "trace", "PYTHONDEVMODE": "1"}


def forms(secret: str) -> Iterator[bytes]:
    yield secret.encode()
    yield quote(secret, safe="").encode()
    yield json.dumps(secret)[1:-1].encode()
    for offset in range(3):
        # Without the characters at both ends that depend on what stands beside it.
        yield base64.b64encode(b"\0" * offset + secret.encode())[4:-4]


def without_canaries(written: bytes, credential: str, prompt: str) -> None:
    for secret in (credential, COOKIE, HEADER, BODY, prompt):
        for form in forms(secret):
            place = written.find(form)
            assert place < 0, written[max(0, place - 200) : place + 100]


def echoes(secret: str) -> bytes:
    """In the forms in which a careless server may send it back."""
    shown = [secret, quote(secret, safe=""), base64.b64encode(f"user:{secret}".encode()).decode()]
    return " and ".join(shown).encode()


def with_headers(whole: bytes, secret: str) -> bytes:
    """A reply with cookies, tokens and signed addresses besides."""
    said = (
        f"Set-Cookie: session={COOKIE}; Path=/\r\nX-Access-Token: {COOKIE}\r\nX-Debug: got {secret}\r\n"
        f'WWW-Authenticate: Negotiate {COOKIE}==\r\nProxy-Authenticate: Bearer claims="{COOKIE}"\r\n'
        f"Apim-Trace-Location: https://u:{COOKIE}@x.example/t?sv=1&sig={COOKIE}\r\n"
    )
    head, _, rest = whole.partition(b"\r\n")
    return head + b"\r\n" + said.encode() + rest


def careless(secret: str) -> Callable[[bytes], bytes]:
    """Every kind of reply in turn: good ones, refusals, broken ones, redirects, all with what was sent in them."""
    numbers, good = count(), openai_shaped()
    echo = echoes(secret)
    error = json.dumps({"error": {"code": secret, "message": f"Incorrect API key provided: {echo.decode()}"}}).encode()
    stream = b'data: {"error":{"code":"x","message":"' + echo + b'"}}\n\n'
    bad = [
        reply(error, "400 Bad Request"),
        reply(b"x" * 190 + echo, "500 Internal Server Error"),
        reply(b"<title>" + echo + b"</title>", "502 Bad Gateway"),
        reply(stream).replace(b"application/json", b"text/event-stream"),
        reply(echo),
        b"HTTP/1.1 200 OK\r\nBroken header " + echo + b"\r\n\r\n",
        b"no http: " + echo + b"\r\n\r\n",
        reply(b"", f"307 Temporary Redirect\r\nLocation: https://u:{COOKIE}@x.example/?sig={COOKIE}"),
    ]

    def make(request: bytes) -> bytes:
        number = next(numbers)
        # The first is the check before a run.
        return with_headers(good(request) if number % 2 == 0 else bad[number // 2 % len(bad)], secret)

    return make


def prompt_of(server: WireServer) -> str:
    """What a prompt says, as the server got it."""
    body = json.loads(next(one for one in server.requests if b'"messages"' in one).partition(b"\r\n\r\n")[2])
    return str(body["messages"][-1]["content"])[-40:]


def written_below(folder: Path) -> bytes:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return b"\n".join(str(path).encode() + b"\n" + path.read_bytes() for path in files)


def settings_for(folder: Path, server: WireServer) -> dict[str, str]:
    besides = {
        "AZURE_OPENAI_API_KEY": KEY,
        "HEADROOM_EXTRA_HEADERS": json.dumps({"x-team-secret": HEADER}),
        "HEADROOM_EXTRA_BODY": json.dumps({"user": BODY}),
        "HTTPS_PROXY": f"http://user:{HEADER}@127.0.0.1:1",
        "HEADROOM_PAUSE": "0.05",
        "HEADROOM_BREAKER": "0",
        "HEADROOM_SDK_RETRIES": "1",
    }
    return {**results_in(folder, server.url), **besides, **LOUD}


RUN = ("locust", "-f", "locustfiles/sdk_retries.py", "--loglevel", "DEBUG", "--users", "4", "--run-time", "2s")


def test_a_run_and_its_report_hold_no_canary(tmp_path: Path) -> None:
    with serving(answers(careless(KEY))) as server:
        settings = settings_for(tmp_path, server)
        done = run(
            *RUN, "--headless", "--html", str(tmp_path / "locust.html"), "--csv", str(tmp_path / "t"), settings=settings
        )
        prompt = prompt_of(server)
        assert any(HEADER.encode() in one and KEY.encode() in one and BODY.encode() in one for one in server.requests)
    assert done.returncode == 0, done.stderr
    report = run("analysis", "report", "-o", "json", settings=settings)
    assert report.returncode == 0, report.stderr
    written = written_below(tmp_path)
    without_canaries("".join((done.stdout, done.stderr, report.stdout, report.stderr)).encode() + written, KEY, prompt)
    # It was all there to be leaked.
    assert written.count(b"[secret]") > 20 and written.count(b"sha256:") > 20
    outcomes = set(re.findall(rb'"probe.outcome":"(\w+)"', written))
    assert outcomes >= {
        b"ok",
        b"bad_request",
        b"gateway_error",
        b"protocol_error",
        b"redirect_refused",
        b"payload_error",
    }


def test_with_microsoft_entra_neither(tmp_path: Path, identity: tuple[dict[str, str], list[str]]) -> None:
    IdentityEndpoint.given = lambda: TOKEN
    with serving(answers(careless(TOKEN))) as server:
        settings = {**settings_for(tmp_path, server), **identity[0]}
        done = run(*RUN, "--headless", settings=settings)
        looked = [run("probe", "-o", form, settings=settings) for form in ("text", "json")]
        prompt = prompt_of(server)
        assert any(TOKEN.encode() in one for one in server.requests)
    assert done.returncode == 0, done.stderr
    said = "".join(text for one in (done, *looked) for text in (one.stdout, one.stderr))
    without_canaries(said.encode() + written_below(tmp_path), TOKEN, prompt)


PAGES = (
    "/",
    "/stats/requests",
    "/exceptions",
    "/tasks",
    "/logs",
    "/stats/report",
    "/stats/failures/csv",
    "/worker-count",
)


def test_the_web_ui_serves_no_canary_and_no_command_line_has_one(tmp_path: Path, start: Start) -> None:
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        port = probing.getsockname()[1]
    with serving(answers(careless(KEY))) as server:
        settings = settings_for(tmp_path, server)
        process = start(*RUN[:-2], "--autostart", "--web-port", str(port), settings=settings)
        assert server.wait_for_requests(20)
        lines = {path: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)}
        ours = [line for path, line in lines.items() if b"locust" in line]
        pages = [page(f"http://127.0.0.1:{port}{path}") for path in PAGES]
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        prompt = prompt_of(server)
    assert ours and len(pages[0]) > 500
    without_canaries(b"\n".join([*ours, *pages, said.encode(), written_below(only_run(tmp_path))]), KEY, prompt)


def readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


def page(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=30) as reply_:
            return bytes(reply_.read())
    except HTTPError as error:
        return error.read()


UNREACHED = {
    "nobody there": {"AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:1"},
    "no name": {"AZURE_OPENAI_ENDPOINT": "https://made-up.openai.azure.com", "HTTPS_PROXY": ""},
    "a dead proxy": {"AZURE_OPENAI_ENDPOINT": "https://made-up.openai.azure.com"},
    "a proxy in TLS": {"AZURE_OPENAI_ENDPOINT": "https://x.openai.azure.com", "HTTPS_PROXY": f"https://u:{HEADER}@x:1"},
    "a wrong name": {"AZURE_OPENAI_ENDPOINT": f"https://u:{KEY}@x.openai.azure.com"},
}


@pytest.mark.parametrize("changes", UNREACHED.values(), ids=UNREACHED)
def test_a_target_that_is_not_reached_leaves_none_either(tmp_path: Path, changes: dict[str, str]) -> None:
    with serving(answers(openai_shaped())) as server:
        settings = {**settings_for(tmp_path, server), **changes}
    done = run("probe", "-v", "--timeout", "5", "--output", "json", settings=settings)
    assert done.returncode in (2, 3, 6), done.stderr
    without_canaries((done.stdout + done.stderr).encode(), KEY, HEADER)


def test_tls_that_fails_and_a_reply_that_never_comes_leave_none_either(tmp_path: Path) -> None:
    released = threading.Event()
    with serving(sends_then_waits(released)) as server:
        plain = {**settings_for(tmp_path, server), "NO_PROXY": "127.0.0.1"}
        tls = {**plain, "AZURE_OPENAI_ENDPOINT": server.url.replace("http:", "https:")}
        for settings in (plain, tls):
            done = run("probe", "-v", "--timeout", "1", "--output", "json", settings=settings)
            assert done.returncode not in (0, 1), done.stderr
            without_canaries((done.stdout + done.stderr).encode(), KEY, HEADER)
        released.set()


@pytest.mark.parametrize("command", [("probe",), ("locust", "--headless")])
def test_a_redirect_takes_no_credential_along(tmp_path: Path, command: tuple[str, ...]) -> None:
    with serving(answers(openai_shaped())) as elsewhere:
        away = reply(b"", f"307 Temporary Redirect\r\nLocation: {elsewhere.url}/openai/v1/chat/completions")
        with serving(answers(lambda _: away)) as server:
            done = run(*command, settings=settings_for(tmp_path, server))
        assert done.returncode == 4
        assert elsewhere.requests == [] and elsewhere.connections == 0


def listening(port: int) -> list[str]:
    """The addresses that somebody listens on at this port, as Linux has them: in hexadecimal, the last byte first."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return [line[1].partition(":")[0] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "0A"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("options", "said"), [((), 0), (("--web-host", "0.0.0.0"), 1)])
def test_from_any_folder_the_web_ui_listens_on_this_machine_alone_unless_told_otherwise(
    tmp_path: Path, options: tuple[str, ...], said: int
) -> None:
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        port = probing.getsockname()[1]
    command = [str(BIN / "locust"), "-f", str(ROOT / "locustfiles" / "mixed.py"), "--web-port", str(port), *options]
    with serving(answers(openai_shaped())) as server:
        settings = environment(results_in(tmp_path, server.url))
        process = subprocess.Popen(command, env=settings, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        found = awaited(lambda: listening(port) or None)
        process.terminate()
        _, talk = process.communicate(timeout=60)
    assert found == (["00000000"] if options else ["0100007F"])
    assert talk.count("which asks nobody who they are") == said
