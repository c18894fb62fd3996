"""`probe correlate`: one call as the client and the logs tell it, from a folder and from a workspace."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.client import Client
from probe.prompts import numbered
from probe.record import ObservedCall, encode
from probe.story import Told, differences, queries
from probe.workspace import is_id, literal
from tests.commands import BIN, environment, run
from tests.simulators import AT_ONCE, Simulated, simulating

CONFIG = (
    """
[resources.one]
region = "East US"
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
[gateways.apim]
backends = [{ resource = "one" }]
log_headers = ["apim-request-id"]
[logs]
log_analytics = true
"""
    + AT_ONCE
)
GONE = "00000000-0000-4000-8000-00000000dead"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("correlate"), CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def call(simulated: Simulated) -> ObservedCall:
    """One through the gateway, and logged."""
    client = Client()
    made = client.observe(simulated.target("apim"), numbered(1, 32, 16), stream=True)
    client.close()
    simulated.line_of(str(made.service_request_id))
    return made


def recorded(call: ObservedCall, folder: Path) -> str:
    file = folder / "call.json"
    file.write_bytes(encode(call) + b"\n")
    return str(file)


def workspace(simulated: Simulated) -> tuple[list[str], dict[str, str]]:
    """The options, and the environment that signs in and trusts."""
    about, identity = simulated.ready["log_analytics"], dict(simulated.ready["identity"])
    identity.pop("object_id")
    options = ["--workspace", about["workspace_id"], "--workspace-endpoint", about["endpoint"]]
    return options, {**identity, "HEADROOM_CA_BUNDLE": simulated.ready["ca"]}


def told(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return {one["by"]: one for one in json.loads(done.stdout)["told"]}


def test_a_folder_and_a_workspace_tell_the_same_story(simulated: Simulated, call: ObservedCall, tmp_path: Path) -> None:
    file = recorded(call, tmp_path)
    options, settings = workspace(simulated)
    by_folder = told(run("probe", "correlate", file, "--logs", str(simulated.logs), "-o", "json"))
    by_workspace = told(run("probe", "correlate", file, *options, "-o", "json", settings=settings))
    # The workspace's client gives times in microseconds.
    began = [told_by["gateway"].pop("began_ns") // 1000 for told_by in (by_folder, by_workspace)]
    assert began[0] == began[1] and by_folder == by_workspace
    client, gateway, service = (by_folder[by] for by in ("client", "gateway", "service"))
    assert (client["status"], gateway["status"], service["status"]) == (200, 200, 200)
    assert client["input_tokens"] == service["input_tokens"] == gateway["input_tokens"]
    assert client["milliseconds"] >= gateway["milliseconds"] - 1
    assert "streaming" in service["said"] and "chat" in service["said"]


def test_it_is_told_to_a_person_in_columns(simulated: Simulated, call: ObservedCall, tmp_path: Path) -> None:
    done = run("probe", "correlate", recorded(call, tmp_path), "--logs", str(simulated.logs))
    assert done.returncode == 0 and str(call.service_request_id) in done.stdout
    for shown in ("client", "gateway", "service", "between client and gateway:", "input tokens: all say"):
        assert shown in done.stdout
    bare = run("probe", "correlate", str(call.service_request_id), "--logs", str(simulated.logs))
    assert bare.returncode == 0 and not re.search(r"^client", bare.stdout, re.MULTILINE)


def test_what_is_not_logged_is_said_to_be_missing(simulated: Simulated) -> None:
    options, settings = workspace(simulated)
    for where, environ in ((["--logs", str(simulated.logs)], {}), (options, settings)):
        done = run("probe", "correlate", GONE, *where, settings=environ)
        assert (done.returncode, done.stdout) == (7, "")
        assert f"no record of {GONE}" in done.stderr and "--wait" in done.stderr


def test_a_workspace_that_gets_its_records_late_is_waited_for(tmp_path: Path) -> None:
    with simulating(tmp_path, CONFIG.replace("[logs]", "[logs]\ndelay = [2.0, 2.0]")) as late:
        client = Client()
        call = client.observe(late.target("one"), numbered(1, 32, 16), stream=False)
        client.close()
        options, settings = workspace(late)
        done = run("probe", "correlate", recorded(call, tmp_path), *options, "--wait", "90", settings=settings)
    assert done.returncode == 0 and "service" in done.stdout, done.stderr


def waiting_in(folder: Path, which: str) -> subprocess.Popen[str]:
    """The command, once it has looked and waits."""
    process = subprocess.Popen(
        [str(BIN / "probe"), "correlate", which, "--logs", str(folder), "--wait", "600"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "not logged yet" in process.stderr.readline()
    return process


def test_a_record_that_comes_into_the_folder_later_ends_the_waiting(
    simulated: Simulated, call: ObservedCall, tmp_path: Path
) -> None:
    process = waiting_in(tmp_path, str(call.service_request_id))
    shutil.copytree(simulated.logs, tmp_path / "logs")
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "service" in shown


def test_ctrl_c_ends_the_waiting(tmp_path: Path) -> None:
    process = waiting_in(tmp_path, GONE)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in said) == (130, False)


def test_the_queries_are_printed_for_those_who_paste(simulated: Simulated, call: ObservedCall, tmp_path: Path) -> None:
    done = run("probe", "correlate", recorded(call, tmp_path), "--kql")
    assert done.returncode == 0
    service, gateway, counted = done.stdout.strip().split("\n\n")
    assert service.startswith("AzureDiagnostics\n| where TimeGenerated between (datetime(20")
    assert f'| where CorrelationId == "{call.service_request_id}"' in service
    assert gateway.startswith("ApiManagementGatewayLogs\n") and gateway.count(str(call.service_request_id)) == 3
    # What the gateway's log of models counted, of the calls that the query before it finds.
    assert counted.startswith("ApiManagementGatewayLlmLog\n| where CorrelationId in ((")
    assert gateway in counted.replace("\n    ", "\n") and counted.endswith("| project CorrelationId))")


@given(st.text(max_size=60))
def test_no_text_gets_out_of_its_literal(text: str) -> None:
    if is_id(text):
        assert re.fullmatch(r'"[A-Za-z0-9_.-]+"', literal(text))
    else:
        with pytest.raises(ValueError, match="no correlation id"):
            queries(text, None)


@pytest.mark.parametrize(
    "hostile",
    [
        'x" | take 1 //........',
        "x'; .drop table T",
        "a" * 200,
        'aaaaaaaa" or true //',
        "aaaaaaaa\n| union T",
        "aaaaaaaa\\",
    ],
)
def test_an_id_that_is_none_asks_nothing(
    hostile: str, simulated: Simulated, call: ObservedCall, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no correlation id"):
        literal(hostile)
    stated = json.loads(encode(call)) | {"azure.service.request.id": hostile}
    (tmp_path / "call.json").write_text(json.dumps(stated))
    for which in (hostile, str(tmp_path / "call.json")):
        done = (
            run("probe", "correlate", which, "--kql")
            if which != hostile or hostile == 'x" | take 1 //........'
            else None
        )
        assert done is None or (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_what_they_disagree_in_is_said() -> None:
    one = Told("client", 1_000_000_000, 900.0, 503, 30, 10)
    two = Told("gateway", 990_000_000, 880.0, 503, backend_ms=700.0, backend_status=200)
    three = Told("service", 1_010_000_000, 650.0, 200, 30, 12)
    assert list(differences([one, two, three])) == [
        "between client and gateway: 20 ms (900 - 880)",
        "in the gateway itself: 180 ms (880 - 700)",
        "between gateway and service: 50 ms (700 - 650)",
        "by its own clock the service begins 10 ms after the client",
        "status differ: client 503, gateway 503, service 200",
        "input tokens: all say 30",
        "output tokens differ: client 10, service 12",
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "one of them"),
        (["--last", GONE], "one of them"),
        (["nonsense!"], "no such file, and no apim-request-id"),
        ([GONE], "--logs FOLDER, or --workspace ID"),
        ([GONE, "--logs", "/nonexistent"], "no such log file or folder"),
        (["--last"], "no run in"),
        ([GONE, "--workspace", GONE, "--insecure-skip-verify"], "with verification only"),
    ],
)
def test_a_wrong_setting_ends_in_one_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = run("probe", "correlate", *arguments, settings={"HEADROOM_RESULTS": str(tmp_path)})
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert says in done.stderr


def test_a_workspace_is_trusted_and_signed_in_to_as_the_settings_say(simulated: Simulated) -> None:
    options, settings = workspace(simulated)
    bundle = settings.pop("HEADROOM_CA_BUNDLE")
    trusted = run("probe", "correlate", GONE, *options, "--ca-bundle", bundle, settings=settings)
    assert trusted.returncode == 7, trusted.stderr
    elsewhere = {**settings, "HEADROOM_CA_BUNDLE": bundle, "HEADROOM_CREDENTIAL": "environment"}
    refused = run("probe", "correlate", GONE, *options, settings=elsewhere)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "EnvironmentCredential" in refused.stderr


def test_a_workspace_that_refuses_says_so_in_one_line(simulated: Simulated) -> None:
    options, settings = workspace(simulated)
    done = run("probe", "correlate", GONE, *options[2:], "--workspace", GONE, settings=settings)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "the workspace was not to be asked" in done.stderr
