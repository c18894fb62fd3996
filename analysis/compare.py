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
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.comparable import Comparable, Topic, comparable
from analysis.outcomes import lateness, without_late_marks
from analysis.output import Result, Table
from analysis.regions import FEW, tokens_per_second
from analysis.runs import Run
from analysis.stats import (
    CONFIDENCE,
    Estimate,
    Spells,
    design_effect,
    mean_difference,
    quantile_difference,
    share_difference,
)
from probe.record import NOT_SENT

HEADERS = (
    "azure-openai-deployment-utilization",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ms-is-spilled-over",
)
CALL_COLUMNS = (
    "target", "gateway", "request_model", "request_stream", "status_code", "throttle_kind", "response_model", "region",
    "time_to_first_token", "tainted", "buffered", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens",
    "retry_after",
)  # fmt: skip
SAMPLED = ("event_times",)
WORSE = "worse"
NO_DIFFERENCE = "no detectable difference"

# Stretches of a run: as many as are a minute long, within these bounds.
_FEWEST_STRETCHES, _MOST_STRETCHES = 10, 30
# A quantile needs so many observations on its narrow side, or its interval ends with the data.
_BEYOND = 5
_COLUMNS = ["figure", "unit", "a", "b", "difference", "low", "high", "change", "n", "verdict"]

Better = Literal["lower", "higher"] | None
Values = Callable[[pd.DataFrame], pd.Series]


class Figure(NamedTuple):
    """`values` are a call's each, or flags; `at` is the quantile of them, else it is their mean. `better` is None where
    more is neither good nor bad. Of what is `a_minute`, a stretch's sum is an observation."""

    name: str
    unit: str
    topic: Topic
    better: Better
    values: Values
    at: float | None = None
    a_minute: bool = False

    @property
    def fewest(self) -> int:
        if self.a_minute:
            return _FEWEST_STRETCHES
        return FEW if self.at is None else max(FEW, round(_BEYOND / min(self.at, 1 - self.at)))


class Comparison(NamedTuple):
    """`figures` of the whole runs and `parts` of targets and classes have a row a figure; see `docs/analysis.md`."""

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
    whole = _compared([*_FIGURES, *_outcomes(*sides)], *sides, about.withheld)
    parts = list(_parts(*sides, about))
    family = _judged([one for _, found in parts for one in found])
    tables = [_table(found, family).assign(**part) for part, found in parts]
    columns = ["of", "name", *_COLUMNS]
    joined = pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    return Comparison(_table(whole, _judged(whole)), joined, about)


def _side(run: Run) -> _Side:
    """Without first tokens where the client was too late itself."""
    calls, _ = without_late_marks(run.calls, run.about.options.max_tainted)
    number = int(np.clip(run.seconds / 60, _FEWEST_STRETCHES, _MOST_STRETCHES))
    width = run.seconds / number or 1.0
    stretch = np.minimum((calls["at"] / width).astype(int), number - 1)
    return _Side(calls.assign(stretch=stretch), number, width / 60)


def _no_claim(name: str, calls: pd.DataFrame, left: pd.DataFrame) -> Iterator[str]:
    if left["time_to_first_token"].isna().all() and calls["time_to_first_token"].notna().any():
        yield f"{name} has no times to the first token: too many of them may be late by the client's own doing."


def _answered(calls: pd.DataFrame) -> pd.DataFrame:
    return calls[calls["group"] == "answered"]


def _sent(calls: pd.DataFrame) -> pd.DataFrame:
    return calls[~calls["outcome"].isin(NOT_SENT)]


def _first_token(calls: pd.DataFrame) -> pd.Series:
    return _answered(calls)["time_to_first_token"].dropna()


def _from_due(calls: pd.DataFrame) -> pd.Series:
    answered = _answered(calls)
    return (lateness(answered) + answered["time_to_first_token"]).dropna()


