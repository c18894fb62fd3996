"""Logs of every shape, read into one table: whatever way the same records took, the table is the same."""

import csv
import gzip
import io
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.log_shapes import NO_RECORD, from_row, iso_time
from analysis.logs import COLUMNS, Logs, LogsError, aside, lacking, left_out, read_logs

TICKS = 638515262815394150
ACCOUNT = "/SUBSCRIPTIONS/S/RESOURCEGROUPS/G/PROVIDERS/MICROSOFT.COGNITIVESERVICES/ACCOUNTS/CONTOSO"
APIM = "/SUBSCRIPTIONS/S/RESOURCEGROUPS/G/PROVIDERS/MICROSOFT.APIMANAGEMENT/SERVICE/GATE"
Record = dict[str, Any]


def request(number: int, **changes: Any) -> Record:
    properties = {
        "apiName": "Azure OpenAI API version 2024-10-21",
        "requestTime": TICKS + number,
        "requestLength": 128,
        "responseTime": TICKS + number + 10_212_400,
        "responseLength": 1411,
        "objectId": "",
        "streamType": "Non-Streaming",
        "modelDeploymentName": "chat",
        "modelName": "gpt-4o",
        "modelVersion": "2024-08-06",
    }
    return {
        "Tenant": "eastus",
        "callerIpAddress": "203.0.113.***",
        "category": "RequestResponse",
        "correlationId": f"call-{number}",
        "durationMs": 1021,
        "event": "ShoeboxCallResult",
        "location": "eastus",
        "operationName": "ChatCompletions_Create",
        "properties": json.dumps(properties),
        "resourceId": ACCOUNT,
        "resultSignature": "200",
        "time": "2024-05-17T13:18:25.4350000Z",
        **changes,
    }


def usage(number: int, prompt: object = ("120",), generated: object = (30, "4")) -> Record:
    properties = {"promptTokens": prompt, "cachedTokens": [0], "generatedTokens": generated}
    return {
        "category": "AzureOpenAIRequestUsage",
        "correlationId": f"call-{number}",
        "EnqueueTime": "2024-05-17T13:18:26.0000000",
        "resourceId": ACCOUNT,
        "properties": json.dumps({**properties, "modelDeploymentName": "chat", "modelName": "gpt-4o"}),
    }


def gateway(number: int, **properties: Any) -> Record:
    return {
        "category": "GatewayLogs",
        "correlationId": f"gate-{number}",
        "durationMs": 1100,
        "location": "East US",
        "operationName": "Microsoft.ApiManagement/GatewayLogs",
        "properties": {
            "method": "POST",
            "responseCode": 200,
            "backendResponseCode": 200,
            "backendTime": 1030,
            "backendUrl": "https://contoso.openai.azure.com/openai",
            "backendResponseHeaders": {"apim-request-id": f"call-{number}"},
            **properties,
        },
        "resourceId": APIM,
        "time": "2024-05-17T13:18:01.2345678Z",
    }


def llm(number: int, sequence: int, **properties: Any) -> Record:
    return {
        "category": "GatewayLlmLog",
        "correlationId": f"gate-{number}",
        "properties": {"sequenceNumber": sequence, **properties},
        "resourceId": APIM,
        "time": "2024-05-17T13:18:02.0000000Z",
    }


HEADED = {
    "requestId": "chatcmpl-1", "deploymentName": "chat", "modelName": "gpt-4o", "promptTokens": 120,
    "completionTokens": 34, "totalTokens": 154, "isStreamCompletion": True,
}  # fmt: skip
RECORDS = [
    request(1), request(2, resultSignature="429"), usage(1), gateway(1),
    llm(1, 0, **HEADED, requestMessages="What"), llm(1, 1, deploymentName="", requestMessages=" is it?"),
]  # fmt: skip


def jsonl(path: Path, records: Iterable[object] = RECORDS) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def row(logs: Logs, correlation_id: str) -> dict[str, Any]:
    found = logs.table[logs.table["correlation_id"] == correlation_id]
    (one,) = found.astype(object).where(found.notna(), None).to_dict(orient="records")
    return {str(name): value for name, value in one.items()}


