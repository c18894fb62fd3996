"""A run's report, or that of several: one HTML file that needs no network, and its figures for other programs.

The HTML has no script, and a content security policy that allows none. Its figures are drawn in it, in the colours of
the reader's theme; what a server sent is text in it and nothing else.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis.answers import answers, judgements, said_last, verdict
from analysis.caveats import about_trust, caveats
from analysis.export import csv_safe_sql, export
from analysis.figures.canvas import DARK, THEME, with_ids
from analysis.findings import Findings
from analysis.panels import Panel, panels
from analysis.rows import TABLES
from analysis.runs import Target
from analysis.summary import as_json
from analysis.told import facts
from probe.journal import write_whole

REPORT, SUMMARY, DATA = "report.html", "summary.json", "report-data"
# As CSV so many calls are some 40 MB; of more than that a reader of the page has no use.
MOST_CALLS = 20_000
_EXPORTED = ("calls.parquet", "calls.csv", "columns.json", "columns.md")


class Section(NamedTuple):
    """A run's part of the page."""

    findings: Findings
    panels: list[Panel]


def sections(found: Sequence[Findings]) -> list[Section]:
    return [Section(one, panels(one)) for one in found]


def write(found: Sequence[Section], folder: Path) -> Path:
    """Writes the page, `summary.json`, and what each figure draws as CSV and Parquet, with the calls themselves where
    they are no more than `MOST_CALLS`; several runs' summaries are a list. Gives the page's path. Raises
    `JournalError`, `RunError`, `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / REPORT
    summaries = [as_json(one.findings, REPORT) for one in found]
    write_whole(path, html(found))
    write_whole(folder / SUMMARY, json.dumps(summaries[0] if len(summaries) == 1 else summaries, indent=2) + "\n")
    for one in found:
        data = folder / _data(one.findings, found)
        _write_data(one.panels, data)
        if _with_calls(one.findings):
            export(one.findings.run.folder, data)
        else:
            for name in _EXPORTED:
                (data / name).unlink(missing_ok=True)
    return path


def _data(of: Findings, found: Sequence[Section]) -> str:
    return f"{DATA}/{of.run.name}" if len(found) > 1 else DATA


def _with_calls(findings: Findings) -> bool:
    return len(findings.run.calls) <= MOST_CALLS


def _write_data(drawn: Sequence[Panel], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with duckdb.connect() as database:
        for panel in drawn:
            path = folder / panel.key
            if panel.table.empty:
                for ending in (".csv", ".parquet"):
                    path.with_suffix(ending).unlink(missing_ok=True)
                continue
            database.register("drawn", _plain(panel.table))
            kinds = {name: kind for name, kind, *_ in database.execute("DESCRIBE drawn").fetchall()}
            safe = ", ".join(
                f"{csv_safe_sql(_quoted(name)) if kind == 'VARCHAR' else _quoted(name)} AS {_quoted(name)}"
                for name, kind in kinds.items()
            )
            for ending, selected in (("csv", f"SELECT {safe} FROM drawn"), ("parquet", "SELECT * FROM drawn")):
                options = "FORMAT csv, HEADER" if ending == "csv" else "FORMAT parquet"
                place = str(path.with_suffix(f".{ending}")).replace("'", "''")
                database.execute(f"COPY ({selected}) TO '{place}' ({options})")
            database.unregister("drawn")


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """With columns that DuckDB has types for, and text where there are several."""
    return table.astype({name: "str" for name in table if table[name].dtype == "object"})


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def html(found: Sequence[Section]) -> str:
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs = [
        _shown(one, f"r{number}") | {"asked_in": _asked_in(one.findings, found)} for number, one in enumerate(found, 1)
    ]
    return environment.get_template("report.html").render(
        runs=runs,
        colours={THEME[colour]: colour for colour in THEME},
        dark={THEME[colour]: dark for colour, dark in DARK.items()},
        most_calls=f"{MOST_CALLS:,}",
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _asked_in(of: Findings, found: Sequence[Section]) -> str:
    """Where a figure's query runs."""
    return f"in {_data(of, found)}" if _with_calls(of) else "after analysis export RUN, in its folder"


def _shown(section: Section, prefix: str) -> dict[str, Any]:
    """What the template has of a run."""
    findings = section.findings
    about = findings.run.about
    stamps = about_trust(findings)
    return {
        "id": prefix,
        "name": findings.run.name,
        # The first screen has it before anything else.
        "stamps": stamps,
        "verdict": verdict(findings),
        "missed": sum(not one.held for one in judgements(findings)),
        "facts": facts(findings),
        "answers": answers(findings),
        "said_last": said_last(findings),
        "caveats": caveats(findings)[len(stamps) :],
        "panels": [_drawn(panel, f"{prefix}-{panel.key}") for panel in section.panels],
        "tables": [(title, rows) for title, table in TABLES if len(rows := table(findings)) > 1],
        "targets": [_described(target) for target in about.targets],
        "versions": about.versions,
    }


def _drawn(panel: Panel, prefix: str) -> dict[str, Any]:
    # Its text is escaped where it is drawn.
    figure = Markup(with_ids(panel.figure, prefix))  # noqa: S704
    return {**panel._asdict(), "figure": figure, "id": prefix}


def _described(target: Target) -> str:
    """What is on record of a target, in the order of its fields."""
    return ", ".join(value for value in msgspec.structs.astuple(target) if isinstance(value, str))
