"""What the load needs and costs: the break-even with pay-as-you-go, the knee, and how far token counts are off."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.canvas import (
    COLOURS,
    INK,
    PAPER,
    drawing,
    label,
    legend_beside,
    percent,
    svg,
    thousands,
)

_WAYS = (
    ("payg", "pay-as-you-go", COLOURS[0], "-"),
    ("hourly", "units by the hour", COLOURS[3], ":"),
    ("reserved_month", "units reserved by the month", COLOURS[1], "--"),
    ("reserved_year", "units reserved by the year", COLOURS[2], "-."),
)
_FARTHEST = 20


def break_even(table: pd.DataFrame, title: str) -> str:
    """Dollars a month over tokens a minute, axes a deployment, with this load marked; `table` as `series.break_even`
    gives it."""
    deployments = list(dict.fromkeys(table["deployment"]))
    with drawing():
        figure = Figure(figsize=(9.2, 2.7 * len(deployments)), layout="constrained")
        for axes, deployment in zip(
            figure.subplots(len(deployments), 1, squeeze=False)[:, 0], deployments, strict=True
        ):
            _costs(axes, table[table["deployment"] == deployment])
            axes.set_title(label(deployment), fontsize=9, loc="left")
        return svg(figure, title)


def _costs(axes: Axes, part: pd.DataFrame) -> None:
    lines = part[part["point"] == "line"]
    for column, name, colour, style in _WAYS:
        way = "default" if column == "payg" else "steps-post"
        axes.plot(lines["tokens_per_minute"], lines[column], color=colour, linestyle=style, label=name, drawstyle=way)
    here = part[part["point"] == "this load"].iloc[0]
    low, high = (part.loc[part["point"] == end, "reserved_month"] for end in ("low", "high"))
    if len(low) and len(high):
        ends = [[here["reserved_month"] - low.iloc[0]], [high.iloc[0] - here["reserved_month"]]]
        axes.errorbar([here["tokens_per_minute"]], [here["reserved_month"]], yerr=ends, color=INK, capsize=4)
    axes.plot(
        [here["tokens_per_minute"]] * 2, [here["payg"], here["reserved_month"]], linestyle="none", marker="D",
        color=INK, markeredgecolor=PAPER, label="this load" + (" (bar: 95 %)" if len(low) and len(high) else ""),
    )  # fmt: skip
    at = part[part["point"] == "break-even"]
    if len(at):
        axes.axvline(float(at["tokens_per_minute"].iloc[0]), color=INK, linestyle=(0, (1, 2)), linewidth=1)
        text = f" these units pay off from {at['tokens_per_minute'].iloc[0]:,.0f}"
        axes.text(float(at["tokens_per_minute"].iloc[0]), axes.get_ylim()[1], text, va="top", fontsize=8)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    thousands(axes.xaxis)
    thousands(axes.yaxis)
    axes.set_xlabel("tokens a minute, input and output")
    axes.set_ylabel("US dollars a month")
    legend_beside(axes)


def knee(table: pd.DataFrame, title: str) -> str:
    """Time to first token and refusals over what was offered, columns a target; `table` as `series.knee` gives it."""
    targets = list(dict.fromkeys(table["target"]))
    with drawing():
        figure = Figure(figsize=(9.2, 3.6), layout="constrained")
        grid = figure.subplots(2, len(targets), sharex="col", squeeze=False)
        for column, target in enumerate(targets):
            part = table[table["target"] == target]
            _steps(grid[0][column], part, "ttft_p95_s", COLOURS[0])
            _steps(grid[1][column], part, "throttled_share", COLOURS[1])
            percent(grid[1][column].yaxis)
            thousands(grid[1][column].xaxis)
            grid[0][column].set_title(f"{label(target)}\n{label(part['said'].iloc[0])}", fontsize=9, loc="left")
            grid[1][column].set_xlabel("offered, requests a minute")
        grid[0][0].set_ylabel("TTFT p95, s")
        grid[1][0].set_ylabel("throttled")
        legend_beside(grid[0][-1])
        return svg(figure, title)


def _steps(axes: Axes, part: pd.DataFrame, column: str, colour: str) -> None:
    axes.plot(part["offered_rpm"], part[column], color=colour, linewidth=1.1)
    for held, marker, name in ((True, "o", "held"), (False, "X", "did not hold")):
        some = part[part["held"] == held]
        axes.plot(
            some["offered_rpm"], some[column], linestyle="none", marker=marker, color=colour, markeredgecolor=PAPER,
            markersize=7, label=name,
        )  # fmt: skip
    low, high = part["low"].iloc[0], part["high"].iloc[0]
    if pd.notna(low) and pd.notna(high):
        axes.axvspan(
            low, high, facecolor=COLOURS[2], alpha=0.2, hatch="//", edgecolor=INK, linewidth=0, label="the knee"
        )
    axes.set_ylim(bottom=0)


def token_errors(table: pd.DataFrame, title: str) -> str:
    """Histograms of differences in tokens, side by side; `table` as `series.token_errors` gives it."""
    names = list(dict.fromkeys(table["of"]))
    with drawing():
        figure = Figure(figsize=(9.2, 2.7), layout="constrained")
        grid: Any = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
        for axes, name, colour in zip(grid, names, COLOURS, strict=False):
            part = table[table["of"] == name]
            axes.bar(part["difference"], part["share"], 0.8, color=colour)
            axes.axvline(0, color=INK, linewidth=0.8)
            axes.set_title(_bias(name, part.iloc[0]), fontsize=9)
            percent(axes.yaxis)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            low, high = axes.get_xlim()
            axes.set_xlim(min(low, -3.5), max(high, 3.5))
            axes.set_ylim(0, 1.02)
        figure.supxlabel(f"difference in tokens (beyond {_FARTHEST}: shown at {_FARTHEST})", fontsize=9)
        figure.supylabel("share of calls", fontsize=9)
        return svg(figure, title)


def _bias(name: str, row: "pd.Series[Any]") -> str:
    interval = "" if pd.isna(row["mean_low"]) else f" ({row['mean_low']:+.2f} to {row['mean_high']:+.2f})"
    return f"{name}\nmean {row['mean']:+.2f}{interval}, n = {row['n']:,}"