@pytest.fixture
def expected(tmp_path: Path) -> pd.DataFrame:
    return sorted_table(read_logs([jsonl(tmp_path / "plain.json")]))


def sorted_table(logs: Logs) -> pd.DataFrame:
    assert logs.skipped == ()
    return logs.table.sort_values(["service", "correlation_id"], ignore_index=True)


def test_a_call_has_one_row_with_what_each_category_says_of_it(tmp_path: Path) -> None:
    logs = read_logs([jsonl(tmp_path / "logs.json")])
    one = row(logs, "call-1")
    assert (one["service"], one["account"], one["status"], one["deployment"]) == (
        "azure_openai",
        "CONTOSO",
        200,
        "chat",
    )
    # By hand from the ticks: not one of their 18 digits is lost.
    assert one["began_ns"] == (TICKS + 1 - 621_355_968_000_000_000) * 100
    assert one["ended_ns"] - one["began_ns"] == 1_021_240_000 and one["duration_ms"] == 1021.0
    assert (one["prompt_tokens"], one["cached_tokens"], one["generated_tokens"]) == (120, 0, 34)
    assert (one["has_request"], one["has_usage"], one["stream"], one["object_id"]) == (True, True, False, None)
    assert one["caller_ip"] == "203.0.113.***"
    two = row(logs, "call-2")
    assert (two["status"], two["prompt_tokens"], two["has_usage"]) == (429, None, False)


def test_a_gateways_call_has_its_back_end_and_what_its_llm_log_counted(tmp_path: Path) -> None:
    one = row(read_logs([jsonl(tmp_path / "logs.json")]), "gate-1")
    assert (one["service"], one["account"], one["status"], one["backend_status"]) == ("apim", "GATE", 200, 200)
    assert (one["duration_ms"], one["backend_ms"], one["backend_request_id"]) == (1100.0, 1030.0, "call-1")
    assert one["began_ns"] == int(datetime(2024, 5, 17, 13, 18, 1, tzinfo=UTC).timestamp()) * 10**9 + 234_567_800
    assert (one["response_id"], one["llm_prompt_tokens"], one["llm_total_tokens"]) == ("chatcmpl-1", 120, 154)
    # Azure OpenAI's own count is another thing, under another name.
    assert (one["prompt_tokens"], one["stream"], one["pieces"], one["copies"]) == (None, True, 2, 0)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 2, 0, 3, 1, 0)])
@pytest.mark.parametrize("first", [0, 1])
def test_a_calls_counts_are_those_of_its_own_row_wherever_that_stands(
    tmp_path: Path, order: tuple[int, ...], first: int
) -> None:
    # What a table has in the rows of messages is the default of each column.
    defaults = {"deploymentName": "", "promptTokens": 0, "totalTokens": 0, "isStreamCompletion": False}
    head = llm(1, first, **HEADED, apiVersion="2024-10-21")
    rows = [head, *(llm(1, first + n, apiVersion="", **defaults) for n in (1, 2, 3))]
    logs = read_logs([jsonl(tmp_path / "logs.json", [rows[n] for n in order])])
    one = row(logs, "gate-1")
    assert (one["llm_prompt_tokens"], one["llm_completion_tokens"], one["llm_total_tokens"]) == (120, 34, 154)
    assert (one["stream"], one["api"], one["deployment"], one["has_usage"]) == (True, "2024-10-21", "chat", True)
    assert (one["pieces"], one["missing_pieces"], one["copies"], one["differing"]) == (4, 0, len(order) - 4, False)


