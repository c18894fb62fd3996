"""Two runs held against each other, figure by figure: is B other than A, or is that chance?

Intervals.  Of quantiles from a bootstrap, of shares Newcombe's (a bootstrap of no refusals has no width), of means by
            Student's t. Refusals come in spells, and slow calls do: a run is cut into stretches of time, and where a
            figure differs more between them than it would by chance, the interval is that of as many fewer calls.
Verdicts.   Of twenty figures one is expected to look different when nothing is. So a verdict needs an interval so wide
            that of all figures of its table, in 95 of 100 comparisons of equals, none is called different (Bonferroni).
            What only its own interval tells from zero is `perhaps`.
Bounds.     What another hour or another day would have brought is in no interval: two runs of the same settings differ
            by that too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.comparable import Comparable, Topic, comparable
from analysis.compare_figures import (
    ALWAYS,
    FEWEST_STRETCHES,
    FIGURES,
    MOST_STRETCHES,
    SHORT,
    UNITS,
    Better,
    Figure,
    outcomes,
)
from analysis.costs import rates
from analysis.loads import busiest, of_run
from analysis.outcomes import without_late_marks
from analysis.ptu import Asked, Sizing, size
from analysis.ptu_models import find_model
from analysis.runs import Run
from analysis.stats import (
    CONFIDENCE,
    Estimate,
    Spells,
    design_effect,
    from_draws,
    mean_difference,
    quantile_difference,
    share_difference,
)
from probe.target import SettingsError

WORSE = "worse"
NO_DIFFERENCE = "no detectable difference"
CLEAR = (WORSE, "better", "higher", "lower")

_COLUMNS = ["figure", "unit", "a", "b", "difference", "low", "high", "change", "n", "verdict"]


class Comparison(NamedTuple):
    """`figures` of the whole runs and `parts` of deployments, targets and classes have a row a figure; see
    `docs/analysis.md`."""

    figures: pd.DataFrame
    parts: pd.DataFrame
    about: Comparable


class _Side(NamedTuple):
    """One run; each of its calls has the number of its `stretch`, of which there are so many of so many `minutes`."""

    calls: pd.DataFrame
    stretches: int
    minutes: float

    def only(self, column: str, name: str) -> "_Side":
        return self._replace(calls=self.calls[self.calls[column] == name])


def compare(a: Run, b: Run) -> Comparison:
    """Runs as `read_run` gives them with `HEADERS`, `CALL_COLUMNS` and `SAMPLED`."""
    about = comparable(a, b)
    sides = _side(a), _side(b)
    for name, run, side in zip("AB", (a, b), sides, strict=True):
        about.warnings.extend(_no_claim(name, run.calls, side.calls))
    whole = _compared([*FIGURES, *outcomes(*(side.calls for side in sides))], *sides, about.withheld)
    parts = [*_units(a, b, about), *_parts(*sides, about)]
    family = _judged([one for _, found in parts for one in found])
    tables = [_table(found, family).assign(**part) for part, found in parts]
    columns = ["of", "name", *_COLUMNS]
    joined = pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    return Comparison(_table(whole, _judged(whole)), joined, about)


def _side(run: Run) -> _Side:
    """Without first tokens where the client was too late itself."""
    calls, _ = without_late_marks(run.calls, run.about.options.max_tainted)
    number = int(np.clip(run.seconds / 60, FEWEST_STRETCHES, MOST_STRETCHES))
    width = run.seconds / number or 1.0
    stretch = np.minimum((calls["at"] / width).astype(int), number - 1)
    return _Side(calls.assign(stretch=stretch), number, width / 60)


def _no_claim(name: str, calls: pd.DataFrame, left: pd.DataFrame) -> Iterator[str]:
    if left["time_to_first_token"].isna().all() and calls["time_to_first_token"].notna().any():
        yield f"{name} has no times to the first token: too many of them may be late by the client's own doing."


def _parts(a: _Side, b: _Side, about: Comparable) -> Iterator[tuple[dict[str, str], list["_Compared"]]]:
    """Of targets and classes that both runs have; of one alone nothing that the whole does not say."""
    for of, column in (("target", "target"), ("class", "traffic")):
        names = [set(side.calls[column].dropna().unique()) for side in (a, b)]
        for name in sorted(map(str, names[0] & names[1])) if len(names[0] | names[1]) > 1 else ():
            withheld = about.withheld_of_class(name) if of == "class" else about.withheld
            found = _compared(SHORT, a.only(column, name), b.only(column, name), withheld)
            yield {"of": of, "name": name}, found


def _units(a: Run, b: Run, about: Comparable) -> Iterator[tuple[dict[str, str], list["_Compared"]]]:
    """Provisioned units that the load of each deployment that both called needs, where they can be sized."""
    called = [set(run.calls["request_model"].dropna().unique()) for run in (a, b)]
    for name in sorted(map(str, called[0] & called[1])):
        try:
            yield {"of": "deployment", "name": name}, [_units_of(_sized(a, name), _sized(b, name), about)]
        except SettingsError:
            # Nothing was answered, or what answered is in no table: the report says which.
            continue


def _sized(run: Run, deployment: str) -> Sizing:
    load = of_run(run.calls, deployment)
    if len(load.models) != 1:
        raise SettingsError(f"{deployment}: several models answered, or none")
    model = find_model(load.models[0], "global")
    return size(busiest(load.calls), model, Asked(), rates(model.name))


def _units_of(a: Sizing, b: Sizing, about: Comparable) -> "_Compared":
    def difference(confidence: float) -> Estimate | None:
        if a.draws is None or b.draws is None:
            return Estimate(float(b.ptu - a.ptu), None, None, min(a.calls, b.calls))
        # Draws with the same number of blocks are of the same blocks, which would make them go together.
        draws = b.draws - np.random.default_rng(1).permutation(a.draws)
        found = from_draws(float(b.ptu - a.ptu), draws, min(a.calls, b.calls), confidence)
        # Draws reach less far up than they should (`blocks.count_interval`), of either.
        reach = max(found.value - (found.low or 0.0), (found.high or 0.0) - found.value)
        return found._replace(low=found.value - reach, high=found.value + reach)

    withheld = about.withheld.get("rates")
    why = None if withheld is None else f"not compared: {withheld}"
    if a.draws is None or b.draws is None:
        why = why or "too short for an interval"
    return _Compared(UNITS, float(a.ptu), float(b.ptu), (a.calls, b.calls), difference, why)


class _Compared(NamedTuple):
    """`why` there is no verdict, or None; `difference` takes a confidence."""

    figure: Figure
    a: float | None
    b: float | None
    n: tuple[int, int]
    difference: Callable[[float], Estimate | None]
    why: str | None


def _compared(figures: Iterable[Figure], a: _Side, b: _Side, withheld: Mapping[Topic, str]) -> list[_Compared]:
    """Figures that neither run has anything for are left out, and of zeros those that nobody misses."""
    found = [_pair(figure, a, b, withheld.get(figure.topic)) for figure in figures]
    return [one for one in found if any(one.n) and (one.a or one.b or one.figure.name in ALWAYS)]


def _pair(figure: Figure, a: _Side, b: _Side, withheld: str | None) -> _Compared:
    (values_a, spells_a), (values_b, spells_b) = (_observed(figure, side) for side in (a, b))
    n = (len(values_a), len(values_b))
    effects = (_effect(figure, values_b, spells_b), _effect(figure, values_a, spells_a))
    if figure.topic == "shares":
        # A run with hardly a refusal says nothing of how long spells of them are; the other may.
        effects = (max(effects), max(effects))

    def difference(confidence: float) -> Estimate | None:
        if figure.at is not None:
            return quantile_difference(values_b, values_a, figure.at, confidence=confidence, effects=effects)
        between = share_difference if figure.unit == "share" and values_a.dtype == bool else mean_difference
        return between(values_b, values_a, confidence=confidence, effects=effects)

    return _Compared(
        figure, _value(figure, values_a), _value(figure, values_b), n, difference, _why(figure, n, withheld)
    )


def _observed(figure: Figure, side: _Side) -> tuple[pd.Series, Spells]:
    """The figure's observations, and of which stretch each is."""
    values = figure.values(side.calls)
    stretch = side.calls["stretch"].reindex(values.index).to_numpy(dtype="int64")
    if not figure.a_minute or not len(values):
        return values, stretch
    sums = np.bincount(stretch, weights=values, minlength=side.stretches)
    return pd.Series(sums / side.minutes), np.arange(side.stretches)


