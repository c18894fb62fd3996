"""Token counts held against each other: our estimate, the reply's `usage`, the diagnostic log, what the gateway counts.

The estimate is made here from the prompt that the record's id names, never during a run. It is under a name of its own
and fills in for nothing: where a call has no measured count, its estimate stands in another column.
"""

from collections.abc import Iterable
from datetime import date
from typing import Any, NamedTuple

import pandas as pd

from analysis.join import Said, join, said
from analysis.logs import Logs
from analysis.output import Result, Table
from analysis.stats import mean_estimate
from analysis.token_metric import Compared, Metric, hold_against
from analysis.words import count
from probe.counting import Count, RanksUnavailableError, input_tokens
from probe.prices import read_prices
from probe.prompts import rebuild

# Beyond so many calls a sample of them is counted: a million prompts would take minutes.
MOST = 20_000
_MONTH = 30 * 86_400
# Absent without logs.
_OF_LOGS = "prompt_tokens generated_tokens object_id subscription llm_prompt_tokens llm_completion_tokens".split()
CALL_COLUMNS = (
    "request_model", "request_stream", "prompt_id", "response_model", "response_id", "service_request_id",
    "time_to_headers", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "target", "gateway",
)  # fmt: skip
# Of the first ones the coverage is told.
LOG_COLUMNS = ("account", "status", "began_ns", "ended_ns", "logged_ns", "response_id", "cached_tokens", *_OF_LOGS)
_PAIRS = (
    ("estimated input", "estimated_tokens", "usage", "input_tokens"),
    ("input in usage", "input_tokens", "diagnostic log", "prompt_tokens"),
    ("output in usage", "output_tokens", "diagnostic log", "generated_tokens"),
    ("estimated input", "estimated_tokens", "diagnostic log", "prompt_tokens"),
)
_GATEWAYS = (
    ("estimated input", "estimated_tokens", "gateway's LLM log", "llm_prompt_tokens"),
    ("input in usage", "input_tokens", "gateway's LLM log", "llm_prompt_tokens"),
    ("output in usage", "output_tokens", "gateway's LLM log", "llm_completion_tokens"),
)


class Tokens(NamedTuple):
    """Frames, a row each; tokens, shares from 0 to 1, intervals of 95 %.

    compared    two counts of the same calls: n, same, exact, mean (left less right) with its interval, largest
    errors      class, model and stream: the estimate less the measured input
    callers     object id of the log (NA without one), subscription and deployment: calls, of those `measured`; their
                input, cached and output tokens as the reply says, or else the log, and reasoning tokens; the estimate
                of those that have one, and its error; calls `without_usage`, and the input tokens they are completed
                by, an estimate
    shares      model: share of the input that was cached, and of the output that was reasoning
    unknown     why calls have no estimate, and how many
    month_usd   the input of a month of this traffic at list price, by measured tokens, and `month_usd_error` what
                charging by estimate would add; None where a model has no price or no estimate, or the run
                no length
    metric      the gateway's token metric beside usage; None where none was given
    logs        what is to be known of them; None where none were given
    """

    compared: pd.DataFrame
    errors: pd.DataFrame
    callers: pd.DataFrame
    shares: pd.DataFrame
    unknown: pd.DataFrame
    month_usd: float | None
    month_usd_error: float | None
    estimated: int
    calls: int
    metric: Compared | None
    logs: Said | None


def analyse(
    calls: pd.DataFrame,
    logs: Logs | None,
    seconds: float,
    others: Iterable[str] = (),
    on: date | None = None,
    metric: Metric | None = None,
) -> Tokens:
    """`calls` as `read_run` gives them with `CALL_COLUMNS`, which took `seconds`, and logs with `LOG_COLUMNS`; `others`
    as `join` takes them; prices of the day `on`; the `metric` as `read_metric` gives it."""
    whole, told = calls, None
    if logs is not None:
        found = join(calls, logs, others)
        whole, told = _with_gateway(found.calls, logs), said(found, logs)
    whole = whole.reindex(columns=[*dict.fromkeys([*whole, *_OF_LOGS, "cached_tokens_log"])])
    joined = whole[whole["group"] == "answered"]
    through = whole[whole["gateway"] == "apim"]
    sample = joined.sample(min(len(joined), MOST), random_state=0).sort_index()
    counted = sample.join(estimates(sample))
    counted = _measured(counted)
    counted["error"] = counted["estimated_tokens"] - counted["measured_input"]
    usd, usd_error = _month(counted, len(joined) / max(len(counted), 1), seconds, on)
    return Tokens(
        differences(counted, (*_PAIRS, *_GATEWAYS)),
        _errors(counted),
        _callers(counted),
        _shares(_measured(joined)),
        counted["reason"].value_counts().rename_axis("reason").reset_index(name="calls"),
        usd,
        usd_error,
        len(counted),
        len(joined),
        None if metric is None else hold_against(metric, _measured(through)),
        told,
    )


