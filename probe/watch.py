"""`probe --watch 2s`: one small streaming call after another, and how what is left and the first token go up and down.

On a terminal the lines stay in their place until q or Ctrl-C, and the last ones stay on the screen. Elsewhere each look
is a line of its own, or a record, as `-o` says. A look is due every so many seconds from the first one; where a call
takes longer the next one follows at once.
"""

import os
import re
import select
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from probe.advice import EXIT_OK, advice
from probe.assertions import NAMES
from probe.calling import choose, client_for, say, targets
from probe.escaping import printable
from probe.headroom import Level, headroom
from probe.look import Screen, Settings, judged, shown_by
from probe.prices import read_prices
from probe.prompts import Prompt
from probe.record import ObservedCall
from probe.render import amount
from probe.spending import ask_to_send, dollars, is_remote, most_tokens, price_of
from probe.target import SettingsError, Target
from probe.versus import ANSWERED

_INTERVAL = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s|m|min)?")
_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0}
_SHORTEST = 0.2
_MOST_LOOKS = 500
_BLOCKS, _ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-:=+*#"


def interval(text: str) -> float:
    """Seconds of "2s", "500ms", "1m" or "2". Raises `SettingsError`."""
    found = _INTERVAL.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds < _SHORTEST:
        raise SettingsError(f"--watch {text}: give it as 2s, 500ms or 1m, and {_SHORTEST:g} s at the least")
    return seconds


def watch(settings: Settings, every: float, looks: int | None) -> int:
    """Looks until q, Ctrl-C or so many `looks`, and returns the exit code. Raises `SettingsError`."""
    with ExitStack() as stack:
        target = settings.asked.of(choose(targets(stack), settings.target))
        prompt, stream = settings.asked.what(), settings.asked.streams()[0]
        say(told(target, prompt, every, looks))
        if is_remote([target]):
            ask_to_send(settings.yes)
        client = client_for([target], settings.timeout, stack)
        look = partial(client.observe, target, prompt, stream=stream)
        shown = shown_by(settings)
        if isinstance(shown, Screen) and sys.stdout.isatty():
            calls = _live(look, every, looks, target.name)
        else:
            calls = []
            with suppress(KeyboardInterrupt):
                for call in _timed(look, every, looks, partial(_quits, None)):
                    calls.append(call)
                    if isinstance(shown, Screen):
                        click.echo(line(call))
                    else:
                        shown.add(call)
        if calls and (mend := advice(calls[-1], target)):
            say(mend)
        shown.close()
    return judged(calls, settings.assertions) if settings.assertions or client.interrupt else EXIT_OK


def told(target: Target, prompt: Prompt, every: float, looks: int | None) -> str:
    """What a look, and so many or an hour of them, come to at most."""
    most = most_tokens(target, prompt)
    size = f"a call of at most {most[0]} + {most[1]} tokens every {every:g} s"
    price, known = price_of(target, read_prices())
    times, of = (3600 / every, "an hour") if looks is None else (looks, f"for {looks} looks")
    rate = "" if known else f" (no price is known for {printable(target.deployment)!r}: as the dearest that is)"
    cost = dollars(times * price.cost(*most)).removeprefix("under ")
    return f"{size}: at most {cost} {of}{rate}"


def _timed(
    look: Callable[[], ObservedCall], every: float, looks: int | None, pause: Callable[[float], bool]
) -> Iterator[ObservedCall]:
    """Calls when they are due, until `pause` says to stop or one is interrupted."""
    due = time.monotonic()
    made = 0
    while looks is None or made < looks:
        call = look()
        made += 1
        yield call
        if call.outcome == "cancelled_user":
            return
        due = max(due + every, time.monotonic())
        if made != looks and pause(due - time.monotonic()):
            return


def _live(look: Callable[[], ObservedCall], every: float, looks: int | None, name: str) -> list[ObservedCall]:
    console = Console()
    calls: deque[ObservedCall] = deque(maxlen=_MOST_LOOKS)
    tally: Counter[str] = Counter()
    screen = Live(console=console, auto_refresh=False, vertical_overflow="visible")
    with _keys() as pressed, screen as live, suppress(KeyboardInterrupt):
        for call in _timed(look, every, looks, partial(_quits, pressed)):
            calls.append(call)
            tally[call.outcome] += 1
            live.update(frame(name, list(calls), tally, console), refresh=True)
    return list(calls)


