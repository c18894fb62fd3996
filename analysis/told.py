"""A report as text: for a terminal, and as Markdown for a page or a ticket."""

from collections.abc import Sequence

from analysis import application
from analysis.answers import answers, verdict
from analysis.caveats import caveats
from analysis.findings import Findings
from analysis.output import escaped, markdown
from analysis.rows import (
    TABLES,
    application_rows,
    due_rows,
    lined_up,
    region_rows,
    target_rows,
    throttling_rows,
    token_rows,
)
from analysis.words import plain, seconds

# Lines of the summary on a terminal, the report's path included.
MOST_LINES = 30
FEWEST_ROWS = 3
FIRST_LONGER = 4


def text(findings: Findings, report: str) -> str:
    """At most `MOST_LINES`, the last of them the report's path; where there is much to tell the tables give way."""
    tables = (target_rows, due_rows, application_rows, throttling_rows, region_rows, token_rows)
    shown = [table for table in (rows(findings) for rows in tables) if len(table) > 1]
    head = [verdict(findings), *facts(findings), *_units_and_cost(findings)]
    tail = [*(f"! {caveat}" for caveat in caveats(findings)), report]
    room = MOST_LINES - len(head) - len(tail) - len(shown)
    lines = list(head)
    for table, most in zip(shown, _fitted([len(table) for table in shown], room), strict=True):
        lines += ["", *lined_up(table, most)]
    return "\n".join(lines + tail)


def _units_and_cost(findings: Findings) -> list[str]:
    """Of answers that could be given."""
    _, _, units, cost, _ = answers(findings)
    told = [f"{what}: {one.answer}" for what, one in (("PTUs", units), ("cost", cost)) if "cannot" not in one.answer]
    return [line if len(line) <= 200 else line[:199] + "…" for line in told]


def as_markdown(findings: Findings, report: str) -> str:
    parts = [f"## {escaped(findings.run.name)}", escaped(verdict(findings))]
    for one in answers(findings):
        parts.append(f"### {one.question}\n\n{escaped(one.answer)}")
        parts += ["\n".join(f"- {escaped(detail)}" for detail in one.details)] if one.details else []
        parts.append(f"Rests on: {escaped(one.rests_on)}.")
    if told := caveats(findings):
        parts += ["### Before you believe it", "\n".join(f"- {escaped(caveat)}" for caveat in told)]
    for title, rows in TABLES:
        table = rows(findings)
        if len(table) > 1:
            parts.append(f"### {title}\n\n{markdown(table[0], table[1:])}")
    return "\n\n".join([*parts, escaped(report)])


def _fitted(sizes: Sequence[int], room: int) -> list[int]:
    """The sizes cut until they fit the room: always the largest, but the first table may be longer than the others."""
    fitted = list(sizes)
    while sum(fitted) > room and max(fitted) > FEWEST_ROWS:
        can_give = [number for number, size in enumerate(fitted) if size > FEWEST_ROWS]
        fitted[max(can_give, key=lambda number: fitted[number] - (0 if number else FIRST_LONGER))] -= 1
    return fitted


def facts(findings: Findings) -> list[str]:
    run = findings.run
    about = run.about
    rates = ", ".join(f"{value:,.0f} {name}" for name, value in findings.tokens_per_minute.items())
    model = "" if about.arrivals is None else f", arrivals {plain(about.arrivals)}"
    facts = [f"{plain(about.scenario or 'run')} for {run.seconds:.0f} s{model}{_issued_late(findings)}"]
    if rates:
        facts[0] += f"; tokens a minute: {rates}"
    if findings.tainted is not None:
        facts[0] += f"; first tokens tainted: {findings.tainted:.1%}"
    if findings.view is not None:
        facts.append(_seen_by_the_application(findings.view))
    coverage = findings.coverage
    if coverage is not None:
        facts.append(
            f"logs: {coverage.matched:,} calls matched, {coverage.only_client:,} only here, "
            f"{coverage.only_log:,} only there, {findings.logs.duplicates:,} duplicates"
        )
    return facts


def _seen_by_the_application(view: application.View) -> str:
    found = application.totals(view)
    hidden = view.hidden["reason"].value_counts()
    reasons = ", ".join(f"{plain(reason)}: {number:,}" for reason, number in hidden.items())
    return (
        f"the application's view: {found['succeeded']:,} of {found['calls']:,} calls succeeded, in "
        f"{found['attempts']:,} attempts; the SDK hid {found['hidden']:,} failed ones"
        f"{f' ({reasons})' if reasons else ''} and {seconds(found['waiting'])} of waiting"
    )


def _issued_late(findings: Findings) -> str:
    return "" if findings.late_p99 is None else f" (issued late by {seconds(findings.late_p99)} at p99)"