def _measured(calls: pd.DataFrame) -> pd.DataFrame:
    """With what the service said of each call, in its reply or else in its log."""
    said = {
        f"measured_{name}": calls[f"{name}_tokens"].astype("Int64").fillna(calls[logged].astype("Int64"))
        for name, logged in (
            ("input", "prompt_tokens"),
            ("output", "generated_tokens"),
            ("cached", "cached_tokens_log"),
        )
    }
    return calls.assign(**said)


def _with_gateway(joined: pd.DataFrame, logs: Logs) -> pd.DataFrame:
    """The gateway's LLM log names the model's reply; that is the only thing it shares with a call."""
    wanted = ["response_id", "subscription", "llm_prompt_tokens", "llm_completion_tokens"]
    rows = logs.gateway[wanted].dropna(subset="response_id").drop_duplicates("response_id").set_index("response_id")
    return joined.drop(columns=[name for name in wanted[1:] if name in joined]).join(rows, on="response_id")


def _errors(counted: pd.DataFrame) -> pd.DataFrame:
    known = counted[counted["error"].notna()]
    rows = []
    for key, group in known.groupby(["traffic", "response_model", "request_stream"], dropna=False):
        rows.append(dict(zip(("class", "model", "stream"), key, strict=True)) | _said_of(group["error"]))
    return pd.DataFrame(rows, columns=["class", "model", "stream", *_SAID])


_SAID = ("n", "same", "exact", "mean", "mean_low", "mean_high", "largest")


def _said_of(difference: pd.Series) -> dict[str, Any]:
    known = difference.dropna().astype(int)
    mean = mean_estimate(known.astype(float))
    if mean is None:
        return dict.fromkeys(_SAID) | {"n": 0, "same": 0}
    same = int((known == 0).sum())
    ends = (mean.low, mean.high) if mean.n > 1 else (None, None)
    return dict(zip(_SAID, (mean.n, same, same / mean.n, mean.value, *ends, int(known.abs().max())), strict=True))


