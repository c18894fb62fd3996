"""What every command of the probe begins with: the targets there are, and a client to call them with.

Where none is configured, a simulator is started that lives as long as the command does.
"""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from probe.client import Client
from probe.hosts import UNVERIFIED, red
from probe.identity import sign_in
from probe.options import given
from probe.prices import read_prices
from probe.prompts import Prompt
from probe.simulated import Simulator
from probe.spending import ask_to_send, is_remote, most_tokens, told_cost
from probe.target import SettingsError, Target, configured
from probe.transport import Timeouts

_PATIENCE = 1.0


def say(message: str) -> None:
    """Talk goes to standard error, data to standard output."""
    print(f"probe: {message}", file=sys.stderr, flush=True)


@contextmanager
def patience(target: Target, timeout: float) -> Iterator[None]:
    """Nobody looks at an empty screen for long without being told what for."""
    told = f"waiting for {target.name}, up to {timeout:g} s; Ctrl-C shows what has come by then"
    timer = threading.Timer(_PATIENCE, say, [told])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def targets(stack: ExitStack) -> dict[str, Target]:
    """The configured targets by name, or those of a simulator that stops with `stack`. Raises `SettingsError`."""
    said = given()
    found = configured({**os.environ, **said.environ}, verified=said.verified)
    if not said.verified:
        say(red(UNVERIFIED))
    if found:
        return found
    say("no endpoint configured: starting the simulator (set AZURE_OPENAI_ENDPOINT to call a real one)")
    folder = stack.enter_context(TemporaryDirectory(prefix="headroom-"))
    simulator = Simulator(Path(folder))
    stack.callback(simulator.stop)
    return simulator.targets


def choose(found: dict[str, Target], name: str | None) -> Target:
    """The target of this name, or the first one. Raises `SettingsError`."""
    if name is None:
        first, *others = found.values()
        if others:
            say(f"calling {first.name}; also there: {', '.join(other.name for other in others)}")
        return first
    if name not in found:
        raise SettingsError(f"no target {name!r}; there are: {', '.join(found)}")
    return found[name]


def agree(calls: Iterable[tuple[Target, Prompt, int]], yes: bool) -> None:
    """Says what so many calls of each real endpoint come to at most, and asks whether to send them; `yes` is the answer
    given beforehand. Raises `SettingsError` where they are not to be sent."""
    remote = [(target, prompt, times) for target, prompt, times in calls if is_remote([target])]
    for target, prompt, times in remote:
        say(told_cost(target, most_tokens(target, prompt), times, read_prices()))
    if remote:
        ask_to_send(yes)


def complete(_: object, __: object, incomplete: str) -> list[str]:
    """Names of targets for the shell to complete; a configuration that is wrong completes to nothing."""
    try:
        return [name for name in configured() if name.startswith(incomplete)]
    except SettingsError:
        return []


def client_for(called: Iterable[Target], timeout: float, stack: ExitStack) -> Client:
    """A client for these targets, signed in where one of them has no key; closed with `stack`. Raises `SettingsError`.

    `timeout` is in seconds, for a whole call.
    """
    token = sign_in(called)
    limits = Timeouts(connect=min(10.0, timeout), first_byte=timeout, idle=timeout, total=timeout)
    client = Client(timeouts=limits, token=token)
    stack.callback(client.close)
    return client
