"""What an application sees through the SDK, held against what the simulator knows that it did."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from analysis.application import read_view
from analysis.cli import analysis
from analysis.findings import analyse
from analysis.report import Section, html
from analysis.summary import as_json
from analysis.told import text
from probe.application import CANCELLED, ApplicationCall, Attempt, decode
from probe.client import Client
from probe.journal import Journal, Run, read_calls
from probe.prompts import numbered
from probe.sdk import SDKClient
from probe.target import Target
from tests.commands import ROOT, run, settings_of
from tests.simulators import AT_ONCE, Simulated, simulating
from tests.test_analysis import call, refused, write_run
from tests.test_client import GOOD
from tests.wire import reply, sends, serving

GPT = 'model = "gpt-4.1-mini-2025-04-14"\n'
CONFIG = f"""
[resources.one]
region = "East US 2"
[resources.one.latency]
prompt_filter = {{ median = 0.0 }}
queue = {{ median = 0.1, spread = 0.0 }}
engine = {{ median = 0.0 }}
between_tokens = {{ median = 0.02, spread = 0.0 }}
[resources.one.deployments.chat]
{GPT}
[resources.one.deployments.limited]
{GPT}requests_per_minute = 60
request_period = 1
[resources.one.deployments.crowded]
{GPT}requests_per_minute = 60
request_period = 1
[resources.one.deployments.denied]
{GPT}
[resources.one.deployments.unavailable]
{GPT}
[resources.one.deployments.truncated]
{GPT}
[resources.two]
region = "East US 2"
{AT_ONCE.replace("one", "two")}
[resources.two.deployments.chat]
{GPT}
[resources.two.deployments.embeddings]
model = "text-embedding-3-small"
[[faults]]
name = "access_denied"
deployment = "denied"
[[faults]]
name = "unavailable"
deployment = "unavailable"
[[faults]]
name = "stream_truncated"
deployment = "truncated"
"""
# Responses answer with no fewer than 16 tokens.
PROMPT = numbered(1, 40, 16)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("application"), CONFIG) as running:
        yield running


@pytest.fixture
def client() -> Iterator[SDKClient]:
    client = SDKClient()
    yield client
    client.close()


def ids(attempts: tuple[Attempt, ...]) -> list[str]:
    return [value for attempt in attempts for name, value in attempt.headers if name == "apim-request-id"]


def test_a_429_that_the_sdk_hides_is_on_record_with_the_wait_that_it_asked_for(
    simulated: Simulated, client: SDKClient
) -> None:
    target = simulated.target("one", "limited")
    client.observe(target, numbered(0, 8, 1), stream=False)
    seen = client.observe(target, PROMPT, stream=True)
    assert seen.succeeded and seen.status_code == 200
    first, second = seen.attempts
    assert (first.status_code, second.status_code) == (429, 200)
    assert seen.hidden == (first,)
    sent = dict(first.headers)
    assert sent["retry-after"] == "1" and first.retry_after == int(sent["retry-after-ms"]) / 1000
    assert first.retry_after <= seen.hidden_waiting < first.retry_after + 0.4
    assert [simulated.line_of(request_id)["outcome"] for request_id in ids(seen.attempts)] == ["throttled", "ok"]
    alone = seen.attempt_time_to_first_token
    assert seen.time_to_first_token is not None and alone is not None
    assert seen.time_to_first_token == pytest.approx(alone + second.start)
    assert seen.time_to_first_token > first.retry_after + 0.1 and 0.1 <= alone < 0.5


def test_a_streams_first_token_is_its_first_text_and_not_its_headers_or_its_end(
    simulated: Simulated, client: SDKClient
) -> None:
    seen = client.observe(simulated.target("one", "chat"), PROMPT, stream=True)
    (request_id,) = ids(seen.attempts)
    did = simulated.line_of(request_id)
    first = seen.time_to_first_token
    assert first is not None and seen.duration is not None
    assert 0 <= first - (did["first_content_at"] - did["arrived"]) / 1e9 < 0.3
    # 16 tokens, 20 ms apart.
    assert seen.duration - first > 0.25
    (attempt,) = seen.attempts
    assert attempt.start + attempt.duration == pytest.approx(seen.duration, abs=0.05) and seen.hidden_waiting == 0


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("version", ["2025-04-01-preview", "v1"])
@pytest.mark.parametrize("surface", ["chat", "responses", "embeddings"])
def test_the_sdk_gets_the_same_answer_as_the_measuring_client(
    surface: Any, version: str, stream: bool, simulated: Simulated, client: SDKClient
) -> None:
    found = simulated.target("two", "embeddings" if surface == "embeddings" else "chat")
    target = msgspec.structs.replace(found, surface=surface, api_version=version)
    measured = Client().observe(target, PROMPT, stream=stream)
    seen = client.observe(target, PROMPT, stream=stream)
    assert measured.outcome in ("ok", "ok_length") and seen.succeeded
    same = ("operation", "surface", "request_stream", "request_max_tokens", "prompt_id", "finish_reasons")
    for name in (*same, "status_code", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"):
        assert getattr(seen, name) == getattr(measured, name), name
    assert (seen.time_to_first_token is None) == (measured.time_to_first_token is None)


def test_a_call_that_fails_shows_the_exception_that_the_application_got(simulated: Simulated) -> None:
    client = SDKClient(max_retries=1)
    denied = client.observe(simulated.target("one", "denied"), PROMPT, stream=True)
    assert (denied.error_type, denied.status_code, len(denied.attempts)) == ("PermissionDeniedError", 403, 1)
    target = msgspec.structs.replace(simulated.target("one", "unavailable"), name="unavailable")
    failed = client.observe(target, PROMPT, stream=False)
    assert (failed.error_type, failed.status_code) == ("InternalServerError", 503)
    # It was told of the last one.
    assert len(failed.attempts) == 2 and failed.hidden == failed.attempts[:1]
    client.close()


def test_a_refused_connection_is_an_attempt_without_a_status(client: SDKClient) -> None:
    with serving(sends(reply(b"{}"))) as server:
        closed = server.url
    target = Target(name="closed", endpoint=closed, deployment="chat", api_version="v1", api_key="made-up")
    seen = SDKClient(max_retries=0).observe(target, PROMPT, stream=False)
    (attempt,) = seen.attempts
    assert (seen.error_type, seen.status_code) == ("APIConnectionError", None)
    assert (attempt.status_code, attempt.error_type, attempt.headers) == (None, "ConnectError", ())


def test_a_stream_that_broke_off_is_a_success_without_a_finish_reason_as_the_sdk_has_it(
    simulated: Simulated, client: SDKClient
) -> None:
    seen = client.observe(simulated.target("one", "truncated"), PROMPT, stream=True)
    assert seen.succeeded and seen.finish_reasons == ()


def test_extra_fields_and_headers_go_along_and_a_null_takes_one_of_ours_away() -> None:
    client = SDKClient()
    with serving(sends(GOOD)) as server:
        target = Target(
            name="wire",
            endpoint=f"{server.url}/path",
            deployment="chat",
            api_version="2024-10-21",
            api_key="made-up",
            key_header="Ocp-Apim-Subscription-Key",
            extra_body={"max_tokens": None, "temperature": 0, "made_up": [1]},
            extra_headers={"x-made-up": "yes"},
        )
        seen = client.observe(target, PROMPT, stream=True)
        (request,) = server.requests
    client.close()
    head, _, content = request.partition(b"\r\n\r\n")
    assert seen.succeeded and head.startswith(b"POST /path/openai/deployments/chat/chat/completions?api-version=2024")
    assert b"x-made-up: yes" in head and b"ocp-apim-subscription-key: made-up" in head.lower()
    body = json.loads(content)
    assert "max_tokens" not in body
    assert (body["temperature"], body["made_up"], body["stream_options"]) == (0, [1], {"include_usage": True})


@pytest.fixture(scope="module")
def side_by_side(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both kinds of user on a deployment that admits one call a second, ended by Locust in their middle."""
    results = tmp_path_factory.mktemp("results")
    target = simulated.target("one", "crowded")
    settings = settings_of(
        target.endpoint,
        AZURE_OPENAI_API_KEY=target.api_key or "",
        AZURE_OPENAI_DEPLOYMENT="crowded",
        HEADROOM_RESULTS=str(results),
        HEADROOM_PAUSE="0.3",
        # None gives up before the end.
        HEADROOM_SDK_RETRIES="20",
    )
    limits = ("--run-time", "2s", "--stop-timeout", "0", "--users", "4")
    done = run("locust", "-f", "locustfiles/sdk_retries.py", "--headless", *limits, settings=settings)
    assert done.returncode == 0, done.stderr
    assert re.search(r"(?m)^application +\S+ (stream|whole) ", done.stdout + done.stderr)
    (folder,) = [path.parent for path in results.glob("*/run.json")]
    return folder


