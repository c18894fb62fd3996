"""The `probe` command as a user runs it."""

import signal
import subprocess
import threading
from pathlib import Path

import pytest

from probe.record import decode
from tests.commands import BIN, environment, run, settings_of
from tests.runs import REFUSAL, openai_shaped
from tests.test_client import GOOD
from tests.wire import answers, reply, sends, sends_then_waits, serving, stream_head


def test_with_nothing_configured_it_looks_at_the_simulator_and_says_so() -> None:
    done = run("probe")
    assert done.returncode == 0, done.stderr
    assert "no endpoint configured: starting the simulator" in done.stderr
    assert "calling eastus2; also there: swedencentral, apim" in done.stderr
    for shown in ("apim-request-id", "x-ratelimit-remaining-tokens", "x-ms-region", "East US 2", "first token"):
        assert shown in done.stdout
    assert done.stdout.count("eastus2 ·") == 2


def test_a_target_is_chosen_by_its_name() -> None:
    done = run("probe", "apim", "-o", "json")
    records = [decode(line) for line in done.stdout.splitlines()]
    assert [(one.target, one.gateway, one.request_stream) for one in records] == [
        ("apim", "apim", True),
        ("apim", "apim", False),
    ]


def test_json_is_one_record_a_call_on_standard_output_and_nothing_else() -> None:
    with serving(answers(openai_shaped())) as server:
        done = run("probe", "-o", "json", settings=settings_of(server.url))
    assert done.returncode == 0 and done.stderr == ""
    stream, whole = (decode(line) for line in done.stdout.splitlines())
    assert (stream.request_stream, stream.outcome, whole.request_stream, whole.outcome) == (True, "ok", False, "ok")
    assert stream.headers and whole.headers


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (REFUSAL, 6, "throttled (HTTP 429)"),
        (reply(b'{"error":{"code":"401","message":"no"}}', "401 PermissionDenied"), 4, "check the key"),
        (reply(b'{"error":{"code":"DeploymentNotFound"}}', "404 Not Found"), 4, "no deployment 'chat'"),
        (reply(b'{"error":{"code":"404"}}', "404 Resource Not Found"), 4, "check AZURE_OPENAI_ENDPOINT"),
        (reply(b'{"error":{"message":"no max_tokens"}}', "400 Bad Request"), 4, "HEADROOM_MAX_TOKENS_FIELD"),
        (reply(b"{}", "503 Service Unavailable"), 5, "gateway error (HTTP 503)"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 5, "an Azure OpenAI endpoint?"),
        (b"", 3, "is anything listening"),
    ],
)
def test_what_went_wrong_is_shown_with_its_headers_and_how_to_mend_it(answer: bytes, code: int, says: str) -> None:
    with serving(sends(answer)) as server:
        url = server.url if answer else "http://127.0.0.1:1"
        done = run("probe", settings=settings_of(url))
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
    assert ("content-length" in done.stdout) == answer.startswith(b"HTTP")


def test_where_the_v1_path_breaks_a_stranger_the_other_path_is_named() -> None:
    with serving(sends(reply(b"", "500 Internal Server Error"))) as server:
        done = run("probe", settings={**settings_of(server.url), "OPENAI_API_VERSION": ""})
    assert done.returncode == 5 and "set OPENAI_API_VERSION, such as 2024-10-21" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "changes", "says"),
    [
        (["west"], {}, "no target 'west'; there are: 127.0.0.1"),
        ([], {"AZURE_OPENAI_API_KEY": ""}, "AZURE_OPENAI_API_KEY is not set"),
        ([], {"AZURE_OPENAI_ENDPOINT": "eastus"}, "no http(s) URL"),
        ([], {"HEADROOM_TARGETS_FILE": "/nonexistent.toml"}, "/nonexistent.toml: No such file"),
        (["-o", "xml"], {}, "'xml' is not one of"),
        ([], {"HEADROOM_PROBE_MAX_TOKENS": "many"}, "'many' is not a valid integer"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_sent(arguments: list[str], changes: dict[str, str], says: str) -> None:
    with serving(sends(GOOD)) as server:
        done = run("probe", *arguments, settings={**settings_of(server.url), **changes})
        assert server.requests == []
    assert done.returncode == 2 and done.stdout == ""
    assert says in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_shows_what_had_come_by_then() -> None:
    released = threading.Event()
    with serving(sends_then_waits(released, stream_head("x-ms-region: East US"))) as server:
        process = subprocess.Popen(
            [str(BIN / "probe")],
            env=environment(settings_of(server.url)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert server.wait_for_requests(1)
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=20)
        released.set()
    assert process.returncode == 130
    assert "cancelled" in said and "Traceback" not in complained


def test_help_names_the_exit_codes_and_each_option() -> None:
    done = run("probe", "--help")
    assert done.returncode == 0
    for word in ("--output", "--max-tokens", "--timeout", "TARGET", "6 throttled", "130 interrupted"):
        assert word in done.stdout


def test_the_package_runs_as_a_module_too(tmp_path: Path) -> None:
    done = run("python", "-m", "probe", "nowhere", settings=settings_of("http://127.0.0.1:1"), folder=tmp_path)
    assert done.returncode == 2 and "no target 'nowhere'" in done.stderr