@pytest.mark.parametrize(("came", "missing", "counts"), [((0, 2, 3), 1, 120), ((0, 3), 2, 120), ((1, 3), 2, None)])
def test_pieces_that_did_not_come_are_counted_and_with_the_calls_own_row_its_counts(
    tmp_path: Path, came: tuple[int, ...], missing: int, counts: int | None
) -> None:
    pieces = [llm(1, n, **(HEADED if n == 0 else {"deploymentName": ""}), requestMessages="?") for n in came]
    logs = read_logs([jsonl(tmp_path / "logs.json", [*pieces, llm(2, 0, **HEADED)])])
    one = row(logs, "gate-1")
    assert (one["missing_pieces"], one["llm_prompt_tokens"], one["has_usage"]) == (missing, counts, counts is not None)
    assert lacking(logs) == {"calls": 2, "without_counts": int(counts is None), "incomplete": 1, "missing": missing}


def test_two_rows_of_a_call_that_count_differently_are_marked(tmp_path: Path) -> None:
    rows = [llm(1, 0, **HEADED), llm(1, 0, **{**HEADED, "completionTokens": 35})]
    one = row(read_logs([jsonl(tmp_path / "logs.json", rows)]), "gate-1")
    assert (one["copies"], one["differing"], one["llm_completion_tokens"]) == (1, True, 34)


def as_document(path: Path) -> None:
    path.with_suffix(".json").write_text(json.dumps(RECORDS, indent=1))


def as_event_hub_batches(path: Path) -> None:
    for number in range(2):
        path.with_suffix(f".{number}.json").write_text(json.dumps({"records": RECORDS[number::2]}))


def as_batch_over_lines(path: Path) -> None:
    path.with_suffix(".json").write_text('{"records": [\n' + ",\n".join(map(json.dumps, RECORDS)) + "\n]}\n")


def as_batch_that_a_storage_account_has(path: Path) -> None:
    as_batch_over_lines(path.with_name("PT1H"))


def as_powershell_writes_it(path: Path) -> None:
    path.with_suffix(".json").write_bytes(("\ufeff" + json.dumps(RECORDS)).encode("utf-16-le"))


def as_ids_of_another_form(path: Path) -> None:
    forms = ("{{{}}}".format, str.upper, str.lower)
    changed = [{**one, "correlationId": forms[n % 3](one["correlationId"])} for n, one in enumerate(RECORDS)]
    jsonl(path.with_suffix(".JSON"), changed)


def as_batches_a_line(path: Path) -> None:
    path.with_suffix(".json").write_text("".join(json.dumps({"records": [one]}) + "\n" for one in RECORDS))


def as_capture(path: Path) -> None:
    schema = {
        "type": "record", "name": "EventData",
        "fields": [{"name": "Offset", "type": "string"}, {"name": "Body", "type": ["null", "bytes"]}],
    }  # fmt: skip
    events = [{"Offset": "1", "Body": json.dumps({"records": RECORDS}).encode()}]
    with path.with_suffix(".avro").open("wb") as file:
        fastavro.writer(file, schema, events, codec="deflate")


def as_gzip(path: Path) -> None:
    path.with_suffix(".json.gz").write_bytes(gzip.compress(jsonl(path.with_suffix(".txt")).read_bytes()))


def as_marked_lines(path: Path) -> None:
    jsonl(path)
    path.with_suffix(".json").write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def as_properties_of_the_other_kind(path: Path) -> None:
    def turned(record: Record) -> Record:
        properties = record["properties"]
        return {
            **record,
            "properties": json.loads(properties) if isinstance(properties, str) else json.dumps(properties),
        }

    jsonl(path.with_suffix(".json"), [turned(one) for one in RECORDS])


@pytest.mark.parametrize(
    "write",
    [
        as_document, as_event_hub_batches, as_batches_a_line, as_batch_over_lines, as_batch_that_a_storage_account_has,
        as_capture, as_gzip, as_marked_lines, as_properties_of_the_other_kind, as_powershell_writes_it,
        as_ids_of_another_form,
    ],
)  # fmt: skip
def test_the_shape_makes_no_difference(tmp_path: Path, expected: pd.DataFrame, write: Any) -> None:
    (tmp_path / "shape").mkdir()
    write(tmp_path / "shape" / "logs")
    pd.testing.assert_frame_equal(sorted_table(read_logs([tmp_path / "shape"])), expected)


