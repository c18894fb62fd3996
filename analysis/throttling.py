"""Which limit refused calls, where, since when, and how long it asked to wait."""

import pandas as pd

from analysis.stats import quantile


def by_cause(calls: pd.DataFrame) -> pd.DataFrame:
    """One row a target and cause: refused, calls of the target, the share refused (0 to 1), first (seconds into the
    run), and the median and largest Retry-After in seconds (None where none was sent)."""
    totals = calls["target"].value_counts().to_dict()
    rows = []
    for (target, cause), part in calls[calls["group"] == "throttled"].groupby(["target", "throttle_kind"], sort=True):
        rows.append(
            {
                "target": target,
                "cause": cause,
                "refused": len(part),
                "calls": totals[target],
                "share": len(part) / totals[target],
                "first": float(part["at"].min()),
                "retry_after_p50": quantile(part["retry_after"], 0.5),
                "retry_after_max": quantile(part["retry_after"], 1.0),
            }
        )
    columns = ["target", "cause", "refused", "calls", "share", "first", "retry_after_p50", "retry_after_max"]
    return pd.DataFrame(rows, columns=columns)