def application_calls(folder: Path) -> list[ApplicationCall]:
    return [decode(line) for path in folder.glob("application-*.jsonl") for line in path.read_bytes().splitlines()]


def test_a_call_that_locust_kills_in_the_middle_is_on_record(side_by_side: Path) -> None:
    killed = [seen for seen in application_calls(side_by_side) if not seen.succeeded]
    # Both users were in the middle of a call: they do nothing else.
    assert [seen.error_type for seen in killed] == [CANCELLED] * 2
    assert all(seen.attempts for seen in killed)


def test_each_request_that_the_service_got_is_in_one_of_the_two_files_and_never_in_both(
    side_by_side: Path, simulated: Simulated
) -> None:
    calls = application_calls(side_by_side)
    measured = {one.service_request_id for one in read_calls(side_by_side).calls} - {None}
    through_the_sdk = {request_id for seen in calls for request_id in ids(seen.attempts)}
    replied = {line["request_id"] for line in simulated.ledger() if line["deployment"] == "crowded"}
    assert measured and through_the_sdk and not measured & through_the_sdk
    # Of a call that was killed before its headers the service's name is not known.
    unnamed = replied - measured - through_the_sdk
    assert len(unnamed) <= 4
    # One sequence numbers both kinds.
    numbers = [seen.seq or 0 for seen in calls] + [call.seq or 0 for call in read_calls(side_by_side).calls]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    described = json.loads((side_by_side / "run.json").read_text())
    assert described["ended"]["applications"] == len(calls) and described["scenario"] == "sdk_retries"
    assert "openai" in described["versions"]


