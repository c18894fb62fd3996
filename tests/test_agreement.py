"""Calls that cost: every mode of the probe says what they come to at most, and sends nothing unasked.

The real endpoint is a name of Azure's that leads, through a proxy, to a server of the test's own.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands import run, settings_of
from tests.runs import openai_shaped
from tests.terminals import on_a_terminal
from tests.test_tls import Authority, authority
from tests.wire import WireServer, answers, serving, tunnels

assert authority  # The fixture.
HOST = "contoso.openai.azure.com"
REMOTE = settings_of(f"https://{HOST}", AZURE_OPENAI_DEPLOYMENT="gpt-4o", HEADROOM_YES="")


class Azure(NamedTuple):
    """`settings` lead to `server`."""

    server: WireServer
    settings: dict[str, str]


@pytest.fixture
def azure(authority: Authority) -> Iterator[Azure]:
    with (
        serving(answers(openai_shaped()), tls=authority.server(HOST)) as server,
        serving(tunnels(server.port)) as proxy,
    ):
        yield Azure(server, {**REMOTE, "HTTPS_PROXY": proxy.url, "HEADROOM_CA_BUNDLE": str(authority.file)})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "contoso: 2 requests, at most 128 tokens and $0.0008"),
        (("--prompt", "x" * 1000, "--stream"), "contoso: 1 request, at most 1062 tokens"),
        (("--vs", "streaming", "--pairs", "3"), "contoso streaming: 3 requests, at most 192 tokens and $0.001"),
        (("--watch", "2s"), "a call of at most 8 + 8 tokens every 2 s: at most $0.18 an hour"),
        (("--watch", "2s", "--looks", "5"), "at most $0.0005 for 5 looks"),
        (("--sdk",), "contoso: 6 requests, at most 384 tokens and $0.002"),
        (("access",), "6 requests without a prompt"),
    ],
    ids=lambda one: " ".join(one)[:12] if isinstance(one, tuple) else None,
)
def test_without_a_terminal_to_ask_on_nothing_is_sent(arguments: tuple[str, ...], says: str) -> None:
    done = run("probe", *arguments, settings=REMOTE)
    assert done.returncode == 2 and done.stdout == ""
    assert says in done.stderr and "nothing was sent" in done.stderr and "Traceback" not in done.stderr


def test_yes_given_beforehand_sends(azure: Azure) -> None:
    done = run("probe", "--watch", "1s", "--looks", "1", "--yes", settings=azure.settings)
    assert done.returncode == 0 and "200" in done.stdout and len(azure.server.requests) == 1, done.stderr


@pytest.mark.parametrize(("key", "code", "sent"), [("y\r", 0, 1), ("\r", 2, 0), ("\x03", 130, 0)])
def test_on_a_terminal_only_a_yes_sends(azure: Azure, key: str, code: int, sent: int) -> None:
    with on_a_terminal("probe", "--watch", "1s", "--looks", "1", settings=azure.settings) as terminal:
        terminal.wait_for("Send")
        terminal.type(key)
        assert terminal.wait_for_end() == code, terminal.shown
    assert len(azure.server.requests) == sent


def test_by_hand_it_asks_once_and_again_for_more(azure: Azure, tmp_path: Path) -> None:
    where = {**azure.settings, "HEADROOM_RESULTS": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    with on_a_terminal("probe", "-i", "--stream", settings=where) as terminal:
        terminal.wait_for("gpt-4o>")
        for line, answer, sent in (("send", "n", 0), ("send", "y", 1), ("send", "", 2), ("send 3", "y", 5)):
            asked_before = terminal.shown.count("Send? ")
            terminal.type(f"{line}\r")
            if answer:
                terminal.wait_for(rf"(Send\? [\s\S]*){{{asked_before + 1}}}")
                terminal.type(f"{answer}\r")
            assert azure.server.wait_for_requests(sent)
            terminal.wait_for(r"gpt-4o>\s*$")
        assert "3 requests, at most 192 tokens" in terminal.shown
        terminal.type("quit\r")
        assert terminal.wait_for_end() == 0
    assert terminal.shown.count("Send? ") == 3 and len(azure.server.requests) == 5
