"""Every mode of the probe on a terminal, narrow and wide, in colour and without: keys are typed, the screen is read."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.journal import read_calls
from tests.simulators import Simulated, simulating
from tests.terminals import Terminal, on_a_terminal
from tests.test_client import GOOD
from tests.wire import sends, sends_then_waits, serving, stream_head

CONFIG = """
[resources.one]
region = "East US 2"
[resources.one.latency]
prompt_filter = { median = 0.005, spread = 0.0 }
queue = { median = 0.005, spread = 0.0 }
engine = { median = 0.02, spread = 0.0 }
between_tokens = { median = 0.01, spread = 0.0 }
LIMITED
[resources.one.deployments.other]
model = "gpt-4o-2024-11-20"
[gateways.gate]
backends = [{ resource = "one" }]
buffer_response = true
strip_headers = ["x-ms-region"]
"""

WIDTHS = [(80, True), (200, False)]
# One for each test that uses it up.
LIMITED = """
[resources.one.deployments.chat-{}-{}]
model = "gpt-4.1-mini-2025-04-14"
requests_per_minute = 6
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("screens")
    limited = "".join(LIMITED.format(*width) for width in WIDTHS)
    with simulating(folder, CONFIG.replace("LIMITED", limited)) as simulated:
        (folder / "targets.toml").write_text("".join(table(simulated, name) for name in ("one", "gate")))
        keys = {f"KEY_{name}": simulated.target(name).api_key or "" for name in ("one", "gate")}
        yield {"HEADROOM_TARGETS_FILE": str(folder / "targets.toml"), **keys}


def table(simulated: Simulated, name: str) -> str:
    target = simulated.target(name)
    return (
        f'[{name}]\nendpoint = "{target.endpoint}"\ndeployment = "other"\napi_version = "{target.api_version}"\n'
        f'gateway = "{target.gateway}"\napi_key_env = "KEY_{name}"\n'
    )


def looks_right(terminal: Terminal, columns: int, colour: bool, moves: bool = False) -> None:
    """`moves`: the cursor does, so that lines are not written as wholes."""
    assert terminal.coloured is colour
    assert moves or terminal.widest <= columns


def with_colour(settings: dict[str, str], colour: bool) -> dict[str, str]:
    return settings if colour else {**settings, "NO_COLOR": "1"}


@pytest.mark.parametrize(("columns", "colour"), WIDTHS)
def test_the_sheet(settings: dict[str, str], columns: int, colour: bool) -> None:
    command = ("probe", "one")
    with on_a_terminal(*command, columns=columns, settings=with_colour(settings, colour)) as terminal:
        assert terminal.wait_for_end() == 0
        looks_right(terminal, columns, colour)
    lines = terminal.lines
    for title in ("headroom", "tokens", "limits", "routing and region", "ids", "model", "security", "transport"):
        assert title in lines
    for label in ("dns", "tcp", "headers", "first event", "first token", "last byte", "filter", "queue", "engine"):
        assert any(line.startswith(f"  {label} ") and line.rstrip().endswith("━") for line in lines), label
    assert any(line.startswith("  requests ") and "━" in line and "600 left" in line for line in lines)


@pytest.mark.parametrize(("columns", "colour"), WIDTHS)
def test_two_targets_side_by_side(settings: dict[str, str], columns: int, colour: bool) -> None:
    command = ("probe", "one", "--vs", "gate", "--pairs", "2", "--max-tokens", "12")
    with on_a_terminal(*command, columns=columns, settings=with_colour(settings, colour)) as terminal:
        assert terminal.wait_for_end() == 0
        looks_right(terminal, columns, colour)
    assert "gate buffers the stream" in terminal.lines
    assert any("gate strips headers" in line and "x-ms-region" in line for line in terminal.lines)
    assert any(line.startswith("first token ") and "gate slower in 2 of 2" in line for line in terminal.lines)


@pytest.mark.parametrize(("columns", "colour"), WIDTHS)
def test_watching_until_q_leaves_the_last_frame(settings: dict[str, str], columns: int, colour: bool) -> None:
    command = ("probe", "one", "--watch", "200ms")
    with on_a_terminal(*command, columns=columns, rows=24, settings=with_colour(settings, colour)) as terminal:
        terminal.wait_for(r"one  3 looks, q quits")
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        looks_right(terminal, columns, colour, moves=True)
    assert "price is known for 'other'" in terminal.shown.replace("\n", "")
    frame = [
        line for line in terminal.lines if line.startswith(("  status", "  requests", "  tokens", "  first token"))
    ]
    assert [line.split()[0] for line in frame] == ["status", "requests", "tokens", "first"]
    assert "200 ok" in frame[0] and "left" in frame[1] and " ms; least " in frame[3]