def _effect(figure: Figure, values: pd.Series, spells: Spells) -> float:
    if figure.a_minute or not len(values):
        return 1.0
    below = values if figure.at is None else values <= values.quantile(figure.at)
    return design_effect(below, spells)


def _value(figure: Figure, values: pd.Series) -> float | None:
    if not len(values):
        return None
    return float(values.mean() if figure.at is None else values.quantile(figure.at))


def _why(figure: Figure, n: tuple[int, int], withheld: str | None) -> str | None:
    without = [name for name, number in zip("AB", n, strict=True) if not number]
    if without:
        return f"{' and '.join(without)} has none"
    if withheld is not None:
        return f"not compared: {withheld}"
    if min(n) < figure.fewest:
        return f"fewer than {figure.fewest} {'stretches' if figure.a_minute else 'calls'}"
    return None


def is_unjudged(verdict: str) -> bool:
    return verdict not in (NO_DIFFERENCE, *CLEAR) and not verdict.startswith("perhaps ")


def is_judged(found: Comparison) -> bool:
    return not found.figures["verdict"].map(is_unjudged).all()


def is_worse(found: Comparison) -> bool:
    return any((table["verdict"] == WORSE).any() for table in (found.figures, found.parts))


def _judged(found: list[_Compared]) -> int:
    return sum(one.why is None for one in found)


def _table(found: list[_Compared], family: int) -> pd.DataFrame:
    """`family` is how many figures could be called different by chance."""
    sure = 1 - (1 - CONFIDENCE) / max(1, family)
    rows = []
    for one in found:
        alone = one.difference(CONFIDENCE)
        value, low, high = (None, None, None) if alone is None else alone[:3]
        rows.append(
            {
                "figure": one.figure.name,
                "unit": one.figure.unit,
                "a": one.a,
                "b": one.b,
                "difference": value,
                "low": low,
                "high": high,
                "change": value / one.a if value is not None and one.a else None,
                "n": list(one.n),
                "verdict": one.why or _verdict(one.figure.better, alone, one.difference(sure)),
            }
        )
    return pd.DataFrame(rows, columns=_COLUMNS)


def _verdict(better: Better, alone: Estimate | None, sure: Estimate | None) -> str:
    if alone is None or sure is None or not alone.excludes_zero:
        return NO_DIFFERENCE
    way = "higher" if alone.value > 0 else "lower"
    said = way if better is None else "better" if way == better else WORSE
    return said if sure.excludes_zero else f"perhaps {said}"
