"""`probe A --vs B`: pairs of calls in turn, and what differs between the two sides."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
from rich.console import Console
from rich.text import Text

from probe.advice import advice
from probe.calling import agree, choose, client_for, say, targets
from probe.escaping import printable
from probe.listing import show
from probe.look import Screen, Settings, judged, shown_by
from probe.output import Output
from probe.record import ObservedCall
from probe.render import print_lines
from probe.target import SettingsError, Target
from probe.versus import ANSWERED, REAL, Finding, Times, differences, findings, times

# Instead of a target's name: the same target, asked in another way.
VARIANTS = ("streaming", "not-streaming", "key", "entra")
# Beside the streaming ones: of a store in between only a second answer tells.
_WHOLE_PAIRS = 2


class Side(msgspec.Struct, frozen=True):
    """`stream` is None where either kind of call is meant."""

    target: Target
    stream: bool | None


def versus(settings: Settings, other: str, pairs: int) -> int:
    """Calls both sides, shows the differences, and returns the exit code. Raises `SettingsError`."""
    with ExitStack() as stack:
        found = targets(stack)
        ours = Side(settings.asked.of(choose(found, settings.target)), settings.asked.stream)
        ours, theirs = sides(found, ours, other, settings)
        turns = list(_turns(ours, theirs, pairs))
        prompt = settings.asked.what()
        agree([(one.target, prompt, len(turns) // 2) for one in (ours, theirs)], settings.yes)
        client = client_for([ours.target, theirs.target], settings.timeout, stack)
        shown = shown_by(settings)
        calls: tuple[list[ObservedCall], list[ObservedCall]] = ([], [])
        for side, stream in turns:
            one = ours if side == 0 else theirs
            call = client.observe(one.target, prompt, stream=stream)
            calls[side].append(call)
            if isinstance(shown, Output):
                shown.add(call)
            if client.interrupt is not None:
                break
    if isinstance(shown, Screen):
        show_sides(calls[0], calls[1], pairs, Console())
    shown.close()
    for one, made in zip((ours, theirs), calls, strict=True):
        if made and (mend := advice(made[-1], one.target)):
            say(mend)
    return judged([*calls[0], *calls[1]], settings.assertions)


def sides(found: dict[str, Target], ours: Side, other: str, settings: Settings) -> tuple[Side, Side]:
    """Both sides; a variant that is about streaming settles how our own side is asked. Raises `SettingsError`."""
    if other in found or other not in VARIANTS:
        if other not in found:
            raise SettingsError(f"--vs {other}: there are: {', '.join([*found, *VARIANTS])}")
        if found[other].name == ours.target.name:
            raise SettingsError(f"--vs {other}: that is the same target; for another way to ask it: {_variants()}")
        return ours, Side(settings.asked.of(found[other]), ours.stream)
    if other in ("streaming", "not-streaming"):
        stream = other == "streaming"
        renamed = msgspec.structs.replace(ours.target, name=f"{ours.target.name} {other}")
        return Side(ours.target, not stream), Side(renamed, stream)
    return ours, Side(_signed_in(ours.target, other), ours.stream)


def _variants() -> str:
    return ", ".join(VARIANTS)


def _signed_in(target: Target, way: str) -> Target:
    key = os.environ.get("AZURE_OPENAI_API_KEY", "").strip() or None
    if way == "key" and key is None:
        raise SettingsError("--vs key: AZURE_OPENAI_API_KEY is not set")
    if (way == "key") == (target.api_key is not None):
        raise SettingsError(f"--vs {way}: {target.name} is called in this way already")
    return msgspec.structs.replace(target, name=f"{target.name} {way}", api_key=key if way == "key" else None)


def _turns(ours: Side, theirs: Side, pairs: int) -> Iterator[tuple[int, bool]]:
    """Whose turn it is, and whether to stream. Who begins changes from pair to pair."""
    both = ours.stream is None
    for number in range(pairs):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            stream = (ours, theirs)[side].stream
            yield side, True if stream is None else stream
    if both:
        yield from [(0, False), (1, False)] * _WHOLE_PAIRS


def show_sides(ours: list[ObservedCall], theirs: list[ObservedCall], pairs: int, console: Console) -> None:
    if not ours or not theirs:
        return
    names = printable(ours[0].target), printable(theirs[0].target)
    print_lines([Text(f"{names[0]} against {names[1]}", "bold"), Text(_asked(ours, theirs), "dim")], console)
    _findings(findings(ours, theirs), console)
    differing = differences(ours, theirs)
    console.print()
    if differing:
        rows = [(one.what, one.ours or "-", one.theirs or "-") for one in differing]
        show(console, ("what differs", *names), rows)
    else:
        answered = any(call.outcome in ANSWERED for call in (*ours, *theirs))
        same = "nothing differs but the times" if answered else f"neither side answered: {ours[-1].outcome}"
        print_lines([Text(same.replace("_", " "))], console)
    # What comes after the pairs is of the other kind.
    _times(ours[:pairs], theirs[:pairs], names, console)


def _asked(ours: list[ObservedCall], theirs: list[ObservedCall]) -> str:
    counts = ((len(calls), sum(call.request_stream for call in calls)) for calls in (ours, theirs))
    (n, streams), (_, their_streams) = counts
    if streams != their_streams:
        return f"{n} pairs in turn, one side streaming and the other not"
    return f"pairs of calls in turn: {streams} streaming, {n - streams} not"


def _findings(found: list[Finding], console: Console) -> None:
    for one in found:
        console.print()
        print_lines([Text(printable(f"{one.side} {one.says}"), "yellow")], console)
        console.print(Text(printable(f"known by: {one.known_by}"), "dim"))


def _times(ours: list[ObservedCall], theirs: list[ObservedCall], names: tuple[str, str], console: Console) -> None:
    rows = [_row(one, names) for one in times(ours, theirs)]
    if rows:
        console.print()
        show(console, ("ms, medians", *names, "difference within pairs"), rows)


def _row(one: Times, names: tuple[str, str]) -> tuple[str, str, str, str]:
    slower = one.theirs_slower if one.difference >= 0 else one.pairs - one.theirs_slower
    who = names[1] if one.difference >= 0 else names[0]
    verdict = f"{who} slower in {slower} of {one.pairs}" + ("" if one.luck < REAL else ": may be luck")
    return one.what, f"{one.ours * 1000:,.1f}", f"{one.theirs * 1000:,.1f}", f"{one.difference * 1000:+,.1f}; {verdict}"