def test_watching_ends_with_ctrl_c_too_while_it_waits_and_while_a_call_is_open(settings: dict[str, str]) -> None:
    with on_a_terminal("probe", "one", "--watch", "1m", settings=settings) as terminal:
        terminal.wait_for("1 looks")
        terminal.type("\x03")
        assert terminal.wait_for_end() == 0
        assert "1 looks" in terminal.shown and "Traceback" not in terminal.shown
    released = threading.Event()
    with serving(sends_then_waits(released, stream_head())) as server:
        slow = {"AZURE_OPENAI_ENDPOINT": server.url, "AZURE_OPENAI_API_KEY": "made-up", "AZURE_OPENAI_DEPLOYMENT": "d"}
        with on_a_terminal("probe", "--watch", "1m", settings=slow) as terminal:
            assert server.wait_for_requests(1)
            terminal.type("\x03")
            assert terminal.wait_for_end() == 130
            assert "cancelled" in terminal.shown and "Traceback" not in terminal.shown
        released.set()


@pytest.mark.parametrize(("columns", "colour"), WIDTHS)
def test_changing_one_thing_and_sending_again(
    settings: dict[str, str], tmp_path: Path, columns: int, colour: bool
) -> None:
    where = {**with_colour(settings, colour), "HEADROOM_RESULTS": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "s")}
    with on_a_terminal("probe", "one", "-i", "--max-tokens", "3", columns=columns, settings=where) as terminal:
        terminal.wait_for("one/other>")
        terminal.type("stream on\rsend\r")
        terminal.wait_for("first token")
        terminal.wait_for("azureai-fe-is-streaming")
        terminal.type("depl\t")
        terminal.wait_for("one/other> deployment")
        terminal.type(f" chat-{columns}-{colour}\r")
        terminal.wait_for(f"one/chat-{columns}-{colour}>")
        terminal.type("send\r")
        shown = terminal.wait_for(r"what changed[\s\S]*one/chat-\S+>\s*$")
        changed = shown[shown.index("what changed") :]
        assert "gpt-4o-2024-11-20" in changed and "gpt-4.1-mini-2025-04-14" in changed
        assert "x-ratelimit-limit-requests" in changed and "strict-transport-security" not in changed
        terminal.type("send 7\r")
        terminal.wait_for("429  throttled")
        terminal.type("max_tokens many\r")
        terminal.wait_for("'many' is no number")
        terminal.type("\x1b[A\x1b[A")  # up, up: the line before
        terminal.wait_for(r"> send 7\s*$")
        terminal.type("\x03")
        assert terminal.wait_for_end() == 0
        looks_right(terminal, columns, colour, moves=True)
    assert "againwith:probeone--deploymentchat-" in "".join(terminal.shown.split())  # wherever the path above ends
    (run,) = tmp_path.glob("*/run.json")
    assert len(read_calls(run.parent).calls) == 9
    assert json.loads(run.read_text())["ended"]["calls"] == 9


def test_an_interactive_session_from_a_file_and_its_secrets(settings: dict[str, str], tmp_path: Path) -> None:
    secret = "made-up-secret-value"
    where = {**settings, "HEADROOM_RESULTS": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    with on_a_terminal("probe", "one", "-i", settings=where) as terminal:
        terminal.wait_for(">")
        terminal.type(f'header x-auth-token: {secret}\rprompt it\'s "me"\rshow\r')
        terminal.wait_for(r"AUTH_TOKEN[\s\S]*one/other>\s*$")
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0
    shown = terminal.shown.replace("\n", "")
    assert """probe one --prompt 'it'"'"'s "me"' -H "x-auth-token: $X_AUTH_TOKEN\"""" in shown
    assert secret not in (tmp_path / "state" / "headroom" / "history").read_text()
    assert list(tmp_path.glob("*/run.json")) == []


def test_ctrl_c_in_a_call_ends_the_call_and_not_the_session(tmp_path: Path) -> None:
    released = threading.Event()
    with serving(sends_then_waits(released, stream_head()), sends(GOOD)) as server:
        slow = {
            "AZURE_OPENAI_ENDPOINT": server.url,
            "AZURE_OPENAI_API_KEY": "made-up-key",
            "AZURE_OPENAI_DEPLOYMENT": "d",
            "HEADROOM_RESULTS": str(tmp_path),
        }
        with on_a_terminal("probe", "-i", "--stream", settings=slow) as terminal:
            terminal.wait_for(">")
            terminal.type("send\r")
            terminal.wait_for("waiting for .*, up to 60 s")
            terminal.type("\x03")
            terminal.wait_for("cancelled user")
            terminal.type("send\r")
            terminal.wait_for("what changed")
            terminal.type("quit\r")
            assert terminal.wait_for_end() == 0
        released.set()
    (run,) = tmp_path.glob("*/run.json")
    assert [call.outcome for call in read_calls(run.parent).calls] == ["cancelled_user", "ok"]


def test_the_other_outputs_on_a_terminal(settings: dict[str, str]) -> None:
    for arguments, expected in (
        (("-o", "table"), "target"),
        (("--offline", "--stream"), "api-key: [secret]"),
        (("--curl", "--stream"), "$AZURE_OPENAI_API_KEY"),
        (("-o", "none", "--assert", "status == 201"), "status was 200"),
    ):
        with on_a_terminal("probe", "one", *arguments, settings=settings) as terminal:
            assert terminal.wait_for_end() == (7 if "--assert" in arguments else 0)
            assert expected in terminal.shown
