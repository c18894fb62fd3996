"""Which region answered how fast. `x-ms-region` is the region of the resource, not always where the model ran."""

import pandas as pd

from analysis.stats import quantile

# A cell of fewer calls says little about its 95th percentile.
FEW = 30


def by_region(calls: pd.DataFrame) -> pd.DataFrame:
    """One row a region and gateway: answered calls, quantiles of the time to first token (of streams) and of the whole
    call in seconds, and `few` where there are under 30 calls."""
    answered = calls[(calls["group"] == "answered") & calls["region"].notna()]
    rows = []
    for (region, gateway), part in answered.groupby(["region", "gateway"], sort=True):
        rows.append(
            {
                "region": region,
                "gateway": gateway,
                "calls": len(part),
                "ttft_p50": quantile(part["time_to_first_token"], 0.5),
                "ttft_p95": quantile(part["time_to_first_token"], 0.95),
                "duration_p50": quantile(part["duration"], 0.5),
                "duration_p95": quantile(part["duration"], 0.95),
                "few": len(part) < FEW,
            }
        )
    columns = ["region", "gateway", "calls", "ttft_p50", "ttft_p95", "duration_p50", "duration_p95", "few"]
    return pd.DataFrame(rows, columns=columns)
