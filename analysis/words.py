"""Numbers and names as a person reads them."""

import pandas as pd

from analysis.stats import Estimate
from probe.escaping import printable


def share(part: int, whole: int) -> str:
    """Rounded, but never to none or all of it where it is not."""
    if 0 < part < whole * 0.0005:
        return "under 0.1%"
    return "over 99.9%" if whole * 0.9995 <= part < whole else f"{part / whole:.1%}"


def seconds(value: float | None) -> str:
    if value is None or pd.isna(value):
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def plain(value: object) -> str:
    """A name from outside as it can be shown on a terminal and in a table."""
    return printable(str(value))


def between(estimate: Estimate | None, unit: str) -> str:
    """Its interval, `unit` is `s` or `%`; empty where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    if unit == "s":
        return f"95 %: {seconds(estimate.low)} to {seconds(estimate.high)}"
    return f"95 %: {estimate.low:.1%} to {estimate.high:.1%}"


def count(number: int, what: str) -> str:
    """With the plural's s."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
