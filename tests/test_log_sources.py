"""`--logs`: where the logs of a run are found, over the network too."""

import gzip
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from analysis.cli import analysis
from probe.client import Client
from probe.prompts import numbered
from probe.record import encode
from probe.workspace import Answer, whole
from tests.simulators import AT_ONCE, Simulated, simulating

CONFIG = (
    """
[resources.one]
region = "East US"
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
[logs]
log_analytics = true
[storage]
account = "headroomlogs"
"""
    + AT_ONCE
)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("sources"), CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def folder(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three calls, all of them logged."""
    client, made = Client(), tmp_path_factory.mktemp("run")
    calls = [client.observe(simulated.target("one"), numbered(1, 32, 4), stream=False) for _ in range(3)]
    client.close()
    simulated.line_of(str(calls[-1].service_request_id))
    (made / "run.json").write_text('{"run_id": "one"}')
    (made / "calls-one.jsonl").write_bytes(b"".join(encode(call) + b"\n" for call in calls))
    return made


def invoked(simulated: Simulated, *arguments: str) -> tuple[int, str, str]:
    identity = {name: value for name, value in simulated.ready["identity"].items() if name != "object_id"}
    endpoint = simulated.ready["log_analytics"]["endpoint"]
    settings = {"HEADROOM_CA_BUNDLE": simulated.ready["ca"], "HEADROOM_WORKSPACE_ENDPOINT": endpoint, **identity}
    done = CliRunner(env=settings).invoke(analysis, arguments)
    return done.exit_code, done.stdout, done.stderr


def gateway(simulated: Simulated, folder: Path, *logs: str) -> tuple[int, str, str]:
    return invoked(simulated, "gateway", str(folder), *(part for one in logs for part in ("--logs", one)))


def where(simulated: Simulated, logs: str) -> str:
    return logs.format(**simulated.ready["storage"], workspace=simulated.ready["log_analytics"]["workspace_id"])


def kinds(simulated: Simulated) -> list[list[str]]:
    account, workspace = simulated.ready["storage"]["account"], simulated.ready["log_analytics"]["workspace_id"]
    containers = [f"{account}/insights-logs-{name}" for name in ("requestresponse", "azureopenairequestusage")]
    return [[str(simulated.logs)], containers, [f"workspace:{workspace}"]]


def test_a_folder_containers_and_a_workspace_give_the_same_coverage(simulated: Simulated, folder: Path) -> None:
    for logs in kinds(simulated):
        code, shown, said = gateway(simulated, folder, *logs)
        assert (code, "Traceback" in said) == (0, False), said
        assert "3 calls matched, 0 only here" in " ".join(shown.split()), shown


def test_units_are_sized_from_a_folder_containers_and_a_workspace_alike(simulated: Simulated, folder: Path) -> None:
    found = []
    for logs in kinds(simulated):
        code, shown, said = invoked(simulated, "ptu", *logs, "-o", "json")
        assert code == 0, said
        found.append(json.loads(shown))
    assert [one["calls"] for one in found] == [3, 3, 3] and found[0]["average"]["input_tokens"] == 32
    assert found[0]["average"] == found[1]["average"] == found[2]["average"]
    for logs in kinds(simulated)[1:]:
        code, shown, said = invoked(simulated, "ptu", *logs, "--until", "2020-01-02")
        assert (code, shown, len(said.splitlines())) == (2, "", 1)
        assert "of the time 2020-01-01 00:00 to 2020-01-02 00:00 UTC" in said


@pytest.mark.parametrize(
    ("logs", "says"),
    [
        ("/nonexistent", "no such folder or file"),
        ("workspace:!", "a workspace is workspace: and its id"),
        ("workspace:00000000-0000-4000-8000-00000000dead", "the workspace was not to be asked"),
        ("{container}", "there are no logs in it"),
        ("{container}/../nowhere", "the container is not named"),
    ],
)
def test_logs_that_are_not_to_be_had_end_in_one_line(simulated: Simulated, folder: Path, logs: str, says: str) -> None:
    code, shown, said = gateway(simulated, folder, where(simulated, logs))
    assert (code, shown, len(said.splitlines())) == (2, "", 1), said
    assert says in said


@pytest.mark.parametrize(
    ("logs", "says"),
    [
        ("{account}/insights-logs-requestresponse", "none of its 1 logs is of the time"),
        ("workspace:{workspace}", "has no logs of the time"),
    ],
)
def test_logs_of_another_time_are_not_fetched(
    simulated: Simulated, folder: Path, logs: str, says: str, tmp_path: Path
) -> None:
    call = json.loads((folder / "calls-one.jsonl").read_text().splitlines()[0])
    call["start_time_unix_nano"] -= 10 * 24 * 3600 * 10**9
    (tmp_path / "run.json").write_text('{"run_id": "one"}')
    (tmp_path / "calls-one.jsonl").write_text(json.dumps(call) + "\n")
    code, _, said = gateway(simulated, tmp_path, where(simulated, logs))
    assert (code, len(said.splitlines())) == (2, 1) and says in said, said


def test_a_single_file_is_enough(simulated: Simulated, folder: Path, tmp_path: Path) -> None:
    (file,) = simulated.logs.glob("insights-logs-requestresponse/**/PT1H.json")
    packed = tmp_path / "some.json.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    for one in (file, packed):
        code, shown, said = gateway(simulated, folder, str(one))
        assert code == 0 and "3 calls matched" in " ".join(shown.split()), (shown, said)


def test_a_missing_role_is_named_in_one_line(folder: Path, tmp_path: Path) -> None:
    closed = CONFIG.replace("log_analytics = true", 'log_analytics = true\nworkspace_role = "none"').replace(
        'account = "headroomlogs"', 'account = "headroomlogs"\nrole = "none"'
    )
    with simulating(tmp_path, closed) as simulated:
        for logs, role in (
            ("{container}", "Storage Blob Data Reader"),
            ("workspace:{workspace}", "Log Analytics Reader"),
        ):
            code, shown, said = gateway(simulated, folder, where(simulated, logs))
            assert (code, shown, len(said.splitlines())) == (
                2,
                "",
                1,
            ) and f"the role is missing; reading needs {role}" in said


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("azure.storage.blob", ["gateway", "RUN", "--logs", "https://contoso.blob.core.windows.net/logs"]),
        ("azure.monitor.query", ["regions", "RUN", "--logs", "workspace:00000000-0000-4000-8000-00000000dead"]),
        ("fastavro", ["tokens", "RUN", "--logs", "CAPTURE"]),
        ("azure.storage.blob", ["send", "RUN", "--blobs", "https://contoso.blob.core.windows.net/runs"]),
        ("azure.eventhub", ["send", "RUN", "--eventhubs", "contoso.servicebus.windows.net/calls"]),
        ("opentelemetry.exporter", ["send", "RUN", "--otlp", "http://127.0.0.1:4318"]),
    ],
)
def test_a_missing_extra_is_named_in_one_line(
    package: str, arguments: list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = tmp_path / "capture.avro"
    capture.write_bytes(b"Obj\x01")
    # What Python does where it is not installed.
    monkeypatch.setitem(sys.modules, package, None)
    names = {"RUN": str(folder), "CAPTURE": str(capture)}
    done = CliRunner().invoke(analysis, [names.get(one, one) for one in arguments])
    extra = {"azure.eventhub": "eventhubs", "opentelemetry.exporter": "otel"}.get(package, "logs")
    assert done.exit_code == 2 and len(done.output.splitlines()) == 1, done.output
    assert f"needs the extra `{extra}`: pip install 'aoai-headroom[{extra}]'" in done.output


def test_a_cut_reply_is_asked_for_in_halves_and_no_second_twice() -> None:
    first = datetime(2026, 9, 1, tzinfo=UTC)
    asked = []

    def ask(query: str) -> Answer:
        asked.append(query)
        return Answer([{"query": query}], len(asked) in (1, 2))

    rows = [row for answer in whole(ask, "T", first, first + timedelta(seconds=8)) for row in answer]
    spans = [str(row["query"]).partition("where ")[2] for row in rows]
    assert [span[span.index("00:00:0") + 6 : span.index("Z")] for span in spans] == ["00", "02", "04"]
