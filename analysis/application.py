"""What an application saw of its calls through the SDK, and what the SDK kept from it (`application-*.jsonl`).

These calls are others than those of the run's table, and no figure here goes into one of that. Both times to the first
token are of the same calls: as the application saw it, and from the start of the attempt that answered.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis.stats import quantile
from probe.application import CANCELLED, ApplicationCall
from probe.journal import read_applications
from probe.record import NOT_SENT


class View(NamedTuple):
    """`calls` has a row a call, `hidden` a row a failed attempt that the application was not told of."""

    calls: pd.DataFrame
    hidden: pd.DataFrame
    # What the service's logs call the attempts.
    service_request_ids: list[str]
    skipped: int


def read_view(folder: Path) -> View | None:
    """None where the run had no application."""
    calls, skipped = read_applications(folder)
    if not calls and not skipped:
        return None
    return View(
        calls=pd.DataFrame([_row(call) for call in calls], columns=_COLUMNS),
        hidden=pd.DataFrame([row for call in calls for row in _hidden_rows(call)], columns=_HIDDEN_COLUMNS),
        service_request_ids=[
            value
            for call in calls
            for attempt in call.attempts
            for name, value in attempt.headers
            if name.lower() == "apim-request-id"
        ],
        skipped=skipped,
    )


_COLUMNS = [
    "target",
    "stream",
    "succeeded",
    "error_type",
    "attempts",
    "hidden",
    "waiting",
    "ttft",
    "attempt_ttft",
    "unfinished",
]
_HIDDEN_COLUMNS = ["target", "reason", "retry_after"]


def _row(call: ApplicationCall) -> dict[str, Any]:
    return {
        "target": call.target,
        "stream": call.request_stream,
        "succeeded": call.succeeded,
        "error_type": call.error_type,
        "attempts": len(call.attempts),
        "hidden": len(call.hidden),
        "waiting": call.hidden_waiting,
        "ttft": call.time_to_first_token,
        "attempt_ttft": call.attempt_time_to_first_token,
        # The SDK calls it a success, but it broke off.
        "unfinished": call.succeeded and call.operation == "chat" and not call.finish_reasons,
    }


def _hidden_rows(call: ApplicationCall) -> list[dict[str, Any]]:
    return [
        {"target": call.target, "reason": attempt.reason, "retry_after": attempt.retry_after} for attempt in call.hidden
    ]


def totals(view: View) -> dict[str, Any]:
    """Calls, how they ended, retried, unfinished, attempts, hidden, and `waiting` seconds."""
    calls = view.calls
    stopped = calls["error_type"].isin(NOT_SENT)
    dropped = int((stopped & (calls["attempts"] == 0)).sum())
    # Whoever spends no more ends a call that would be tried again.
    cancelled = int((calls["error_type"] == CANCELLED).sum() + stopped.sum()) - dropped
    succeeded = int(calls["succeeded"].sum())
    return {
        "calls": len(calls),
        "succeeded": succeeded,
        "failed": len(calls) - succeeded - cancelled - dropped,
        "cancelled": cancelled,
        "dropped": dropped,
        "retried": int((calls["attempts"] > 1).sum()),
        "unfinished": int(calls["unfinished"].sum()),
        "attempts": int(calls["attempts"].sum()),
        "hidden": len(view.hidden),
        "waiting": float(calls["waiting"].sum()),
    }


def by_target(view: View) -> pd.DataFrame:
    """One row a target and stream flag. Seconds: `waiting` in total and its quantiles over all calls, the time to
    first token of those that succeeded."""
    rows = []
    for (target, stream), part in view.calls.groupby(["target", "stream"], sort=True):
        answered = part[part["succeeded"]]
        quantiles = {
            f"{name}_p{percent}": quantile(of[name].astype(float), percent / 100)
            for name, of in (("waiting", part), ("ttft", answered), ("attempt_ttft", answered))
            for percent in (50, 95)
        }
        rows.append(
            {
                "target": target,
                "stream": bool(stream),
                "calls": len(part),
                "succeeded": len(answered),
                "attempts": int(part["attempts"].sum()),
                "hidden": int(part["hidden"].sum()),
                "waiting": float(part["waiting"].sum()),
                **quantiles,
            }
        )
    return pd.DataFrame(rows)


def by_reason(view: View) -> pd.DataFrame:
    """One row a target and status, or the error of an attempt without one: how many the SDK kept to itself, and the
    median and largest wait they asked for (None where none was sent)."""
    rows = [
        {
            "target": target,
            "reason": reason,
            "hidden": len(part),
            "retry_after_p50": quantile(part["retry_after"].astype(float), 0.5),
            "retry_after_max": quantile(part["retry_after"].astype(float), 1.0),
        }
        for (target, reason), part in view.hidden.groupby(["target", "reason"], sort=True)
    ]
    return pd.DataFrame(rows, columns=["target", "reason", "hidden", "retry_after_p50", "retry_after_max"])
