"""The `simulator` command: one JSON line on standard output when it is ready; then it runs until it is told to stop."""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from simulator.app import Settings, serve

EXIT_SETTINGS = 2
EXIT_FAILED = 1


@click.command(context_settings={"auto_envvar_prefix": "HEADROOM_SIMULATOR", "show_default": True})
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="folder for logs and ledger; by default a new one under results",
)
@click.option("--tpm", default=50_000, type=click.FloatRange(1), help="tokens a minute, each deployment")
@click.option("--rpm", default=600, type=click.FloatRange(1), help="requests a minute, each deployment")
@click.option("--time-to-first-token", default=0.25, type=click.FloatRange(0, 600), help="seconds, median")
@click.option("--time-between-tokens", default=0.01, type=click.FloatRange(0, 60), help="seconds")
@click.option("--jitter", default=1.0, type=click.FloatRange(0, 5), help="spread of the times; 0 makes them exact")
@click.option("--seed", default=1, type=int, help="of everything that is drawn")
@click.option("--exit-with-stdin", is_flag=True, help="stop when standard input ends, as it does when a parent dies")
def simulate(
    data: Path | None,
    tpm: float,
    rpm: float,
    time_to_first_token: float,
    time_between_tokens: float,
    jitter: float,
    seed: int,
    exit_with_stdin: bool,
) -> None:
    """Simulate Azure OpenAI behind API Management on loopback ports.

    When ready, one JSON line on standard output names the targets, their made-up keys, the folder of the diagnostic
    logs and the ledger. Stop it with Ctrl-C.
    """
    settings = Settings(data or _default_folder(), tpm, rpm, time_to_first_token, time_between_tokens, jitter, seed)
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"simulator: cannot write to {settings.data}: {error.strerror}; choose a --data", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    try:
        asyncio.run(_run(settings, exit_with_stdin))
    except RuntimeError as error:
        print(f"simulator: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def main() -> None:
    simulate()


def _default_folder() -> Path:
    return Path("results", "simulator", f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}")


async def _run(settings: Settings, exit_with_stdin: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def stop_soon(*_: object) -> None:
        loop.call_soon_threadsafe(stop.set)

    signal.signal(signal.SIGINT, stop_soon)
    signal.signal(signal.SIGTERM, stop_soon)
    if exit_with_stdin:
        threading.Thread(target=_when_stdin_ends, args=(stop_soon,), daemon=True).start()
    await serve(settings, _announce, stop)


def _when_stdin_ends(then: Callable[[], None]) -> None:
    # Not through `sys.stdin`: a thread that waits in its lock would be fatal when the interpreter ends first.
    while os.read(0, 4096):
        pass
    then()


def _announce(ready: dict[str, Any]) -> None:
    print(json.dumps(ready), flush=True)
