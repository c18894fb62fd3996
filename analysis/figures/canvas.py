"""What the report's figures have in common: a look for light, dark and paper, and no need of colour.

Colours are Okabe and Ito's, which people without full colour vision can tell apart; lines differ in style, marks in
form and areas in hatching as well. In the page each colour is a variable that the page sets, so that a figure follows
its theme. Text from outside (names of targets, regions, causes) is drawn as text: `$` would begin a formula. The
browser sets it in its own fonts, which know more scripts than matplotlib's.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

# As light shows them; dark has others for some (`THEME`).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a", "#101010")
INK, EDGE, GRID, PAPER, FAINT = "#333333", "#9a9a9a", "#e3e3e3", "#fefefe", "#bbbbbb"
# A colour of a figure: the page's variable for it, and what that is in the dark.
THEME = {
    **{colour: f"--c{number}" for number, colour in enumerate(COLOURS)},
    INK: "--ink",
    EDGE: "--edge",
    GRID: "--grid",
    PAPER: "--paper",
    FAINT: "--faint",
}
DARK = {
    **dict(
        zip(
            COLOURS,
            ("#4aa8e0", "#f0803c", "#2fc29a", "#e29bc2", "#f0b840", "#8fd0f5", "#a8a8a8", "#f2f2f2"),
            strict=True,
        )
    ),
    INK: "#e8eaed",
    EDGE: "#7d8792",
    GRID: "#343b44",
    PAPER: "#16191d",
    FAINT: "#5a626c",
}
STYLES = ("-", "--", "-.", ":")
MARKERS = "os^Dv<>"
# No dots: each would be a drawing of its own.
HATCHES = ("", "////", "\\\\\\\\", "xxxx", "----", "||||", "++++", "//")
# More curves or boxes than these cannot be told apart.
MOST = 8
_RC: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.hashsalt": "headroom",
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": EDGE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "hatch.color": PAPER,
    "legend.frameon": False,
}


def drawing() -> Any:
    """The look, as a context."""
    return rc_context(_RC)


def label(text: object) -> str:
    """Text as it is to be read, in one short line and with nothing that matplotlib would interpret."""
    visible = "".join(c if c.isprintable() else "?" for c in str(text))
    short = visible if len(visible) <= 40 else visible[:39] + "…"
    # matplotlib leaves a legend's entry out where its name begins with an underscore.
    return (f" {short}" if short.startswith("_") else short).replace("$", r"\$")


def canvas(height: float) -> tuple[Figure, Axes]:
    """In inches; as wide as the page."""
    figure = Figure(figsize=(9.2, height), layout="constrained")
    return figure, figure.add_subplot()


def stacked(heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Axes one below the other on one axis of time."""
    figure = Figure(figsize=(9.2, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=list(heights))
    return figure, [row[0] for row in axes]


def busiest(table: pd.DataFrame, by: Sequence[str], axes: Axes) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The groups of most `n`, in the order of their names; the legend says how many more there are."""
    groups = table.groupby(list(by), sort=True)
    sizes = groups["n"].first().sort_values(ascending=False, kind="stable")
    kept = sorted(sizes.index[:MOST])
    for values in kept:
        key = values if isinstance(values, tuple) else (values,)
        yield key, groups.get_group(key)
    if len(sizes) > len(kept):
        axes.plot([], [], linestyle="none", label=f"{len(sizes) - len(kept)} with fewer calls: in the data")


def percent(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))


def thousands(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))


def log_seconds(axis: Any) -> None:
    """Plain numbers at 1, 2, 3 and 5 of each decade."""
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 3.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def mark_late(axes: Axes, late: Sequence[tuple[float, float]]) -> None:
    """A strip along the bottom, where the generator itself was behind."""
    for number, (begin, end) in enumerate(late):
        name = "generator behind" if number == 0 else None
        axes.axvspan(begin, end, 0, 0.05, facecolor=FAINT, edgecolor=INK, hatch="////", linewidth=0, label=name)


def legend_beside(axes: Axes) -> None:
    if not axes.get_legend_handles_labels()[1]:
        return
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def svg(figure: Figure, title: str) -> str:
    """An element for a page."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Of characters that matplotlib cannot draw; the browser can.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        # `savefig` draws a figure once more beforehand, for its layout, and comes to the same.
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    inside = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    themed = re.sub(r"<[^>]+>", lambda tag: _themed(tag[0]), inside)
    return themed.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


_COLOUR = re.compile("|".join(THEME))


def _themed(tag: str) -> str:
    """Text between tags is somebody's and stays as it is."""
    tag = re.sub(r' fill="(#[0-9a-f]{6})"', r' style="fill: \1"', tag)
    return _COLOUR.sub(lambda colour: f"var({THEME[colour[0]]})", tag)


def with_ids(drawn: str, prefix: str) -> str:
    """An element whose ids are no other's on its page."""
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", tag[0]), drawn)
