"""`analysis report` on runs written here, with every figure worked out by hand."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.cli import analysis
from analysis.findings import analyse
from analysis.outcomes import over_time
from analysis.runs import read_run
from analysis.summary import as_json
from probe.journal import Journal, Run, end_run, start_run
from probe.prompts import numbered
from probe.record import ObservedCall
from tests.commands import run
from tests.test_record import made

SECOND = 10**9
BEGAN = 1_763_913_600 * SECOND
# Where a figure cuts a long name there must still be something left that matplotlib would trip over.
HOSTILE = "$\\a$</script><img src=x onerror=alert(1)>\x1b[31m"


def call(at: float, **changes: Any) -> ObservedCall:
    """A stream of one second issued `at` seconds into the run, with its first token after 0.1 s."""
    usual = {
        "start_time_unix_nano": BEGAN + round(at * SECOND),
        "issued": at,
        "duration": 1.0,
        "traffic": "short",
        "prompt_id": numbered(7, 40, 1).id,
        "request_max_tokens": 10,
        "time_to_first_token": 0.1,
        "headers": (("x-ms-region", "East US 2"),),
        "service_request_id": f"id-{at}",
        "response_model": "gpt-4o-2024-08-06",
        "input_tokens": 40,
        "output_tokens": 10,
    }
    return made(**{**usual, **changes})


def refused(at: float, *headers: tuple[str, str], **changes: Any) -> ObservedCall:
    failed = {
        "outcome": "throttled",
        "throttle_kind": "tokens",
        "status_code": 429,
        "error_type": "429",
        "headers": headers,
        "duration": 0.01,
        "time_to_first_token": None,
        "input_tokens": None,
        "output_tokens": None,
        "response_model": None,
    }
    return call(at, **{**failed, **changes})


def write_run(folder: Path, calls: Iterable[ObservedCall], *, how: str | None = "completed", **about: Any) -> Path:
    run = start_run(folder, "mixed", {"arrivals": "closed", "targets": [], **about})
    journal = Journal(run)
    for one in calls:
        journal.append(one)
    journal.close()
    if how is not None:
        end_run(run, how, dict(journal.counts))
    return Path(run.folder)


def report(folder: Path, *logs: Path) -> dict[str, Any]:
    """The figures that `-o json` prints, without the seconds that a process of its own and the page's drawings take."""
    return dict(json.loads(json.dumps(as_json(analyse(folder, list(logs)), "report.html"))))


def invoked(*arguments: str, **settings: str) -> Result:
    """The command in this process, where only what it prints and writes matters."""
    return CliRunner().invoke(analysis, ["report", *arguments], env=settings)


def printed(folder: Path, *options: str) -> str:
    done = invoked(str(folder), *options)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def test_counts_and_times_of_a_target_are_those_of_its_calls(tmp_path: Path) -> None:
    calls = [call(n, time_to_first_token=0.1 * (n + 1), duration=1.0 + n) for n in range(5)]
    calls += [refused(5.0, ("retry-after-ms", "1500")), refused(6.0, ("retry-after", "4"))]
    calls += [call(7.0, outcome="stream_reset", error_type="reset"), call(8.0, request_stream=False, duration=2.0)]
    found = report(write_run(tmp_path, calls))
    assert found["counts"] == {
        "calls": 9, "answered": 6, "throttled": 2, "failed": 1, "cancelled": 0, "dropped": 0,
        "preflight": 0, "skipped_lines": 0,
    }  # fmt: skip
    whole, stream = found["targets"]
    assert (whole["stream"], whole["calls"], whole["duration_p50"]) == (False, 1, 2.0)
    assert (stream["calls"], stream["answered"], stream["throttled"], stream["failed"]) == (8, 5, 2, 1)
    # Of 0.1 to 0.5 the median is 0.3, and 95 % of the way lies 0.8 of the last step.
    assert stream["ttft_p50"] == pytest.approx(0.3) and stream["ttft_p95"] == pytest.approx(0.48)
    assert stream["duration_p50"] == 3.0
    (cause,) = found["throttling"]
    assert (cause["cause"], cause["refused"], cause["first"]) == ("tokens", 2, 5.0)
    assert (cause["share"], cause["retry_after_p50"], cause["retry_after_max"]) == (pytest.approx(2 / 9), 2.75, 4.0)
    # The five streams that were answered and the one that broke off, over 10 seconds.
    assert stream["tokens_per_minute"] == 6 * 50 * 6.0 and whole["tokens_per_minute"] == 50 * 6.0
    # 7 calls of 40 tokens and of 10 over the 10 seconds until the last one ended.
    assert found["seconds"] == 10.0
    assert found["tokens_per_minute"] == {"input": 7 * 40 * 6.0, "output": 7 * 10 * 6.0}


