"""How long calls took: distributions, regions and hours, gaps between tokens, and where the first token's time went."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter

from analysis.figures.canvas import (
    COLOURS,
    EDGE,
    FAINT,
    HATCHES,
    INK,
    MOST,
    PAPER,
    STYLES,
    busiest,
    canvas,
    drawing,
    label,
    legend_beside,
    log_seconds,
    percent,
    svg,
)

# Shorter ones are shown as this long, in seconds.
SHORTEST_GAP = 1e-4
_MARKS = ((0.5, "o"), (0.95, "s"), (0.99, "^"))


def distribution(table: pd.DataFrame, what: str, limits: Sequence[tuple[float, float]], title: str) -> str:
    """The share of calls that took at most so long, a curve a name, with its quantiles marked; `table` as
    `series.distribution` gives it. `limits` are objectives: which share, and within how many seconds."""
    with drawing():
        figure, axes = canvas(3.0)
        for number, ((name,), part) in enumerate(busiest(table, ["name"], axes)):
            colour, style = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
            few = ", few" if part["n"].iloc[0] < 30 else ""
            named = f"{label(name)} (n = {part['n'].iloc[0]:,}{few})"
            axes.step(part["seconds"], part["share"], where="post", color=colour, linestyle=style, label=named)
            for share, marker in _MARKS:
                at = float(np.interp(share, part["share"], part["seconds"]))
                axes.plot([at], [share], marker=marker, color=colour, markersize=5, markeredgecolor=PAPER)
        for share, seconds in limits:
            name = f"objective: {100 * share:g} % within {seconds:g} s"
            axes.plot([seconds, seconds], [0, share], color=INK, linestyle=(0, (6, 2)), linewidth=1.1, label=name)
            axes.plot([seconds], [share], marker="X", color=INK, markersize=8, markeredgecolor=PAPER)
        axes.set_xscale("log")
        log_seconds(axes.xaxis)
        axes.set_xlabel(f"{what}, seconds (log scale)")
        axes.set_ylabel("share of calls")
        percent(axes.yaxis)
        axes.set_ylim(0, 1.02)
        legend_beside(axes)
        return svg(figure, title)


def regions(table: pd.DataFrame, title: str) -> str:
    """Box plots by region and way there: box p25 to p75, whiskers p5 to p95; `table` as `series.boxes` gives it."""
    with drawing():
        shown = min(MOST, len(table))
        figure, axes = canvas(0.9 + 0.5 * shown)
        boxes: list[dict[str, Any]] = []
        for _, part in busiest(table, ["region", "gateway"], axes):
            row = part.iloc[0]
            marks = {"whislo": "p5", "q1": "p25", "med": "p50", "q3": "p75", "whishi": "p95"}
            few = ", few" if row["n"] < 30 else ""
            boxes.append(
                {
                    **{mark: float(row[name]) for mark, name in marks.items()},
                    "label": f"{label(row['region'])}, {row['gateway']}\nn = {row['n']:,}{few}",
                    "fliers": [],
                }
            )
        axes.bxp(
            boxes[::-1],
            orientation="horizontal",
            showfliers=False,
            patch_artist=True,
            widths=0.5,
            boxprops={"facecolor": FAINT, "edgecolor": COLOURS[0]},
            medianprops={"color": INK, "linewidth": 1.6},
            whiskerprops={"color": COLOURS[0]},
            capprops={"color": COLOURS[0]},
        )
        axes.set_xlim(left=0)
        axes.set_xlabel("time to first token, seconds")
        axes.grid(visible=False, axis="y")
        legend_beside(axes)
        return svg(figure, title)


def heatmap(table: pd.DataFrame, title: str) -> str:
    """The 95th percentile of the time to first token by region and hour of the day; `table` as `regions.by_hour` gives
    it. The number is in each cell, so that its shade is not needed; cells of few calls are hatched."""
    names = sorted(table["region"].unique())[:MOST]
    hours = list(range(int(table["hour"].min()), int(table["hour"].max()) + 1))
    most = float(table["ttft_p95"].max())
    with drawing():
        figure, axes = canvas(0.9 + 0.5 * len(names))
        for row in table[table["region"].isin(names)].to_dict("records"):
            corner = (hours.index(row["hour"]) - 0.5, names.index(row["region"]) - 0.5)
            strength = 0.08 + 0.62 * float(row["ttft_p95"]) / most
            few = row["few"]
            axes.add_patch(
                _cell(corner, FAINT if few else COLOURS[0], 0.35 if few else strength, "////" if few else "")
            )
            text = f"{row['ttft_p95']:.2f} s\nn = {row['calls']:,}"
            axes.text(corner[0] + 0.5, corner[1] + 0.5, text, ha="center", va="center", fontsize=8)
        axes.set_xlim(-0.5, len(hours) - 0.5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xticks(range(len(hours)), [f"{hour:02d}" for hour in hours])
        axes.set_yticks(range(len(names)), [label(name) for name in names])
        axes.set_xlabel("hour of the day, UTC")
        axes.grid(visible=False)
        return svg(figure, title)


def _cell(corner: tuple[float, float], colour: str, alpha: float, hatch: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, facecolor=colour, alpha=alpha, hatch=hatch, edgecolor=PAPER, linewidth=1)


def gaps(table: pd.DataFrame, title: str) -> str:
    """Gaps between the tokens of streams, a violin a way; `table` as `series.gaps` gives it."""
    ways = table["way"].unique()
    with drawing():
        figure, axes = canvas(1.0 + 0.8 * len(ways))
        for number, way in enumerate(ways):
            part = table[table["way"] == way]
            half = 0.4 * part["share"] / part["share"].max()
            axes.fill_between(
                part["gap"], number - half, number + half, step="mid", color=COLOURS[number], alpha=0.7,
                hatch=HATCHES[number], edgecolor=PAPER, linewidth=0,
            )  # fmt: skip
            first = part.iloc[0]
            axes.plot([first["p5"], first["p95"]], [number, number], color=INK, linewidth=1.2)
            axes.plot([first["p50"]], [number], marker="o", color=INK, markeredgecolor=PAPER, markersize=6)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(_milliseconds))
        axes.set_xlim(left=0.6 * float(table["gap"].min()))
        axes.set_xlabel("gap, milliseconds (log scale)")
        named = table.groupby("way", sort=False).first()
        axes.set_yticks(range(len(ways)), [_way(str(way), row) for way, row in named.iterrows()])
        axes.set_ylim(len(ways) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        return svg(figure, title)


def _milliseconds(seconds: float, _: object) -> str:
    return f"{'≤ ' if seconds <= SHORTEST_GAP else ''}{seconds * 1000:g}"


def _way(way: str, row: "pd.Series[Any]") -> str:
    return f"{label(way)} (n = {int(row['n']):,})\n{row['buffered']:.0%} of its streams\ncame all at once"


def shares(table: pd.DataFrame, title: str) -> str:
    """Bars of the mean time to first token, divided into its parts; `table` as `series.first_token_parts` gives it."""
    bars = list(dict.fromkeys(zip(table["target"], table["of"], strict=True)))[: 2 * MOST]
    parts = list(dict.fromkeys(table["part"]))
    with drawing():
        figure, axes = canvas(0.9 + 0.34 * len(bars))
        left = np.zeros(len(bars))
        for number, part in enumerate(parts):
            found = table[table["part"] == part].set_index(["target", "of"])["seconds"]
            widths = np.array([float(found.get(bar, 0.0)) for bar in bars])
            basis = table.loc[table["part"] == part, "basis"].iloc[0]
            axes.barh(
                range(len(bars)), widths, 0.62, left, color=COLOURS[number % 8], hatch=HATCHES[number % 8],
                edgecolor=PAPER, linewidth=0, label=f"{part} ({basis})",
            )  # fmt: skip
            left += widths
        counted = table.groupby(["target", "of"])["n"].first()
        axes.set_yticks(range(len(bars)), [f"{label(name)}, {of} (n = {counted[name, of]:,})" for name, of in bars])
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_xlabel("mean time to first token, seconds")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", color=EDGE)
        legend_beside(axes)
        return svg(figure, title)
