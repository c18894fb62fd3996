"""What each target is taken to bear: as the user says, or as a run of `knee.py` has found."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from locustfiles._plan import mean_tokens
from probe.journal import RUN_FILE
from probe.prompts import TrafficClass
from probe.target import SettingsError

_FLAG = "--capacity (HEADROOM_CAPACITY)"
# Mixes whose calls differ by more than this, on average, have different capacities.
_ALIKE = 0.02


class Capacity(NamedTuple):
    """Calls a minute, and who says so."""

    per_minute: float
    source: str


class _Rate(msgspec.Struct):
    value: float


class _Held(msgspec.Struct):
    requests_per_minute: _Rate


class _Knee(msgspec.Struct):
    target: str
    held: _Held | None = None


class _Ended(msgspec.Struct):
    knee: list[_Knee] = []


class _Asked(msgspec.Struct):
    mix: tuple[TrafficClass, ...]


class _Run(msgspec.Struct):
    options: _Asked
    ended: _Ended = msgspec.field(default_factory=_Ended)


def given(capacity: str | None, mix: Sequence[TrafficClass], names: Sequence[str]) -> dict[str, Capacity]:
    """By `--capacity`, of each target of these names; of none without it. Raises `SettingsError`."""
    if capacity is None:
        return {}
    try:
        calls = float(capacity)
    except ValueError:
        return _of_knee(Path(capacity), mix, names)
    if not 0 < calls < math.inf:
        raise SettingsError(f"{_FLAG} is {capacity!r}; as a number it is calls a minute, above 0")
    return {name: Capacity(calls, "--capacity") for name in names}


def _of_knee(where: Path, mix: Sequence[TrafficClass], names: Sequence[str]) -> dict[str, Capacity]:
    folder, run = _newest(where)
    held = {knee.target: knee.held.requests_per_minute.value for knee in run.ended.knee if knee.held is not None}
    for name in names:
        if name not in held:
            known = f"only for {', '.join(held)}" if held else "for no target"
            raise SettingsError(f"{_FLAG}: {folder} found a rate that holds {known}, and none for {name}")
    here, there = mean_tokens(mix), mean_tokens(run.options.mix)
    if any(abs(one / other - 1) > _ALIKE for one, other in zip(here, there, strict=True)):
        raise SettingsError(
            f"{_FLAG}: the calls of {folder} were of {_sizes(there)}, and these are of {_sizes(here)}; give its --mix,"
            " or calls a minute"
        )
    return {name: Capacity(held[name], f"what held in {folder.name}") for name in names}


def _sizes(tokens: Sequence[float]) -> str:
    return f"{tokens[0]:,.0f} tokens in and {tokens[1]:,.0f} out"


def _newest(where: Path) -> tuple[Path, _Run]:
    """The run in `where`, or the newest of those in it, that found a knee."""
    for folder, run in _runs(where):
        if run.ended.knee:
            return folder, run
    raise SettingsError(f"{_FLAG} is {str(where)!r}, which is no number of calls a minute and no run of knee.py")


def _runs(where: Path) -> Iterator[tuple[Path, _Run]]:
    paths = [where / RUN_FILE] if (where / RUN_FILE).is_file() else sorted(where.glob(f"*/{RUN_FILE}"), reverse=True)
    for path in paths:
        try:
            yield path.parent, msgspec.json.decode(path.read_bytes(), type=_Run)
        except (OSError, msgspec.DecodeError):
            # Not a run of ours, or one of a kind that is not asked for.
            continue
