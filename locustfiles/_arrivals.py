"""When calls are due: the open model.

In the closed model, Locust's own, a user sends its next call when its last one has ended, so a slow service is asked
less and queueing goes unmeasured. In the open model calls are due on an absolute schedule that does not depend on the
service: at a rate, evenly spaced or as a Poisson process, or at the times of a schedule or of a recorded trace. A call
that is sent late is still sent, and its record says when it was due. A call that is due when as many calls are open as
are allowed is dropped, and on record as that: one that waited for room would put off those after it.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import msgspec

from probe.prompts import Ask, Mix, numbered
from probe.target import SettingsError, Target
from probe.traces import Row


class Call(NamedTuple):
    """Without a `target` it goes to whichever is next in turn."""

    ask: Ask
    target: Target | None = None


class Arrival(NamedTuple):
    """What is to be sent from `due` on, in seconds since the run began: its calls, one after the other."""

    due: float
    calls: tuple[Call, ...]


class Share(NamedTuple):
    """The part of a run's arrivals that one of its processes sends: every `of`-th, beginning with `number` (from 0)."""

    number: int
    of: int


def poisson(rate: float, seed: str, share: Share) -> Iterator[float]:
    """Endless times at `rate` a second over all processes together; each has its own stream at its part of it."""
    rng = random.Random(f"{seed}-{share.number}")
    due = 0.0
    while True:
        due += rng.expovariate(rate / share.of)
        yield due


def constant(rate: float, share: Share) -> Iterator[float]:
    """Endless times, `1 / rate` seconds apart over all processes together."""
    return (number / rate for number in count(share.number, share.of))


class Pace:
    """Evenly spaced times at a rate that can be changed meanwhile; a process's `share` of them."""

    def __init__(self, share: Share) -> None:
        self._of = share.of
        self._rate = 0.0
        self._at = 0.0
        # How much of the time to the next one has passed, 0 to 1, at `_at`.
        self._phase = 1 - share.number / share.of

    def set(self, rate: float, now: float) -> None:
        """`rate` is a second's, over all processes together."""
        self._phase = min(1.0, self._phase + (now - self._at) * self._rate)
        self._rate, self._at = rate / self._of, now

    @property
    def due(self) -> float:
        """When the next is due; infinite at a rate of 0."""
        return self._at + (1 - self._phase) / self._rate if self._rate else math.inf

    def take(self) -> float:
        due = self.due
        self._at, self._phase = due, 0.0
        return due


def drawn(times: Iterable[float], mix: Mix) -> Iterator[Arrival]:
    return (Arrival(due, (Call(mix.draw()),)) for due in times)


def rounds(
    times: Iterable[float],
    mix: Mix,
    targets: Sequence[Target],
    rounds: int,
    seed: str,
    share: Share,
    *,
    own_texts: bool,
) -> Iterator[Arrival]:
    """So many rounds over all processes together: one call to each target, in an order of the round's own.

    All calls of a round are of the same class, sizes and way of asking. With `own_texts` their words differ, so that
    targets with the same cache behind them do not find what another has put there. Rounds are numbered from 1.
    """
    for number, due in zip(range(share.number, rounds, share.of), times, strict=False):
        order = random.Random(f"{seed}-{number}").sample(targets, len(targets))
        asks = mix.draw_alike(len(order)) if own_texts else mix.draw_alike(1) * len(order)
        tagged = (msgspec.structs.replace(ask, round=number + 1) for ask in asks)
        yield Arrival(due, tuple(map(Call, tagged, order)))


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
    """The trace's calls at `speed` times its own pace. Whether a call streams is drawn where its row does not say, the
    same whichever process sends it."""
    rng = random.Random(seed)
    for number, row in enumerate(rows):
        drawn_to_stream = rng.random() < stream_share
        if number % share.of == share.number:
            prompt = numbered(number % 1_000_000, row.input_tokens, max(1, row.output_tokens))
            yield Arrival(
                row.at / speed, (Call(Ask(prompt, drawn_to_stream if row.stream is None else row.stream, "trace")),)
            )
