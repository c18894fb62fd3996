"""What limits did: the remaining tokens as replies told them, and the waits that refusals asked for."""

import pandas as pd

from analysis.figures.canvas import (
    COLOURS,
    INK,
    MARKERS,
    PAPER,
    STYLES,
    busiest,
    canvas,
    drawing,
    label,
    legend_beside,
    stacked,
    svg,
    thousands,
)


def sawtooth(table: pd.DataFrame, title: str) -> str:
    """Remaining tokens, axes a target, with marks where they jumped up and where they stood still; `table` as
    `series.remaining` gives it."""
    targets = list(dict.fromkeys(table["target"]))
    with drawing():
        figure, rows = stacked([1.35] * len(targets))
        for number, (target, axes) in enumerate(zip(targets, rows, strict=True)):
            part = table[table["target"] == target]
            axes.plot(part["at"], part["remaining"], color=COLOURS[number], linewidth=1.1, label="remaining")
            for mark, marker, colour in (("reset", "^", COLOURS[2]), ("stood still", "x", COLOURS[1])):
                marked = part[part["mark"] == mark]
                if len(marked):
                    axes.plot(
                        marked["at"], marked["remaining"], linestyle="none", marker=marker, color=colour, markersize=5,
                        label=f"{mark} (n = {int(marked['marks'].sum()):,})",
                    )  # fmt: skip
            limit = part["limit"].dropna()
            if len(limit):
                axes.axhline(float(limit.iloc[-1]), color=INK, linestyle=":", linewidth=1, label="limit")
            axes.set_ylim(bottom=0)
            axes.set_title(f"{label(target)}, n = {part['n'].iloc[0]:,}", fontsize=9, loc="left")
            thousands(axes.yaxis)
            legend_beside(axes)
        rows[-1].set_xlim(left=0 if table["at"].min() < 60 else float(table["at"].min()))
        rows[-1].set_xlabel("seconds since the run began")
        figure.supylabel("tokens left", fontsize=9)
        return svg(figure, title)


def kept(table: pd.DataFrame, title: str) -> str:
    """The wait that refusals asked for against the wait that was enough, marks of a size by their number; `table` as
    `series.kept` gives it."""
    with drawing():
        figure, axes = canvas(3.2)
        most = float(max(table["promised"].max(), table["enough"].max(), 1.0)) * 1.05
        largest = float(table["refusals"].max())
        for number, (name, part) in enumerate(busiest(table, ["target", "cause"], axes)):
            axes.scatter(
                part["promised"],
                part["enough"],
                s=12 + 110 * (part["refusals"] / largest) ** 0.5,
                marker=MARKERS[number % len(MARKERS)],
                color=COLOURS[number % len(COLOURS)],
                alpha=0.65,
                edgecolors=PAPER,
                linewidths=0.5,
                label=f"{label(name[0])}: {label(name[1])} (n = {part['n'].iloc[0]:,})",
            )
        axes.plot([0, most], [0, most], color=INK, linestyle=STYLES[1], linewidth=1, label="just as promised")
        axes.set_xlim(0, most)
        axes.set_ylim(0, most)
        axes.set_xlabel("Retry-After promised, seconds")
        axes.set_ylabel("until a call was let in, seconds")
        legend_beside(axes)
        return svg(figure, title)
