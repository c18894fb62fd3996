"""Which limiter a deployment has, told from what its replies said of it: model, window, charge rule, limit.

Facts.    Two models of a standard limiter are known. In a fixed window nothing comes back until it closes, and it does
          not follow the clock's minute. A bucket refills all the time at limit / period. A provisioned deployment is
          a leaky bucket that shows its level as utilisation. What a call is charged is an estimate made from the
          request; several rules have been seen (`RULES`).
Method.   A step is two admitted calls in the order they were issued. Each model and rule says what the second reply's
          `remaining` must be after the first's; the pair that explains the most steps is the limiter's, where it
          explains most of them and no other does as well. A window's length lies between the longest time over which
          one held and the shortest after which one had closed. Where replies state no limits (2023), refusals bracket
          both. Utilisation is linear in what calls add and time drains, so least squares give size, weight and drain.
Bounds.   Other clients of the same deployment break steps; the share explained says how many. Whether the service
          refuses by the counter that it shows is seen in `measured`: what was admitted, and what was refused.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.stats import CONFIDENCE, Estimate

MINUTE = 60.0
# Windows that are known: tokens have the last. (Documented and observed.)
PERIODS = (1.0, 10.0, 60.0)
# The share of the steps that a limiter has to explain to be named.
_ENOUGH = 0.6
_FEWEST_STEPS = 5
# Of two limiters, the one that explains so many of the steps that only one of them explains is the better.
_TELLING, _FEWEST_TELLING = 0.8, 2
# Seconds by which the service may have taken a call earlier or later than the order of issue says.
_JITTER = 0.02
# More calls than these add nothing but time.
_MOST_CALLS = 5_000
_DRAWS = 1_000

Limit = Literal["requests", "tokens"]
Model = Literal["fixed window", "continuous refill"]
Charge = Callable[[pd.DataFrame], pd.Series]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

RULES: Mapping[str, Charge] = {
    "characters": lambda calls: calls["characters"] // 4 + 1,
    "characters of the whole input": lambda calls: calls["characters"] // 4,
    "max_tokens": lambda calls: calls["max_tokens"],
    "characters + max_tokens": lambda calls: calls["characters"] // 4 + 1 + calls["max_tokens"],
    "prompt tokens": lambda calls: calls["input_tokens"],
    "prompt tokens - 2": lambda calls: calls["input_tokens"] - 2,
    "prompt tokens + max_tokens": lambda calls: calls["input_tokens"] + calls["max_tokens"],
    "all tokens used": lambda calls: calls["input_tokens"] + calls["output_tokens"],
}
_RULES: Mapping[Limit, Mapping[str, Charge]] = {
    "tokens": RULES,
    "requests": {"one a call": lambda calls: pd.Series(1.0, index=calls.index)},
}


class Bracket(NamedTuple):
    """Above `low` and at most `high`; None where nothing bounds it."""

    low: float | None
    high: float | None

    def holds(self, value: float) -> bool:
        return (self.low is None or value > self.low) and (self.high is None or value <= self.high)


class Meter(NamedTuple):
    """One limit. `model` and `rule` are None where the steps do not tell; `rules` then are those that fit alike.

    `explained` is the share of `steps` that the best model and rule account for. `window` is in seconds. `stated` is
    the limit in the replies' headers, `measured` what admitted and refused calls leave of it; both for one window.
    """

    limit: Limit
    model: Model | None
    rule: str | None
    rules: tuple[str, ...]
    explained: float | None
    steps: int
    window: Bracket
    stated: float | None
    measured: Bracket

    @property
    def window_seconds(self) -> float | None:
        """The one known period that the bracket leaves."""
        fitting = [period for period in PERIODS if self.window.holds(period)]
        return fitting[0] if len(fitting) == 1 else None

    @property
    def per_minute(self) -> float | None:
        """The stated limit, where the window is known."""
        seconds = self.window_seconds
        return None if self.stated is None or seconds is None else self.stated * MINUTE / seconds


class Reduction(NamedTuple):
    """Seconds into the run in which replies stated less than the run's highest limit, and which share of that."""

    limit: Limit
    began: float
    ended: float
    share: float