def _duration(stream: bool) -> Values:
    def values(calls: pd.DataFrame) -> pd.Series:
        answered = _answered(calls)
        return answered.loc[answered["request_stream"] == stream, "duration"].dropna()

    return values


def _gaps(of: Callable[[Any], Any]) -> Values:
    """One figure a call of the seconds between its events, where it had several."""

    def values(calls: pd.DataFrame) -> pd.Series:
        events = _answered(calls)["event_times"].dropna()
        return events[events.map(len) > 1].map(lambda times: float(of(np.diff(times))) / 1e6).astype("float64")

    return values


def _of_answered(column: str) -> Values:
    return lambda calls: _answered(calls)[column].dropna().astype("float64")


def _cached_share(calls: pd.DataFrame) -> pd.Series:
    known = _answered(calls).dropna(subset=["cached_tokens", "input_tokens"])
    known = known[known["input_tokens"] > 0]
    return (known["cached_tokens"] / known["input_tokens"]).astype("float64")


def _share(group: str) -> Values:
    return lambda calls: _sent(calls)["group"] == group


def _number(calls: pd.DataFrame, header: str) -> pd.Series:
    return pd.to_numeric(calls[header].str.rstrip("% "), errors="coerce")


def _utilization(calls: pd.DataFrame) -> pd.Series:
    return (_number(calls, "azure-openai-deployment-utilization") / 100).dropna()


def _remaining(calls: pd.DataFrame) -> pd.Series:
    limit = _number(calls, "x-ratelimit-limit-tokens")
    return (_number(calls, "x-ratelimit-remaining-tokens") / limit.where(limit > 0)).dropna()


def _spilled(calls: pd.DataFrame) -> pd.Series:
    said = _answered(calls)["x-ms-is-spilled-over"].dropna()
    return said.str.lower() == "true"


def _times(name: str, better: Better, values: Values, *percents: int, unit: str = "s") -> Iterator[Figure]:
    for percent in percents:
        yield Figure(f"{name}_p{percent:02}", unit, "times", better, values, percent / 100)


_SHORT = (
    *_times("ttft", "lower", _first_token, 50, 95),
    *_times("stream_duration", "lower", _duration(True), 95),
    *_times("whole_duration", "lower", _duration(False), 95),
    Figure("throttled", "share", "shares", "lower", _share("throttled")),
    Figure("failed", "share", "shares", "lower", _share("failed")),
)
_FIGURES = (
    *_times("ttft", "lower", _first_token, 50, 95, 99),
    *_times("ttft_from_due", "lower", _from_due, 50, 95, 99),
    *_times("stream_duration", "lower", _duration(True), 50, 95, 99),
    *_times("whole_duration", "lower", _duration(False), 50, 95, 99),
    *_times("token_gap", "lower", _gaps(np.median), 50, 95),
    *_times("longest_gap", "lower", _gaps(np.max), 50, 95),
    *_times("tokens_per_second", "higher", lambda calls: tokens_per_second(_answered(calls)), 5, 50, unit="tokens/s"),
    Figure("throttled", "share", "shares", "lower", _share("throttled")),
    Figure("failed", "share", "shares", "lower", _share("failed")),
    Figure("dropped", "share", "shares", "lower", lambda calls: calls["group"] == "dropped"),
    Figure("buffered", "share", "shares", "lower", lambda calls: _answered(calls)["buffered"].dropna().astype(bool)),
    Figure("spilled_over", "share", "headers", "lower", _spilled),
    Figure("retry_after_p50", "s", "headers", "lower", lambda calls: calls["retry_after"].dropna(), 0.5),
    Figure("utilization_p50", "share", "headers", None, _utilization, 0.5),
    Figure("utilization_p95", "share", "headers", None, _utilization, 0.95),
    Figure("remaining_tokens_p05", "share", "headers", None, _remaining, 0.05),
    Figure("input_tokens", "a call", "tokens", None, _of_answered("input_tokens")),
    Figure("cached_input", "share", "tokens", None, _cached_share),
    Figure("output_tokens", "a call", "tokens", None, _of_answered("output_tokens")),
    Figure("reasoning_tokens", "a call", "tokens", None, _of_answered("reasoning_tokens")),
    Figure("calls_sent", "a minute", "rates", None, lambda calls: pd.Series(1.0, _sent(calls).index), a_minute=True),
    Figure("calls_answered", "a minute", "rates", "higher", lambda calls: pd.Series(1.0, _answered(calls).index),
           a_minute=True),
    Figure("input_tokens_used", "a minute", "rates", None, _of_answered("input_tokens"), a_minute=True),
    Figure("output_tokens_used", "a minute", "rates", None, _of_answered("output_tokens"), a_minute=True),
)  # fmt: skip


