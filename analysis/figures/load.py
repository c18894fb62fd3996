"""The run over time: how calls ended, how full the limits were, and what was offered."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.canvas import (
    COLOURS,
    FAINT,
    INK,
    PAPER,
    STYLES,
    canvas,
    drawing,
    label,
    legend_beside,
    mark_late,
    percent,
    stacked,
    svg,
)
from analysis.runs import ANSWERED

_OUTCOME_COLOURS = {
    "ok": COLOURS[2],
    "ok_length": COLOURS[5],
    "filtered_output": COLOURS[0],
    "throttled": COLOURS[4],
    "cancelled_user": FAINT,
}
_FAILED_COLOURS = (COLOURS[1], COLOURS[3], COLOURS[7], COLOURS[6])
_FAILED_HATCHES = ("xxxx", "\\\\\\\\", "++++", "----", "||||")
_AT = "seconds since the run began"


def outcomes(table: pd.DataFrame, late: Sequence[tuple[float, float]], title: str) -> str:
    """Calls ended a second, stacked by outcome; `table` as `series.outcomes` gives it."""
    outcomes = [name for name in table.columns if name != "at"]
    width = 2 * float(table["at"].iloc[0])
    with drawing():
        figure, axes = canvas(2.8)
        bottom = pd.Series(0.0, index=table.index)
        failed = 0
        for outcome in _order(outcomes):
            rate = table[outcome] / width
            colour, hatch = _OUTCOME_COLOURS.get(outcome), "" if outcome in ANSWERED else "////"
            if colour is None:
                colour, hatch = _FAILED_COLOURS[failed % 4], _FAILED_HATCHES[failed % 5]
                failed += 1
            axes.bar(
                table["at"],
                rate,
                width,
                bottom,
                color=colour,
                label=f"{label(outcome)} (n = {int(table[outcome].sum()):,})",
                hatch=hatch,
                edgecolor=PAPER,
                linewidth=0,
            )
            bottom += rate
        mark_late(axes, late)
        axes.set_xlabel(_AT)
        axes.set_ylabel("calls ended per second")
        axes.set_xlim(left=0)
        legend_beside(axes)
        return svg(figure, title)


def _order(outcomes: Sequence[str]) -> list[str]:
    """Answered at the bottom, then throttled, then the rest."""
    first = [name for name in _OUTCOME_COLOURS if name in outcomes]
    return first + sorted(name for name in outcomes if name not in _OUTCOME_COLOURS)


def utilisation(table: pd.DataFrame, late: Sequence[tuple[float, float]], title: str) -> str:
    """How full each limit was with bands where calls were refused, and below it what was offered and refused; `table`
    as `series.utilisation` gives it."""
    used = [name for name in table.columns if name not in ("at", "offered_per_second", "refused_per_second")]
    width = 2 * float(table["at"].iloc[0])
    with drawing():
        figure, rows = stacked([1.9, 1.3] if used else [1.8])
        if used:
            _limits(rows[0], table, used, width)
        below = rows[-1]
        below.step(table["at"], table["offered_per_second"], where="mid", color=COLOURS[0], label="offered")
        below.bar(
            table["at"],
            table["refused_per_second"],
            width,
            color=COLOURS[4],
            hatch="////",
            edgecolor=PAPER,
            linewidth=0,
            label="refused",
        )
        mark_late(below, late)
        below.set_ylabel("calls per second")
        below.set_ylim(bottom=0)
        below.set_xlim(left=0)
        below.set_xlabel(_AT)
        legend_beside(below)
        return svg(figure, title)


def _limits(axes: Axes, table: pd.DataFrame, used: Sequence[str], width: float) -> None:
    for number, name in enumerate(used):
        known = table[table[name].notna()]
        axes.plot(
            known["at"],
            known[name],
            color=COLOURS[number % len(COLOURS)],
            linestyle=STYLES[number % len(STYLES)],
            linewidth=1.4,
            label=label(name),
        )
    named = False
    for at in table.loc[table["refused_per_second"] > 0, "at"]:
        axes.axvspan(
            at - width / 2,
            at + width / 2,
            facecolor=COLOURS[4],
            alpha=0.22,
            linewidth=0,
            label=None if named else "429s in it",
        )
        named = True
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, max(1.05, float(table[list(used)].max().max()) * 1.05))
    percent(axes.yaxis)
    axes.set_ylabel("of the limit used")
    legend_beside(axes)
