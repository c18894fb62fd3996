"""When calls are due: the open model.

In the closed model, Locust's own, a user sends its next call when its last one has ended, so a slow service is asked
less and queueing goes unmeasured. In the open model calls are due on an absolute schedule that does not depend on the
service: at a rate, evenly spaced or as a Poisson process, or at the times of a schedule or of a recorded trace. A call
that is sent late is still sent, and its record says when it was due. A call that is due when as many calls are open as
are allowed is dropped, and on record as that: one that waited for room would put off those after it.
"""

import math
import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

from probe.prompts import Ask, Mix, numbered
from probe.target import SettingsError
from probe.traces import Row


class Arrival(NamedTuple):
    """`due` is seconds since the run began."""

    due: float
    ask: Ask


class Share(NamedTuple):
    """The part of a run's arrivals that one of its processes sends: every `of`-th, beginning with `number` (from 0)."""

    number: int
    of: int


def poisson(rate: float, mix: Mix, seed: str, share: Share) -> Iterator[Arrival]:
    """Endless arrivals at `rate` a second over all processes together; each has its own stream at its part of it."""
    rng = random.Random(f"{seed}-{share.number}")
    due = 0.0
    while True:
        due += rng.expovariate(rate / share.of)
        yield Arrival(due, mix.draw())


def constant(rate: float, mix: Mix, share: Share) -> Iterator[Arrival]:
    """Endless arrivals, `1 / rate` seconds apart over all processes together."""
    for number in count(share.number, share.of):
        yield Arrival(number / rate, mix.draw())


def at_times(times: list[float], mix: Mix, share: Share) -> Iterator[Arrival]:
    for due in times[share.number :: share.of]:
        yield Arrival(due, mix.draw())


def read_schedule(path: Path) -> list[float]:
    """When calls are due, in seconds since the run began, in order; a line each, in any order, `#` begins a comment.

    Raises `SettingsError` that names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"schedule {path}: {getattr(error, 'strerror', None) or error}") from None
    texts = ((number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1))
    times = [_due(path, number, text) for number, text in texts if text]
    if not times:
        raise SettingsError(f"schedule {path}: no times in it")
    return sorted(times)


def _due(path: Path, number: int, text: str) -> float:
    try:
        due = float(text)
    except ValueError:
        due = math.nan
    if not 0 <= due < math.inf:
        raise SettingsError(f"schedule {path}: line {number} is {text[:40]!r}, not seconds since the run's begin")
    return due


def replay(rows: list[Row], speed: float, stream_share: float, seed: str, share: Share) -> Iterator[Arrival]:
    """The trace's calls at `speed` times its own pace; a row is a stream or not whichever process sends it."""
    rng = random.Random(seed)
    for number, row in enumerate(rows):
        stream = rng.random() < stream_share
        if number % share.of == share.number:
            prompt = numbered(number % 1_000_000, row.input_tokens, max(1, row.output_tokens))
            yield Arrival(row.at / speed, Ask(prompt, stream, "trace"))