def dropped(at: float) -> ObservedCall:
    nothing = dict.fromkeys(("issued", "duration", "time_to_first_token", "status_code", "service_request_id"))
    usage = dict.fromkeys(("input_tokens", "output_tokens", "response_model"))
    said = {"outcome": "dropped_not_sent", "error_type": "dropped_not_sent", "headers": ()}
    return call(at, **{**nothing, **usage, **said, "scheduled": at})


def test_from_when_they_were_due_calls_took_what_they_waited_too(tmp_path: Path) -> None:
    calls = [call(n + 0.5 * n, scheduled=float(n)) for n in range(5)] + [refused(9.0, scheduled=1.0)]
    found = report(write_run(tmp_path, calls, arrivals="constant"))
    first, whole = found["from_due"]
    # Late by 0 to 2 s; the first token came after 0.1 s and the end after 1 s. A refusal is no answer.
    assert (first["mark"], first["n"], first["p50"], first["max"]) == ("first token", 5, 1.1, pytest.approx(2.1))
    assert (whole["mark"], whole["n"], whole["p50"], whole["max"]) == ("whole call", 5, 2.0, 3.0)
    assert whole["p90"] == pytest.approx(2.8) and whole["p99"] == pytest.approx(2.98)


def test_a_dropped_call_is_counted_at_its_time_and_in_no_other(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [call(0.0, scheduled=0.0), dropped(2.0), dropped(5.0)], arrivals="poisson")
    found = report(folder)
    assert found["counts"]["dropped"] == 2 and found["counts"]["failed"] == found["counts"]["cancelled"] == 0
    assert found["seconds"] == 5.0 and [row["n"] for row in found["from_due"]] == [1, 1]
    assert list(read_run(folder).calls["at"]) == [0.0, 2.0, 5.0]
    assert found["verdict"] == "It did not hold: 33.3% of 3 calls were answered; 66.7% dropped and never sent."


@settings(max_examples=15)
@given(
    st.lists(
        st.builds(
            lambda lag, clock, first, coalesced: call(
                0.0, loop_lag=lag, clock=clock, time_to_first_token=first, coalesced=coalesced
            ),
            st.none() | st.sampled_from([0.0, 0.0099, 0.01, 0.0101, 2.0]),
            st.sampled_from([None, "kernel", "user"]),
            st.none() | st.just(0.5),
            st.sampled_from([(), ((0, 0),), ((0, 3),), ((1, 2),), ((1, 1), (3, 4))]),
        ),
        min_size=1,
    )
)
def test_the_table_and_the_record_agree_on_what_is_tainted(calls: list[ObservedCall]) -> None:
    with TemporaryDirectory() as folder:
        table = read_run(write_run(Path(folder), calls)).calls
        expected = [one.tainted for one in calls]
        assert [None if pd.isna(one) else bool(one) for one in table["tainted"]] == expected


def test_above_the_share_that_the_run_allows_nothing_is_said_of_first_tokens(tmp_path: Path) -> None:
    calls = [call(n, loop_lag=0.5 if n < 2 else 0.001, clock="user") for n in range(100)]
    allowed = report(write_run(tmp_path / "allowed", calls, options={"max_tainted": 0.02}))
    refused = report(write_run(tmp_path / "refused", calls, options={"max_tainted": 0.01}))
    assert allowed["tainted_share"] == refused["tainted_share"] == 0.02
    assert allowed["targets"][0]["ttft_p50"] == 0.1 and refused["targets"][0]["ttft_p50"] is None
    assert refused["targets"][0]["duration_p50"] == 1.0
    assert [caveat for caveat in refused["caveats"] if caveat.startswith("No claim on time to first token: 2.0%")]
    assert not [caveat for caveat in allowed["caveats"] if caveat.startswith("No claim")]


