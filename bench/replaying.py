"""How long ten million calls take on one count of units, beside the same bucket over pandas' rows.

python -m bench.replaying [CALLS]       needs an idle machine
"""

import sys
import time
from typing import Any

import numpy as np
import pandas as pd

from analysis.ptu import LOAD_COLUMNS
from analysis.ptu_models import find_model
from analysis.replay import charges, replay

CALLS = 10_000_000
_ROWS = 200_000
_UNITS = 300


def load(calls: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    at = np.cumsum(rng.exponential(0.02, calls))
    sizes = {"input_tokens": rng.lognormal(5, 0.8, calls), "output_tokens": rng.lognormal(4, 0.8, calls)}
    return pd.DataFrame({"at": at, **sizes}).reindex(columns=LOAD_COLUMNS)


def by_rows(calls: pd.DataFrame, rate: float, weight: float) -> int:
    """Refused, as one would write it first."""
    level = last = 0.0
    refused = 0
    row: Any
    for row in calls.itertuples():
        level = max(0.0, level - (row.at - last) * rate)
        last = row.at
        if level >= rate * 60:
            refused += 1
        else:
            level += row.input_tokens + weight * row.output_tokens
    return refused


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    model = find_model("gpt-4.1", "global")
    calls = load(number)
    began = time.perf_counter()
    found = replay(charges(calls, model), model, _UNITS)
    ours = time.perf_counter() - began
    for name, changes, retries in (
        ("with max_tokens that are not all used", {"max_tokens": 500.0, "duration": 3.0}, 0),
        ("with a retry of what is refused", {}, 1),
    ):
        began = time.perf_counter()
        found_so = replay(charges(calls.assign(**changes), model), model, _UNITS, retries=retries)
        print(f"replay, {name}: {found_so.share:.1%} refused, in {time.perf_counter() - began:.1f} s")
    few = calls.head(_ROWS)
    began = time.perf_counter()
    refused = by_rows(few, _UNITS * model.input_tpm / 60, model.output_weight)
    theirs = (time.perf_counter() - began) * number / len(few)
    assert refused == int(found.refused[: len(few)].sum())
    print(f"replay: {number:,} calls on {_UNITS} units, {found.share:.1%} refused, in {ours:.1f} s")
    print(f"pandas' rows, {len(few):,} of them: {theirs:.1f} s for as many; ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