def diagnostics_row(record: Record) -> Record:
    """As a workspace has it: what is a column there and is compared here."""
    return {
        "TimeGenerated": record.get("time") or record["EnqueueTime"] + "Z",
        "_ResourceId": record["resourceId"].lower(),
        "Category": record["category"],
        "CorrelationId": record["correlationId"],
        "DurationMs": record.get("durationMs"),
        "ResultSignature": record.get("resultSignature", ""),
        "OperationName": record.get("operationName", ""),
        "CallerIPAddress": record.get("callerIpAddress", ""),
        "location_s": record.get("location", ""),
        "properties_s": record["properties"],
    }


def as_query_result(path: Path, rows: list[Record]) -> None:
    columns = [{"name": name, "type": "string"} for name in rows[0]]
    table = {"name": "PrimaryResult", "columns": columns, "rows": [list(one.values()) for one in rows]}
    path.with_suffix(".json").write_text(json.dumps({"tables": [table]}))


def as_cli_list(path: Path, rows: list[Record]) -> None:
    path.with_suffix(".json").write_text(json.dumps(rows, indent=2))


def as_exported_lines(path: Path, rows: list[Record]) -> None:
    """As a workspace's continuous export writes them, in a storage account's folders too."""
    jsonl(path.with_name("PT1H.json"), rows[:1])
    jsonl(path.with_name("PT05M.json"), rows[1:])


def as_portal_csv(path: Path, rows: list[Record], time: str = "%m/%d/%Y, %I:%M:%S.000 %p", comma: str = ",") -> None:
    text = io.StringIO()
    names = {name: "TimeGenerated [UTC]" if name == "TimeGenerated" else name for name in rows[0]}
    writer = csv.DictWriter(text, list(names.values()), delimiter=comma)
    writer.writeheader()
    for one in rows:
        moment = datetime.fromisoformat(one["TimeGenerated"])
        writer.writerow({names[name]: value for name, value in {**one, "TimeGenerated": f"{moment:{time}}"}.items()})
    path.with_suffix(".csv").write_text("\ufeff" + text.getvalue(), encoding="utf-8")


@pytest.mark.parametrize("write", [as_query_result, as_cli_list, as_portal_csv, as_exported_lines])
def test_a_workspaces_rows_say_the_same(tmp_path: Path, expected: pd.DataFrame, write: Any) -> None:
    records = RECORDS[:3]
    (tmp_path / "shape").mkdir()
    write(tmp_path / "shape" / "logs", [diagnostics_row(one) for one in records])
    found = sorted_table(read_logs([tmp_path / "shape"]))
    found["account"] = found["account"].str.upper()
    wanted = expected[expected["service"] == "azure_openai"].reset_index(drop=True)
    # The portal leaves out the digits after the milliseconds, and all of them here.
    compared = [name for name in wanted if name not in ("logged_ns",)]
    pd.testing.assert_frame_equal(found[compared], wanted[compared])


def test_rows_of_the_gateways_tables_are_told_by_their_columns(tmp_path: Path) -> None:
    gateway_row = {
        "TimeGenerated": "2024-05-17T13:18:01.2345678Z", "CorrelationId": "gate-1", "ResponseCode": 200,
        "TotalTime": 1100, "BackendTime": 1030, "BackendResponseHeaders": '{"apim-request-id":"call-1"}',
        "_ResourceId": APIM.lower(), "LastErrorReason": "Timeout",
    }  # fmt: skip
    llm_row = {
        "TimeGenerated": "2024-05-17T13:18:02Z", "CorrelationId": "gate-1", "DeploymentName": "chat",
        "PromptTokens": 120, "CompletionTokens": 34, "TotalTokens": 154, "SequenceNumber": 0, "RequestId": "chatcmpl-1",
    }  # fmt: skip
    (tmp_path / "rows.json").write_text(json.dumps([gateway_row, llm_row]))
    one = row(read_logs([tmp_path]), "gate-1")
    assert (one["status"], one["duration_ms"], one["backend_request_id"]) == (200, 1100.0, "call-1")
    assert (one["llm_completion_tokens"], one["response_id"], one["error_reason"]) == (34, "chatcmpl-1", "Timeout")


