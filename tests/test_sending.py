"""`analysis send`: a run's record to a collector, an event hub or a container, whole, whatever is down meanwhile."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.destinations import connect
from analysis.following import Follower
from analysis.sending import Sender, Sent, call_id
from probe.journal import Journal, Run, end_run, read_calls, start_run
from tests.collectors import Collector, attributes_of, collecting
from tests.commands import run
from tests.hubs import hub_on_loopback
from tests.runs import Start
from tests.simulators import awaited
from tests.test_analysis import BEGAN, SECOND, call, refused, write_run

CALLS = [call(n, target="east", headers=(("X-Ms-Region", "East US 2"), ("a", "1"), ("A", "2"))) for n in range(30)]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


def sent_to(collector: Collector, folder: Path) -> Sent:
    return sent({"otlp": collector.url}, folder)


def sent(where: dict[str, str | None], folder: Path, give_up: float = 0.0) -> Sent:
    ended = threading.Event()
    ended.set()
    return Sender(folder, connect(where, folder), ended, give_up).run()


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=8), st.data())
def test_lines_are_read_once_and_whole_however_a_file_grows(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("run")
    path, follower, found = folder / "calls-a.jsonl", Follower(folder, ["calls-*.jsonl"]), b""
    whole = b"".join(lines)
    ends = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    for end in ends:
        path.write_bytes(whole[:end])
        for chunk in follower.read():
            assert chunk.offset == len(found) and chunk.data.endswith(b"\n")
            found += chunk.data
        assert found == whole[: whole.rfind(b"\n", 0, end) + 1]
    path.write_bytes(whole + b"torn")
    assert found + b"".join(chunk.data for chunk in follower.read(at_end=True)) == whole + b"torn"
    assert follower.lines() == len(lines) + 1


def test_a_chunk_that_was_not_taken_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "calls-a.jsonl").write_bytes(b"one\n" * 200_000)
    follower = Follower(tmp_path, ["calls-*.jsonl"])
    given_up = follower.read()
    first, second = next(given_up), next(given_up)
    given_up.close()
    assert second.offset == len(first.data) and next(follower.read()) == second


def test_a_collector_gets_a_span_a_call_with_the_conventions_names(tmp_path: Path, collector: Collector) -> None:
    folder = write_run(tmp_path, [*CALLS, refused(30.0, ("retry-after-ms", "1500"))])
    done = sent_to(collector, folder)
    assert done.is_whole and done.taken.sent == len(collector.spans) == done.lines == 31
    assert collector.resources[0]["service.name"] == "headroom"
    recorded = {call_id(one): one for one in read_calls(folder).calls}
    spans = {attributes_of(span)["probe.call.id"]: span for span in collector.spans}
    assert spans.keys() == recorded.keys()
    (throttled,) = [span for span in collector.spans if span.status.code == 2]
    good = next(span for span in collector.spans if span.status.code == 0)
    assert (good.name, good.kind, good.end_time_unix_nano - good.start_time_unix_nano) == ("chat gpt-4o", 3, SECOND)
    said = attributes_of(good)
    assert said["gen_ai.provider.name"] == "azure.ai.openai" and said["gen_ai.usage.input_tokens"] == 40
    assert said["http.response.header.a"] == ["1", "2"] and said["http.response.header.x-ms-region"] == ["East US 2"]
    assert attributes_of(throttled)["error.type"] == "429" and throttled.status.message == "throttled"
    assert "gen_ai.usage.input_tokens" not in attributes_of(throttled)


def test_its_histograms_count_what_was_observed_at_the_time_it_was(tmp_path: Path, collector: Collector) -> None:
    sent_to(collector, write_run(tmp_path, [*CALLS, refused(30.0)]))
    counted = {
        name: {attributes_of(point).get("error.type"): (point.count, round(point.sum, 6)) for point in points}
        for name, points in collector.points.items()
    }
    assert counted["gen_ai.client.operation.duration"] == {None: (30, 30.0), "429": (1, 0.01)}
    assert counted["gen_ai.server.time_to_first_token"] == {None: (30, 3.0)}
    assert counted["gen_ai.server.time_per_output_token"] == {None: (30, 3.0)}
    usage = {
        attributes_of(point)["gen_ai.token.type"]: point.sum for point in collector.points["gen_ai.client.token.usage"]
    }
    assert usage == {"input": 1200, "output": 300}
    (point, _) = collector.points["gen_ai.client.operation.duration"]
    assert (point.start_time_unix_nano, point.time_unix_nano) == (BEGAN, BEGAN + round(30.01 * SECOND))


def test_a_run_sent_twice_is_the_same_spans(tmp_path: Path, collector: Collector) -> None:
    folder = write_run(tmp_path, CALLS)
    for _ in range(2):
        sent_to(collector, folder)
    assert len(collector.spans) == 60 and len({(span.trace_id, span.span_id) for span in collector.spans}) == 30


def test_what_a_collector_rejects_is_counted_and_is_not_sent(tmp_path: Path, collector: Collector) -> None:
    collector.reject = 4
    done = sent_to(collector, write_run(tmp_path, CALLS))
    assert (done.taken, done.is_whole) == ((26, 4, 0), False)


def sending(folder: Path, *options: str, **settings: str) -> tuple[int, dict[str, Any], str]:
    done = run("analysis", "send", str(folder), *options, "-o", "json", settings=settings)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def test_a_torn_line_is_no_call_and_is_said(tmp_path: Path, collector: Collector) -> None:
    folder = write_run(tmp_path, CALLS)
    with next(folder.glob("calls-*.jsonl")).open("ab") as file:
        file.write(b'{"probe.run.id":"to')
    code, said, _ = sending(folder, "--otlp", collector.url, OTEL_EXPORTER_OTLP_HEADERS="x-team=capacity")
    assert (code, said["sent"], said["skipped"], said["lines"]) == (0, 30, 1, 31)
    assert {one.get("x-team") for one in collector.headers} == {"capacity"}


def test_a_destination_that_is_down_is_said_once_and_given_up_with_a_code_of_its_own(tmp_path: Path) -> None:
    folder = write_run(tmp_path, CALLS)
    code, said, talk = sending(folder, "--otlp", "http://127.0.0.1:9", "--give-up", "1.5")
    assert (code, said["sent"], said["why"]) == (75, 0, "it cannot be reached")
    assert talk.count("\n") == 1 and "takes nothing: it cannot be reached" in talk


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--otlp", "http://x", "--eventhubs", "127.0.0.1/y"),
        ("--otlp", "x:4318"),
        ("--eventhubs", "contoso.example.com/calls"),
        ("--eventhubs", "contoso.servicebus.windows.net"),
    ],
    ids=["none", "two", "no url", "a token for anybody", "no hub"],
)
def test_where_to_is_said_once_and_as_an_address(tmp_path: Path, options: tuple[str, ...]) -> None:
    code, _, talk = sending(write_run(tmp_path, CALLS[:1]), *options)
    assert code == 2 and talk.count("\n") == 1


def test_it_follows_a_run_through_a_collectors_failure_and_loses_no_call(
    tmp_path: Path, collector: Collector, start: Start
) -> None:
    began = start_run(tmp_path, "mixed", {})
    journal = Journal(Run(id=began.id, folder=began.folder, wall_ns=0))
    process = start("analysis", "send", began.folder, "--otlp", collector.url, "--follow", settings={})
    journal.append(CALLS[0])
    awaited(lambda: collector.spans or None)
    collector.refuse.set()
    for one in CALLS[1:]:
        journal.append(one)
    assert collector.refused.acquire(timeout=30)
    collector.refuse.clear()
    journal.close()
    awaited(lambda: True if len(collector.spans) == 30 else None)
    end_run(began, "completed", {})
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 0 and said.count("takes nothing: it answers with HTTP 500") == 1, said
    assert "takes it again" in said
    assert len({span.span_id for span in collector.spans}) == len(collector.spans) == 30


def test_an_event_hub_gets_each_record_in_batches_of_its_size_and_what_no_batch_holds_is_refused(
    tmp_path: Path,
) -> None:
    long = call(50.0, target="east", error_message="x" * 5000)
    folder = write_run(tmp_path, [*CALLS, long])
    with hub_on_loopback(largest_message=4096) as hub:
        done = sent({"eventhubs": f"{hub.namespace}/calls"}, folder)
    assert (done.taken, done.is_whole) == ((30, 1, 0), False)
    assert sum(hub.batches) == 30 and len(hub.batches) > 3
    parts: list[Any] = [event.data for event in hub.events]
    bodies = [json.loads(b"".join(one)) for one in parts]
    assert [body["probe.seq"] for body in bodies] == list(range(1, 31))
    assert all(body["probe.target"] == "east" and "probe.crc32" not in body for body in bodies)
    ids = [event.properties.message_id for event in hub.events if event.properties is not None]
    assert ids == [call_id(one).encode() for one in read_calls(folder).calls[:30]]


def test_events_that_a_hub_did_not_take_are_sent_again(tmp_path: Path) -> None:
    folder = write_run(tmp_path, CALLS)
    with hub_on_loopback() as hub:
        hub.refuse.set()
        done = sent({"eventhubs": f"{hub.namespace}/calls"}, folder, give_up=30)
    assert done.is_whole and not hub.refuse.is_set() and len(hub.events) == 30


def test_a_hub_that_is_down_is_given_up(tmp_path: Path) -> None:
    done = sent({"eventhubs": "127.0.0.1:9/calls"}, write_run(tmp_path, CALLS))
    assert (done.taken.sent, done.is_whole) == (0, False) and done.why
