"""The report's page: its first screen, its figures with all they rest on, its theme, and what lies beside it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pandas as pd
import pytest

from analysis import series
from analysis.answers import answers
from analysis.caveats import caveats
from analysis.export import export
from analysis.figures.canvas import THEME
from analysis.findings import Findings, analyse, sized
from analysis.loads import MOST_SIZED, busiest
from analysis.outcomes import late_spells
from analysis.panels import Panel
from analysis.report import MOST_CALLS, Section, sections, write
from analysis.runs import read_run
from analysis.summary import schema
from analysis.told import as_markdown
from probe.journal import Run, end_run
from probe.record import LatencyCheckpoint, ObservedCall
from tests.commands import ROOT
from tests.test_analysis import HOSTILE, call, refused, write_run

HOUR = 3600
KNEE = {
    "target": "eastus", "deployment": "chat", "broke_by": "throttled<1%",
    "held": {"requests_per_minute": {"value": 120.0, "low": 110.0, "high": 130.0}},
    "steps": [
        {"offered_rpm": 60, "sent": 60, "throttled_share": 0.0, "ttft_p95_s": 0.2, "held": True},
        {"offered_rpm": 240, "sent": 240, "throttled_share": 0.3, "ttft_p95_s": 0.9, "held": False},
    ],
}  # fmt: skip
SLO = [
    {"objective": "ttft_p95<150ms", "held": False, "n": 120, "value": 0.2},
    {"objective": "throttled<50%", "held": True, "n": 160, "value": 0.25},
]


def full(n: int) -> Iterator[ObservedCall]:
    """So many calls to a target and its gateway over two hours, with all that figures are made of."""
    for number in range(n):
        at, way = number * 2 * HOUR / n, "apim" if number % 2 else "direct"
        left = str(1000 - 100 * (number % 10))
        headers = (
            ("x-ms-region", "East US 2"),
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", left),
        )
        target = "gateway" if number % 2 else "eastus"
        shared: dict[str, Any] = {
            "target": target,
            "gateway": way,
            "scheduled": at,
            "service_request_id": f"id-{number}",
        }
        if number % 4 == 3:
            yield refused(at, ("retry-after", "4"), **shared)
            continue
        yield call(
            at,
            **shared,
            headers=headers,
            connect=0.001,
            time_to_first_token=0.2 if number % 5 else 0.1,
            event_times=(200_000, 210_000, 221_000),
            latency_checkpoint=LatencyCheckpoint(pre_inference_ms=10, engine_ttft_ms=30, service_ttft_ms=80),
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Findings, list[Panel]]:
    """The run's folder with its report, what was found, and the figures."""
    folder = write_run(tmp_path_factory.mktemp("runs"), full(160), arrivals="constant")
    about = json.loads((folder / "run.json").read_text())
    about["ended"] |= {"slo": SLO, "knee": [KNEE], "verdict": {"text": "Too small.", "next": "analysis ptu RUN"}}
    (folder / "run.json").write_text(json.dumps(about))
    found = analyse(folder, [])
    drawn = sections([found])
    write(drawn, folder)
    return folder, found, drawn[0].panels


def test_every_figure_is_drawn_and_says_on_how_many_calls(made: tuple[Path, Findings, list[Panel]]) -> None:
    _, _, panels = made
    assert [panel.key for panel in panels if not panel.figure] == []
    assert all(panel.n > 0 and panel.how_to_read and panel.command for panel in panels)
    counted = {panel.key: panel.n for panel in panels}
    assert (counted["outcomes"], counted["ttft"], counted["duration"], counted["knee"]) == (160, 120, 120, 300)
    assert counted["hours"] == counted["regions"] == counted["gaps"] == counted["parts"] == 120
    assert counted["kept"] == 39 and counted["break-even"] == 160


def test_the_first_screen_answers_by_the_objectives_with_intervals(made: tuple[Path, Findings, list[Panel]]) -> None:
    _, found, _ = made
    held, throttled, units, cost, sure = answers(found)
    assert held.answer.startswith("It did not hold (ttft_p95<150ms): 75.0% of 160 calls were answered")
    assert held.details[0].startswith("ttft_p95<150ms: NOT held; 200 ms of 120 calls (95 %: 200 ms to 200 ms)")
    assert held.details[1].startswith("throttled<50%: held; 25.00% of 160 calls (95 %: 1")
    assert throttled.answer == "gateway, by its token limit: 50.0% of its calls, first after 135 s."
    assert re.fullmatch(r"eastus: 15 PTU of gpt-4o \(95 %: 15 to 15\)\.|chat: .*|gpt-4o: .*", units.answer), units
    assert "a month" in cost.answer and "40 calls that were not answered" in " ".join(units.details)
    assert "160 calls on record, 0 calls in flight, 0 lines damaged" in sure.details


