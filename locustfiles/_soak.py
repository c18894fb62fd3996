"""What a soak keeps of its calls over hours, in bounded memory, and what drifts in it.

Time is cut into spells of equal length, at most `MOST` of them: when there would be more, neighbours become one. A
spell has what the calls that were due in it came to, their times as sketches (`_sketch`), and how the process that sent
them was. Spells of all processes begin at the same moments of the run, so they add up.

Spells with few calls have chance figures. Before drift is looked for, neighbours become one until they have `FEW` calls
on average, or there are few of them. One with less than half as many calls as most, as the last that the end cut short,
is left out.
"""

import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import psutil

from locustfiles._drift import FEWEST, Drift, drift
from locustfiles._scenario import Findings
from locustfiles._sketch import Sketch
from locustfiles._slo import ANSWERED, CANCELLED
from locustfiles._verdict import Verdict
from locustfiles._words import amount, seconds
from locustfiles._words import share as percent
from probe.record import NOT_SENT, ObservedCall

MOST = 96
FEW = 40
# What is sure to be less than this part of its level over the whole run is no drift to speak of.
LEAST = 0.01
_LOOK_SECONDS = 1.0
_OPEN = 4


class Calls(msgspec.Struct, array_like=True):
    """Of a spell, to one target. Outcomes are the record's; a refusal's has its kind after it."""

    outcomes: dict[str, int] = {}
    ttft: Sketch = msgspec.field(default_factory=Sketch)
    duration: Sketch = msgspec.field(default_factory=Sketch)

    def take(self, call: ObservedCall) -> None:
        kind = f"{call.outcome}: {call.throttle_kind}" if call.throttle_kind else call.outcome
        self.outcomes[kind] = self.outcomes.get(kind, 0) + 1
        if call.time_to_first_token is not None:
            self.ttft.take(call.time_to_first_token)
        if call.duration is not None and call.outcome in ANSWERED:
            self.duration.take(call.duration)

    def add(self, other: "Calls") -> None:
        for kind, times in other.outcomes.items():
            self.outcomes[kind] = self.outcomes.get(kind, 0) + times
        self.ttft.add(other.ttft)
        self.duration.add(other.duration)

    @property
    def sent(self) -> int:
        return sum(times for kind, times in self.outcomes.items() if kind not in NOT_SENT)

    def part(self, throttled: bool) -> float | None:
        """Of the calls sent: those refused, or those that came to no answer for another reason."""
        met = [
            times
            for kind, times in self.outcomes.items()
            if kind not in ANSWERED and kind not in NOT_SENT and kind.startswith("throttled") == throttled
        ]
        return sum(met) / self.sent if self.sent else None


class Own(msgspec.Struct, array_like=True):
    """Of a spell, of this side: how late calls were sent, and the memory of a process (bytes), looked at so often."""

    late: Sketch = msgspec.field(default_factory=Sketch)
    memory: int = 0
    looks: int = 0

    def add(self, other: "Own") -> None:
        self.late.add(other.late)
        self.memory += other.memory
        self.looks += other.looks

    @property
    def sent(self) -> int:
        return self.late.n

    @property
    def mean_memory(self) -> float | None:
        return self.memory / self.looks if self.looks else None


Spell = TypeVar("Spell", Calls, Own)


class Row(NamedTuple):
    """What a spell comes to; `begins` is seconds since the run began."""

    begins: int
    sent: int
    values: dict[str, float]
    outcomes: dict[str, int] | None


