"""`--logs`: where the logs of a run are found, over the network too."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from probe.client import Client
from probe.prompts import numbered
from probe.record import encode
from probe.workspace import Answer, whole
from tests.commands import run
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


def gateway(simulated: Simulated, folder: Path, *logs: str) -> tuple[int, str, str]:
    identity = {name: value for name, value in simulated.ready["identity"].items() if name != "object_id"}
    endpoint = simulated.ready["log_analytics"]["endpoint"]
    settings = {"HEADROOM_CA_BUNDLE": simulated.ready["ca"], "HEADROOM_WORKSPACE_ENDPOINT": endpoint, **identity}
    named = [part for one in logs for part in ("--logs", one)]
    done = run("analysis", "gateway", str(folder), *named, settings=settings)
    return done.returncode, done.stdout, done.stderr


def test_a_folder_containers_and_a_workspace_give_the_same_coverage(simulated: Simulated, folder: Path) -> None:
    account, workspace = simulated.ready["storage"]["account"], simulated.ready["log_analytics"]["workspace_id"]
    containers = [f"{account}/insights-logs-{name}" for name in ("requestresponse", "azureopenairequestusage")]
    for logs in ([str(simulated.logs)], containers, [f"workspace:{workspace}"]):
        code, shown, said = gateway(simulated, folder, *logs)
        assert (code, "Traceback" in said) == (0, False), said
        assert "3 calls matched, 0 only here" in " ".join(shown.split()), shown


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
    where = logs.format(container=simulated.ready["storage"]["container"])
    code, shown, said = gateway(simulated, folder, where)
    assert (code, shown, len(said.splitlines())) == (2, "", 1), said
    assert says in said


def test_logs_of_another_time_are_not_fetched(simulated: Simulated, folder: Path, tmp_path: Path) -> None:
    call = json.loads((folder / "calls-one.jsonl").read_text().splitlines()[0])
    call["start_time_unix_nano"] -= 10 * 24 * 3600 * 10**9
    (tmp_path / "run.json").write_text('{"run_id": "one"}')
    (tmp_path / "calls-one.jsonl").write_text(json.dumps(call) + "\n")
    code, _, said = gateway(
        simulated, tmp_path, simulated.ready["storage"]["account"] + "/insights-logs-requestresponse"
    )
    assert (code, len(said.splitlines())) == (2, 1) and "none of its 1 logs is of the run's time" in said


def test_a_cut_reply_is_asked_for_in_halves_and_no_second_twice() -> None:
    first = datetime(2026, 9, 1, tzinfo=UTC)
    asked = []

    def ask(query: str) -> Answer:
        asked.append(query)
        return Answer([{"query": query}], len(asked) in (1, 2))

    rows = [row for answer in whole(ask, "T", first, first + timedelta(seconds=8)) for row in answer]
    spans = [str(row["query"]).partition("where ")[2] for row in rows]
    assert [span[span.index("00:00:0") + 6 : span.index("Z")] for span in spans] == ["00", "02", "04"]