def test_whole_numbers_of_a_table_of_doubles_are_whole(tmp_path: Path) -> None:
    gateway_row = {
        "TimeGenerated": "2024-05-17T13:18:01Z", "Category": "GatewayLogs", "CorrelationId": "gate-1",
        "responseCode_d": 200.0, "backendResponseCode_d": "503.0", "backendTime_d": 1030.5, "requestSize_d": 12.0,
        "lastError_reason_s": "Timeout",
    }  # fmt: skip
    (tmp_path / "rows.json").write_text(json.dumps([gateway_row]))
    one = row(read_logs([tmp_path]), "gate-1")
    assert (one["status"], one["backend_status"], one["backend_ms"], one["request_bytes"]) == (200, 503, 1030.5, 12)
    assert one["error_reason"] == "Timeout"


@pytest.mark.parametrize(
    "time", ["2024-05-17T15:18:25.4350001+02:00", "2024-05-17T13:18:25.4350001", "2024-05-17T13:18:25.4350001Z"]
)
def test_a_time_is_of_utc_or_of_the_zone_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, time: str
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    (logged,) = read_logs([jsonl(tmp_path / "logs.json", [request(1, time=time)])]).table["logged_ns"]
    assert logged == int(datetime(2024, 5, 17, 13, 18, 25, tzinfo=UTC).timestamp()) * 10**9 + 435_000_100


@pytest.mark.parametrize(
    ("text", "day_first", "iso"),
    [
        ("9/1/2026, 12:00:00.123 AM", False, "2026-09-01T00:00:00.1230000Z"),
        ("9/1/2026, 1:02:03 PM", False, "2026-09-01T13:02:03.0000000Z"),
        ("1.9.2026, 13:02:03,5", True, "2026-09-01T13:02:03.5000000Z"),
        ("01-09-2026 13:02:03", True, "2026-09-01T13:02:03.0000000Z"),
        ("1/9/2026, 13:02:03", None, None),
        ("31/31/2026, 13:02:03", True, None),
        ("2026-09-01T12:00:00.1234567Z", None, "2026-09-01T12:00:00.1234567Z"),
    ],
)
def test_a_portals_time_is_read_as_its_language_has_it(text: str, day_first: bool | None, iso: str | None) -> None:
    assert iso_time(text, day_first) == iso


@pytest.mark.parametrize(
    ("time", "comma", "day"),
    [("%d.%m.%Y %H:%M:%S", ";", 17), ("%d/%m/%Y, %H:%M:%S", ",", 17), ("%m/%d/%Y, %H:%M:%S", ",", 17)],
)
def test_which_number_is_the_month_is_told_by_the_file_itself(tmp_path: Path, time: str, comma: str, day: int) -> None:
    as_portal_csv(tmp_path / "logs", [diagnostics_row(request(1))], time, comma)
    (logged,) = read_logs([tmp_path]).table["logged_ns"]
    assert datetime.fromtimestamp(logged / 1e9, UTC) == datetime(2024, 5, day, 13, 18, 25, tzinfo=UTC)


@pytest.mark.parametrize(("half", "month"), [("AM", 5), ("am", None), ("a.m.", None)])
def test_am_and_pm_say_that_the_month_comes_first_only_as_americans_write_them(
    tmp_path: Path, half: str, month: int | None
) -> None:
    as_portal_csv(tmp_path / "logs", [diagnostics_row(request(1))], f"5/7/2024, 1:18:25 {half}")
    (logged,) = read_logs([tmp_path]).table["logged_ns"]
    assert (None if pd.isna(logged) else datetime.fromtimestamp(logged / 1e9, UTC).month) == month