def test_the_summary_has_at_most_thirty_lines_and_ends_with_the_reports_path(tmp_path: Path) -> None:
    calls = [call(n, target=f"target-{n}") for n in range(40)]
    calls += [
        refused(n, target=f"target-{n}", throttle_kind=kind) for n in range(20) for kind in ("tokens", "requests")
    ]
    folder = write_run(tmp_path, calls, how=None)
    lines = printed(folder).splitlines()
    assert len(lines) == 30 and all(len(line) <= 120 for line in lines)
    # The tables give way, and say so; what a reader must know does not.
    assert [line for line in lines if line.startswith("and ")] == [
        "and 34 more, in the report", "and 37 more, in the report"
    ]  # fmt: skip
    assert sum(line.startswith("! ") for line in lines) == 4
    assert lines[0].startswith("It did not hold: 50.0% of 80 calls were answered; 50.0% throttled, the first after 0 s")
    assert Path(lines[-1]) == folder / "report.html" and Path(lines[-1]).exists()


def test_the_summary_says_in_words_what_the_json_says(tmp_path: Path) -> None:
    calls = [call(n, duration=2.0) for n in range(3)]
    calls += [call(3, request_stream=False, time_to_first_token=None)]
    calls += [refused(3.5, ("retry-after", "4"), duration=0.5)]
    logs = write_logs(tmp_path / "logs", [usage_record("id-0", [41], [10])])
    folder = write_run(tmp_path / "runs", calls, how="interrupted")
    assert [line.split() for line in printed(folder, "--logs", str(logs)).splitlines()] == [
        line.split()
        for line in f"""\
It did not hold: 80.0% of 5 calls were answered; 20.0% throttled, the first after 4 s.
mixed for 4 s, arrivals closed; tokens a minute: 2,400 input, 600 output
logs: 1 calls matched, 4 only here, 0 only there, 0 duplicates
PTUs: gpt-4o: 15 PTU (too short a load for an interval).
cost: gpt-4o: $601 a month as pay-as-you-go.

target         calls  ok  429  fail  TTFT p50     p95  total p50     p95  tokens/min
eastus whole       1   1    0     0         -       -     1.00 s  1.00 s         750
eastus stream      4   3    1     0    100 ms  100 ms     2.00 s  2.00 s       2,250

throttled by    calls  share  first after  Retry-After p50     max
eastus: tokens      1  20.0%       3.50 s           4.00 s  4.00 s

region (* under 30 calls)     way  calls  TTFT p50     p95  total p50     p95
East US 2 *                direct      4    100 ms  100 ms     2.00 s  2.00 s

token counts                              n   exact  mean diff  largest
estimated input against usage             4  100.0%      +0.00        0
input in usage against diagnostic log     1    0.0%      -1.00        1
output in usage against diagnostic log    1  100.0%      +0.00        0
estimated input against diagnostic log    1    0.0%      -1.00        1
! Closed model: users wait for their answers, so queueing is not measured.
! Fewer than 30 answered calls of East US 2, eastus: their 95th percentiles say little.
! The run was interrupted.
! 4 of the calls only here ended after the last record was written (2025-11-23 16:00 UTC): the logs were fetched too \
early, or theirs are lost.
{folder / "report.html"}""".splitlines()
    ]


def test_a_share_is_not_rounded_to_all_or_none(tmp_path: Path) -> None:
    found = report(write_run(tmp_path, [call(n / 100) for n in range(2999)] + [refused(3)]))
    assert found["verdict"].startswith("It did not hold: over 99.9% of 3,000 calls were answered; under 0.1% throttled")


def test_a_failure_is_named_apart_from_throttling(tmp_path: Path) -> None:
    calls = [call(0), *(refused(n) for n in range(1, 9)), call(9, outcome="stream_reset", error_type="reset")]
    assert report(write_run(tmp_path, calls))["verdict"].endswith("10.0% failed, mostly as stream_reset.")


def test_the_wall_clock_may_be_set_while_a_run_is_on(tmp_path: Path) -> None:
    calls = [call(n, start_time_unix_nano=BEGAN - (n > 5) * 3600 * SECOND + n * SECOND) for n in range(10)]
    assert report(write_run(tmp_path, calls))["seconds"] == 10.0