class Bucket(NamedTuple):
    """A provisioned deployment: input tokens a minute that it drains, what an output token weighs, and how many
    seconds of draining a full bucket is. `steps` are what the three were fitted to."""

    per_minute: Estimate
    output_weight: Estimate
    seconds: Estimate
    steps: int


class Limiter(NamedTuple):
    """`generation` is told by the header set alone. `bucket` is there for provisioned deployments, the meters for
    others, each where there is enough to tell."""

    generation: str
    tokens: Meter | None = None
    requests: Meter | None = None
    bucket: Bucket | None = None
    reductions: tuple[Reduction, ...] = ()


def infer(calls: pd.DataFrame) -> Limiter:
    """`calls` of one deployment, a row each, in any order. Columns (NA where not known):

    issued, ended                   seconds
    admitted                        whether it was let in; the others were refused
    kind, wait                      what refused it (`tokens`, `requests`, ...), and the seconds it asked to wait
    characters, max_tokens          of the request
    input_tokens                    as billed; of a refused call, as planned
    cached_tokens, output_tokens    as billed
    limit_X, remaining_X, renewal_X of `x-ratelimit-*`, for X `requests` and `tokens`
    utilization                     1 is full
    served_model, offer             whether the reply had those headers
    """
    ordered = calls.sort_values("issued", kind="stable", ignore_index=True).head(_MOST_CALLS)
    admitted = ordered[ordered["admitted"]].reset_index(drop=True)
    if admitted["utilization"].notna().any():
        return Limiter("provisioned", bucket=_bucket(admitted[admitted["utilization"].notna()]))
    return Limiter(
        _generation(admitted),
        tokens=_meter("tokens", admitted, ordered),
        requests=_meter("requests", admitted, ordered),
        reductions=(*_reductions(admitted, "tokens"), *_reductions(admitted, "requests")),
    )


def _generation(admitted: pd.DataFrame) -> str:
    """When such header sets were first recorded, and what they say."""
    if admitted["offer"].any():
        return "August 2026 (offer stated)"
    if admitted["served_model"].any():
        return "June 2026 (served model stated)"
    if admitted["renewal_tokens"].notna().any():
        return "March 2026 (renewal period stated)"
    if admitted["limit_tokens"].notna().any():
        return "2025 (limits stated)"
    if admitted["remaining_tokens"].notna().any():
        return "2024 (only what remains stated)"
    return "2023, or behind a gateway (no limits stated)"


class _Fit(NamedTuple):
    """`explained`: whether each call is what this model and rule make of the one before; the first has none."""

    model: Model
    rule: str
    explained: Flags
    opened: Flags
    window: Bracket

    @property
    def share(self) -> float:
        return float(self.explained[1:].mean())

    def is_beaten_by(self, other: "_Fit") -> bool:
        """Only the steps that one explains and the other does not tell them apart."""
        lost = int((other.explained & ~self.explained)[1:].sum())
        won = int((self.explained & ~other.explained)[1:].sum())
        return lost >= _FEWEST_TELLING and lost >= _TELLING * (lost + won)


def _meter(limit: Limit, admitted: pd.DataFrame, ordered: pd.DataFrame) -> Meter | None:
    # -1 for what remains of a limit of -1 says nothing.
    told = admitted[admitted[f"remaining_{limit}"].notna() & (admitted[f"limit_{limit}"].fillna(1) > 0)]
    told = _as_taken(told.reset_index(drop=True), f"remaining_{limit}")
    refused = ordered[~ordered["admitted"] & (ordered["kind"] == limit)].reset_index(drop=True)
    if len(told) <= _FEWEST_STEPS:
        return _from_refusals(limit, admitted, refused)
    fits = [fit(told, refused, limit, rule) for fit in (_fit_windows, _fit_refill) for rule in _RULES[limit]]
    best = max(fits, key=lambda fit: fit.share)
    alike = [fit for fit in fits if best.share >= _ENOUGH and not fit.is_beaten_by(best)]
    rules = tuple(dict.fromkeys(fit.rule for fit in alike))
    model = best.model if len({fit.model for fit in alike}) == 1 else None
    return Meter(
        limit,
        model,
        rules[0] if len(rules) == 1 else None,
        rules,
        best.share,
        len(told) - 1,
        best.window if model else Bracket(None, None),
        _number(told[f"limit_{limit}"].max()),
        _enforced(told, refused, limit, best) if model else Bracket(None, None),
    )


