"""What the report knows of a run: the tables of every analysis that it draws on, made in one pass over the journal."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis import application, loads, ptu, regions, signals, tokens
from analysis.calibrating import at_the_knee, knee_said
from analysis.costs import Money, money, rates
from analysis.join import Coverage, join, overlap
from analysis.logs import Logs, read_logs
from analysis.outcomes import (
    GROUPS,
    by_target,
    by_traffic,
    from_due,
    late_spells,
    lateness,
    tokens_per_minute,
    without_late_marks,
)
from analysis.ptu_models import Model, find_model
from analysis.regions import by_hour, by_region
from analysis.runs import Run, read_run
from analysis.stats import quantile
from analysis.throttling import by_cause, limiters, promises, with_cause
from analysis.tokens import MOST, differences, estimates
from probe.target import SettingsError

LOG_COLUMNS = ("account", "status", "began_ns", "ended_ns", "logged_ns", "prompt_tokens", "generated_tokens")
_COLUMNS = (
    *(*signals.CALL_COLUMNS, *regions.CALL_COLUMNS),
    *(name for name in tokens.CALL_COLUMNS if name != "response_id"),
    *("error_type", "connect", "loop_lag", "tainted", "buffered"),
)
# The join would have a second copy of all of them.
_JOINED = (
    *("group", "start_time_unix_nano", "duration", "time_to_headers", "service_request_id"),
    *("input_tokens", "output_tokens"),
)
# What is cut by target, region and the like, over and over.
_TIMED = (
    *("group", "target", "gateway", "traffic", "region", "request_stream", "start_time_unix_nano", "issued"),
    *("scheduled", "duration", "time_to_first_token", "input_tokens", "output_tokens"),
)


class Sized(NamedTuple):
    """A deployment's load on provisioned units. Either `why` it cannot be sized, or all the others; `money` is None
    where the model has no price."""

    deployment: str
    why: str | None = None
    model: Model | None = None
    sizing: ptu.Sizing | None = None
    money: Money | None = None
    notes: tuple[str, ...] = ()


class Findings(NamedTuple):
    """Tables as their modules give them; `coverage` is None where no logs were given, `view` where no application was.

    `apart` is why no call is in the logs, None where some are.

    `joined` has some columns of the calls with `estimated_tokens` and what the logs say of them; `unknown` is how
    many calls could not be estimated for each reason, and `countable` how many could be drawn from. `tainted` is the
    share of first tokens that may be late by the generator's doing; above what the run allows, `run` has none of
    them. `late` are spells, in seconds of the run, in which calls were issued late.
    """

    run: Run
    counts: dict[str, int]
    tokens_per_minute: dict[str, float]
    late_p99: float | None
    late: list[tuple[float, float]]
    tainted: float | None
    from_due: pd.DataFrame
    targets: pd.DataFrame
    traffic: pd.DataFrame
    throttling: pd.DataFrame
    limiters: pd.DataFrame
    promises: pd.DataFrame
    regions: pd.DataFrame
    hours: pd.DataFrame
    tokens: pd.DataFrame
    sizings: list[Sized]
    joined: pd.DataFrame
    unknown: dict[str, int]
    # Of each target, the share of answered calls whose remaining tokens were those of the call before.
    stale: dict[str, float]
    countable: int
    logs: Logs
    coverage: Coverage | None
    apart: str | None
    view: application.View | None


def analyse(folder: Path, log_folders: list[Path]) -> Findings:
    """Raises `RunError`, `LogsError`."""
    run = read_run(folder, signals.LIMIT_HEADERS, _COLUMNS, ("event_times", "latency_checkpoint"))
    calls, tainted = without_late_marks(run.calls, run.about.options.max_tainted)
    calls = with_cause(calls)
    run = run._replace(calls=calls)
    logs = read_logs(log_folders, LOG_COLUMNS)
    countable = calls.loc[calls["response_model"].notna(), ["prompt_id", "response_model"]]
    estimated = estimates(countable.sample(min(len(countable), MOST), random_state=0))
    view = application.read_view(run.folder)
    # The checks before the load are in the logs too, and so is what came through the SDK.
    known = [*run.preflight["service_request_id"].dropna(), *(view.service_request_ids if view else ())]
    joined = join(calls[list(_JOINED)].join(estimated["estimated_tokens"]), logs, known)
    timed = calls[list(_TIMED)]
    return Findings(
        run=run,
        counts={"calls": len(calls)} | {name: int((calls["group"] == name).sum()) for name in GROUPS},
        tokens_per_minute=tokens_per_minute(calls, run.seconds),
        late_p99=quantile(lateness(calls), 0.99),
        late=late_spells(calls),
        tainted=tainted,
        from_due=from_due(timed),
        targets=by_target(timed, run.seconds),
        traffic=by_traffic(timed, run.seconds),
        throttling=by_cause(calls),
        limiters=limiters(calls),
        promises=promises(calls),
        regions=by_region(timed),
        hours=by_hour(timed[timed["group"] == "answered"]),
        tokens=differences(joined.calls),
        sizings=list(sized(run)),
        joined=joined.calls,
        unknown={str(reason): int(n) for reason, n in estimated["reason"].value_counts().items()},
        stale=signals.stale_shares(calls),
        countable=len(countable),
        logs=logs,
        coverage=joined.coverage if log_folders else None,
        apart=overlap(joined, logs) if logs.files else None,
        view=view,
    )


def sized(run: Run) -> Iterator[Sized]:
    """Each deployment that was called."""
    for deployment in sorted(run.calls["request_model"].dropna().unique()):
        try:
            yield _size(run, deployment)
        except SettingsError as error:
            yield Sized(deployment, why=str(error))


def _size(run: Run, deployment: str) -> Sized:
    """Raises `SettingsError`."""
    load = loads.of_run(run.calls, deployment)
    if load.calls.empty or len(load.models) != 1:
        named = f"several models answered: {', '.join(load.models)}" if load.models else "no reply named its model"
        return Sized(deployment, why=named if len(load.calls) else "no call says how many tokens it used")
    model = find_model(load.models[0], "global")
    at = rates(model.name)
    part = loads.busiest(load.calls)
    notes = list(load.notes)
    if _is_provisioned(run.calls, deployment):
        capacity = at_the_knee(run, model, deployment)
        notes = [*([] if capacity is None else [knee_said(capacity, model, None)]), *notes]
    if len(part) < len(load.calls):
        stretch = f"Sized for the busiest {len(part):,} of its {len(load.calls):,} calls, which came in a row."
        notes = [stretch, *notes]
    sizing = ptu.size(part, model, ptu.Asked(), at)
    return Sized(deployment, None, model, sizing, money(sizing.average, sizing.ptu, model, at), tuple(notes))


def _is_provisioned(calls: pd.DataFrame, deployment: str) -> bool:
    shows = (calls["throttle_kind"] == "ptu").fillna(False) | calls["azure-openai-deployment-utilization"].notna()
    return bool((shows & (calls["request_model"] == deployment)).any())


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Absent is None."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return [{str(name): value for name, value in row.items()} for row in rows]
