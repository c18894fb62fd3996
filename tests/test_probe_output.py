"""What `probe` hands to a script, and what it prints without sending."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.offline import curl, request_text
from probe.record import decode
from probe.settings import Asked
from probe.target import Target
from tests.commands import BIN, environment, run, settings_of
from tests.runs import openai_shaped
from tests.test_client import GOOD
from tests.wire import WireServer, answers, sends, serving, stream_head


@pytest.fixture(scope="module")
def server() -> Iterator[WireServer]:
    with serving(answers(openai_shaped())) as one:
        yield one


def probed(server: WireServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("probe", *arguments, settings=settings_of(server.url))


def test_json_lines_are_the_records(server: WireServer) -> None:
    done = probed(server, "-o", "jsonl")
    assert [decode(line).request_stream for line in done.stdout.splitlines()] == [True, False]


def test_a_query_is_put_to_each_record(server: WireServer) -> None:
    done = probed(server, "--query", '["probe.outcome", "http.response.status_code"]')
    assert [json.loads(line) for line in done.stdout.splitlines()] == [["ok", 200], ["ok", 200]]


def test_tsv_is_a_line_a_call_for_cut_and_awk(server: WireServer) -> None:
    done = probed(server, "-o", "tsv", "--no-stream", "--query", '{a: "probe.outcome", b: "no-such", c: finish}')
    assert done.stdout == "ok\t\t\n"


def test_a_table_has_titles_and_a_row_a_call(server: WireServer) -> None:
    titles, rule, first, second = probed(server, "-o", "table").stdout.splitlines()
    assert titles.split()[:4] == ["target", "stream", "status", "outcome"] and set(rule) == {"-", " "}
    assert first.split()[1:4] == ["true", "200", "ok"] and second.split()[1:4] == ["false", "200", "ok"]


def test_none_leaves_the_exit_code_alone_to_answer(server: WireServer) -> None:
    done = probed(server, "-o", "none")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_a_server_sends_cannot_act_on_a_terminal_in_any_form() -> None:
    hostile = stream_head("x-ms-region: \x9b31mred") + GOOD.partition(b"\r\n\r\n")[2]
    with serving(sends(hostile)) as server:
        for form in ("json", "table", "tsv"):
            done = probed(server, "-o", form, "--stream")
            assert "red" in done.stdout and "\x9b" not in done.stdout, form


@pytest.mark.parametrize(
    ("assertion", "code", "says"),
    [
        ("status == 200 and ttft < 9", 0, ""),
        ('h["x-ms-region"] == "West"', 7, 'h["x-ms-region"] was not observed'),
        ("status == 429", 7, "status was 200"),
    ],
)
def test_an_assertion_decides_the_exit_code(server: WireServer, assertion: str, code: int, says: str) -> None:
    done = probed(server, "-o", "none", "--assert", assertion)
    assert done.returncode == code and says in done.stderr
    assert done.stderr.count("assertion failed") == (2 if code else 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--query", "a[["], "--query 'a[[': not JMESPath"),
        (["--assert", "open('x')"], "Call is not of the language"),
        (["-H", "novalue"], "'novalue' is no header"),
        (["-H", "api-key: x"], "is Headroom's own to send"),
        (["--deployment", ""], "deployment '' is no name"),
        (["--offline", "--watch", "1s"], "one at a time: --watch or --offline"),
        (["--watch", "often"], "give it as 2s, 500ms or 1m"),
    ],
)
def test_what_is_wrong_in_an_option_is_said_before_anything_is_sent(arguments: list[str], says: str) -> None:
    with serving(sends(GOOD)) as fresh:
        done = probed(fresh, *arguments)
        assert fresh.requests == []
    assert done.returncode == 2 and done.stdout == "" and says in done.stderr and "Traceback" not in done.stderr


def test_a_query_that_does_not_fit_the_records_ends_in_one_line(server: WireServer) -> None:
    done = probed(server, "--query", 'length("http.response.status_code")')
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--query: " in done.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("probe ", "east west open correlate doctor access"),
        ("probe d", "doctor"),
        ("probe --stream ", "east west"),
        ("probe east --vs w", "west"),
        ("probe access --via ", "east west"),
        ("probe --offl", "--offline"),
        ("probe doctor --ti", "--timeout"),
    ],
)
def test_bash_completes_commands_options_and_targets(words: str, offered: str, tmp_path: Path) -> None:
    tables = (f'[{name}]\nendpoint = "http://127.0.0.1:1"\ndeployment = "d"\n' for name in ("east", "west"))
    (tmp_path / "targets.toml").write_text("".join(tables).replace("deployment", 'api_key_env = "KEY"\ndeployment'))
    typed = words.split() + ([""] if words.endswith(" ") else [])
    script = f"""
        eval "$(_PROBE_COMPLETE=bash_source probe)"
        COMP_WORDS=({shlex.join(typed)}) COMP_CWORD={len(typed) - 1}
        _probe_completion probe
        echo "${{COMPREPLY[@]}}"
    """
    settings = {"KEY": "made-up", "PATH": f"{BIN}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], env=environment(settings), cwd=tmp_path, capture_output=True)
    assert done.stdout.decode().split() == offered.split(), done.stderr


ODD = """it's "quoted" $HOME `id` \\ and
two lines é"""


def odd_target(endpoint: str) -> Target:
    return Target(
        name="odd",
        endpoint=endpoint,
        deployment="a b'c",
        api_version="2024-10-21",
        api_key="made-up-key-of-some-length",
        extra_headers={"x-team": "it's $HOME", "x-auth-token": "made-up-token-value"},
    )


def test_the_curl_command_sends_the_same_bytes_from_a_shell(server: WireServer, tmp_path: Path) -> None:
    target, prompt = odd_target(server.url), Asked(prompt=ODD).what()
    command = curl(target, prompt, stream=True)
    assert "made-up" not in command
    settings = {"AZURE_OPENAI_API_KEY": "made-up-key-of-some-length", "X_AUTH_TOKEN": "made-up-token-value"}
    done = subprocess.run(["sh", "-c", command], env=environment(settings), capture_output=True, check=True)
    assert b"data:" in done.stdout
    sent = server.requests[-1]
    told = request_text(target, prompt, stream=True)
    assert sent.partition(b"\r\n\r\n")[2].decode() == told.rpartition("\n")[2]
    assert b"x-team: it's $HOME\r\n" in sent and b"x-auth-token: made-up-token-value\r\n" in sent
    assert b"api-key: made-up-key-of-some-length\r\n" in sent


def test_offline_prints_the_request_that_would_go_out_without_its_secrets(server: WireServer) -> None:
    before = len(server.requests)
    done = probed(server, "--offline", "--stream", "-H", "x-team: a", "--max-tokens", "5", "--prompt", "hi")
    assert len(server.requests) == before and done.returncode == 0
    probed(server, "--stream", "-H", "x-team: a", "--max-tokens", "5", "--prompt", "hi")
    sent = server.requests[-1].decode().replace("\r\n", "\n")
    assert sent.replace("made-up-key", "[secret]") == done.stdout.removesuffix("\n")


def test_without_a_key_curl_takes_an_entra_token_from_the_environment() -> None:
    target = Target(name="a", endpoint="https://a.openai.azure.com", deployment="d", api_version="v1")
    words = shlex.split(curl(target, Asked().what(), stream=False))
    assert "Authorization: Bearer $AZURE_OPENAI_AD_TOKEN" in words and "https://a.openai.azure.com" in words[2]


def test_a_target_that_is_named_like_a_command_is_reached_by_the_longer_form(tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text('[look]\nendpoint = "http://127.0.0.1:1"\ndeployment = "d"\n')
    done = run("probe", "look", "look", "--offline", "--stream", folder=tmp_path)
    assert "Host: 127.0.0.1:1" in done.stdout, done.stderr