def _as_taken(told: pd.DataFrame, remaining: str) -> pd.DataFrame:
    """Of two calls issued within the jitter, the service has taken first the one that left more."""
    issued, left, order = _floats(told["issued"]), _floats(told[remaining]), list(range(len(told)))
    for row in range(1, len(order)):
        one, other = order[row - 1], order[row]
        if issued[other] - issued[one] < _JITTER and left[other] > left[one]:
            order[row - 1], order[row] = other, one
    return told.iloc[order].reset_index(drop=True)


def _number(value: object) -> float | None:
    return None if pd.isna(value) else float(value)  # type: ignore[call-overload, arg-type]


def _floats(values: pd.Series) -> Floats:
    return values.to_numpy(dtype="float64", na_value=np.nan)


def _fit_windows(told: pd.DataFrame, refused: pd.DataFrame, limit: Limit, rule: str) -> _Fit:
    charge = _floats(_RULES[limit][rule](told))
    remaining, stated = _floats(told[f"remaining_{limit}"]), _floats(told[f"limit_{limit}"])
    fell = -np.diff(remaining, prepend=np.nan)
    held = np.abs(fell - charge) < 0.5
    at_opening = remaining + charge
    if np.isnan(stated).any():
        # The limit is not stated, but it is the same at each opening, and more than there is ever else.
        stated = np.full(len(told), at_opening[fell < 0].max() if (fell < 0).any() else np.nan)
    opened = ~held & (np.abs(at_opening - stated) < 0.5)
    # Replies of two calls that overtook each other: neither is what the one before it makes of it, and both are near.
    near = np.abs(fell - charge) <= 2 * np.fmax.reduce(charge)
    window = _window(_floats(told["issued"]), held, held | near, opened, _floats(refused["issued"]))
    possible = any(window.holds(period) for period in PERIODS)
    return _Fit("fixed window", rule, (held | opened) & possible, opened, window)


def _window(issued: Floats, held: Flags, possible: Flags, opened: Flags, refused: Floats) -> Bracket:
    """How long windows are, from those that were seen to open and in which every step is possible, and most are
    explained."""
    lows, highs = [0.0], []
    openings = np.flatnonzero(opened)
    for begin, end in pairwise([*openings, len(issued)]):
        steps = slice(begin + 1, end)
        if not possible[steps].all() or held[steps].sum() < _TELLING * (end - begin - 1):
            continue
        closed = issued[end] if end < len(issued) else np.inf
        within = refused[(refused > issued[end - 1]) & (refused < closed)]
        lows.append(max(issued[end - 1], *within) - issued[begin] if len(within) else issued[end - 1] - issued[begin])
        highs.append(closed - issued[begin])
    high = min(highs, default=np.inf)
    return Bracket(max(lows) - _JITTER, None if np.isinf(high) else float(high) + _JITTER)