class Spells(Generic[Spell]):
    """By when they begin, in seconds since the run began; each is `width` seconds long, which is 1 doubled some times.

    To double them all at once would hold the process up for a tenth of a second and more. So each new one beyond `MOST`
    has the two oldest of its width become one, and when that was done to all, `width` is doubled. A sketch in use takes
    twenty times what it takes packed, so all but the newest few are, until a late call comes.
    """

    def __init__(self, kind: type[Spell]) -> None:
        self.width = 1
        # Those that begin before this have been doubled.
        self._doubled = 0
        self._kind: type[Spell] = kind
        self._open: dict[int, Spell] = {}
        self._shut: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._open) + len(self._shut)

    def at(self, when: float) -> Spell:
        """`when` is seconds since the run began."""
        begins = self._begin(when)
        if begins not in self._open and begins not in self._shut:
            self._keep(begins, self._kind())
            while len(self) > MOST:
                self._double_one()
            begins = self._begin(when)
        return self._get(begins)

    def packed(self) -> "Packed":
        while self._doubled:
            self._double_one()
        for begins in list(self._open):
            self._shut_one(begins)
        return Packed(self.width, self._shut)

    def add(self, packed: "Packed") -> None:
        """Of another process."""
        while self.width < packed.width:
            self._double()
        for begins, spell in packed.spells.items():
            self.at(begins).add(self._unpack(spell))

    def rows(self, figures: "tuple[Figure, ...]") -> list[Row]:
        """In order; with neighbours that had too few calls made one."""
        sent = sum(self._unpack(spell).sent for spell in self.packed().spells.values())
        while len(self) > 2 * FEWEST and sent < FEW * len(self):
            self._double()
        return [
            self._row(begins, self._unpack(spell), figures) for begins, spell in sorted(self.packed().spells.items())
        ]

    def _row(self, begins: int, spell: Spell, figures: "tuple[Figure, ...]") -> Row:
        values = {figure.name: figure.of(spell) for figure in figures}
        known = {name: value for name, value in values.items() if value is not None}
        return Row(begins, spell.sent, known, spell.outcomes if isinstance(spell, Calls) else None)

    def _begin(self, when: float) -> int:
        """Of the spell that this moment is in."""
        width = self.width if when >= self._doubled else 2 * self.width
        return math.floor(when / width) * width

    def _double(self) -> None:
        width = self.width
        while self.width == width:
            self._double_one()

    def _double_one(self) -> None:
        first, second = self._doubled, self._doubled + self.width
        if second in self._open or second in self._shut:
            self._get(second)
            spell = self._open.pop(second)
            if first in self._open or first in self._shut:
                self._get(first).add(spell)
            else:
                self._keep(first, spell)
        self._doubled += 2 * self.width
        if self._doubled > max(self._open.keys() | self._shut.keys(), default=0):
            self.width, self._doubled = 2 * self.width, 0

    def _get(self, begins: int) -> Spell:
        if begins not in self._open:
            self._keep(begins, self._unpack(self._shut.pop(begins)))
        return self._open[begins]

    def _keep(self, begins: int, spell: Spell) -> None:
        self._open[begins] = spell
        if len(self._open) > _OPEN:
            self._shut_one(min(one for one in self._open if one != begins))

    def _shut_one(self, begins: int) -> None:
        self._shut[begins] = msgspec.msgpack.encode(self._open.pop(begins))

    def _unpack(self, spell: bytes) -> Spell:
        return msgspec.msgpack.decode(spell, type=self._kind)


class Packed(msgspec.Struct, array_like=True):
    """Spells of one width by their begin, each as MessagePack."""

    width: int
    spells: dict[int, bytes]


class Kept(Findings):
    """Of one process, or of all of them; `packed` is bytes."""

    def __init__(self) -> None:
        self.targets: dict[str, Spells[Calls]] = {}
        self.own: Spells[Own] = Spells(Own)
        self._process = psutil.Process()
        self._looked = -math.inf

    def take(self, call: ObservedCall) -> None:
        due = call.scheduled if call.scheduled is not None else call.issued
        if due is None or call.outcome in CANCELLED:
            return
        if call.target not in self.targets:
            self.targets[call.target] = Spells(Calls)
        self.targets[call.target].at(due).take(call)
        if call.issued is not None:
            self._take_own(call.issued, max(0.0, call.issued - due))

    def _take_own(self, at: float, late: float) -> None:
        own = self.own.at(at)
        own.late.take(late)
        if abs(at - self._looked) >= _LOOK_SECONDS:
            self._looked = at
            own.memory += self._process.memory_info().rss
            own.looks += 1

    def packed(self) -> bytes:
        of_targets = {name: spells.packed() for name, spells in self.targets.items()}
        return msgspec.msgpack.encode((of_targets, self.own.packed()))

    def add(self, packed: bytes) -> None:
        of_targets, own = msgspec.msgpack.decode(packed, type=tuple[dict[str, Packed], Packed])
        for name, spells in of_targets.items():
            self.targets.setdefault(name, Spells(Calls)).add(spells)
        self.own.add(own)


class Figure(NamedTuple):
    """What is looked at: its name in `run.json`, in words, and how it is said."""

    name: str
    words: str
    of: Callable[[Any], float | None]
    said: Callable[[float], str]
    # A share has no level that a drift could be a part of.
    is_share: bool = False


def _quantile(sketch: str, at: float) -> Callable[[Any], float | None]:
    return lambda spell: getattr(spell, sketch).quantile(at)


def _megabytes(value: float) -> str:
    return f"{amount(value / 1e6)} MB"


OF_CALLS = (
    Figure("ttft_p50_s", "first token p50", _quantile("ttft", 0.5), seconds),
    Figure("ttft_p95_s", "first token p95", _quantile("ttft", 0.95), seconds),
    Figure("duration_p50_s", "whole call p50", _quantile("duration", 0.5), seconds),
    Figure("duration_p95_s", "whole call p95", _quantile("duration", 0.95), seconds),
    Figure("throttled_share", "throttled", lambda spell: spell.part(throttled=True), percent, True),
    Figure("failed_share", "failed", lambda spell: spell.part(throttled=False), percent, True),
)
OF_OWN = (
    Figure("memory_bytes", "memory of a process", lambda own: own.mean_memory, _megabytes),
    Figure("late_p95_s", "calls sent late, p95", _quantile("late", 0.95), seconds),
)