def test_the_report_of_such_a_run_says_what_was_hidden(side_by_side: Path) -> None:
    found = analyse(side_by_side, [])
    hidden = sum(len(seen.hidden) for seen in application_calls(side_by_side))
    assert hidden and f"the SDK hid {hidden} failed ones (429: {hidden})" in text(found, "report.html")
    load = [one for one in read_calls(side_by_side).calls if one.traffic != "preflight"]
    assert found.counts["calls"] == len(load)


def seen(**changes: Any) -> ApplicationCall:
    """A stream that succeeded at once: one attempt of a second, its first token after 0.2 s."""
    usual = {
        "target": "eastus",
        "gateway": "direct",
        "server_address": "eastus.openai.azure.com",
        "server_port": 443,
        "start_time_unix_nano": 1_763_913_600_000_000_000,
        "operation": "chat",
        "request_model": "gpt-4o",
        "request_stream": True,
        "duration": 1.0,
        "time_to_first_token": 0.2,
        "status_code": 200,
        "attempts": (Attempt(start=0.0, duration=1.0, status_code=200),),
        "finish_reasons": ("stop",),
    }
    return ApplicationCall(**{**usual, **changes})


THROTTLED = Attempt(start=0.0, duration=0.5, status_code=429, retry_after=2.0)
RETRIED = seen(
    duration=4.0,
    time_to_first_token=3.0,
    attempts=(THROTTLED, Attempt(start=2.5, duration=1.5, status_code=200)),
)
GIVEN_UP = seen(
    error_type="RateLimitError",
    status_code=429,
    time_to_first_token=None,
    finish_reasons=(),
    duration=3.0,
    attempts=(THROTTLED, Attempt(start=2.5, duration=0.5, status_code=429, retry_after=9.0)),
)
# Killed while it waited for its second attempt.
STOPPED = seen(error_type=CANCELLED, status_code=429, time_to_first_token=None, duration=1.5, attempts=(THROTTLED,))


def with_view(folder: Path, *calls: ApplicationCall) -> Path:
    run_folder = write_run(folder, [call(0), refused(1)])
    journal = Journal(Run(id="1", folder=str(run_folder), wall_ns=0))
    for one in calls:
        journal.append(one)
    journal.close()
    return run_folder


