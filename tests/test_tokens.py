"""`analysis tokens`: on runs and logs written here, with known errors."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.logs import read_logs
from analysis.runs import read_run
from analysis.tokens import MOST, Tokens, analyse, as_result
from probe.record import ObservedCall
from tests.commands import run
from tests.test_analysis import call, refused, write_run


def analysed(tmp_path: Path, calls: list[ObservedCall], *logs: dict[str, Any]) -> Tokens:
    file = tmp_path / "log.json"
    file.write_text("".join(json.dumps(record) + "\n" for record in logs))
    found = read_run(write_run(tmp_path / "runs", calls))
    return analyse(found.calls, read_logs([file]) if logs else None, found.seconds)


def rows(frame: Any, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in frame.to_dict("records") if all(row[key] == value for key, value in wanted.items())]


def record(category: str, correlation_id: str, **properties: Any) -> dict[str, Any]:
    resource = "/SUBSCRIPTIONS/S/RESOURCEGROUPS/G/PROVIDERS/MICROSOFT.COGNITIVESERVICES/ACCOUNTS/EAST"
    return {
        "category": category,
        "correlationId": correlation_id,
        "resourceId": resource,
        "resultSignature": "200",
        "properties": json.dumps(properties),
    }


def test_the_error_of_estimates_is_told_by_class_and_streaming_with_its_interval(tmp_path: Path) -> None:
    calls = [call(float(at), input_tokens=40 + (3 if at % 2 else 0), request_stream=bool(at % 2)) for at in range(40)]
    found = analysed(tmp_path, calls)
    (streams,) = rows(found.errors, stream=True)
    (others,) = rows(found.errors, stream=False)
    assert (streams["n"], streams["mean"], streams["exact"]) == (20, -3.0, 0.0)
    assert (others["n"], others["mean"], others["exact"]) == (20, 0.0, 1.0)
    (whole,) = rows(found.compared, of="estimated input", against="usage")
    assert whole["mean"] == -1.5
    assert whole["mean_low"] < -1.5 < whole["mean_high"] < 0


def test_calls_without_usage_are_completed_in_a_column_that_says_estimated(tmp_path: Path) -> None:
    silent = [call(float(at), input_tokens=None, output_tokens=None) for at in range(3)]
    found = analysed(tmp_path, [*silent, call(9.0), refused(10.0)])
    (caller,) = found.callers.to_dict("records")
    assert (caller["calls"], caller["measured"], caller["input_tokens"]) == (4, 1, 40)
    assert (caller["without_usage"], caller["completed_input_tokens_estimated"]) == (3, 120)


def test_the_log_measures_what_a_stream_without_usage_does_not_say(tmp_path: Path) -> None:
    silent = call(0.0, input_tokens=None, output_tokens=None)
    logged = record("AzureOpenAIRequestUsage", "id-0.0", promptTokens=["41"], generatedTokens=[5], cachedTokens=[8])
    asked = record("RequestResponse", "id-0.0", objectId="alice")
    found = analysed(tmp_path, [silent, call(1.0)], logged, asked)
    (alice,) = rows(found.callers, object_id="alice")
    assert (alice["measured"], alice["input_tokens"], alice["error_tokens"]) == (1, 41, -1)
    assert (alice["output_tokens"], alice["cached_tokens"], alice["without_usage"]) == (5, 8, 0)
    (model,) = found.shares.to_dict("records")
    assert (model["cached_n"], model["cached_share"]) == (1, 8 / 41)
    assert found.logs is not None
    assert [found.logs.facts[name] for name in ("matched", "only_client", "only_log")] == [1, 1, 0]


def test_the_gateways_log_is_found_by_the_replys_own_id(tmp_path: Path) -> None:
    logged = {
        "category": "GatewayLlmLog",
        "correlationId": "gateways-own",
        "properties": {"requestId": "chatcmpl-1", "deploymentName": "chat", "promptTokens": 44, "completionTokens": 9},
    }
    found = analysed(tmp_path, [call(0.0, response_id="chatcmpl-1"), call(1.0, response_id="chatcmpl-2")], logged)
    (pair,) = rows(found.compared, of="input in usage", against="gateway's LLM log")
    assert (pair["n"], pair["mean"]) == (1, -4.0)


def test_pieces_of_the_gateways_log_that_did_not_come_are_said(tmp_path: Path) -> None:
    def piece(call_id: str, number: int, **said: Any) -> dict[str, Any]:
        return {
            "category": "GatewayLlmLogs",
            "correlationId": call_id,
            "properties": {"sequenceNumber": number, "deploymentName": "", "promptTokens": 0, **said},
        }

    head = {"requestId": "chatcmpl-1", "deploymentName": "chat", "promptTokens": 40, "completionTokens": 9}
    logged = [piece("one", 2), piece("one", 0, **head), piece("two", 1, requestMessages="?")]
    found = analysed(tmp_path, [call(0.0, response_id="chatcmpl-1"), call(1.0, response_id="chatcmpl-2")], *logged)
    (pair,) = rows(found.compared, of="input in usage", against="gateway's LLM log")
    assert (pair["n"], pair["same"]) == (1, 1)
    assert found.logs is not None
    assert (
        "The gateway's LLM log: 2 pieces of 2 of its 2 calls did not come; 1 of these calls are without their counts."
        in found.logs.lines
    )


def test_shares_are_of_calls_that_say_both_and_are_not_invented(tmp_path: Path) -> None:
    calls = [call(0.0, input_tokens=100, cached_tokens=60), call(1.0, input_tokens=100, cached_tokens=0), call(2.0)]
    (model,) = analysed(tmp_path, calls).shares.to_dict("records")
    assert (model["cached_n"], model["cached_share"]) == (2, 0.3)
    assert (model["reasoning_n"], model["reasoning_share"]) == (0, None)


def test_a_months_chargeback_is_wrong_by_what_the_estimates_are(tmp_path: Path) -> None:
    found = analysed(tmp_path, [call(float(at), input_tokens=50) for at in range(10)])
    assert found.month_usd is not None
    assert found.month_usd_error == pytest.approx(-0.2 * found.month_usd)


def test_a_month_has_no_price_where_a_model_has_none(tmp_path: Path) -> None:
    found = analysed(tmp_path, [call(0.0), call(1.0, response_model="mystery-1")])
    assert (found.month_usd, found.month_usd_error) == (None, None)
    assert rows(found.unknown) == [{"reason": "no counting rule for model 'mystery-1'", "calls": 1}]


@pytest.mark.parametrize("calls", [[], [refused(0.0), refused(1.0)]], ids=["empty", "only 429s"])
def test_a_run_without_answers_has_nothing_to_compare_and_says_so(tmp_path: Path, calls: list[ObservedCall]) -> None:
    folder = write_run(tmp_path, calls)
    done = run("analysis", "tokens", str(folder), "-o", "json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["calls"], said["month_usd"], said["callers"]) == (0, None, [])


def test_of_more_calls_than_are_counted_a_sample_is_and_that_is_said(tmp_path: Path) -> None:
    one = read_run(write_run(tmp_path, [call(0.0), call(1.0)]))
    few = as_result(analyse(one.calls, None, 60.0)).lines[0]
    many = analyse(pd.concat([one.calls] * (MOST // 2 + 1), ignore_index=True), None, 60.0)
    assert int(many.errors["n"].sum()) == MOST and few == "2 answered calls; 2 of them were counted."
    assert as_result(many).lines[0] == (
        "20,002 answered calls; 20,000 of them, drawn at random, were counted: errors and callers' sums are of these."
    )