class Found(NamedTuple):
    """Of a figure, over so many `hours`; `drift`, an hour, is None where there was too little to say."""

    figure: Figure
    drift: Drift | None
    hours: float

    @property
    def matters(self) -> bool:
        """Whether it drifts beyond chance, and by what is worth a word."""
        if self.drift is None or not self.drift.found:
            return False
        nearer = min(abs(self.drift.low), abs(self.drift.high))
        return self.figure.is_share or nearer * self.hours >= LEAST * self.drift.first

    @property
    def moves(self) -> str:
        """Of one that drifts: in which direction, and how fast."""
        assert self.drift is not None
        return f"{'rises' if self.drift.found > 0 else 'falls'} by {self._by(abs(self.drift.slope))} an hour"

    def about(self) -> dict[str, Any]:
        assert self.drift is not None
        slope, low, high, first, last, _ = (round(value, 9) for value in self.drift)
        around = {"first_third": first, "last_third": last}
        return {"per_hour": slope, "low": low, "high": high, **around, "drifts": self.matters}

    def __str__(self) -> str:
        return f"{self.figure.words}: {self._said()}"

    def _said(self) -> str:
        if self.drift is None:
            return "too little to tell"
        said, drift = self.figure.said, self.drift
        ends = f"{_sign(drift.low)}{self._by(abs(drift.low))} to {_sign(drift.high)}{self._by(abs(drift.high))}"
        if self.matters:
            return f"{self.moves} ({ends}), from {said(drift.first)} to {said(drift.last)}"
        little = f"no drift of {LEAST:.0%} is certain" if drift.found else "no detectable drift"
        return f"{little}, at {said((drift.first + drift.last) / 2)} ({ends} an hour)"

    def _by(self, value: float) -> str:
        return f"{amount(value * 100)} points" if self.figure.is_share else self.figure.said(value)


def _sign(value: float) -> str:
    return "-" if value < 0 else "+"


class Part(NamedTuple):
    """What was found of a target, or of this side."""

    width: int
    rows: list[Row]
    found: list[Found]

    def about(self) -> dict[str, Any]:
        return {
            "drift": {each.figure.name: each.about() for each in self.found if each.drift is not None},
            "spell_seconds": self.width,
            "spells": [_about(row) for row in self.rows],
        }

    def lines(self, of: str) -> Iterator[str]:
        known = [each.hours for each in self.found if each.drift is not None]
        if known:
            yield f"{of}, over {_lasted(max(known))}"
            yield from (f"  {each}" for each in self.found)
        else:
            yield f"{of}: too little to tell a drift"


def part(spells: Spells[Any], figures: tuple[Figure, ...]) -> Part:
    rows = spells.rows(figures)
    usual = median([row.sent for row in rows] or [0])
    whole = [row for row in rows if row.sent >= usual / 2]
    return Part(spells.width, rows, [_find(whole, spells.width, figure) for figure in figures])


def _find(rows: list[Row], width: int, figure: Figure) -> Found:
    known = [row for row in rows if figure.name in row.values]
    times = [(row.begins + width / 2) / 3600 for row in known]
    hours = times[-1] - times[0] + width / 3600 if times else 0.0
    return Found(figure, drift(times, [row.values[figure.name] for row in known]), hours)


def _about(row: Row) -> dict[str, Any]:
    values = {name: round(value, 6) for name, value in row.values.items()}
    outcomes = {} if row.outcomes is None else {"outcomes": row.outcomes}
    return {"at_s": row.begins, "sent": row.sent, **values, **outcomes}


def _lasted(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


class Offered(NamedTuple):
    """To a target; both in calls a minute."""

    target: str
    deployment: str
    per_minute: float
    capacity: float
    source: str

    def __str__(self) -> str:
        return f"{self.target}: {amount(self.per_minute)} calls a minute"

    def about(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "deployment": self.deployment,
            "offered_rpm": round(self.per_minute, 3),
            "capacity_rpm": round(self.capacity, 3),
            "capacity_source": self.source,
        }


class Soaked:
    """What a soak has found, whatever ended it."""

    def __init__(self, offered: Sequence[Offered], kept: Kept) -> None:
        self._targets = [(one, part(kept.targets.get(one.target, Spells(Calls)), OF_CALLS)) for one in offered]
        self._own = part(kept.own, OF_OWN)

    def about(self) -> dict[str, Any]:
        """As `ended.soak` in `run.json`."""
        return {
            "targets": [{**one.about(), **found.about()} for one, found in self._targets],
            "generator": self._own.about(),
        }

    def lines(self) -> Iterator[str]:
        for one, found in self._targets:
            yield from found.lines(str(one))
        yield from self._own.lines("this side")

    def verdict(self, folder: Path) -> Verdict:
        parts = [*((one.target, found) for one, found in self._targets), ("this side", self._own)]
        drifts = [(name, each) for name, found in parts for each in found.found if each.matters]
        refused = any(each.figure.name == "throttled_share" for _, each in drifts)
        following = f"analysis {'throttling' if refused else 'report'} {shlex.quote(str(folder))}"
        if drifts:
            (name, first), *others = drifts
            more = f", and {len(others)} more" if others else ""
            return Verdict(f"drifts: of {name} {first.figure.words} {first.moves}{more}", following)
        if all(each.drift is None for _, found in self._targets for each in found.found):
            return Verdict("no verdict: too short to tell a drift; give more --run-time", following)
        return Verdict("held: no detectable drift", following)
