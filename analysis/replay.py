"""A load on so many provisioned units, call by call at full time resolution: what is refused, and how full it gets.

Bucket.   A call adds its prompt without cached tokens and `max_tokens` at the output's weight; when it ends, what it
          did not generate is taken off again. The bucket drains at the rate bought. While it is full or fuller, calls
          are refused, with the time until it is not. (Documented.) Its size is given nowhere: a minute of what was
          bought is assumed, or what was measured.
Retries.  A refused call that is tried again comes when it was told to. One that is not, or no longer, is refused for
          good: it is lost, or spills over to pay-as-you-go.
"""

import heapq
import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.ptu_models import Model

BUCKET_SECONDS = 60.0
# A loop over Python's own numbers is several times faster than over an array's; so many of them fit at a time.
_CHUNK = 1_000_000

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Charges(NamedTuple):
    """A load in input tokens of a model, in order of arrival: `added` on entry, and `returned` at the end. Seconds."""

    at: Floats
    added: Floats
    ended: Floats
    returned: Floats


class Replayed(NamedTuple):
    """By call: whether it was refused for good, and seconds it had to wait. `level` is that of the bucket as each call
    came, 1 is full; `attempts` that were refused, those of later tries included."""

    refused: Flags
    waited: Floats
    level: Floats
    attempts: int

    @property
    def share(self) -> float:
        return float(self.refused.mean()) if len(self.refused) else 0.0


def charges(load: pd.DataFrame, model: Model) -> Charges:
    """`load`: columns at, input_tokens, cached_tokens, output_tokens, max_tokens, duration (seconds); NA in max_tokens
    means that what a call generates is known when it begins, NA in cached_tokens that none were."""
    ordered = load.sort_values("at", kind="stable")
    given = {name: ordered[name].to_numpy(dtype="float64", na_value=np.nan) for name in ordered.columns}
    output = given["output_tokens"]
    allowed = np.where(np.isnan(given["max_tokens"]), output, np.maximum(given["max_tokens"], output))
    fresh = given["input_tokens"] - np.nan_to_num(given["cached_tokens"])
    return Charges(
        given["at"],
        fresh + model.output_weight * allowed,
        given["at"] + np.nan_to_num(given["duration"]),
        model.output_weight * (allowed - output),
    )


def replay(
    load: Charges, model: Model, units: float, *, retries: int = 0, bucket_seconds: float = BUCKET_SECONDS
) -> Replayed:
    rate = units * model.input_tpm / 60
    if retries:
        return _with_retries(load, rate, rate * bucket_seconds, retries)
    if load.returned.any():
        return _settled(load, rate, rate * bucket_seconds)
    return _simple(load, rate, rate * bucket_seconds)


def _simple(load: Charges, rate: float, size: float) -> Replayed:
    """Ten million calls in a few seconds: nothing but the bucket."""
    found: list[Floats] = []
    level = last = 0.0
    for start in range(0, len(load.at), _CHUNK):
        levels = []
        part = slice(start, start + _CHUNK)
        for now, added in zip(load.at[part].tolist(), load.added[part].tolist(), strict=True):
            level -= (now - last) * rate
            if level < 0.0:
                level = 0.0
            last = now
            levels.append(level)
            if level < size:
                level += added
        found.append(np.array(levels))
    return _replayed(np.concatenate(found) if found else np.empty(0), size)


def _replayed(levels: Floats, size: float) -> Replayed:
    refused = levels >= size
    return Replayed(refused, np.zeros(len(levels)), levels / size, int(refused.sum()))


def _settled(load: Charges, rate: float, size: float) -> Replayed:
    """The same with corrections as calls end, where they had been let in."""
    n = len(load.at)
    ends = np.flatnonzero(load.returned > 0)
    times = np.concatenate([load.at, load.ended[ends]])
    calls = np.concatenate([np.arange(n), ~ends])
    # What ends at a moment makes room for what comes then.
    order = np.lexsort((calls >= 0, times))
    levels = [0.0] * n
    level = last = 0.0
    added, returned = load.added.tolist(), load.returned.tolist()
    for start in range(0, len(order), _CHUNK):
        part = order[start : start + _CHUNK]
        for now, call in zip(times[part].tolist(), calls[part].tolist(), strict=True):
            level -= (now - last) * rate
            if level < 0.0:
                level = 0.0
            last = now
            if call < 0:
                if levels[~call] < size:
                    level -= returned[~call]
            else:
                levels[call] = level
                if level < size:
                    level += added[call]
    return _replayed(np.array(levels), size)


def _with_retries(load: Charges, rate: float, size: float, retries: int) -> Replayed:
    at, added, ended, returned = (column.tolist() for column in load)
    n = len(at)
    refused, waited, levels = [False] * n, [0.0] * n, [0.0] * n
    # What is not a first try: its time, whether it is an arrival (what ends makes room first), call, tries so far.
    later: list[tuple[float, bool, int, int]] = []
    level = last = 0.0
    attempts = coming = 0
    while coming < n or later:
        if later and (coming == n or later[0][0] <= at[coming]):
            now, arrives, call, tries = heapq.heappop(later)
        else:
            now, arrives, call, tries = at[coming], True, coming, 0
            coming += 1
        level -= (now - last) * rate
        if level < 0.0:
            level = 0.0
        last = now
        if not arrives:
            level -= returned[call]
            continue
        if tries == 0:
            levels[call] = level
        else:
            waited[call] = now - at[call]
        if level < size:
            level += added[call]
            if returned[call]:
                heapq.heappush(later, (waited[call] + ended[call], False, call, 0))
            continue
        attempts += 1
        if tries == retries:
            refused[call] = True
        else:
            # A refusal names the time in whole milliseconds.
            wait = max(0.001, math.ceil((level - size) / rate * 1000) / 1000)
            heapq.heappush(later, (now + wait, True, call, tries + 1))
    return Replayed(np.array(refused, bool), np.array(waited), np.array(levels) / size, attempts)
