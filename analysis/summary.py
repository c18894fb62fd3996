"""A report's figures for other programs: `summary.json`, whose form docs/summary.schema.json describes.

Numbers are unrounded, times seconds, shares 0 to 1; what was not observed is null. A change of a key's meaning, or its
removal, raises `version`; new keys do not.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from analysis import application
from analysis.answers import Answer, answers, said_last, verdict
from analysis.caveats import caveats
from analysis.findings import Findings, Sized, records
from analysis.join import facts
from analysis.output import plain
from analysis.runs import Judgement

VERSION = 1


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Counts(_Row, frozen=True, kw_only=True):
    """Calls, and how they ended; `preflight` checks of targets before the run are not among them."""

    calls: int
    answered: int
    throttled: int
    failed: int
    cancelled: int
    dropped: int
    preflight: int
    skipped_lines: int


class _Calls(_Row, frozen=True, kw_only=True):
    stream: bool
    calls: int
    answered: int
    throttled: int
    failed: int
    cancelled: int
    dropped: int
    ttft_p50: float | None
    ttft_p95: float | None
    duration_p50: float | None
    duration_p95: float | None
    tokens_per_minute: float | None


class OfTarget(_Calls, frozen=True, kw_only=True):
    target: str


class OfTraffic(_Calls, frozen=True, kw_only=True):
    traffic: str | None


class FromDue(_Row, frozen=True, kw_only=True):
    """How long after they were due calls had their first token, or their end."""

    mark: str
    n: int
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Refused(_Row, frozen=True, kw_only=True):
    target: str
    cause: str
    refused: int
    calls: int
    share: float
    first: float
    retry_after_p50: float | None
    retry_after_max: float | None


class Promise(_Row, frozen=True, kw_only=True):
    """`kept` is the share of refusals whose wait was long enough, of those that it could be `tried` of."""

    target: str
    cause: str
    refused: int
    promised: int
    promised_p50: float | None
    tried: int
    kept: float | None
    enough_low_p50: float | None
    enough_high_p50: float | None


class OfRegion(_Row, frozen=True, kw_only=True):
    region: str
    gateway: str
    calls: int
    ttft_p50: float | None
    ttft_p95: float | None
    duration_p50: float | None
    duration_p95: float | None
    few: bool


class OfHour(_Row, frozen=True, kw_only=True):
    """Hour of the day, UTC."""

    region: str
    hour: int
    calls: int
    ttft_p50: float
    ttft_p95: float
    few: bool


class Compared(_Row, frozen=True, kw_only=True):
    """Two counts of tokens of the same calls: `mean` is `of` less `against`."""

    of: str
    against: str
    n: int
    same: int
    exact: float | None
    mean: float | None
    mean_low: float | None
    mean_high: float | None
    largest: int | None


class Units(_Row, frozen=True, kw_only=True):
    """What a deployment's load needs; `why` it cannot be said, or the rest. Dollars are US dollars a month."""

    deployment: str
    why: str | None = None
    model: str | None = None
    ptu: int | None = None
    ptu_low: int | None = None
    ptu_high: int | None = None
    ptu_by_average: int | None = None
    payg_month: float | None = None
    hourly_month: float | None = None
    reserved_month: float | None = None
    reserved_year_month: float | None = None
    break_even_tokens_per_minute: float | None = None
    tokens_per_minute: float | None = None
    notes: list[str] = []


class Summary(_Row, frozen=True, kw_only=True):
    version: int
    run: str
    verdict: str
    answers: list[Answer]
    caveats: list[str]
    scenario: str | None
    arrivals: str | None
    ended: str | None
    said_last: dict[str, Any] | None
    seconds: float
    counts: Counts
    tokens_per_minute: dict[str, float]
    lateness_p99: float | None
    late_spells: list[tuple[float, float]]
    queueing: str | None
    tainted_share: float | None
    slo: list[Judgement]
    knee: list[dict[str, Any]]
    units: list[Units]
    logs: dict[str, Any] | None
    from_due: list[FromDue]
    targets: list[OfTarget]
    traffic: list[OfTraffic]
    throttling: list[Refused]
    limiters: list[dict[str, Any]]
    promises: list[Promise]
    regions: list[OfRegion]
    hours: list[OfHour]
    tokens: list[Compared]
    application: dict[str, Any] | None
    report: str


_FRAMES = (
    *("from_due", "targets", "traffic", "throttling", "limiters", "promises", "regions", "hours", "tokens"),
)  # fmt: skip


def as_json(findings: Findings, report: str) -> dict[str, Any]:
    """What `Summary` declares, as JSON knows it."""
    run, ended = findings.run, findings.run.about.ended
    coverage = findings.coverage
    found = {
        "version": VERSION,
        "run": run.name,
        "verdict": verdict(findings),
        "answers": msgspec.to_builtins(answers(findings)),
        "caveats": caveats(findings),
        "scenario": run.about.scenario,
        "arrivals": run.about.arrivals,
        "ended": ended.how if ended else None,
        "said_last": said_last(findings),
        "seconds": run.seconds,
        "counts": findings.counts | {"preflight": len(run.preflight), "skipped_lines": run.skipped},
        "tokens_per_minute": findings.tokens_per_minute,
        "lateness_p99": findings.late_p99,
        "late_spells": findings.late,
        "queueing": _queueing(run.about.arrivals),
        "tainted_share": findings.tainted,
        "slo": msgspec.to_builtins(ended.slo) if ended else [],
        "knee": list(ended.knee) if ended else [],
        "units": [_units(one) for one in findings.sizings],
        "logs": None if coverage is None else facts(coverage, findings.logs),
        **{name: records(getattr(findings, name)) for name in _FRAMES},
        "application": None if findings.view is None else _application(findings.view),
        "report": report,
    }
    return dict(plain(found))


def schema() -> Mapping[str, Any]:
    """JSON Schema of what `as_json` gives."""
    title = "summary.json, beside report.html: the figures of `analysis report`"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **msgspec.json.schema(Summary)}


def _units(one: Sized) -> dict[str, Any]:
    if one.sizing is None or one.model is None:
        return {"deployment": one.deployment, "why": one.why}
    found = {
        "deployment": one.deployment,
        "model": one.model.name,
        "ptu": one.sizing.ptu,
        "ptu_low": one.sizing.low,
        "ptu_high": one.sizing.high,
        "ptu_by_average": one.sizing.average.ptu,
        "notes": list(one.notes),
    }
    if (money := one.money) is None:
        return found
    return found | {
        "payg_month": money.payg,
        "hourly_month": money.hourly,
        "reserved_month": money.reserved_month,
        "reserved_year_month": money.reserved_year,
        "break_even_tokens_per_minute": money.break_even_tpm,
        "tokens_per_minute": money.tpm,
    }


def _queueing(arrivals: str | None) -> str | None:
    return None if arrivals is None else "not measured" if arrivals == "closed" else "measured"


def _application(view: application.View) -> dict[str, Any]:
    return {
        **application.totals(view),
        "skipped_lines": view.skipped,
        "targets": records(application.by_target(view)),
        "hidden_by_reason": records(application.by_reason(view)),
    }
