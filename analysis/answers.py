"""The first screen of a report: the questions that a go-live waits for, each with its answer and what it rests on."""

from collections.abc import Iterator
from typing import Any

import msgspec

from analysis.caveats import no_claim
from analysis.findings import Findings, Sized, records
from analysis.runs import Judgement
from analysis.stats import Estimate, quantile_estimate, share_estimate
from analysis.throttling import limiter_said
from analysis.words import between, count, plain, seconds, share

# Causes, deployments and the like that the first screen has room for.
_MOST = 4


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`details` are what the answer consists of, a line each, and `rests_on` is on how much, with the interval."""

    question: str
    answer: str
    details: list[str]
    rests_on: str


def answers(findings: Findings) -> list[Answer]:
    return [_held(findings), _throttled(findings), _units(findings), _cost(findings), _sure(findings)]


def verdict(findings: Findings) -> str:
    counts = findings.counts
    calls = counts["calls"]
    if not calls and findings.view is not None:
        return "No measured calls: only an application's, through the SDK."
    if not calls:
        return "No calls: nothing was sent, or nothing could be read."
    if not counts["answered"] and counts["throttled"] == calls:
        return f"Nothing held: all {calls:,} calls were throttled."
    if not counts["answered"]:
        groups = [name for name in counts if name != "calls"]
        return f"Nothing held: none of {calls:,} calls was answered; most came to {_commonest(findings, *groups)}."
    parts = [f"{share(counts['answered'], calls)} of {calls:,} calls were answered"]
    if counts["throttled"]:
        first = float(findings.throttling["first"].min())
        parts.append(f"{share(counts['throttled'], calls)} throttled, the first after {first:.0f} s")
    if counts["failed"]:
        parts.append(f"{share(counts['failed'], calls)} failed, mostly as {_commonest(findings, 'failed')}")
    if counts["cancelled"]:
        parts.append(f"{share(counts['cancelled'], calls)} cancelled")
    if counts["dropped"]:
        parts.append(f"{share(counts['dropped'], calls)} dropped and never sent")
    return f"{_summed_up(findings)}: {'; '.join(parts)}."


def _summed_up(findings: Findings) -> str:
    """By the objectives where there are any; else it held if every call was answered."""
    judged = judgements(findings)
    if judged:
        missed = [plain(one.objective) for one in judged if not one.held]
        return f"It did not hold ({', '.join(missed)})" if missed else "It held every objective"
    counts = findings.counts
    return "It held" if counts["answered"] == counts["calls"] - counts["cancelled"] else "It did not hold"


def judgements(findings: Findings) -> tuple[Judgement, ...]:
    ended = findings.run.about.ended
    return ended.slo if ended else ()


def _commonest(findings: Findings, *groups: str) -> str:
    calls = findings.run.calls
    return str(calls.loc[calls["group"].isin(groups), "outcome"].value_counts().index[0])


def _held(findings: Findings) -> Answer:
    judged = judgements(findings)
    counts = findings.counts
    told = share_estimate(counts["answered"], counts["calls"])
    rests_on = count(counts["calls"], "call")
    if told is not None:
        rests_on += f"; answered {told.value:.1%} ({between(told, '%')})"
    details = [_judged(findings, one) for one in judged]
    if not judged:
        details = ["No objective was set (locust --slo 'ttft_p95<1.5s'): it is judged by how calls ended alone."]
    return Answer("Did it hold?", verdict(findings), [*details, *_first_tokens(findings)], rests_on)


def _judged(findings: Findings, one: Judgement) -> str:
    held = "held" if one.held else "NOT held"
    if one.value is None:
        return f"{plain(one.objective)}: {held}; it cannot be said: {plain(one.why or 'no reason is on record')}"
    percent = one.objective.rstrip().endswith("%")
    value = f"{one.value:.2%}" if percent else seconds(one.value)
    estimate = share_estimate(round(one.value * one.n), one.n) if percent else _of_times(findings, one.objective)
    interval = between(estimate, "%" if percent else "s")
    return f"{plain(one.objective)}: {held}; {value} of {one.n:,} calls{f' ({interval})' if interval else ''}"


def _of_times(findings: Findings, objective: str) -> Estimate | None:
    """Of a quantile; None of a mean or a maximum."""
    metric, _, rest = objective.partition("_p")
    digits = rest.partition("<")[0].strip()
    calls = findings.run.calls
    column = {"ttft": "time_to_first_token", "duration": "duration"}.get(metric.strip())
    if column is None or not digits.replace(".", "").isdigit():
        return None
    shown = calls[column] if metric.strip() == "ttft" else calls.loc[calls["group"] == "answered", column]
    return quantile_estimate(shown, float(digits) / 100)


def _first_tokens(findings: Findings) -> Iterator[str]:
    if (why := no_claim(findings)) is not None:
        yield why
        return
    calls = findings.run.calls
    first = calls.loc[calls["group"] == "answered", "time_to_first_token"]
    median, high = (quantile_estimate(first, at) for at in (0.5, 0.95))
    if median is not None and high is not None:
        interval = between(high, "s")
        yield (
            f"First token: half within {seconds(median.value)}, 95 of 100 within {seconds(high.value)}"
            f"{f' ({interval})' if interval else ''}; {count(median.n, 'answered stream')}"
        )


def _throttled(findings: Findings) -> Answer:
    question = "Where did it throttle, and why?"
    refused = int(findings.throttling["refused"].sum())
    sent = findings.counts["calls"] - findings.counts["dropped"]
    told = share_estimate(refused, sent)
    if told is None:
        return Answer(question, "Nothing was sent.", [], count(0, "call"))
    rests_on = f"{refused:,} of {sent:,} calls were refused: {told.value:.1%} ({between(told, '%')})"
    if not refused:
        return Answer(question, "Nowhere: no call was refused.", _limits(findings), rests_on)
    causes = findings.throttling.sort_values("refused", ascending=False, kind="stable")
    others = [_refused(row) for row in records(causes)]
    return Answer(question, f"{others[0]}.", [*_few(others[1:]), *_limits(findings)], rests_on)


def _refused(row: dict[str, Any]) -> str:
    part = share(row["refused"], row["calls"])
    return (
        f"{plain(row['target'])}, by {_cause(row['cause'])}: {part} of its calls, first after {seconds(row['first'])}"
    )


_CAUSES = {
    "tokens": "its token limit",
    "requests": "its request limit",
    "ptu": "its provisioned units, which were full",
    "apim": "the gateway's own limit",
    "pool": "the gateway's pool, whose back ends all rested",
    "quota_day": "a quota of a day",
    "high_demand": "high demand at the service",
    "unknown": "a limit that the reply did not name",
}


def _cause(cause: str) -> str:
    return _CAUSES.get(cause, plain(cause))


def _limits(findings: Findings) -> list[str]:
    """Those of tokens or units; the others are in the tables."""
    told = findings.limiters[findings.limiters["limit"] != "requests"]
    return _few([f"Limiter of {plain(limiter_said(row)).removesuffix('.')}" for row in records(told)])


def _few(details: list[str]) -> list[str]:
    more = len(details) - _MOST
    return details if more <= 0 else [*details[:_MOST], f"and {more} more, in summary.json"]


def _units(findings: Findings) -> Answer:
    question = "How many PTUs?"
    known = [one for one in findings.sizings if one.sizing is not None and one.model is not None]
    unknown = [f"{plain(one.deployment)}: not sized; {plain(one.why)}" for one in findings.sizings if one.why]
    if not known:
        return Answer(question, "It cannot be said.", unknown or ["No call was sent to a deployment."], "no sized load")
    details = [detail for one in known for detail in _unit_lines(one)]
    calls = sum(one.sizing.calls for one in known if one.sizing)
    minutes = max(one.sizing.minutes for one in known if one.sizing)
    answer = "; ".join(_counted(one) for one in known) + "."
    rests_on = f"{calls:,} calls in {minutes:,.1f} min, replayed through the units' bucket; at most 1 % refused"
    return Answer(question, answer, [*_few(details), *unknown], rests_on)


def _counted(one: Sized) -> str:
    assert one.sizing is not None and one.model is not None
    sizing = one.sizing
    interval = "too short a load for an interval"
    if sizing.low is not None and sizing.high is not None:
        interval = f"95 %: {sizing.low:,} to {sizing.high:,}"
    model = "" if one.model.name == one.deployment else f" of {one.model.name}"
    return f"{plain(one.deployment)}: {sizing.ptu:,} PTU{model} ({interval})"


def _unit_lines(one: Sized) -> Iterator[str]:
    assert one.sizing is not None and one.model is not None
    sizing, model = one.sizing, one.model
    yield (
        f"{plain(one.deployment)}: by its average alone {sizing.average.ptu:,}; {sizing.average.normalised_tpm:,.0f}"
        f" tokens a minute as units count them, {model.input_tpm:,.0f} for each ({model.as_of})"
    )
    changes = ", ".join(f"{row['change']}: {row['ptu']:,}" for row in records(sizing.sensitivity))
    if changes:
        yield f"if the load were otherwise: {changes}"
    yield from (plain(note).removesuffix(".") for note in one.notes)


def _cost(findings: Findings) -> Answer:
    question = "What would it cost?"
    priced = [one for one in findings.sizings if one.money is not None and one.model is not None]
    if not priced:
        why = [f"{plain(one.deployment)}: no list price for {one.model.name}" for one in findings.sizings if one.model]
        return Answer(question, "It cannot be said.", why or ["No load could be sized."], "no price")
    answer = "; ".join(_monthly(one) for one in priced) + "."
    dates = ", ".join(sorted({str(one.model.as_of) for one in priced if one.model}))
    rests_on = f"US list prices; a month is 730 hours of this load as it was; units of {dates}"
    return Answer(question, answer, [line for one in priced for line in _price_lines(one)], rests_on)


def _monthly(one: Sized) -> str:
    assert one.money is not None
    cheaper = min(one.money.payg, one.money.reserved_month)
    what = "pay-as-you-go" if cheaper == one.money.payg else "units reserved by the month"
    return f"{plain(one.deployment)}: ${cheaper:,.0f} a month as {what}"


def _price_lines(one: Sized) -> Iterator[str]:
    assert one.money is not None
    money = one.money
    yield (
        f"{plain(one.deployment)}, a month: ${money.payg:,.0f} pay-as-you-go; units ${money.hourly:,.0f} by the hour,"
        f" ${money.reserved_month:,.0f} reserved by the month, ${money.reserved_year:,.0f} by the year"
    )
    yield f"both cost the same at {money.break_even_tpm:,.0f} tokens a minute; this load has {money.tpm:,.0f}"


def _sure(findings: Findings) -> Answer:
    details = list(_coverage(findings))
    weak = []
    run = findings.run
    if run.about.ended is None or run.about.ended.how != "completed":
        weak.append("the run was not completed")
    if any(one.sizing is not None and one.sizing.low is None for one in findings.sizings):
        weak.append("it is too short for an interval of the units")
    elif findings.counts["calls"] < 1000:
        weak.append("it is short")
    if findings.late or no_claim(findings):
        weak.append("the generator was behind at times")
    if run.skipped:
        weak.append("lines of its journal are damaged")
    answer = (
        f"With care: {', '.join(weak)}." if weak else "As sure as the intervals say; nothing was amiss with the run."
    )
    rests_on = "intervals take calls to be independent; where refusals come in spells they are too narrow"
    return Answer("How sure is that?", answer, details, rests_on)


def _coverage(findings: Findings) -> Iterator[str]:
    run, counts = findings.run, findings.counts
    yield (
        f"{count(counts['calls'], 'call')} on record, {count(run.in_flight, 'call')} in flight,"
        f" {count(run.skipped, 'line')} damaged"
    )
    if findings.tainted is not None:
        yield f"first tokens that this machine may have stamped late: {findings.tainted:.1%}"
    if findings.late_p99 is not None:
        yield f"issued late by {seconds(findings.late_p99)} at the 99th percentile"
    usage = int(run.calls["input_tokens"].notna().sum())
    yield f"tokens as the service counted them: of {count(usage, 'call')}"
    if findings.coverage is not None:
        sent = counts["calls"] - counts["dropped"]
        yield f"in the diagnostic logs: {findings.coverage.matched:,} of {sent:,} calls sent"


def said_last(findings: Findings) -> dict[str, Any] | None:
    """The run's own verdict and the command that it named."""
    ended = findings.run.about.ended
    return msgspec.to_builtins(ended.verdict) if ended and ended.verdict else None
