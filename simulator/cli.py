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
import msgspec

from simulator.app import serve
from simulator.config import Config, ConfigError, Deployment, Resource, check, default_text, load
from simulator.faults import SWITCHES, parse

EXIT_SETTINGS = 2
EXIT_FAILED = 1


@click.command(context_settings={"auto_envvar_prefix": "HEADROOM_SIMULATOR", "show_default": True})
@click.option(
    "--config",
    "path",
    envvar="HEADROOM_SIMULATOR_CONFIG",
    type=click.Path(path_type=Path),
    help="what to simulate; --print-config writes the default",
)
@click.option("--print-config", is_flag=True, help="write the default configuration to standard output")
@click.option("--list-faults", is_flag=True, help="write the names of the faults to standard output")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="folder for logs and ledger; by default a new one under results",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    help="what goes wrong and how often, besides the configuration's: NAME:SHARE%[@RESOURCE[/DEPLOYMENT]][@FROM-UNTIL]",
)
@click.option("--tpm", type=click.FloatRange(1), help="tokens a minute, each standard deployment")
@click.option("--rpm", type=click.FloatRange(1), help="requests a minute, each standard deployment")
@click.option("--time-to-first-token", type=click.FloatRange(0, 600), help="seconds, median")
@click.option("--time-between-tokens", type=click.FloatRange(0, 60), help="seconds, median")
@click.option("--jitter", default=1.0, type=click.FloatRange(0, 5), help="spread of the times; 0 makes them exact")
@click.option("--seed", type=int, help="of everything that is drawn")
@click.option("--exit-with-stdin", is_flag=True, help="stop when standard input ends, as it does when a parent dies")
def simulate(
    path: Path | None,
    print_config: bool,
    list_faults: bool,
    data: Path | None,
    faults: tuple[str, ...],
    tpm: float | None,
    rpm: float | None,
    time_to_first_token: float | None,
    time_between_tokens: float | None,
    jitter: float,
    seed: int | None,
    exit_with_stdin: bool,
) -> None:
    """Simulate Azure OpenAI behind API Management on loopback ports.

    When ready, one JSON line on standard output names the targets, their made-up keys, the folder of the diagnostic
    logs and the ledger. Stop it with Ctrl-C.
    """
    if print_config:
        print(default_text(), end="")
        return
    if list_faults:
        print("\n".join(f"{name:<22} {switch.says}" for name, switch in SWITCHES.items()))
        return
    try:
        config = load(path)
        config = _limited(config, tpm, rpm)
        config = _timed(config, time_to_first_token, time_between_tokens, jitter)
        config = msgspec.structs.replace(
            config,
            seed=config.seed if seed is None else seed,
            faults=(*config.faults, *map(parse, faults)),
        )
        check(config)
        asyncio.run(_run(config, _folder(data), exit_with_stdin))
    except ConfigError as error:
        _leave(EXIT_SETTINGS, str(error))
    except (RuntimeError, OSError) as error:
        _leave(EXIT_FAILED, str(error))


def main() -> None:
    simulate()


def _leave(code: int, message: str) -> None:
    print(f"simulator: {message}", file=sys.stderr)
    sys.exit(code)


def _folder(data: Path | None) -> Path:
    folder = data or Path("results", "simulator", f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}; choose a --data") from None
    return folder


def _limited(config: Config, tpm: float | None, rpm: float | None) -> Config:
    given = {"tokens_per_minute": tpm, "requests_per_minute": rpm}
    changes = {name: value for name, value in given.items() if value is not None}

    def limit(deployment: Deployment) -> Deployment:
        return deployment if deployment.ptu is not None else msgspec.structs.replace(deployment, **changes)

    def limit_all(resource: Resource) -> Resource:
        deployments = {name: limit(one) for name, one in resource.deployments.items()}
        return msgspec.structs.replace(resource, deployments=deployments)

    return msgspec.structs.replace(config, resources={name: limit_all(one) for name, one in config.resources.items()})


def _timed(config: Config, first_token: float | None, between_tokens: float | None, jitter: float) -> Config:
    def scale(resource: Resource) -> Resource:
        latency = resource.latency.scaled(first_token, between_tokens, jitter)
        return msgspec.structs.replace(resource, latency=latency)

    return msgspec.structs.replace(config, resources={name: scale(one) for name, one in config.resources.items()})


async def _run(config: Config, data: Path, exit_with_stdin: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def stop_soon(*_: object) -> None:
        loop.call_soon_threadsafe(stop.set)

    signal.signal(signal.SIGINT, stop_soon)
    signal.signal(signal.SIGTERM, stop_soon)
    if exit_with_stdin:
        threading.Thread(target=_when_stdin_ends, args=(stop_soon,), daemon=True).start()
    await serve(config, data, _announce, stop)


def _when_stdin_ends(then: Callable[[], None]) -> None:
    # Not through `sys.stdin`: a thread that waits in its lock would be fatal when the interpreter ends first.
    while os.read(0, 4096):
        pass
    then()


def _announce(ready: dict[str, Any]) -> None:
    print(json.dumps(ready), flush=True)