# That nothing was refused, or failed, is worth a line.
_ALWAYS = ("throttled", "failed")


def _outcomes(a: _Side, b: _Side) -> Iterator[Figure]:
    """Of each way to fail, and each cause of throttling, that either run has; one alone is the group's share."""
    for group, column in (("failed", "outcome"), ("throttled", "throttle_kind")):
        sides = (side.calls.loc[side.calls["group"] == group, column] for side in (a, b))
        found = {str(name) for names in sides for name in names.dropna().unique()}
        for name in sorted(found) if len(found) > 1 else ():
            yield Figure(f"{group}: {name}", "share", "shares", "lower", _one_of(group, column, name))


def _one_of(group: str, column: str, name: str) -> Values:
    def values(calls: pd.DataFrame) -> pd.Series:
        sent = _sent(calls)
        return (sent["group"] == group) & (sent[column] == name).fillna(False).astype(bool)

    return values


def _parts(a: _Side, b: _Side, about: Comparable) -> Iterator[tuple[dict[str, str], list["_Compared"]]]:
    """Of targets and classes that both runs have; of one alone nothing that the whole does not say."""
    for of, column in (("target", "target"), ("class", "traffic")):
        names = [set(side.calls[column].dropna().unique()) for side in (a, b)]
        for name in sorted(map(str, names[0] & names[1])) if len(names[0] | names[1]) > 1 else ():
            withheld = about.withheld_of_class(name) if of == "class" else about.withheld
            found = _compared(_SHORT, a.only(column, name), b.only(column, name), withheld)
            yield {"of": of, "name": name}, found


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
    return [one for one in found if any(one.n) and (one.a or one.b or one.figure.name in _ALWAYS)]


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


def as_result(found: Comparison, names: tuple[str, str]) -> Result:
    """`names` are those of A and B."""
    tables = (found.figures, found.parts)
    verdicts = pd.concat([table["verdict"] for table in tables])
    counts = {str(said): int(number) for said, number in verdicts.value_counts().items() if not _unjudged(str(said))}
    lines = [
        f"A is {names[0]}, B is {names[1]}. Differences are B less A.",
        _counted(counts) if counts else "Nothing of them can be compared.",
        *(_said(row) for table in tables for row in table.to_dict("records") if row["verdict"] in _CLEAR),
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
            "parts": Table("Targets and classes that both have", found.parts, "only one, or none that both have"),
        },
    )


_CLEAR = (WORSE, "better", "higher", "lower")


def _unjudged(verdict: str) -> bool:
    return verdict not in (NO_DIFFERENCE, *_CLEAR) and not verdict.startswith("perhaps ")


def is_judged(found: Comparison) -> bool:
    return not found.figures["verdict"].map(_unjudged).all()


def is_worse(found: Comparison) -> bool:
    return any((table["verdict"] == WORSE).any() for table in (found.figures, found.parts))


def _counted(counts: Mapping[str, int]) -> str:
    order = [*_CLEAR, *(f"perhaps {said}" for said in _CLEAR), NO_DIFFERENCE]
    told = ", ".join(f"{counts[said]} {said}" for said in order if said in counts)
    return f"Of {sum(counts.values())} figures: {told}."


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
    return f"{value:.2%}" if unit == "share" else f"{value:,.1f} {unit}"
