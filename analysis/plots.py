"""The report's figures, one a function: a table in, an SVG out.

Colours are Okabe and Ito's, which people without full colour vision can tell apart; lines differ in style as well.
Text from outside (names of targets, regions, causes) is drawn as text: `$` would begin a formula. The browser sets it
in its own fonts, which know more scripts than matplotlib's.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from analysis.outcomes import over_time
from analysis.runs import ANSWERED
from analysis.stats import quantile

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A", "#000000")
STYLES = ("-", "--", "-.", ":")
_OUTCOME_COLOURS = {
    "ok": "#009E73",
    "ok_length": "#56B4E9",
    "filtered_output": "#0072B2",
    "throttled": "#E69F00",
    "cancelled_user": "#BBBBBB",
}
_FAILED_COLOURS = ("#D55E00", "#CC79A7", "#000000", "#7A7A7A")
_INK, _GRID = "#333333", "#E3E3E3"
_RC: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.hashsalt": "headroom",
    "svg.fonttype": "none",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#9A9A9A",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "legend.frameon": False,
}
# A curve of more points than this looks no different.
_POINTS = 400
# More curves or boxes than these cannot be told apart.
_MOST = 8
# Of more marks than these a picture is smaller than a drawing.
_MOST_DRAWN = 3000


def label(text: object) -> str:
    """Text as it is to be read, in one short line and with nothing that matplotlib would interpret."""
    visible = "".join(c if c.isprintable() else "?" for c in str(text))
    short = visible if len(visible) <= 40 else visible[:39] + "…"
    # matplotlib leaves a legend's entry out where its name begins with an underscore.
    return (f" {short}" if short.startswith("_") else short).replace("$", r"\$")


def outcomes(calls: pd.DataFrame) -> str:
    """Calls ended a second, stacked by outcome."""
    table = over_time(calls)
    width = 2 * float(table.index[0])
    with rc_context(_RC):
        figure, axes = _canvas(2.8)
        bottom = pd.Series(0.0, index=table.index)
        failed = iter(_FAILED_COLOURS * 8)
        for outcome in _order(table.columns):
            rate = table[outcome] / width
            colour = _OUTCOME_COLOURS.get(outcome) or next(failed)
            hatch = "" if outcome in ANSWERED else "////" if outcome == "throttled" else "xxxx"
            axes.bar(
                table.index,
                rate,
                width,
                bottom,
                color=colour,
                label=f"{label(outcome)} (n = {int(table[outcome].sum()):,})",
                hatch=hatch,
                edgecolor="white",
                linewidth=0,
            )
            bottom += rate
        axes.set_xlabel("seconds since the run began")
        axes.set_ylabel("calls ended per second")
        axes.set_xlim(left=0)
        _legend_beside(axes)
        return _svg(figure)


def distribution(calls: pd.DataFrame, column: str, by: Sequence[str], what: str) -> str:
    """The share of calls that took at most so long, a curve for each value of `by`, with its median and p95 marked."""
    with rc_context(_RC):
        figure, axes = _canvas(3.0)
        groups = _busiest(calls.dropna(subset=[column]), by, axes)
        for number, (values, part) in enumerate(groups):
            colour, style = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
            name = " ".join(label(value) for value in values)
            _curve(axes, part[column].astype(float), colour, style, f"{name} (n = {len(part):,})")
        axes.set_xscale("log")
        _seconds_axis(axes)
        axes.set_xlabel(f"{what}, seconds (log scale)")
        axes.set_ylabel("share of calls")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
        axes.set_ylim(0, 1.02)
        _legend_beside(axes)
        return _svg(figure)


def refusals(calls: pd.DataFrame) -> str:
    """Each 429 at the time it came, as high as the Retry-After it carried; those without one lie on the axis."""
    refused = calls[calls["group"] == "throttled"]
    many = len(refused) > _MOST_DRAWN
    with rc_context(_RC):
        figure, axes = _canvas(2.8)
        for number, ((target, cause), part) in enumerate(_busiest(refused, ["target", "throttle_kind"], axes)):
            axes.plot(
                part["at"] + part["duration"],
                part["retry_after"].astype("float64").fillna(0.0),
                linestyle="none",
                marker="os^Dv<>"[number % 7],
                markersize=3 if many else 5,
                alpha=0.3 if many else 0.7,
                markeredgewidth=0,
                color=COLOURS[number % len(COLOURS)],
                label=f"{label(target)}: {label(cause)} (n = {len(part):,})",
                rasterized=many,
            )
        axes.set_xlim(0, max(1.0, float((calls["at"] + calls["duration"]).max())))
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
        axes.set_xlabel("seconds since the run began")
        axes.set_ylabel("Retry-After, seconds")
        _legend_beside(axes)
        return _svg(figure)


def regions(streams: pd.DataFrame) -> str:
    """Box plots of the time to first token by region and way there: box p25 to p75, whiskers p5 to p95."""
    with rc_context(_RC):
        figure, axes = _canvas(1.0 + 0.55 * min(_MOST, streams.groupby(["region", "gateway"]).ngroups))
        boxes: list[dict[str, Any]] = []
        for (region, gateway), part in _busiest(streams, ["region", "gateway"], axes):
            marks = {name: quantile(part["time_to_first_token"], at) for name, at in _BOX.items()}
            boxes.append({**marks, "label": f"{label(region)}, {gateway}\nn = {len(part):,}", "fliers": []})
        axes.bxp(
            boxes[::-1],
            orientation="horizontal",
            showfliers=False,
            patch_artist=True,
            widths=0.5,
            boxprops={"facecolor": "#BBD9EC", "edgecolor": COLOURS[0]},
            medianprops={"color": "#000000", "linewidth": 1.6},
            whiskerprops={"color": COLOURS[0]},
            capprops={"color": COLOURS[0]},
        )
        axes.set_xlim(left=0)
        axes.set_xlabel("time to first token, seconds")
        axes.grid(visible=False, axis="y")
        if axes.get_legend_handles_labels()[1]:
            _legend_beside(axes)
        return _svg(figure)


_BOX = {"whislo": 0.05, "q1": 0.25, "med": 0.5, "q3": 0.75, "whishi": 0.95}


def token_errors(joined: pd.DataFrame) -> str:
    """Histograms of the differences in tokens, side by side: estimate less usage, and usage less log."""
    pairs = (
        ("estimated input less usage", "estimated_tokens", "input_tokens"),
        ("input in usage less log", "input_tokens", "prompt_tokens"),
        ("output in usage less log", "output_tokens", "generated_tokens"),
    )
    found = {name: (joined[one].astype("Int64") - joined[other].astype("Int64")).dropna() for name, one, other in pairs}
    known = {name: difference.astype(int) for name, difference in found.items() if len(difference)}
    with rc_context(_RC):
        figure = Figure(figsize=(9.2, 2.6), layout="constrained")
        for axes, (name, difference), colour in zip(
            figure.subplots(1, len(known), sharex=True, sharey=True, squeeze=False)[0],
            known.items(),
            COLOURS,
            strict=False,
        ):
            counts = difference.clip(-_FARTHEST, _FARTHEST).value_counts().sort_index()
            axes.bar(counts.index, counts / len(difference), 0.8, color=colour)
            axes.axvline(0, color=_INK, linewidth=0.8)
            axes.set_title(f"{name}\n(n = {len(difference):,})", fontsize=9)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            low, high = axes.get_xlim()
            axes.set_xlim(min(low, -3.5), max(high, 3.5))
            axes.set_ylim(0, 1.02)
        figure.supxlabel(f"difference in tokens (beyond {_FARTHEST}: shown at {_FARTHEST})", fontsize=9)
        figure.supylabel("share of calls", fontsize=9)
        return _svg(figure)


_FARTHEST = 20


def _busiest(table: pd.DataFrame, by: Sequence[str], axes: Axes) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The groups of most rows, in the order of their names; the legend says how many more there are."""
    groups = table.groupby(list(by), sort=True)
    sizes = groups.size().sort_values(ascending=False, kind="stable")
    kept = sorted(sizes.index[:_MOST])
    for values in kept:
        key = values if isinstance(values, tuple) else (values,)
        yield key, groups.get_group(key)
    if len(sizes) > len(kept):
        axes.plot([], [], linestyle="none", label=f"{len(sizes) - len(kept)} with fewer calls: in the table")


def _curve(axes: Axes, values: pd.Series, colour: str, style: str, name: str) -> None:
    shares = [number / _POINTS for number in range(_POINTS + 1)] if len(values) > _POINTS else None
    ordered = list(values.quantile(shares)) if shares else [values.min(), *values.sort_values()]
    heights = shares or [number / len(values) for number in range(len(values) + 1)]
    axes.step(ordered, heights, where="post", color=colour, linestyle=style, linewidth=1.5, label=name)
    for share, marker in ((0.5, "o"), (0.95, "s")):
        axes.plot(
            [float(values.quantile(share))], [share], marker=marker, color=colour, markersize=5, markeredgecolor="white"
        )


def _seconds_axis(axes: Axes) -> None:
    """Plain numbers at 1, 2, 3 and 5 of each decade."""
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 3.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _order(outcomes: pd.Index) -> list[str]:
    """Answered at the bottom, then throttled, then the rest."""
    first = [name for name in _OUTCOME_COLOURS if name in outcomes]
    return first + sorted(name for name in outcomes if name not in _OUTCOME_COLOURS)


def _canvas(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.2, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend_beside(axes: Axes) -> None:
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Of characters that matplotlib cannot draw; the browser can.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", dpi=100, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