def test_a_page_has_no_colour_but_the_themes_and_no_id_twice(made: tuple[Path, Findings, list[Panel]]) -> None:
    folder, _, panels = made
    page = (folder / "report.html").read_text()
    for panel in panels:
        assert not re.findall(r"<[^>]*#[0-9a-f]{6}\b[^>]*>", panel.figure), panel.key
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert all(f"{name}: #" in page.split("prefers-color-scheme: dark")[1] for name in THEME.values())
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    assert "The run's own last word: Too small. Next: <code>analysis ptu RUN</code>" in page


def test_the_summary_beside_the_page_is_what_its_schema_says(made: tuple[Path, Findings, list[Panel]]) -> None:
    # Here, because it takes seconds, and each of the processes that run tests would.
    import jsonschema

    folder, _, _ = made
    published = json.loads((ROOT / "docs" / "summary.schema.json").read_text())
    assert published == json.loads(json.dumps(schema())), "docs/summary.schema.json is not that of analysis.summary"
    summary = json.loads((folder / "summary.json").read_text())
    jsonschema.validate(summary, published)
    assert (summary["counts"]["calls"], summary["slo"][0]["held"]) == (160, False)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**summary, "counts": {"calls": 1}}, published)


def test_what_each_figure_draws_lies_beside_the_page(made: tuple[Path, Findings, list[Panel]]) -> None:
    folder, _, panels = made
    for panel in panels:
        path = folder / "report-data" / panel.key
        with duckdb.connect() as db:
            rows = [db.execute(f"select count(*) from '{path}.{kind}'").fetchall() for kind in ("parquet", "csv")]
        assert rows == [[(len(panel.table),)]] * 2, panel.key


def test_every_figures_query_runs_on_the_calls_beside_the_page(made: tuple[Path, Findings, list[Panel]]) -> None:
    folder, _, panels = made
    for panel in panels:
        query = panel.query.replace("calls.parquet", str(folder / "report-data" / "calls.parquet"))
        with duckdb.connect() as db:
            assert db.execute(query).fetchall(), panel.key


def test_the_calls_beside_the_page_are_those_of_the_export(
    made: tuple[Path, Findings, list[Panel]], tmp_path: Path
) -> None:
    folder, _, _ = made
    for path in export(folder, tmp_path).files:
        beside = folder / "report-data" / path.name
        if path.suffix == ".parquet":
            with duckdb.connect() as db:
                assert db.read_parquet(str(beside)).fetchall() == db.read_parquet(str(path)).fetchall()
        else:
            assert beside.read_bytes() == path.read_bytes()
    assert "-- DuckDB, in report-data:" in (folder / "report.html").read_text()