def test_the_reports_figures_of_the_application_are_those_of_its_calls(tmp_path: Path) -> None:
    folder = with_view(tmp_path, seen(), RETRIED, GIVEN_UP, STOPPED, seen(finish_reasons=()))
    found = as_json(analyse(folder, []), "report.html")["application"]
    counted = ("calls", "succeeded", "failed", "cancelled", "dropped", "retried", "unfinished", "attempts", "hidden")
    assert [found[name] for name in counted] == [5, 3, 1, 1, 0, 2, 1, 7, 3]
    # Two seconds, two, and the one until it was killed.
    assert found["waiting"] == pytest.approx(5.0)
    (row,) = found["targets"]
    assert (row["ttft_p50"], row["attempt_ttft_p50"]) == (0.2, 0.2)
    # Of 0.2, 0.2 and 3.0 (0.5 alone), 95 % of the way lies 0.9 of the last step.
    assert row["ttft_p95"] == pytest.approx(2.72) and row["attempt_ttft_p95"] == pytest.approx(0.47)
    (reason,) = found["hidden_by_reason"]
    assert (reason["reason"], reason["hidden"], reason["retry_after_max"]) == ("429", 3, 2.0)


def test_what_refused_calls_tells_of_the_tries_that_the_sdk_kept_to_itself(tmp_path: Path) -> None:
    folder = with_view(tmp_path, seen(), RETRIED, GIVEN_UP)
    done = CliRunner().invoke(analysis, ["throttling", str(folder), "-o", "json"])
    found = json.loads(done.stdout)
    (hidden,) = found["hidden_refusals"]
    # Beside the one refusal of the measured calls, which is counted as ever.
    assert (hidden["behind"], hidden["where"], hidden["refused"]) == ("SDK", "eastus", 2)
    assert (found["refused"], found["hidden"], found["calls"]) == (1, 2, 2)


def test_no_other_figure_of_the_report_knows_of_the_applications_calls(tmp_path: Path) -> None:
    folder = with_view(tmp_path, seen(), RETRIED)
    with_it = analyse(folder, [])
    assert "The application&#39;s view" in html([Section(with_it, [])])
    assert re.search(r"(?m)^application +calls +ok +attempts +hidden", text(with_it, "report.html"))
    for path in folder.glob("application-*"):
        path.unlink()
    without = analyse(folder, [])
    assert "application" not in text(without, "report.html") and "application&#39;s" not in html([Section(without, [])])
    figures, others = as_json(with_it, "report.html"), as_json(without, "report.html")
    assert others["application"] is None
    differing = {name for name in figures if figures[name] != others[name]}
    assert differing == {"application", "caveats"}


def test_a_line_that_is_no_record_is_skipped_and_counted(tmp_path: Path) -> None:
    folder = with_view(tmp_path, seen())
    (path,) = folder.glob("application-*.jsonl")
    path.write_bytes(path.read_bytes() + b'{"probe.target": "half a li')
    view = read_view(folder)
    assert view is not None and (len(view.calls), view.skipped) == (1, 1)


times = st.floats(0, 1000, allow_nan=False)
spans = st.lists(st.tuples(times, times, st.sampled_from([200, 429, 503, None])), max_size=4)


@given(spans, st.sampled_from([None, CANCELLED, "RateLimitError"]), times)
def test_waiting_attempts_and_what_surrounds_them_are_the_whole_call(
    parts: list[tuple[float, float, int | None]], error: str | None, after: float
) -> None:
    attempts: list[Attempt] = []
    now = gaps = 0.0
    for before, lasted, status in parts:
        gaps += before if attempts else 0.0
        now += before
        error_type = None if status else "ReadError"
        attempts.append(Attempt(start=now, duration=lasted, status_code=status, error_type=error_type))
        now += lasted
    one = seen(attempts=tuple(attempts), error_type=error, duration=now + after)
    cut_short = error == CANCELLED and attempts and attempts[-1].failed
    assert one.hidden_waiting == pytest.approx(gaps + (after if cut_short else 0.0), abs=1e-6)
    assert Counter(one.hidden) <= Counter(attempts) and all(attempt.failed for attempt in one.hidden)
    assert decode(msgspec.json.encode(one)) == one


def test_every_key_of_its_record_is_described() -> None:
    described = re.findall(r"(?m)^\| `([\w.]+)` \|", (ROOT / "docs" / "application.md").read_text(encoding="utf-8"))
    assert described == [
        field.encode_name for kind in (ApplicationCall, Attempt) for field in msgspec.structs.fields(kind)
    ]