def _callers(counted: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for key, group in counted.groupby(["object_id", "subscription", "request_model"], dropna=False):
        measured = group[group["measured_input"].notna()]
        both = measured[measured["error"].notna()]
        bare = group[group["measured_input"].isna()]
        said = dict(zip(("object_id", "subscription", "deployment"), key, strict=True))
        said |= {"calls": len(group), "measured": len(measured), "input_tokens": _sum(measured["measured_input"])}
        said |= {f"{name}_tokens": _sum(group[f"measured_{name}"]) for name in ("cached", "output")}
        said |= {"reasoning_tokens": _sum(group["reasoning_tokens"])}
        said |= {"estimated_input_tokens": _sum(both["estimated_tokens"]), "error_tokens": _sum(both["error"])}
        said |= {"without_usage": len(bare), "completed_input_tokens_estimated": _sum(bare["estimated_tokens"])}
        rows.append(said)
    return pd.DataFrame(rows)


def _sum(values: pd.Series) -> int | None:
    """None where nothing is known, which is not 0."""
    known = values.dropna()
    return int(known.sum()) if len(known) else None


def _shares(joined: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for model, group in joined.groupby("response_model"):
        row: dict[str, Any] = {"model": model, "calls": len(group)}
        for name, part, whole in (
            ("cached", "measured_cached", "measured_input"),
            ("reasoning", "reasoning_tokens", "measured_output"),
        ):
            both = group[[part, whole]].dropna()
            total = int(both[whole].sum())
            row |= {f"{name}_n": len(both), f"{name}_share": int(both[part].sum()) / total if total else None}
        rows.append(row)
    return pd.DataFrame(rows, columns=["model", "calls", "cached_n", "cached_share", "reasoning_n", "reasoning_share"])


def _month(counted: pd.DataFrame, scale: float, seconds: float, on: date | None) -> tuple[float | None, float | None]:
    measured = counted[counted["measured_input"].notna() & counted["response_model"].notna()]
    if measured.empty or seconds <= 0:
        return None, None
    usd = error = 0.0
    for model, group in measured.groupby("response_model"):
        if (price := read_prices().price(str(model), on)) is None:
            return None, None
        usd += price.cost(int(group["measured_input"].sum()), 0)
        error += int(group["error"].sum()) * price.input / 1_000_000
    times = scale * _MONTH / seconds
    return usd * times, error * times if measured["error"].notna().all() else None


def as_result(found: Tokens) -> Result:
    return Result(
        _lines(found),
        {
            "calls": found.calls,
            "estimated": found.estimated,
            "month_usd": found.month_usd,
            "month_usd_error": found.month_usd_error,
            "coverage": None if found.logs is None else found.logs.facts,
        },
        {
            "compared": Table("Counts of the same calls, tokens", found.compared, "no call was answered"),
            "errors": Table("Estimated less measured input, tokens", found.errors, "no call has both counts"),
            "callers": Table("By caller, tokens", found.callers, "no call was answered"),
            **({"metric": Table(_METRIC, found.metric.table, "no row of the run's time")} if found.metric else {}),
            "shares": Table("Cached and reasoning shares", found.shares, "no reply named its model"),
            "unknown": Table("No estimate", found.unknown, "every call that was counted has an estimate"),
        },
    )


_METRIC = "The gateway's token metric beside the usage of calls through it, tokens"


def _lines(found: Tokens) -> list[str]:
    counted = "counted" if found.calls == 1 else f"{found.estimated:,} of them were counted"
    if found.estimated < found.calls:
        counted = f"{found.estimated:,} of them, drawn at random, were counted: errors and callers' sums are of these"
    lines = [f"{count(found.calls, 'answered call')}; {counted}."]
    bare_of_logs = ["No logs were given: counts of the service's own are those of the replies."]
    lines += bare_of_logs if found.logs is None else found.logs.lines
    lines += found.metric.lines if found.metric else []
    bare = int(found.callers["without_usage"].sum()) if len(found.callers) else 0
    if bare:
        lines.append(
            f"{bare:,} calls have no measured input; their tokens are an estimate and in a column of their own."
        )
    if found.month_usd is not None:
        off = "" if found.month_usd_error is None else f"; charged by estimate, {found.month_usd_error:+,.2f}"
        lines.append(f"A month of this traffic is {found.month_usd:,.2f} US dollars of input at list price{off}.")
    return lines


def estimates(calls: pd.DataFrame) -> pd.DataFrame:
    """For each call (same index): `estimated_tokens`, NA with the `reason` where it cannot be known."""
    counted: dict[tuple[str, str], Count] = {}
    tokens: list[int | None] = []
    reasons: list[str | None] = []
    try:
        for prompt_id, model in zip(calls["prompt_id"], calls["response_model"], strict=True):
            count = _count(counted, prompt_id, model)
            tokens.append(count.tokens)
            reasons.append(count.reason)
    except RanksUnavailableError as error:
        tokens, reasons = [None] * len(calls), [str(error)] * len(calls)
    frame = {"estimated_tokens": pd.array(tokens, dtype="Int64"), "reason": pd.array(reasons, dtype="string")}
    return pd.DataFrame(frame, index=calls.index)


def _count(counted: dict[tuple[str, str], Count], prompt_id: object, model: object) -> Count:
    if not isinstance(prompt_id, str) or not isinstance(model, str):
        return Count(None, "the reply named no model" if isinstance(prompt_id, str) else "the prompt has no number")
    if (prompt_id, model) not in counted:
        try:
            messages = list(rebuild(prompt_id).messages)
            counted[prompt_id, model] = input_tokens({"model": model, "messages": messages})
        except ValueError as error:
            counted[prompt_id, model] = Count(None, str(error))
    return counted[prompt_id, model]


def differences(joined: pd.DataFrame, pairs: tuple[tuple[str, str, str, str], ...] = _PAIRS) -> pd.DataFrame:
    """One row a comparison: n, same (how many of them agree), exact (their share, 0 to 1), mean (left minus right, in
    tokens) with its interval, and the largest difference."""
    rows = [
        {"of": left, "against": right} | _said_of(joined[one].astype("Int64") - joined[other].astype("Int64"))
        for left, one, right, other in pairs
    ]
    return pd.DataFrame(rows, columns=["of", "against", *_SAID]).astype({"largest": "Int64"})