def test_without_a_run_the_newest_is_reported_with_its_path_from_here(tmp_path: Path) -> None:
    write_run(tmp_path, [call(0)])
    newest = tmp_path / "99991231T000000Z-mixed-0"
    write_run(tmp_path, [call(0)]).rename(newest)
    done = run("analysis", "report", settings={"HEADROOM_RESULTS": str(tmp_path)}, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"{newest.name}/report.html"


def test_the_check_of_each_target_is_counted_apart(tmp_path: Path) -> None:
    found = report(write_run(tmp_path, [call(0, traffic="preflight", duration=9.0), call(1)]))
    assert (found["counts"]["calls"], found["counts"]["preflight"]) == (1, 1)
    assert found["targets"][0]["duration_p50"] == 1.0


def test_cut_off_and_foreign_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [call(0), call(1)])
    (journal,) = folder.glob("calls-*.jsonl")
    text = journal.read_text()
    line = text.splitlines()[0]
    foreign = [
        "not json",
        "[1, 2]",
        '{"a": 1}',
        line.replace('"ok"', '"fine"'),
        line.replace('"gen_ai.client.operation.duration":1.0', '"gen_ai.client.operation.duration":"soon"'),
        line.replace('"gen_ai.client.operation.duration":1.0', '"gen_ai.client.operation.duration":-1.0'),
        '{"probe.target": "x", "start_time_unix_nano": 1, "probe.outcome": "ok"}',
    ]
    journal.write_text("\n".join([*foreign, text]) + line[:200])
    found = report(folder)
    assert (found["counts"]["calls"], found["counts"]["skipped_lines"]) == (2, 8)
    assert "8 lines of the journal were no records and were skipped." in found["caveats"]


def test_calls_over_time_are_counted_in_stretches_of_equal_length_whether_or_not_anything_ended(tmp_path: Path) -> None:
    calls = [call(0), call(50), refused(50.2)]
    table = over_time(read_run(write_run(tmp_path, calls)).calls)
    assert list(table.index) == [n + 0.5 for n in range(52)]
    assert table["ok"].to_dict() == {n + 0.5: int(n in (1, 51)) for n in range(52)}
    assert table["throttled"].sum() == table["throttled"][50.5] == 1


def test_headers_of_another_shape_do_not_stop_a_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [refused(0, ("retry-after", "9")), call(1)])
    (journal,) = folder.glob("calls-*.jsonl")
    journal.write_text(journal.read_text().replace('["retry-after","9"]', '["retry-after"]'))
    assert report(folder)["throttling"][0]["retry_after_p50"] is None


def test_what_is_large_in_a_record_is_there_of_a_sample(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [call(n / 10, event_times=(100_000, 110_000 + n)) for n in range(50)])
    calls = read_run(folder, sampled=["event_times"]).calls
    assert [list(times) for times in calls["event_times"]] == [[100_000, 110_000 + n] for n in range(50)]
    assert "event_times" not in read_run(folder).calls


def test_a_record_of_ten_megabytes_is_read_as_any_other(tmp_path: Path) -> None:
    calls = [call(0.0), call(1.0, headers=(("x-ms-region", "East US 2"), ("x-long", "a" * 10_000_000))), call(2.0)]
    run = read_run(write_run(tmp_path, calls))
    assert list(run.calls["region"]) == ["East US 2"] * 3 and run.skipped == 0


def test_several_processes_make_one_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [call(0), call(2)])
    other = write_run(tmp_path, [call(1)])
    next(other.glob("calls-*.jsonl")).rename(folder / "calls-elsewhere-1.jsonl")
    assert report(folder)["counts"]["calls"] == 3


def test_lateness_is_counted_from_when_a_call_was_due(tmp_path: Path) -> None:
    calls = [call(n + 0.2, scheduled=float(n)) for n in range(10)]
    found = report(write_run(tmp_path, calls, arrivals="poisson"))
    assert found["lateness_p99"] == pytest.approx(0.2)
    assert any("issued late by 200 ms (p99)" in caveat for caveat in found["caveats"])
    assert not any("queueing" in caveat for caveat in found["caveats"])


def test_a_header_is_read_by_its_name_in_any_case_and_not_by_one_of_the_same_length(tmp_path: Path) -> None:
    sent = (("x-ms-skipped", "other"), ("X-Ms-Spilled", "a"), ("x-short", "b"), ("X-MS-SPILLED", "c"))
    table = read_run(write_run(tmp_path, [call(0.0, headers=sent), call(1.0, headers=())]), ["x-ms-spilled"]).calls
    assert table["x-ms-spilled"].tolist()[0] == "c" and table["x-ms-spilled"].isna().tolist() == [False, True]
    assert table["region"].isna().all()


def test_regions_are_those_of_the_last_header_sent_and_small_cells_are_marked(tmp_path: Path) -> None:
    west = (("x-ms-region", "East US 2"), ("X-MS-Region", "West US"))
    calls = [call(n) for n in range(30)] + [call(30, headers=west), call(31, headers=())]
    east, other = report(write_run(tmp_path, calls))["regions"]
    assert (east["region"], east["calls"], east["few"]) == ("East US 2", 30, False)
    assert (other["region"], other["calls"], other["few"]) == ("West US", 1, True)