def _fit_refill(told: pd.DataFrame, refused: pd.DataFrame, limit: Limit, rule: str) -> _Fit:
    charge = _floats(_RULES[limit][rule](told))
    stated = _floats(told[f"limit_{limit}"])
    period = _floats(told[f"renewal_{limit}"].fillna(MINUTE))
    used = stated - _floats(told[f"remaining_{limit}"])
    passed = np.diff(_floats(told["issued"]), prepend=np.nan)
    most, least = (
        np.maximum(np.roll(used, 1) - (passed + late) * stated / period, 0.0) + charge for late in (-_JITTER, _JITTER)
    )
    # What remains is rounded down, after either call; of a bucket that was full again only after the second.
    slack = np.where(most > charge, 1.5, 0.5)
    explained = (used <= most + slack) & (used >= least - slack)
    seconds = float(np.nanmax(period))
    return _Fit("continuous refill", rule, explained, np.zeros(len(told), bool), Bracket(seconds - 1, seconds))


def _enforced(told: pd.DataFrame, refused: pd.DataFrame, limit: Limit, fit: _Fit) -> Bracket:
    """At least the most that was admitted, and less than what any refused call would have made it."""
    charge = _RULES[limit][fit.rule]
    remaining = _floats(told[f"remaining_{limit}"])
    stated = _floats(told[f"limit_{limit}"])
    if np.isnan(stated).any():
        full = remaining + _floats(charge(told))
        stated = np.full(len(told), np.median(full[fit.opened]) if fit.opened.any() else np.nan)
    used, issued = stated - remaining, _floats(told["issued"])
    low = float(np.nanmax(used)) if np.isfinite(used).any() else None
    return Bracket(low, min(_would_be(refused, charge, used, issued, stated, fit), default=None))


def _would_be(
    refused: pd.DataFrame, charge: Charge, used: Floats, issued: Floats, stated: Floats, fit: _Fit
) -> list[float]:
    """What each refused call would have brought the level to, had it been admitted."""
    found = []
    for at, charged in zip(_floats(refused["issued"]), _floats(charge(refused)), strict=True):
        last = int(np.searchsorted(issued, at)) - 1
        if last < 0:
            continue
        drained = 0.0
        if fit.model == "continuous refill":
            drained = (at - issued[last] - _JITTER) * stated[last] / (fit.window.high or MINUTE)
        found.append(max(0.0, used[last] - max(0.0, drained)) + charged)
    return [value for value in found if np.isfinite(value)]


class _Span(NamedTuple):
    """A window whose opening and close are known: the times of both, and the refused calls in it."""

    opened: float
    closed: float
    refused: pd.DataFrame


def _from_refusals(limit: Limit, admitted: pd.DataFrame, refused: pd.DataFrame) -> Meter | None:
    """Without numbers in the replies: each refusal says when its window closes, in whole seconds rounded up."""
    spans = _spans(_floats(admitted["issued"]), refused[refused["wait"].notna()])
    if not spans:
        return None
    lasted = [span.closed - span.opened for span in spans]
    window = Bracket(max(lasted) - 1 - _JITTER, min(lasted) + _JITTER)
    fits = {rule: _agreed(admitted, spans, charge) for rule, charge in _RULES[limit].items()}
    consistent = {rule: bracket for rule, bracket in fits.items() if bracket is not None}
    known = bool(consistent) and any(window.holds(period) for period in PERIODS)
    rules = tuple(consistent) if known else ()
    return Meter(
        limit,
        "fixed window" if known else None,
        rules[0] if len(rules) == 1 else None,
        rules,
        None,
        0,
        window,
        None,
        consistent[rules[0]] if len(rules) == 1 else Bracket(None, None),
    )


def _spans(admitted: Floats, refused: pd.DataFrame) -> list[_Span]:
    closes = _floats(refused["issued"]) + _floats(refused["wait"])
    # Those of one window lie within the second that they are rounded to.
    groups = (np.diff(closes, prepend=-np.inf) > 1 + _JITTER).cumsum()
    spans: list[_Span] = []
    closed = None
    for number in range(1, int(groups.max(initial=0)) + 1):
        within = refused[groups == number]
        later = admitted[admitted >= closed - _JITTER] if closed is not None else admitted[:0]
        closed = float(closes[groups == number].min())
        if len(later) and later[0] < _floats(within["issued"])[0]:
            spans.append(_Span(float(later[0]), closed, within))
    return spans


