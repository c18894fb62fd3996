"""Statistics of what was observed, exact and from the raw values."""

import pandas as pd


def quantile(values: pd.Series, at: float) -> float | None:
    """Linear between the two nearest observations; None where there is none."""
    known = values.dropna()
    return None if known.empty else float(known.quantile(at))