def usage_record(request_id: str, prompt: object, generated: object, *, as_text: bool = True) -> dict[str, Any]:
    properties = {"promptTokens": prompt, "cachedTokens": [0], "generatedTokens": generated}
    return {
        "category": "AzureOpenAIRequestUsage",
        "correlationId": request_id,
        "EnqueueTime": "2025-11-23T16:00:00.0000000",
        "resourceId": "/SUBSCRIPTIONS/X/PROVIDERS/MICROSOFT.COGNITIVESERVICES/ACCOUNTS/EAST",
        "properties": json.dumps(properties) if as_text else properties,
    }


def write_logs(folder: Path, records: Iterable[object], *, start: str = "") -> Path:
    file = folder / "insights-logs-azureopenairequestusage" / "resourceId=" / "y=2025" / "m=11" / "PT1H.json"
    file.parent.mkdir(parents=True)
    file.write_text(start + "".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return folder


def test_the_join_with_the_logs_says_what_found_no_partner(tmp_path: Path) -> None:
    records = [
        usage_record("id-0", [40], [10]),
        usage_record("id-1", ["30", "10"], ["11"], as_text=False),
        usage_record("id-1", ["30", "10"], ["11"]),
        usage_record("elsewhere", [1], [1]),
        {"category": "Audit", "correlationId": "id-2"},
    ]
    logs = write_logs(tmp_path / "logs", records, start="\ufeff")
    found = report(write_run(tmp_path / "runs", [call(0), call(1), call(2)]), logs)
    counted = {"matched": 2, "only_client": 1, "only_log": 1, "duplicates": 1, "without_request": 3}
    assert counted.items() <= found["logs"].items()
    assert (found["logs"]["files"], found["logs"]["skipped_lines"]) == (1, 0)
    by_name = {(row["of"], row["against"]): row for row in found["tokens"]}
    output = by_name["output in usage", "diagnostic log"]
    assert (output["n"], output["exact"], output["mean"], output["largest"]) == (2, 0.5, -0.5, 1)
    assert by_name["input in usage", "diagnostic log"]["exact"] == 1.0


def test_a_log_of_odd_values_is_read_for_what_is_sound_in_it(tmp_path: Path) -> None:
    odd = [
        {"category": "RequestResponse", "correlationId": "id-0", "durationMs": "abc", "resultSignature": "ok"},
        {"category": "RequestResponse", "correlationId": "id-1", "properties": {"requestTime": 10**40}},
        usage_record("id-0", [10**30], [10]),
        usage_record("id-1", 40, ["many"]),
    ]
    logs = write_logs(tmp_path / "logs", odd, start="no json\n[]\n" + "[" * 100_000 + "\n")
    found = report(write_run(tmp_path / "runs", [call(0), call(1)]), logs)
    assert (found["logs"]["matched"], found["logs"]["skipped_lines"]) == (2, 3)
    by_name = {(row["of"], row["against"]): row["n"] for row in found["tokens"]}
    assert by_name["input in usage", "diagnostic log"] == 0
    assert by_name["output in usage", "diagnostic log"] == 1


def test_the_check_of_a_target_is_no_call_that_only_the_log_knows(tmp_path: Path) -> None:
    logs = write_logs(tmp_path / "logs", [usage_record(f"id-{n}", [40], [10]) for n in range(2)])
    folder = write_run(tmp_path / "runs", [call(0, traffic="preflight"), call(1)])
    coverage = report(folder, logs)["logs"]
    assert (coverage["matched"], coverage["only_client"], coverage["only_log"]) == (1, 0, 0)


def test_the_estimate_is_made_from_the_prompts_number_and_the_served_model(tmp_path: Path) -> None:
    # A prompt of 40 tokens; a reasoning model bills one less, and of an unknown one nothing is known.
    calls = [call(0), call(1, response_model="o3-mini-2025-01-31", input_tokens=39), call(2, response_model="grok-9")]
    found = report(write_run(tmp_path, calls))
    (row,) = [row for row in found["tokens"] if (row["of"], row["against"]) == ("estimated input", "usage")]
    assert (row["n"], row["exact"]) == (2, 1.0)
    assert "1 calls have no token estimate, mostly: no counting rule for model 'grok-9'." in found["caveats"]


def test_logs_of_something_else_are_said_to_match_nothing(tmp_path: Path) -> None:
    logs = write_logs(tmp_path / "logs", [usage_record("elsewhere", [1], [1])])
    found = report(write_run(tmp_path / "runs", [call(0)]), logs)
    assert found["logs"]["matched"] == 0
    assert any("another resource's (EAST)" in caveat for caveat in found["caveats"])


@pytest.mark.parametrize(
    ("calls", "verdict"),
    [
        ([], "No calls: nothing was sent, or nothing could be read."),
        ([refused(n) for n in range(3)], "Nothing held: all 3 calls were throttled."),
        (
            [made(outcome="connect", status_code=None, error_type="connect")],
            "Nothing held: none of 1 calls was answered; most came to connect.",
        ),
        ([call(0)], "It held: 100.0% of 1 calls were answered."),
    ],
    ids=["nothing", "only 429s", "only failures", "one call"],
)
def test_a_run_with_little_in_it_is_reported_all_the_same(
    tmp_path: Path, calls: list[ObservedCall], verdict: str
) -> None:
    folder = write_run(tmp_path, calls)
    assert json.loads(invoked(str(folder), "-o", "json").stdout)["verdict"] == verdict
    page = (folder / "report.html").read_text()
    assert page.count("<svg ") + page.count('class="empty"') == page.count("<section id=") == 14


def test_of_a_run_its_folder_alone_must_say_who_it_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [call(0)])
    (folder / "run.json").write_text('{"run_id": "x", "targets": [{"name": "a"}], "something": "new"}')
    found = report(folder)
    assert (found["counts"]["calls"], found["scenario"], found["ended"]) == (1, None, None)