def test_australian_times_are_told_by_a_day_that_is_no_month(tmp_path: Path) -> None:
    rows = [diagnostics_row(request(n, time=f"2024-05-{day}T13:18:25Z")) for n, day in enumerate(("07", "17"))]
    as_portal_csv(tmp_path / "logs", rows, "%d/%m/%Y, %I:%M:%S %p")
    found = read_logs([tmp_path]).table["logged_ns"].sort_values()
    assert [datetime.fromtimestamp(one / 1e9, UTC).day for one in found] == [7, 17]


def test_times_of_another_zone_are_left_out_and_said_so(tmp_path: Path) -> None:
    as_portal_csv(tmp_path / "logs", [diagnostics_row(request(1))])
    file = tmp_path / "logs.csv"
    file.write_text(file.read_text().replace("[UTC]", "[Local Time]"))
    logs = read_logs([tmp_path])
    assert logs.table["logged_ns"].isna().all()
    assert [one.why for one in logs.skipped] == ["1 times left out: they are of Local Time; export them in UTC"]


def test_a_time_that_could_be_either_day_is_left_out_and_said_so(tmp_path: Path) -> None:
    early = diagnostics_row(request(1, time="2024-05-07T13:18:25Z"))
    as_portal_csv(tmp_path / "logs", [early], "%d/%m/%Y, %H:%M:%S")
    logs = read_logs([tmp_path])
    assert logs.table["logged_ns"].isna().all() and row(logs, "call-1")["began_ns"] is not None
    assert left_out(logs) == [f"{tmp_path / 'logs.csv'}: 1 times left out: which number is the month cannot be told."]


@pytest.mark.parametrize(
    ("properties", "prompt", "generated"),
    [
        # What is published reads `toint(props.promptTokens)`: of an array that is nothing, and never the count.
        ({"promptTokens": [120], "generatedTokens": ["34"]}, 120, 34),
        ({"promptTokens": ["100", 20], "generatedTokens": [30, "4"]}, 120, 34),
        # And `completionTokens`, which RequestUsage does not have.
        ({"promptTokens": [120], "completionTokens": [34]}, 120, None),
        ({"promptTokens": [], "generatedTokens": None}, None, None),
        ({"promptTokens": 120, "generatedTokens": "34"}, None, None),
        ({"promptTokens": [120, "many"], "generatedTokens": [[1]]}, None, None),
        ({"promptTokens": [1.5], "generatedTokens": [10**30]}, None, None),
    ],
)
def test_token_arrays_are_summed_and_nothing_else_is_taken_for_a_count(
    tmp_path: Path, properties: Record, prompt: int | None, generated: int | None
) -> None:
    record = {**usage(1), "properties": json.dumps(properties)}
    one = row(read_logs([jsonl(tmp_path / "logs.json", [record])]), "call-1")
    assert (one["prompt_tokens"], one["generated_tokens"]) == (prompt, generated)


def test_copies_are_counted_and_those_that_differ_are_marked(tmp_path: Path) -> None:
    other = request(2, durationMs=5)
    logs = read_logs(
        [jsonl(tmp_path / "logs.json", [request(1), request(1), usage(1), request(2), other, *RECORDS[3:]])]
    )
    assert logs.duplicates == 2
    assert (row(logs, "call-1")["copies"], row(logs, "call-1")["differing"]) == (1, False)
    assert (row(logs, "call-2")["copies"], row(logs, "call-2")["differing"]) == (1, True)
    assert row(logs, "gate-1")["copies"] == 0


def test_among_thousands_a_call_has_the_rows_that_it_has_alone(tmp_path: Path) -> None:
    kinds = (request, usage, gateway, lambda number: llm(number, 0, **HEADED), lambda number: llm(number, 1))
    alone, among = (
        read_logs([jsonl(tmp_path / f"{len(calls)}.json", [kind(n) for n in calls for kind in kinds])])
        for calls in (range(777, 778), range(1100))
    )
    assert (len(alone.table), len(among.table), among.duplicates) == (2, 2200, 0)
    for name in ("call-777", "gate-777"):
        assert row(among, name) == row(alone, name)
    assert among.table.dtypes.equals(alone.table.dtypes)


