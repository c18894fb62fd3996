"""Every `analysis` command over runs and logs that are damaged, foreign or empty: it says what it left out and why."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

from analysis.caveats import caveats
from analysis.cli import OUTPUTS, analysis
from analysis.findings import analyse
from tests.test_analysis import BEGAN, call, dropped, refused, write_run

OF_RUNS = ("throttling", "regions", "tokens", "gateway", "ptu", "compare", "export", "report")
HOLDING_LOGS = ("throttling", "regions", "gateway", "tokens")
WITH_LOGS = (*HOLDING_LOGS, "export", "report")
TICKS = BEGAN // 100 + 621_355_968_000_000_000
JOURNAL = "3 lines of the journal"


class Given(NamedTuple):
    run: Path
    logs: Path


def log(category: str, correlation_id: str, days: int = 0, **properties: Any) -> dict[str, Any]:
    asked = {"requestTime": TICKS + days * 864_000_000_000, "modelDeploymentName": "chat", "modelName": "gpt-4o"}
    return {
        "category": category,
        "correlationId": correlation_id,
        "resourceId": "/SUBSCRIPTIONS/S/RESOURCEGROUPS/G/PROVIDERS/MICROSOFT.COGNITIVESERVICES/ACCOUNTS/EAST",
        "resultSignature": "200",
        "durationMs": 1000,
        "properties": json.dumps(asked | properties),
    }


def logged(prefix: str = "", days: int = 0) -> list[dict[str, Any]]:
    counted = {"promptTokens": [40], "cachedTokens": [0], "generatedTokens": [10]}
    ids = [f"{prefix}id-{n}.0" for n in range(6)]
    return [log("RequestResponse", one, days) for one in ids] + [
        log("AzureOpenAIRequestUsage", one, days, **counted) for one in ids
    ]


def folder_of(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    path.mkdir(parents=True)
    (path / "PT1H.json").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def sound(base: Path) -> Given:
    return Given(write_run(base, [call(float(n)) for n in range(6)]), folder_of(base / "logs", logged()))


def damaged(base: Path) -> Given:
    given = sound(base)
    with next(given.run.glob("calls-*.jsonl")).open("a") as journal:
        journal.write('[]\n{"another": "file"}\n{"torn')
    with (given.logs / "PT1H.json").open("a") as lines:
        lines.write('{"torn')
    (given.logs / "notes.csv").write_text("a,b\n1,2\n")
    return given


def of_another_resource(base: Path) -> Given:
    return sound(base)._replace(logs=folder_of(base / "other", logged("other-")))


def of_another_time(base: Path) -> Given:
    return sound(base)._replace(logs=folder_of(base / "other", logged("other-", days=30)))


def of_an_empty_folder(base: Path) -> Given:
    (base / "nothing").mkdir(parents=True)
    return sound(base)._replace(logs=base / "nothing")


def empty(base: Path) -> Given:
    return Given(write_run(base, []), folder_of(base / "logs", logged()))


def refusals_only(base: Path) -> Given:
    return Given(write_run(base, [refused(float(n)) for n in range(6)]), folder_of(base / "logs", logged()))


def done(command: str, given: Given, base: Path, *options: str) -> Result:
    more = {
        "compare": [str(given.run)],
        "ptu": ["--model", "gpt-4o"],
        "export": ["--into", str(base / "out")],
        "gather": ["--into", str(base / "out")],
    }.get(command, [])
    logs = ["--logs", str(given.logs)] if command in WITH_LOGS else []
    return CliRunner().invoke(analysis, [command, str(given.run), *more, *logs, *options])


@pytest.mark.parametrize("command", OF_RUNS)
def test_a_torn_line_and_a_foreign_one_are_counted_and_the_rest_is_read(command: str, tmp_path: Path) -> None:
    found = done(command, damaged(tmp_path), tmp_path)
    assert found.exit_code == 0, found.output
    assert JOURNAL in found.output
    if command in WITH_LOGS:
        assert "no log of Azure" in found.output or "2 lines or files of the logs" in found.output
        assert "torn" in found.output or command == "report"


@pytest.mark.parametrize("command", WITH_LOGS)
@pytest.mark.parametrize(
    ("make", "says", "written"),
    [
        (of_another_resource, "another resource's (EAST)", "6 rows of logs, 0 of them calls'"),
        (of_another_time, "The logs are of another time: 2025-12-23", "6 rows of logs, 0 of them calls'"),
        (of_an_empty_folder, "No log is below the folders given", "0 rows of logs, 0 of them calls'"),
    ],
)
def test_why_logs_do_not_fit_is_said(command: str, make: Any, says: str, written: str, tmp_path: Path) -> None:
    given = make(tmp_path)
    if command == "report":
        # Without its figures, which take seconds.
        assert says in " ".join(caveats(analyse(given.run, [given.logs])))
        return
    found = done(command, given, tmp_path)
    assert found.exit_code == 0, found.output
    assert (written if command == "export" else says) in " ".join(found.output.split())


RECORD = json.dumps(logged()[0])
NO_CATEGORY = "no log record: it has no category"
# A file by itself: its name, what is in it, how many of the calls it has, and what is said of it.
FILES = {
    "sound, of any name": ("east.log", f"{RECORD}\n", 1, ""),
    "torn at the end": ("PT1H.json", f"{RECORD}\n{RECORD[:40]}", 1, "line 2: torn, or no JSON"),
    "of something else": ("east.json", '{"level": "info"}\n', 0, f"line 1: {NO_CATEGORY}"),
    "a row of nothing": ("rows.csv", "TimeGenerated,Category,CorrelationId\n,,\n", 0, f"line 2: {NO_CATEGORY}"),
    "an id in capitals": ("PT1H.json", RECORD.replace("id-0.0", "ID-0.0"), 1, ""),
    "without an id": (
        "PT1H.json",
        RECORD + "\n" + RECORD.replace("id-0.0", ""),
        1,
        "Records of no call: 1 of RequestResponse without a correlation id.",
    ),
    "of a category that nothing reads": (
        "PT1H.json",
        RECORD + "\n" + RECORD.replace("RequestResponse", "Trace"),
        1,
        "Records of no call: 1 of Trace of categories that are not joined.",
    ),
    "of another resource": ("PT1H.json", RECORD.replace("id-0.0", "other"), 0, "another resource's (EAST)"),
    "of another time": ("PT1H.json", json.dumps(logged("other-", days=30)[0]), 0, "The logs are of another time: 2025"),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("command", HOLDING_LOGS)
def test_one_file_is_read_as_far_as_it_is_sound_and_the_rest_is_said(command: str, file: str, tmp_path: Path) -> None:
    name, text, matched, says = FILES[file]
    (tmp_path / name).write_text(text, "latin-1")
    given = sound(tmp_path)._replace(logs=tmp_path / name)
    found = done(command, given, tmp_path)
    assert found.exit_code == 0, found.output
    (covered,) = [line for line in found.output.splitlines() if line.startswith("Logs: ")]
    assert covered.startswith(f"Logs: {matched} calls matched, {6 - matched} only here")
    assert len([line for line in found.output.splitlines() if says in line]) == 1 or not says


@pytest.mark.parametrize("command", HOLDING_LOGS)
def test_a_script_is_told_of_records_that_make_no_row(command: str, tmp_path: Path) -> None:
    given = sound(tmp_path)
    records = [log("RequestResponse", ""), log("Trace", "id-0.0")]
    found = done(command, given._replace(logs=folder_of(tmp_path / "more", records)), tmp_path, "-o", "json")
    told = json.loads(found.stdout)["coverage"]["records_aside"]
    assert told == {"without_id": {"RequestResponse": 1}, "other_categories": {"Trace": 1}}


def test_logs_that_were_fetched_too_early_are_said_to_be(tmp_path: Path) -> None:
    given = sound(tmp_path)
    written = {"time": "2025-11-23T16:00:03.2000000Z"}
    records = [log("RequestResponse", f"id-{n}.0", requestTime=TICKS + n * 10**7) | written for n in range(3)]
    given = given._replace(logs=folder_of(tmp_path / "more", records))
    said = "3 of the calls only here ended after the last record was written (2025-11-23 16:00 UTC)"
    assert said in done("throttling", given, tmp_path).output
    assert said in " ".join(caveats(analyse(given.run, [given.logs])))
    told = json.loads(done("throttling", given, tmp_path, "-o", "json").stdout)["coverage"]
    assert (told["only_client"], told["later"], told["written_ns"]) == (3, 3, BEGAN + 3_200_000_000)


def test_a_report_says_that_records_have_no_id(tmp_path: Path) -> None:
    given = sound(tmp_path)
    logs = folder_of(tmp_path / "more", [*logged(), log("RequestResponse", ""), log("Audit", "")])
    said = caveats(analyse(given.run, [logs]))
    assert "Records of no call: 1 of RequestResponse without a correlation id." in said


def none_sent(base: Path) -> Given:
    return Given(write_run(base, [dropped(float(n)) for n in range(3)]), folder_of(base / "logs", logged()))


@pytest.mark.parametrize("make", [none_sent, empty])
def test_where_nothing_was_sent_no_reply_is_blamed_for_it(make: Any, tmp_path: Path) -> None:
    found = done("throttling", make(tmp_path), tmp_path)
    assert "No call was sent." in found.output and "No reply named its record" not in found.output
    assert ("; 3 more were dropped and never sent." in found.output) == (make is none_sent)


def test_of_calls_that_were_never_sent_none_could_be_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, [call(0.0), refused(1.0), dropped(2.0), dropped(3.0)])
    found = CliRunner().invoke(analysis, ["throttling", str(run), "-o", "json"])
    told = json.loads(found.stdout)
    assert (told["refused"], told["calls"], told["dropped"]) == (1, 2, 2)
    assert (told["causes"][0]["calls"], told["causes"][0]["share"]) == (2, 0.5)
    assert (told["minutes"][0]["offered"], told["minutes"][0]["dropped"]) == (4, 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", ["1e999", "-inf", "nan", pytest.param("9" * 400, id="400 digits"), "120,000", ""])
def test_a_limit_that_is_no_number_says_nothing(value: str, tmp_path: Path) -> None:
    names = ("limit-tokens", "remaining-tokens", "limit-requests", "remaining-requests", "renewalperiod-tokens")
    headers = tuple((f"X-RateLimit-{name.title()}", value) for name in names)
    run = write_run(tmp_path, [call(float(n), headers=headers) for n in range(40)])
    found = CliRunner().invoke(analysis, ["throttling", str(run), "-o", "json"], catch_exceptions=False)
    assert [row["model"] for row in json.loads(found.stdout)["limiters"]] == []


@pytest.mark.parametrize("tokens", [2**62, -1])
def test_a_call_of_impossible_usage_is_not_sized_for(tokens: int, tmp_path: Path) -> None:
    calls = [call(float(n)) for n in range(60)]
    run = write_run(tmp_path, [*calls, call(60.0, input_tokens=tokens), call(61.0, output_tokens=tokens)])
    found = CliRunner().invoke(analysis, ["ptu", str(run), "--model", "gpt-4o", "-o", "json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["ptu"] == 15 and told["calls"] == 60


def test_a_run_whose_folder_looks_like_a_pattern_is_no_other_run(tmp_path: Path) -> None:
    other = write_run(tmp_path / "runs", [refused(float(n)) for n in range(3)])
    run = other.rename(tmp_path / "run1").parent / "run[1]"
    write_run(tmp_path / "more", [call(0.0)]).rename(run)
    (journal,) = run.glob("calls-*")
    assert (tmp_path / "run1" / journal.name).exists()
    found = CliRunner().invoke(analysis, ["throttling", str(run)])
    assert found.output.startswith("0 of 1 calls were refused.")


@pytest.mark.parametrize("file", ["calls-1.jsonl", "PT1H.json"])
def test_a_line_beyond_all_measure_ends_in_one_line(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = sound(tmp_path)
    monkeypatch.setattr("analysis.runs._LARGEST_LINE", 9 * 2**20)
    monkeypatch.setattr("analysis.logs._LARGEST_LINE", 9 * 2**20)
    with ((given.run if file.startswith("calls") else given.logs) / file).open("ab") as lines:
        lines.write(b"\0" * 40 * 2**20)
    found = done("tokens", given, tmp_path)
    assert found.exit_code == 2 and found.output.count("\n") == 1
    assert found.output.startswith("analysis: the ") and file in found.output


def test_a_report_says_that_times_were_left_out(tmp_path: Path) -> None:
    given = sound(tmp_path)
    file = tmp_path / "rows.csv"
    file.write_text("TimeGenerated,Category,CorrelationId\n1/9/2026 12:00:00,RequestResponse,id-0.0\n")
    said = caveats(analyse(given.run, [file]))
    assert f"Of the logs: {file}: 1 times left out: which number is the month cannot be told." in said


@pytest.mark.parametrize("make", [empty, refusals_only])
@pytest.mark.parametrize("command", HOLDING_LOGS)
def test_of_no_calls_and_of_refusals_the_coverage_is_said_all_the_same(command: str, make: Any, tmp_path: Path) -> None:
    given = make(tmp_path)
    found = done(command, given._replace(logs=given.logs / "PT1H.json"), tmp_path)
    assert found.exit_code == 0, found.output
    assert f"Logs: {0 if make is empty else 6} calls matched, 0 only here" in found.output


@pytest.mark.parametrize("command", HOLDING_LOGS)
def test_a_log_that_is_not_there_ends_in_one_line(command: str, tmp_path: Path) -> None:
    found = done(command, sound(tmp_path)._replace(logs=tmp_path / "none.json"), tmp_path)
    assert found.exit_code == 2 and found.output.startswith("analysis: --logs ") and found.output.count("\n") == 1


@pytest.mark.parametrize("command", [*OF_RUNS, "verify"])
@pytest.mark.parametrize("make", [empty, refusals_only])
def test_nothing_and_nothing_but_refusals_are_no_trouble(command: str, make: Any, tmp_path: Path) -> None:
    found = done(command, make(tmp_path), tmp_path)
    if command == "ptu":
        assert found.exit_code == 2 and "there is nothing to size for" in found.output
        assert len(found.output.splitlines()) == 1
    else:
        assert found.exit_code == 0, found.output


@pytest.mark.parametrize(
    ("make", "says"),
    [(damaged, "torn, or no JSON"), (of_an_empty_folder, "no request of Azure OpenAI or a gateway with its time")],
)
def test_logs_that_units_are_sized_by_say_what_was_left_out(make: Any, says: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(analysis, ["ptu", str(make(tmp_path).logs)])
    assert says in found.output and found.exit_code == (0 if make is damaged else 2), found.output


# Bodies come and go as lines of JSON: there is no other form of them. `send` is told of beside what it sends to.
WITHOUT_FORM = {"count-tokens", "send"}
# The report takes seconds, and has tests of its other forms.
FORMS = [
    (command, output)
    for command in sorted(set(analysis.commands) - WITHOUT_FORM)
    for output in (OUTPUTS if command != "report" else ["table"])
]


@pytest.mark.parametrize(("command", "output"), FORMS)
def test_every_command_prints_for_people_pages_and_scripts(command: str, output: str, tmp_path: Path) -> None:
    given = sound(tmp_path)
    found = done(command, given, tmp_path, "-o", output)
    assert found.exit_code == 0, found.output
    if output == "json":
        assert isinstance(json.loads(found.stdout), dict)
    else:
        assert found.stdout.strip() and not found.stdout.startswith("{")
        assert ("| --- |" in found.stdout or "### " in found.stdout or found.stdout.startswith("- ")) == (
            output == "md"
        )


def test_bodies_to_count_have_no_other_form_than_their_lines(tmp_path: Path) -> None:
    found = CliRunner().invoke(analysis, ["count-tokens", str(tmp_path), "-o", "md"])
    assert found.exit_code == 2 and "No such option" in found.output
