"""What rounds have found, when a run ends, in the words of `analysis gateway` and `analysis regions`, and whether there
were enough of them.

How exactly a difference is known depends on how much times differ by themselves, which nobody knows before. So a run
says, by its own spread, how many rounds bring the interval of a difference within `--precision` on either side.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from locustfiles._options import Options
from locustfiles._scenario import Ending, Findings, Rounds
from locustfiles._verdict import Verdict, again, analysis
from probe.target import SettingsError, Target

if TYPE_CHECKING:
    import pandas as pd

GATEWAY_PRECISION, REGIONS_PRECISION = 0.001, 0.020
# Of which most are no streams, or refused.
FEWEST_ROUNDS = 100
# What tells most exactly what a gateway costs, in this order.
_MARKS = ("first token, less the service's own", "first token", "whole call, less the service's own", "whole call")


class Size(NamedTuple):
    """Of a sample: the rounds that were made, and how many it takes to know a difference `within` so many seconds;
    None where nothing is known of the spread."""

    rounds: int
    needed: int | None
    within: float

    @property
    def enough(self) -> bool:
        return self.needed is not None and self.needed <= self.rounds

    def told(self) -> dict[str, Any]:
        return {"rounds": self.rounds, "needed_rounds": self.needed, "within": self.within, "enough": self.enough}

    def __str__(self) -> str:
        known = f"within {self.within * 1000:g} ms"
        if self.needed is None:
            return f"{self.rounds:,} rounds say nothing yet; give more --rounds"
        if self.enough:
            return f"{self.rounds:,} rounds were enough to know it {known}; {self.needed:,} would have been"
        return f"to know it {known} takes --rounds {self.needed}; there were {self.rounds:,}"


class GatewayRounds(Rounds):
    """Paths to one service: at least one that is direct, and one through a gateway."""

    def __init__(self) -> None:
        super().__init__("gateway", own_texts=True)

    def check(self, options: Options, targets: Sequence[Target]) -> None:
        super().check(options, targets)
        for way, missing in (("direct", "called directly"), ("apim", "behind a gateway")):
            if all(target.gateway != way for target in targets):
                raise SettingsError(
                    f"gateway.py compares paths, and none of {', '.join(target.name for target in targets)} is"
                    f' {missing}; gateway = "apim" or "direct" in targets.toml says which are'
                )

    def ended(self, options: Options, folder: Path, findings: Findings) -> Ending:
        # pandas and DuckDB take a second to import.
        from analysis.gateway import CALL_COLUMNS, added, to_streams
        from analysis.runs import RunError, read_run

        try:
            calls = read_run(folder, (), CALL_COLUMNS).calls
        except RunError as error:
            return Ending({}, [f"gateway: {error}"])
        rows = added(calls).to_dict("records")
        within = options.precision or GATEWAY_PRECISION
        paths = {name: _best(row for row in rows if row["through"] == name) for name in _through(calls)}
        sizes = {name: _size(calls, [row], "added", within) for name, row in paths.items()}
        does = [f"{row['through']} {row['what']}: {row['calls']} of {row['of']}" for row in to_streams(calls)]
        lines = [line for name, row in paths.items() for line in _said_path(name, row, sizes[name])]
        found = [{"through": name, **(row or {}), **sizes[name].told()} for name, row in paths.items()]
        known = [_added(name, row) for name, row in paths.items() if row is not None and row["added_low"] is not None]
        text = "; ".join([*known, *does]) or "no call was answered both directly and through a gateway"
        last = Verdict(f"{'found' if known else 'no verdict'}: {text}", _next("gateway", folder, sizes.values()))
        return Ending({"gateway": found}, [*lines, *does], last)


class RegionsRounds(Rounds):
    """Targets that are called directly; what a gateway chooses by itself says nothing of a region."""

    def __init__(self) -> None:
        super().__init__("regions", own_texts=False)

    def compared(self, targets: Sequence[Target]) -> Sequence[Target]:
        return [target for target in targets if target.gateway == "direct"]

    def ended(self, options: Options, folder: Path, findings: Findings) -> Ending:
        from analysis.regions import CALL_COLUMNS, REGION_HEADERS, analyse, said_difference
        from analysis.runs import RunError, read_run

        try:
            calls = read_run(folder, REGION_HEADERS, CALL_COLUMNS).calls
        except RunError as error:
            return Ending({}, [f"regions: {error}"])
        analysed = analyse(calls)
        ranked = analysed.speed.dropna(subset=["ttft_p50"]).sort_values("ttft_p50").to_dict("records")
        names = [str(row["target"]) for row in ranked]
        compared = {frozenset((row["target"], row["than"])): row for row in analysed.differences.to_dict("records")}
        neighbours = [compared[frozenset(two)] for two in pairwise(names)]
        size = _size(calls, neighbours, "difference", options.precision or REGIONS_PRECISION)
        places = ", ".join(f"{n}. {row['target']} {row['ttft_p50']:.3f} s" for n, row in enumerate(ranked, 1))
        lines = [
            f"regions by their median time to the first token: {places or 'no stream was answered'}",
            *(f"regions: {said_difference(row)}" for row in neighbours),
            f"regions: {size}",
        ]
        told = "found" if neighbours and neighbours[0]["verdict"] in ("faster", "slower") else "no verdict"
        text = "; ".join([places, *map(said_difference, neighbours)]) or "no stream was answered"
        last = Verdict(f"{told}: {text.rstrip('.')}", _next("regions", folder, [size]))
        return Ending({"regions": {"ranking": names, **size.told()}}, lines, last)


def _through(calls: "pd.DataFrame") -> list[str]:
    return sorted(calls.loc[calls["gateway"] == "apim", "target"].unique())


def _best(rows: Iterator[Mapping[Any, Any]]) -> dict[str, Any] | None:
    """Of streams before others, of pairs before samples of their own; None where nothing was answered both ways."""
    found = sorted(
        (row for row in rows if row["mark"] in _MARKS),
        key=lambda row: (not row["paired"], row["asked_for"] != "stream", _MARKS.index(row["mark"])),
    )
    return {str(name): value for name, value in found[0].items() if name != "through"} if found else None


def _size(calls: "pd.DataFrame", rows: Sequence[Mapping[Any, Any] | None], name: str, within: float) -> Size:
    """By the one of the differences that takes most."""
    from analysis.regions import FEW
    from analysis.stats import Estimate, needed

    made = int(calls["round"].nunique())
    takes = []
    for row in rows:
        if row is None or row[f"{name}_low"] is None:
            return Size(made, None, within)
        pairs = needed(Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], row["n"]), within)
        # Not every round gives a pair: it may not stream, or not be answered.
        takes.append(math.ceil(max(FEW, pairs or FEW) * made / row["n"]))
    return Size(made, max(takes, default=None), within)


def _said_path(name: str, row: Mapping[str, Any] | None, size: Size) -> Iterator[str]:
    if row is None:
        yield f"{name}: no call was answered both directly and through it"
    elif row["added_low"] is not None:
        yield _added(name, row)
    yield f"{name}: {size}"


def _added(name: str, row: Mapping[str, Any]) -> str:
    ends = f"95 %: {row['added_low'] * 1000:+,.1f} to {row['added_high'] * 1000:+,.1f}"
    calls = f"{row['asked_for']}s"
    of = f"{row['n']:,} pairs of {calls}" if row["paired"] else f"{row['n']:,} {calls} each way, not paired"
    return f"{name} adds {row['added'] * 1000:+,.1f} ms to the {row['mark']} ({ends}; {of})"


def _next(name: str, folder: Path, sizes: Iterable[Size]) -> str:
    """The tables behind it, or so many rounds as it takes; where that is not known yet, far more."""
    short = [size for size in sizes if not size.enough]
    if not short:
        return analysis(name, folder)
    return again(rounds=max(size.needed or max(FEWEST_ROUNDS, 4 * size.rounds) for size in short))
