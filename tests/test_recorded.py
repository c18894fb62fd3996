"""What was recorded, sent again: from a run's folder, from diagnostic logs, from a published trace."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locustfiles._arrivals import Share, replay
from locustfiles._recorded import read_recorded
from probe.journal import Journal, start_run
from probe.prompts import Prompt
from probe.record import ObservedCall
from probe.target import SettingsError
from probe.traces import Row
from tests.commands import run
from tests.runs import ended, load_of, only_run, results_in
from tests.simulators import AT_ONCE, Simulated, simulating

CONFIG = f"""
[resources.one]
region = "East US 2"
{AT_ONCE}
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
tokens_per_minute = 100000000
requests_per_minute = 1000000
"""
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{46 + at:.6f},{20 + number * 3},{5 + number}\n"
    for number, at in enumerate([0.0, 0.1, 0.1, 0.7, 1.3, 1.3, 1.9, 2.0, 2.6, 3.1, 3.9, 4.0])
)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("recorded"), CONFIG) as running:
        yield running


def sent_again(folder: Path, simulated: Simulated, trace: Path, *options: str) -> Path:
    """The run's folder."""
    target = simulated.target("one")
    changes = {"AZURE_OPENAI_API_KEY": target.api_key or "", "HEADROOM_TRACE": str(trace)}
    known = results_in(folder, target.endpoint, **changes)
    done = run("locust", "-f", "locustfiles/replay.py", "--headless", *options, settings=known)
    assert done.returncode == 0, done.stderr
    assert ended(folder)["how"] == "completed"
    return only_run(folder)


def arrivals(results: Path) -> list[tuple[float | None, str | None, int | None, bool]]:
    calls = load_of(results)
    return sorted((call.scheduled, call.prompt_id, call.request_max_tokens, call.request_stream) for call in calls)


def test_a_replay_of_a_replays_journal_has_the_same_arrivals_and_so_have_its_logs(
    tmp_path: Path, simulated: Simulated
) -> None:
    (tmp_path / "trace.csv").write_text(TRACE)
    before = len(simulated.logged("RequestResponse"))
    first = sent_again(tmp_path / "first", simulated, tmp_path / "trace.csv", "--trace-speed", "4")
    logged = sorted(simulated.logged("RequestResponse")[before + 1 :], key=lambda one: str(one["time"]))
    (tmp_path / "logs.json").write_text(
        "".join(
            json.dumps(one) + "\n"
            for kind in ("RequestResponse", "AzureOpenAIRequestUsage")
            for one in simulated.logged(kind)
        )
    )
    sent_again(tmp_path / "second", simulated, first, "--processes", "2", "--stream-share", "0")
    made = arrivals(tmp_path / "first")
    assert len(made) == 12 and made == arrivals(tmp_path / "second")
    assert made[-1][0] == pytest.approx(1.0) and {stream for *_, stream in made} == {True, False}
    # The logs have them too, with the check of the target before them.
    recorded = read_recorded(tmp_path / "logs.json")
    assert len(logged) == 12 and recorded.left_out == 0
    rows = recorded.rows[1:]
    ours = sorted(load_of(tmp_path / "first"), key=lambda call: call.issued or 0.0)
    assert sorted((row.input_tokens, row.output_tokens, row.stream) for row in rows) == sorted(
        (call.input_tokens, call.output_tokens, call.request_stream) for call in ours
    )
    gaps = [later.at - earlier.at for earlier, later in pairwise(rows)]
    issued = [(later.issued or 0) - (earlier.issued or 0) for earlier, later in pairwise(ours)]
    assert gaps == pytest.approx(issued, abs=0.05)


@settings(max_examples=12)
@given(
    st.lists(st.tuples(st.floats(0, 1000), st.integers(8, 400), st.integers(1, 50), st.booleans()), min_size=1),
    st.floats(1, 100),
)
def test_what_is_read_of_a_journal_is_what_was_due(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[tuple[float, int, int, bool]], speed: float
) -> None:
    rows = [Row(*one) for one in sorted([(0.0, 20, 5, True), *given_rows])]
    written = start_run(tmp_path_factory.mktemp("journal"), "replay", {})
    journal = Journal(written)
    for arrival in replay(rows, speed, 0.5, "1", Share(0, 1)):
        ask = arrival.calls[0].ask
        journal.append(answered(arrival.due, ask.prompt, ask.stream))
    journal.close()
    read = read_recorded(Path(written.folder))
    assert read.left_out == 0
    assert read.rows == [row._replace(at=row.at / speed) for row in rows]


def answered(due: float, prompt: Prompt, stream: bool) -> ObservedCall:
    return ObservedCall(
        target="one",
        gateway="direct",
        server_address="127.0.0.1",
        server_port=1,
        start_time_unix_nano=10**18 + int(due * 1e9),
        scheduled=due,
        issued=due,
        operation="chat",
        request_model="chat",
        request_stream=stream,
        request_max_tokens=prompt.max_tokens,
        prompt_id=prompt.id,
        outcome="ok",
        status_code=200,
        duration=0.1,
    )


def test_without_a_trace_or_with_one_that_has_no_calls_it_ends_in_one_line(tmp_path: Path) -> None:
    known = results_in(tmp_path / "results", "http://127.0.0.1:9")
    command = ("locust", "-f", "locustfiles/replay.py", "--headless", "--loglevel", "WARNING")
    none = run(*command, settings=known)
    assert none.returncode == 2 and none.stderr.count("\n") == 1
    assert (
        "replay.py needs --trace (HEADROOM_TRACE): a run's folder, diagnostic logs or a published trace" in none.stderr
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="there is no call in it to replay"):
        read_recorded(tmp_path / "empty")
    with pytest.raises(SettingsError, match="no such log file or folder"):
        read_recorded(tmp_path / "nowhere")
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens\n")
    with pytest.raises(SettingsError, match="no column GeneratedTokens"):
        read_recorded(tmp_path / "trace.csv")