def test_of_a_large_run_the_calls_are_left_to_the_export_and_none_of_before_stay(
    made: tuple[Path, Findings, list[Panel]], tmp_path: Path
) -> None:
    _, found, panels = made
    write([Section(found, panels)], tmp_path)
    assert (tmp_path / "report-data" / "calls.csv").exists()
    calls = pd.concat([found.run.calls] * (MOST_CALLS // len(found.run.calls) + 1), ignore_index=True)
    path = write([Section(found._replace(run=found.run._replace(calls=calls)), panels)], tmp_path)
    left = {path.name for path in (tmp_path / "report-data").iterdir()}
    assert left == {f"{panel.key}.{kind}" for panel in panels for kind in ("csv", "parquet")}
    assert "-- DuckDB, after analysis export RUN, in its folder:" in path.read_text()


def test_several_runs_are_one_page_with_each_its_part(made: tuple[Path, Findings, list[Panel]], tmp_path: Path) -> None:
    _, found, _ = made
    other = analyse(write_run(tmp_path / "runs", [call(0)]), [])
    path = write(sections([found, other]), tmp_path)
    page = path.read_text()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert page.count("<article id=") == 2 and len(ids) == len(set(ids))
    summaries = json.loads((tmp_path / "summary.json").read_text())
    assert [one["run"] for one in summaries] == [found.run.name, other.run.name]
    assert {path.name for path in (tmp_path / "report-data").iterdir()} == {found.run.name, other.run.name}
    assert path.stat().st_size < 2_500_000


def test_markdown_has_the_answers_and_nothing_that_acts(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [call(0, target=f"<img src=x>{HOSTILE}"), refused(1)])
    said = as_markdown(analyse(folder, []), "report.html")
    assert "### Did it hold?" in said and "### How many PTUs?" in said and "### By target" in said
    assert "\x1b" not in said and not re.search(r"(?<!\\)<img", said)


def test_stale_headers_and_a_generator_that_was_behind_are_caveats(tmp_path: Path) -> None:
    told = (("x-ratelimit-limit-tokens", "1000"), ("x-ratelimit-remaining-tokens", "400"))
    calls = [call(n + (0.5 if 40 <= n < 60 else 0.0), scheduled=float(n), headers=told) for n in range(100)]
    folder = write_run(tmp_path, calls, arrivals="constant")
    said = caveats(analyse(folder, []))
    assert any("remaining tokens stood still over 99% of the calls" in one for one in said)
    assert any("The generator was behind from 40 to 60 s" in one for one in said), said
    assert late_spells(read_run(folder).calls) == [(40.0, 60.0)]


def test_a_sawtooth_has_a_mark_where_it_jumps_back_and_where_it_stands_still(tmp_path: Path) -> None:
    left = [900, 500, 100, 1000, 600, 600, 200]
    calls = [
        call(n, headers=(("x-ratelimit-limit-tokens", "1000"), ("x-ratelimit-remaining-tokens", str(one))))
        for n, one in enumerate(left)
    ]
    run = read_run(write_run(tmp_path, calls), ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens"))
    marks = series.remaining(run.calls)["mark"]
    assert [None if pd.isna(mark) else mark for mark in marks] == [None, None, None, "reset", None, "stood still", None]


def test_the_busiest_stretch_is_the_one_with_the_most_calls_in_the_least_time() -> None:
    load = pd.DataFrame({"at": [0.0, 10.0, 20.0, 20.5, 21.0, 40.0]})
    assert list(busiest(load, 3)["at"]) == [20.0, 20.5, 21.0] and len(busiest(load, 6)) == 6


def test_of_a_run_too_large_to_be_sized_whole_the_busiest_stretch_is_and_that_is_said(
    made: tuple[Path, Findings, list[Panel]],
) -> None:
    _, found, _ = made
    several = -(-(MOST_SIZED + 1) // len(found.run.calls))
    length = found.run.seconds
    parts = [found.run.calls.assign(at=found.run.calls["at"] + length * number) for number in range(several)]
    run = found.run._replace(calls=pd.concat(parts, ignore_index=True))
    sizings = list(sized(run))
    calls = len(run.calls) - int((run.calls["group"] == "cancelled").sum())
    assert sum(one.sizing.calls for one in sizings if one.sizing) == MOST_SIZED
    told = " ".join(detail for answer in answers(found._replace(sizings=sizings)) for detail in answer.details)
    assert f"Sized for the busiest {MOST_SIZED:,} of its {calls:,} calls, which came in a row" in told


def test_a_knee_of_odd_shape_leaves_its_panel_empty(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [call(0)])
    end_run(Run(id="x", folder=str(folder), wall_ns=0), "completed", {})
    about = json.loads((folder / "run.json").read_text())
    about["ended"]["knee"] = [{"target": "x", "steps": [{"sent": 3}]}, {"held": 7, "steps": None}]
    (folder / "run.json").write_text(json.dumps(about))
    (panel,) = [one for one in sections([analyse(folder, [])])[0].panels if one.key == "knee"]
    assert not panel.figure and panel.why_empty


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_without_a_network_shows_every_figure_and_complains_of_nothing(
    made: tuple[Path, Findings, list[Panel]], tmp_path: Path
) -> None:
    folder, _, panels = made
    seen = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
         "--timeout=20000", "--dump-dom", (folder / "report.html").as_uri()],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert seen.stdout.count("<svg ") == len(panels) == 14, seen.stderr
    assert "CONSOLE" not in seen.stderr and "Content Security Policy" not in seen.stderr


def test_a_run_that_says_nothing_of_its_end_is_reported_with_care(tmp_path: Path) -> None:
    found = analyse(write_run(tmp_path, [call(0)], how=None), [])
    sure = answers(found)[-1]
    assert sure.answer.startswith("With care: the run was not completed") and msgspec.to_builtins(sure)["details"]