def test_what_was_not_read_is_named_with_its_place_and_why(tmp_path: Path) -> None:
    (tmp_path / "PT1H.json").write_text(
        "\ufeff" + json.dumps(request(1)) + '\n{"torn": \n\n[]\n{"other": 1}\n' + json.dumps(request(2)) + "\n"
    )
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    (tmp_path / "rows.csv").write_text("TimeGenerated,CorrelationId\n,\n")
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    jsonl(tmp_path / "nameless.json", [request(3, category=None)])
    (tmp_path / "broken.json.gz").write_bytes(gzip.compress(jsonl(tmp_path / "x.txt").read_bytes() * 50)[:-20])
    (tmp_path / "broken.avro").write_bytes(b"Obj\x01 and no more")
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "joined.json").write_text(json.dumps(request(4)) + "\n\ufeff" + json.dumps(request(5)) + "\n")
    (tmp_path / "cut.json").write_text('{"records": [\n{"a": 1},\n' + json.dumps({"records": [request(6)]}) + "\n")
    logs = read_logs([tmp_path])
    assert set(logs.table["correlation_id"]) >= {"call-1", "call-2", "call-4", "call-6"}
    said = {(Path(one.file).name, one.line): one.why for one in logs.skipped}
    assert said["PT1H.json", 2] == "torn, or no JSON"
    assert said["PT1H.json", 4] == "no JSON object"
    assert said["PT1H.json", 5].startswith("no log record: it has no category")
    assert said["notes.csv", None].startswith("no log of Azure")
    assert said["broken.json.gz", None].startswith("the gzip is broken")
    assert said["broken.avro", None].startswith("the Avro is")
    assert said["picture.json", None].startswith("no log of Azure")
    assert said["rows.csv", 2] == said["nameless.json", 1] == said["PT1H.json", 5]
    assert said["joined.json", 2] == "torn, or no JSON"
    assert said["cut.json", 1] == said["cut.json", 2] == "torn, or no JSON object"
    assert len(said) == logs.skipped_lines == 12


def test_records_that_make_no_row_are_counted_and_said(tmp_path: Path) -> None:
    nameless = [request(1, correlationId=""), request(2, correlationId=None), {**usage(1), "correlationId": "{}"}]
    others = [request(3, category="Trace"), request(4, category="\x1b[31m"), request(5, category="")]
    logs = read_logs([jsonl(tmp_path / "logs.json", [*nameless, *others, request(6)])])
    assert list(logs.table["correlation_id"]) == ["call-6"]
    assert aside(logs) == {
        "without_id": {"RequestResponse": 2, "AzureOpenAIRequestUsage": 1},
        "other_categories": {"Trace": 1, "\x1b[31m": 1},
    }
    assert left_out(logs) == [
        f"Skipped {tmp_path / 'logs.json'}, line 6: {NO_RECORD}.",
        "Records of no call: 2 of RequestResponse, 1 of AzureOpenAIRequestUsage without a correlation id;"
        " 1 of \\x1b[31m, 1 of Trace of categories that are not joined.",
    ]


def test_a_line_without_end_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.log_shapes.MOST_IN_A_DOCUMENT", 2 * 1024**2)
    lines = [json.dumps({"records": [request(1)]}), '{"' + "x" * 3 * 1024**2]
    (tmp_path / "batches.json").write_text("\n".join(lines))
    (tmp_path / "nothing.csv").write_text(" " * 3 * 1024**2)
    logs = read_logs([tmp_path])
    assert list(logs.table["correlation_id"]) == ["call-1"]
    assert [one.why[:18] for one in logs.skipped] == ["a line of over 2 M", "no log of Azure: n"]


def test_a_file_that_unpacks_to_a_thousand_times_its_size_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b" " * 64 * 1024**2))
    schema = {"type": "record", "name": "E", "fields": [{"name": "Body", "type": "bytes"}]}
    with (tmp_path / "bomb.avro").open("wb") as file:
        fastavro.writer(file, schema, [{"Body": b" " * 64 * 1024**2}], codec="deflate")
    logs = read_logs([tmp_path])
    assert ["bomb" in one.why for one in logs.skipped] == [True, True] and logs.table.empty