def _agreed(admitted: pd.DataFrame, spans: list[_Span], rule: Charge) -> Bracket | None:
    """The limit that all windows leave; None where they contradict each other."""
    issued, charges = _floats(admitted["issued"]), _floats(rule(admitted))
    lows, highs = [], []
    for span in spans:
        inside = (issued >= span.opened) & (issued < span.closed - 1)
        lows.append(charges[inside].sum())
        for at, asked in zip(_floats(span.refused["issued"]), _floats(rule(span.refused)), strict=True):
            highs.append(charges[(issued >= span.opened) & (issued < at)].sum() + asked)
    low, high = max(lows), min(highs)
    return Bracket(float(low) - 1, float(high)) if low < high else None


def _reductions(admitted: pd.DataFrame, limit: Limit) -> list[Reduction]:
    stated = admitted[["issued", f"limit_{limit}"]].dropna()
    values = _floats(stated[f"limit_{limit}"])
    if not len(values) or values.max() <= 0:
        return []
    top = values.max()
    spells = (np.diff(values, prepend=values[0]) != 0).cumsum()
    return [
        Reduction(limit, float(spell["issued"].min()), float(spell["issued"].max()), float(value) / top)
        for _, spell in stated.groupby(spells)
        if (value := spell[f"limit_{limit}"].iloc[0]) < top
    ]


def _bucket(admitted: pd.DataFrame) -> Bucket | None:
    """Between two calls the level falls by time, rises by what the second adds on entry, and is corrected by what the
    calls that ended in between had been charged too much. None where that does not tell the three apart."""
    level = _floats(admitted["utilization"])
    issued = _floats(admitted["issued"])
    passed = np.diff(issued)
    prompts = (_floats(admitted["input_tokens"]) - np.nan_to_num(_floats(admitted["cached_tokens"])))[1:]
    answers = _floats(admitted["max_tokens"])[1:] - _settled(admitted, issued)
    rows = np.column_stack([-passed, prompts, answers])
    drain = 1 / MINUTE
    for _ in range(3):
        # Where the bucket may have run empty in between, time did not drain what it could have.
        sure = (level[:-1] - drain * passed > 0.02) & np.isfinite(rows).all(axis=1)
        if sure.sum() <= _FEWEST_STEPS or np.linalg.cond(rows[sure] / np.abs(rows[sure]).max(axis=0)) > 1e6:
            return None
        drain = float(np.linalg.lstsq(rows[sure], np.diff(level)[sure], rcond=None)[0][0])
    return _estimated(rows[sure], np.diff(level)[sure])


def _settled(admitted: pd.DataFrame, issued: Floats) -> Floats:
    """Output tokens that calls ended between each call and the next had been charged and did not use."""
    over = np.nan_to_num(_floats(admitted["max_tokens"] - admitted["output_tokens"]))
    step = np.searchsorted(issued, _floats(admitted["ended"])) - 1
    inside = (step >= 0) & (step < len(issued) - 1)
    return np.bincount(step[inside], weights=over[inside], minlength=len(issued) - 1).astype(float)


def _estimated(rows: Floats, changes: Floats) -> Bucket:
    products = np.einsum("ni,nj->nij", rows, rows).reshape(len(rows), 9)
    moments = rows * changes[:, None]
    n = len(rows)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), _DRAWS)
    sums = np.vstack([np.ones(n), draws])
    fitted = np.linalg.solve((sums @ products).reshape(-1, 3, 3), (sums @ moments)[:, :, None])[:, :, 0]
    drain, prompt, answer = fitted.T
    return Bucket(_interval(MINUTE * drain / prompt, n), _interval(answer / prompt, n), _interval(1 / drain, n), n)


def _interval(fitted: Floats, n: int) -> Estimate:
    """The first is the estimate, the others are its resamples'."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(fitted[1:], (tail, 1 - tail))
    return Estimate(float(fitted[0]), float(low), float(high), n)