def test_a_page_of_many_calls_and_many_names_stays_small_enough_to_mail(tmp_path: Path) -> None:
    calls = [call(n / 9, target=f"t{n % 40}", time_to_first_token=n % 997 / 1e3) for n in range(4000)]
    waits = [("retry-after-ms", str(n * 7919 % 60_000)) for n in range(20_000)]
    calls += [refused(n * 7907 % 4000 / 9, wait, target=f"t{n % 4}") for n, wait in enumerate(waits)]
    folder = write_run(tmp_path, calls)
    assert invoked(str(folder)).exit_code == 0
    assert (folder / "report.html").stat().st_size < 2_000_000


def test_what_a_server_or_a_name_says_stays_text_in_the_page_and_on_the_screen(tmp_path: Path) -> None:
    hostile = {"target": HOSTILE, "traffic": f"_東京{HOSTILE}", "headers": (("x-ms-region", HOSTILE),)}
    calls = [call(0, **hostile), refused(1, **{**hostile, "error_message": HOSTILE})]
    target = {"name": HOSTILE, "endpoint": HOSTILE, "deployment": HOSTILE, "gateway": "direct", "api_version": "v1"}
    folder = write_run(tmp_path, calls, targets=[target], scenario=HOSTILE, arrivals=HOSTILE)
    end_run(Run(id="x", folder=str(folder), wall_ns=0), HOSTILE, {})
    assert "\x1b" not in printed(folder)
    page = (folder / "report.html").read_text()
    assert "<img src=x" not in page and "<script" not in page and "&lt;img src=x" in page
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)="(?!#)', page) and "<img" not in page.replace("&lt;img", "")


WRONG = [
    (["/nonexistent"], "/nonexistent is no run"),
    (["{tmp}"], "there is no run.json in it"),
    (["{tmp}/broken"], "run.json cannot be read"),
    (["{tmp}/foreign"], "does not describe a run"),
    (["{tmp}/misspelt"], "Expected `array`, got `str` - at `$.targets`"),
    (["{tmp}/run/run.json"], "is no run"),
    (["{tmp}/folders"], "cannot be read"),
    (["{tmp}/run", "--logs", "/nonexistent"], "--logs /nonexistent: no such folder"),
    ([], "no run in"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_what_is_no_run_is_named_in_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    misspelt = '{"run_id": "x", "targets": "eastus"}'
    for name, text in (
        ("broken", '{"run_id"'),
        ("foreign", "[]"),
        ("misspelt", misspelt),
        ("folders", '{"run_id": ""}'),
    ):
        (tmp_path / name / "calls-x.jsonl").mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(text)
    write_run(tmp_path / "made", [call(0)]).rename(tmp_path / "run")
    given = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    done = invoked(*given, HEADROOM_RESULTS=str(tmp_path / "empty"))
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and says in done.stderr
    assert not list(tmp_path.rglob("report*"))
