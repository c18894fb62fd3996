"""`analysis tokens --metric`: what a gateway's policy counted, in each shape it is exported in, beside usage."""

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from analysis.cli import analysis
from tests.test_analysis import BEGAN, call, write_run

MINUTE = datetime.fromtimestamp(BEGAN // 10**9, UTC)
# Two subscriptions; of the second somebody else calls, too.
COUNTED = [("Prompt Tokens", 80, "a"), ("Completion Tokens", 20, "a"), ("Prompt Tokens", 47, "b")]


def rows(**changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "timestamp": MINUTE.isoformat(),
            "name": name,
            "value": tokens,
            "valueSum": tokens,
            "valueCount": 1,
            "customDimensions": json.dumps({"Deployment": "chat", "Subscription ID": who, "API ID": "openai"}),
            **changes,
        }
        for name, tokens, who in COUNTED
    ]


def as_query_result(path: Path) -> Path:
    columns = [{"name": name, "type": "string"} for name in rows()[0]]
    table = {"name": "PrimaryResult", "columns": columns, "rows": [list(one.values()) for one in rows()]}
    path.write_text(json.dumps({"tables": [table]}))
    return path


def as_workspace_list(path: Path) -> Path:
    renamed = {"timestamp": "TimeGenerated", "name": "Name", "valueSum": "Sum", "customDimensions": "Properties"}
    path.write_text(json.dumps([{renamed[key]: one[key] for key in renamed} for one in rows()], indent=1))
    return path


def as_lines(path: Path) -> Path:
    others = [{"name": "Dependencies", "valueSum": 5, "timestamp": MINUTE.isoformat()}]
    path.write_text("".join(json.dumps(one) + "\n" for one in [*rows(), *others]) + '{"torn')
    return path


def as_portal_csv(path: Path) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["timestamp [UTC]" if name == "timestamp" else name for name in rows()[0]])
        writer.writeheader()
        for one in rows(timestamp=f"{MINUTE:%m/%d/%Y, %I:%M:%S.000 %p}"):
            writer.writerow({"timestamp [UTC]": one.pop("timestamp"), **one})
    return path


def tokens(folder: Path, metric: Path, *options: str) -> Result:
    run = write_run(
        folder / "runs",
        [
            # Two of subscription a, one of b and one of b without usage, by the gateway's log; one called directly.
            *(call(float(n), gateway="apim", target="gate", response_id=f"r-{n}") for n in range(3)),
            call(3.0, gateway="apim", target="gate", response_id="r-3", input_tokens=None, output_tokens=None),
            call(4.0),
        ],
    )
    logs = folder / "logs.json"
    logs.write_text("".join(json.dumps(one) + "\n" for n in range(4) for one in logged(n)))
    return CliRunner().invoke(
        analysis, ["tokens", str(run), "--logs", str(logs), "--metric", str(metric), *options], catch_exceptions=False
    )


def logged(number: int) -> list[dict[str, Any]]:
    subscription = "a" if number < 2 else "b"
    return [
        {"category": "GatewayLogs", "correlationId": f"g-{number}", "properties": {"apimSubscriptionId": subscription}},
        {
            "category": "GatewayLlmLog",
            "correlationId": f"g-{number}",
            "properties": {"requestId": f"r-{number}", "deploymentName": "chat", "sequenceNumber": 0},
        },
    ]


@pytest.mark.parametrize("write", [as_query_result, as_workspace_list, as_lines, as_portal_csv])
def test_sums_are_held_against_usage_in_all_and_by_dimension(write: Any, tmp_path: Path) -> None:
    done = tokens(tmp_path, write(tmp_path / ("metric.csv" if write is as_portal_csv else "metric.json")), "-o", "json")
    assert done.exit_code == 0, done.output
    found = {
        (row["dimension"], row["value"], row["metric"]): (row["metric_tokens"], row["usage_tokens"], row["calls"])
        for row in json.loads(done.stdout)["metric"]
    }
    assert found[None, None, "prompt"] == (127, 120, 3)
    assert found[None, None, "completion"] == (20, 30, 3)
    assert found["Subscription ID", "a", "prompt"] == (80, 80, 2)
    assert found["Subscription ID", "b", "prompt"] == (47, 40, 1)
    # What no call is known by is not taken for anybody's.
    assert found["API ID", "openai", "prompt"] == (127, None, None)
    by = {(row["value"], row["metric"]): row for row in json.loads(done.stdout)["metric"]}
    assert (by["b", "prompt"]["difference"], by["b", "prompt"]["without_usage"]) == (7, 1)
    assert by["b", "prompt"]["known_as"] == "subscription"


def test_what_of_the_metric_is_of_another_time_or_has_none_is_no_part_of_it(tmp_path: Path) -> None:
    late = rows(timestamp=(MINUTE + timedelta(hours=1)).isoformat())
    path = tmp_path / "metric.json"
    either = rows(timestamp=f"{MINUTE:%d/%m/%Y, %I:%M:%S pm}")
    path.write_text(json.dumps([*late, *either, *rows(timestamp="once"), *rows(valueSum=None, value="many")]))
    done = tokens(tmp_path, path)
    assert "No row of the gateway's token metric is of the time of calls through a gateway." in done.output
    assert "9 rows of the metric were left out" in done.output


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", '{"records": []}', '[{"name": "Requests", "valueSum": 1}]', "\0"])
def test_a_file_without_the_metric_ends_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "metric.json"
    path.write_text(text)
    done = tokens(tmp_path, path)
    assert done.exit_code == 2 and done.output.count("\n") == 1
    assert done.output.startswith(f"analysis: --metric {path}: no token metric in it; a row has name, valueSum")
