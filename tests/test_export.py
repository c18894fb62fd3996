"""`analysis export`: what other tools read of a run is what its journal says."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from analysis.cli import analysis
from analysis.export import HEADER, csv_safe_sql
from probe.escaping import csv_safe
from probe.record import ObservedCall
from tests.test_analysis import call, refused, write_run

HOSTILE = '=cmd|"/c calc"!A1,\n\u202e'
USAGE = json.dumps(
    {
        "category": "AzureOpenAIRequestUsage",
        "correlationId": "id-1.0",
        "resourceId": "/ACCOUNTS/ONE",
        "properties": {"promptTokens": ["40", 2], "cachedTokens": [0], "generatedTokens": [7], "modelName": "@SUM(1)"},
    }
)
CALLS = [
    call(0.5, event_times=(1, 2), headers=(("X-MS-Region", "old"), ("x-ms-region", "new"), ("x-odd", "=1"))),
    call(1.0, headers=(("retry-after-ms", "-5"), ("server", HOSTILE))),
    refused(2.0, ("retry-after", "4"), error_message="-1+1"),
]


def exported(run: Path, *options: str) -> list[Path]:
    done = CliRunner().invoke(analysis, ["export", str(run), *options])
    assert done.exit_code == 0, done.output
    return [Path(line) for line in done.stdout.splitlines()]


def rows(path: Path) -> list[dict[str, Any]]:
    with duckdb.connect() as database:
        found = database.execute(f"SELECT * FROM '{path}'")
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("export")
    run = write_run(base, CALLS)
    with next(run.glob("calls-*.jsonl")).open("ab") as journal:
        journal.write(b'{"torn')
    (base / "logs").mkdir()
    (base / "logs" / "PT1H.json").write_text(USAGE + "\n")
    files = exported(run, "--logs", str(base / "logs"), "--into", str(base / "out"))
    assert sorted(path.name for path in files) == sorted(path.name for path in (base / "out").iterdir())
    return base / "out"


def test_parquet_has_every_call_as_it_is_on_record(folder: Path) -> None:
    first, second, third = rows(folder / "calls.parquet")
    assert first["gen_ai.client.operation.duration"] == 1.0 and first["probe.event_times"] == [1, 2]
    assert first["gen_ai.response.finish_reasons"] == list(CALLS[0].finish_reasons) or not CALLS[0].finish_reasons
    assert third["gen_ai.usage.input_tokens"] is None and third["http.response.status_code"] == 429
    assert [row["group"] for row in (first, second, third)] == ["answered", "answered", "throttled"]
    assert first["start_time"].timestamp() != 0 and third["error.message"] == "-1+1"


def test_a_known_header_is_a_column_as_last_sent_and_all_of_them_are_kept(folder: Path) -> None:
    first, second, third = rows(folder / "calls.parquet")
    assert first[HEADER + "x-ms-region"] == "new" and second[HEADER + "x-ms-region"] is None
    assert third[HEADER + "retry-after"] == "4" and second[HEADER + "server"] == HOSTILE
    assert HEADER + "x-odd" not in first
    assert json.loads(first["headers_json"]) == [list(pair) for pair in CALLS[0].headers]


def test_a_cell_of_the_csv_is_the_same_text_unless_a_spreadsheet_would_act_on_it(folder: Path) -> None:
    with (folder / "calls.csv").open(newline="", encoding="utf-8") as file:
        first, second, third = csv.DictReader(file)
    assert second[HEADER + "server"] == f"'{HOSTILE}" and third["error.message"] == "'-1+1"
    assert second[HEADER + "retry-after-ms"] == "-5"
    assert json.loads(first["probe.event_times"]) == [1, 2] and third["gen_ai.usage.input_tokens"] == ""


def test_the_logs_are_a_table_that_joins_by_the_id(folder: Path) -> None:
    with duckdb.connect() as database:
        joined = database.execute(
            f"""SELECT prompt_tokens, c."probe.issued" FROM '{folder}/logs.parquet' JOIN '{folder}/calls.parquet' AS c
            ON correlation_id = c."azure.service.request.id" """
        ).fetchall()
    assert joined == [(42, 1.0)]
    with (folder / "logs.csv").open(newline="", encoding="utf-8") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["'@SUM(1)"]


def test_every_column_of_every_table_is_in_the_dictionary_with_its_type_and_meaning(folder: Path) -> None:
    said = json.loads((folder / "columns.json").read_text())
    for table in ("calls", "logs"):
        with duckdb.connect() as database:
            there = database.execute(f"DESCRIBE SELECT * FROM '{folder}/{table}.parquet'").fetchall()
        told = [(one["name"], one["type"]) for one in said if one["table"] == table]
        assert told == [(name, kind) for name, kind, *_ in there]
    assert all(one["meaning"] for one in said)
    units = {one["name"]: one["unit"] for one in said}
    assert units["gen_ai.client.operation.duration"] == "s" and units[HEADER + "retry-after-ms"] == "ms"
    assert len((folder / "columns.md").read_text().splitlines()) == len(said) + 2


def test_only_the_owner_may_read_it(folder: Path) -> None:
    if os.name == "posix":
        assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}


@given(st.text(st.characters(codec="utf-8"), max_size=6))
def test_a_whole_column_is_made_safe_as_one_cell_is(text: str) -> None:
    assert DATABASE.execute(f"SELECT {csv_safe_sql('$1::VARCHAR')}", [text]).fetchone() == (csv_safe(text),)


DATABASE = duckdb.connect()


@pytest.mark.parametrize("calls", [[], [refused(float(n)) for n in range(3)]])
def test_a_run_of_nothing_or_of_refusals_is_exported_too(tmp_path: Path, calls: list[ObservedCall]) -> None:
    run = write_run(tmp_path, calls)
    files = exported(run)
    assert {path.name for path in files} == {"calls.parquet", "calls.csv", "columns.json", "columns.md"}
    out = run / "export"
    assert len(rows(out / "calls.parquet")) == len(calls)
    assert len((out / "calls.csv").read_text().splitlines()) == 1 + len(calls)


def test_an_export_again_takes_the_place_of_the_old_one_and_several_runs_have_folders(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "a", CALLS), write_run(tmp_path / "b", [])
    into = str(tmp_path / "out")
    for _ in range(2):
        exported(one, str(other), "--into", into)
    assert {path.name for path in Path(into).iterdir()} == {one.name, other.name}
    assert len(rows(Path(into, one.name, "calls.parquet"))) == 3


def test_a_folder_whose_name_looks_like_a_pattern_is_exported_to_itself(tmp_path: Path) -> None:
    into = tmp_path / "out [1]?"
    calls = [call(1.0, service_request_id="ID-1.0")]
    logs = tmp_path / "PT1H.json"
    logs.write_text(USAGE + "\n")
    done = CliRunner().invoke(
        analysis, ["export", str(write_run(tmp_path, calls)), "--into", str(into), "--logs", str(logs)]
    )
    assert done.exit_code == 0, done.output
    assert "1 rows of logs, 1 of them calls'" in done.stderr
    assert len(rows(tmp_path / "out [[]1][?]" / "calls.parquet")) == 1


def test_what_cannot_be_exported_ends_in_one_line(tmp_path: Path) -> None:
    run = write_run(tmp_path, CALLS)
    (tmp_path / "taken").write_text("")
    for arguments, code in (([str(tmp_path)], 2), ([str(run), "--into", str(tmp_path / "taken")], 74)):
        done = CliRunner().invoke(analysis, ["export", *arguments])
        assert done.exit_code == code and done.output.startswith("analysis: ") and done.output.count("\n") == 1