def frame(name: str, calls: Sequence[ObservedCall], tally: Counter[str], console: Console) -> Group:
    """What is on the screen after the last of these calls."""
    last, plain = calls[-1], console.options.ascii_only
    room = max(10, min(60, console.width - 54))
    good = last.outcome in ANSWERED
    status = "no status" if last.status_code is None else str(last.status_code)
    outcomes = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in tally.most_common(4))
    rows = [
        Text.assemble((printable(name, plain), "bold"), "  ", (f"{tally.total()} looks, q quits", "dim")),
        _line("status", f"{status} {last.outcome.replace('_', ' ')}", "green" if good else "red", outcomes),
    ]
    for level in _levels(calls):
        series = [_shown(call, level.name) for call in calls]
        style = "green" if (level.free or 0) > 0.25 else "yellow" if (level.free or 0) > 0.05 else "red"
        rows.append(_line(level.name, _sparkline(series, room, plain, most=1.0), style, amount(level)))
    series = [call.time_to_first_token for call in calls]
    known = [value * 1000 for value in series if value is not None]
    if known:
        now = "none" if series[-1] is None else f"{known[-1]:,.0f}"
        said = f"{now} ms; least {min(known):,.0f}, most {max(known):,.0f}"
        rows.append(_line("first token", _sparkline(series, room, plain), "cyan", said))
    if last.error_message:
        rows.append(_line("error", printable(last.error_message, plain)[: console.width - 16], "red", ""))
    return Group(*(Text(row.plain) if console.no_color else row for row in rows))


def _line(label: str, shown: str, style: str, said: str) -> Text:
    return Text.assemble(f"  {label:<15}", (shown, style), f"  {said}", no_wrap=True, overflow="ellipsis")


def _levels(calls: Sequence[ObservedCall]) -> list[Level]:
    """The newest of each limit: a refusal may carry none."""
    newest = {level.name: level for call in calls for level in headroom(call.headers)}
    return list(newest.values())


def _shown(call: ObservedCall, name: str) -> float | None:
    level = next((level for level in headroom(call.headers) if level.name == name), None)
    return None if level is None else level.free if level.used is None else min(level.used, 1.0)


def _sparkline(values: Sequence[float | None], room: int, plain: bool, most: float | None = None) -> str:
    """The newest values on the right, each a block as high as its share of `most`; a gap where there is none."""
    blocks = _ASCII_BLOCKS if plain else _BLOCKS
    newest = values[-room:]
    top = most or max((value for value in newest if value is not None), default=0.0)
    last = len(blocks) - 1
    return "".join(
        " " if value is None else blocks[round(min(value / top, 1.0) * last) if top else 0] for value in newest
    )


def line(call: ObservedCall) -> str:
    """One look on one line."""
    at = time.strftime("%H:%M:%S", time.gmtime(call.start_time_unix_nano / 1e9))
    first = "" if call.time_to_first_token is None else f"first token {call.time_to_first_token * 1000:,.0f} ms"
    levels = (f"{level.name} {amount(level)}" for level in headroom(call.headers))
    wait = NAMES["retry_after"][1](call)
    told = "" if wait is None else f"retry after {wait:g} s"
    parts = [f"{at} UTC", str(call.status_code or "no status"), call.outcome.replace("_", " "), told, first, *levels]
    return "  ".join(part for part in parts if part)


@contextmanager
def _keys() -> Iterator[int | None]:
    """The file of a keyboard that gives each key at once; None where there is none, and on Windows."""
    if os.name == "nt" or not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    try:
        tty.setcbreak(file)
        yield file
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)


def _quits(keyboard: int | None, seconds: float) -> bool:
    """Waits for so long; whether q was pressed in the meantime, or the terminal has gone."""
    if keyboard is None:
        time.sleep(max(0.0, seconds))
        return False
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([keyboard], [], [], left)[0] and os.read(keyboard, 1) in (b"q", b"Q", b""):
            return True
    return False
