"""What `analysis compare` holds against each other of two runs: each figure with its observations, a call's each."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.comparable import Topic
from analysis.outcomes import lateness
from analysis.regions import FEW, tokens_per_second
from probe.prices import read_prices
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
    "retry_after", "request_max_tokens", "prompt_id",
)  # fmt: skip
SAMPLED = ("event_times",)
# A quantile needs so many observations on its narrow side, or its interval ends with the data.
_BEYOND = 5
# Stretches of a run, of each of which a rate is an observation: as many as are a minute long, within these bounds.
FEWEST_STRETCHES, MOST_STRETCHES = 10, 30

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
            return FEWEST_STRETCHES
        return FEW if self.at is None else max(FEW, round(_BEYOND / min(self.at, 1 - self.at)))


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


def _list_price(calls: pd.DataFrame) -> pd.Series:
    """Of a thousand such calls, by the token; NA of a model without a price."""
    known = _answered(calls).dropna(subset=["response_model", "input_tokens", "output_tokens"])
    prices = {name: read_prices().price(str(name)) for name in known["response_model"].unique()}
    tokens = (known[name].fillna(0).astype("float64") for name in ("input_tokens", "output_tokens", "cached_tokens"))
    costs = [
        None if (price := prices[model]) is None else 1000 * price.cost(*counts)
        for model, *counts in zip(known["response_model"], *tokens, strict=True)
    ]
    return pd.Series(costs, known.index, dtype="float64").dropna()


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


SHORT = (
    *_times("ttft", "lower", _first_token, 50, 95),
    *_times("stream_duration", "lower", _duration(True), 95),
    *_times("whole_duration", "lower", _duration(False), 95),
    Figure("throttled", "share", "shares", "lower", _share("throttled")),
    Figure("failed", "share", "shares", "lower", _share("failed")),
)
FIGURES = (
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
    Figure("list_price", "$ a 1,000 calls", "tokens", "lower", _list_price),
    Figure("calls_sent", "a minute", "rates", None, lambda calls: pd.Series(1.0, _sent(calls).index), a_minute=True),
    Figure("calls_answered", "a minute", "rates", "higher", lambda calls: pd.Series(1.0, _answered(calls).index),
           a_minute=True),
    Figure("input_tokens_used", "a minute", "rates", None, _of_answered("input_tokens"), a_minute=True),
    Figure("output_tokens_used", "a minute", "rates", None, _of_answered("output_tokens"), a_minute=True),
)  # fmt: skip


# Of deployments; it is of no single call.
UNITS = Figure("units_needed", "PTU", "rates", None, lambda calls: pd.Series(dtype="float64"))

# That nothing was refused, or failed, is worth a line.
ALWAYS = ("throttled", "failed")


def outcomes(a: pd.DataFrame, b: pd.DataFrame) -> Iterator[Figure]:
    """Of each way to fail, and each cause of throttling, that either run has; one alone is the group's share."""
    for group, column in (("failed", "outcome"), ("throttled", "throttle_kind")):
        sides = (calls.loc[calls["group"] == group, column] for calls in (a, b))
        found = {str(name) for names in sides for name in names.dropna().unique()}
        for name in sorted(found) if len(found) > 1 else ():
            yield Figure(f"{group}: {name}", "share", "shares", "lower", _one_of(group, column, name))


def _one_of(group: str, column: str, name: str) -> Values:
    def values(calls: pd.DataFrame) -> pd.Series:
        sent = _sent(calls)
        return (sent["group"] == group) & (sent[column] == name).fillna(False).astype(bool)

    return values
