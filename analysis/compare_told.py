"""What `analysis compare` has found, in sentences, facts and tables."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.compare import CLEAR, NO_DIFFERENCE, Comparison, is_unjudged
from analysis.output import Result, Table


def as_result(found: Comparison, names: tuple[str, str]) -> Result:
    """`names` are those of A and B."""
    tables = (found.figures, found.parts)
    verdicts = pd.concat([table["verdict"] for table in tables])
    numbers = {str(said): int(number) for said, number in verdicts.value_counts().items()}
    counts = {said: number for said, number in numbers.items() if not is_unjudged(said)}
    lines = [
        f"A is {names[0]}, B is {names[1]}. Differences are B less A.",
        _counted(counts, len(verdicts) - sum(counts.values())) if counts else "Nothing of them can be compared.",
        *(_said(row) for table in tables for row in table.to_dict("records") if row["verdict"] in CLEAR),
        *(f"! {withheld}" for withheld in _withheld(found)),
        *(f"! {warning}" for warning in found.about.warnings),
    ]
    facts = {"a": names[0], "b": names[1], "verdicts": counts, "warnings": found.about.warnings}
    return Result(
        lines,
        facts,
        {
            "changed": Table("What was not the same", found.about.changed, "nothing that is on record"),
            "figures": Table("The whole runs", found.figures, "neither run has a call"),
            "parts": Table("Deployments, targets and classes that both have", found.parts, "none, or only one"),
        },
    )


def _counted(counts: Mapping[str, int], unjudged: int) -> str:
    order = [*CLEAR, *(f"perhaps {said}" for said in CLEAR), NO_DIFFERENCE]
    told = ", ".join(f"{counts[said]} {said}" for said in order if said in counts)
    more = f"; of {unjudged} more there is too little to judge by, or it is not alike" if unjudged else ""
    return f"Of {sum(counts.values())} figures: {told}{more}."


def _withheld(found: Comparison) -> Iterator[str]:
    """Each reason once."""
    by_reason: dict[str, list[str]] = {}
    for topic, why in found.about.withheld.items():
        by_reason.setdefault(why, []).append(topic)
    for why, topics in by_reason.items():
        yield f"Not compared ({', '.join(topics)}), as their load is not the same: {why}."


def _said(row: dict[Any, Any]) -> str:
    of = f"{row['name']}, " if "name" in row else ""
    a, b, difference, low, high = (_shown(row[name], row["unit"]) for name in ("a", "b", "difference", "low", "high"))
    change = "" if row["change"] is None or pd.isna(row["change"]) else f", {row['change']:+.0%}"
    return (
        f"{of}{row['figure']}: {row['verdict']}, {b} and was {a} ({difference}{change}; 95 %: {low} to {high};"
        f" {row['n'][1]:,} and {row['n'][0]:,} observations)."
    )


def _shown(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1000:,.0f} ms" if abs(value) < 10 else f"{value:,.1f} s"
    if unit.startswith("$ "):
        return f"${value:,.2f}{unit[1:]}"
    return f"{value:.2%}" if unit == "share" else f"{value:,.1f} {unit}"