def test_the_audit_is_beside_the_calls_as_it_has_no_correlation_id(tmp_path: Path) -> None:
    audit = {
        "category": "Audit", "operationName": "ListKey", "properties": {"objectId": "someone"},
        "resourceId": ACCOUNT, "time": "2024-04-17T06:03:30.0000000Z",
    }  # fmt: skip
    logs = read_logs([jsonl(tmp_path / "logs.json", [audit, request(1)])])
    assert logs.audit[["operation", "account", "object_id"]].to_numpy().tolist() == [["ListKey", "CONTOSO", "someone"]]
    assert list(logs.audit["logged_ns"]) == [1_713_333_810 * 10**9]
    by_category = logs.categories.set_index("category")
    assert by_category.loc["Audit", "without_id"] == 1 and len(logs.table) == 1
    assert aside(logs)["other_categories"] == {"Audit": 1} and left_out(logs) == []


def test_the_folders_of_a_storage_account_are_not_taken_for_what_a_record_says(tmp_path: Path) -> None:
    folder = tmp_path / "insights-logs-requestresponse" / f"resourceId={ACCOUNT}" / "y=2024" / "m=05"
    folder.mkdir(parents=True)
    assert row(read_logs([jsonl(folder / "PT1H.json")]), "call-1")["account"] == "CONTOSO"


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    table = read_logs([jsonl(tmp_path / "logs.json")], ["prompt_tokens"]).table
    assert set(table) & set(COLUMNS) == {"prompt_tokens"} and list(table["prompt_tokens"].dropna()) == [120]


def test_no_logs_at_all_are_an_empty_table_with_every_column(tmp_path: Path) -> None:
    logs = read_logs([tmp_path])
    assert logs.table.empty and set(COLUMNS) <= set(logs.table) and logs.requests.empty


def test_a_name_that_looks_like_a_pattern_is_that_of_one_file(tmp_path: Path) -> None:
    for number, name in enumerate(("a1", "a[1]", "a*", "a?", "it's", "{a1,a2}")):
        jsonl(tmp_path / f"{name}.json", [request(number)])
    logs = read_logs([tmp_path])
    assert sorted(logs.table["correlation_id"]) == [f"call-{number}" for number in range(6)]
    assert logs.duplicates == 0


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = jsonl(tmp_path / "logs.json")
    monkeypatch.chdir(tmp_path)
    logs = read_logs([tmp_path, file, Path("logs.json")])
    assert (logs.files, logs.duplicates) == (1, 0)


def test_a_source_that_is_not_there_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LogsError, match="no such log file or folder"):
        read_logs([tmp_path / "nowhere"])


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = plain | st.lists(plain, max_size=2) | st.dictionaries(st.text(max_size=5), plain, max_size=2)


@settings(max_examples=20)
@given(st.lists(st.dictionaries(st.sampled_from([*request(1), "TimeGenerated"]), values, max_size=4), max_size=3))
def test_no_record_however_odd_ends_the_reading(tmp_path_factory: pytest.TempPathFactory, odd: list[Record]) -> None:
    folder = tmp_path_factory.mktemp("odd")
    logs = read_logs([jsonl(folder / "logs.json", [request(1), *odd])])
    assert "call-1" in set(logs.table["correlation_id"])


def test_a_record_of_the_export_is_no_row_of_a_table() -> None:
    assert from_row(request(1)) == request(1)


def test_the_published_example_of_a_usage_record_is_read(tmp_path: Path) -> None:
    shared = Path(__file__).parents[2] / "shared" / "fixtures" / "requestusage_schema.json"
    if not shared.exists():
        pytest.skip("no fixtures here")
    example = json.loads(shared.read_text())["synthetic_example"]
    (one,) = read_logs([jsonl(tmp_path / "logs.json", [example])]).table.to_dict(orient="records")
    assert (one["prompt_tokens"], one["generated_tokens"], one["account"]) == (120, 34, "X")
