"""Runs the `simulator` command the way a user does, with a configuration of the test's own."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from probe.target import Target
from tests.commands import BIN, environment

# Nothing that is drawn takes any time.
AT_ONCE = """
[resources.one.latency]
prompt_filter = { median = 0.0 }
queue = { median = 0.0 }
engine = { median = 0.0 }
between_tokens = { median = 0.0 }
"""


Found = TypeVar("Found")


def awaited(find: Callable[[], Found | None]) -> Found:
    """What is there a moment after a reply, when its call has ended on the other side."""
    deadline = time.monotonic() + 10
    while (found := find()) is None:
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return found


def line_of(ledger: Path, request_id: str) -> dict[str, Any] | None:
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    return next((found for found in map(json.loads, lines) if found["request_id"] == request_id), None)


class Simulated:
    """A running simulator, by what it announced."""

    def __init__(self, ready: dict[str, Any]) -> None:
        self.ready = ready
        self.logs = Path(ready["logs"])
        self._ledger = Path(ready["ledger"])

    def target(self, name: str, deployment: str | None = None) -> Target:
        about = self.ready["targets"][name]
        return Target(
            name=name,
            endpoint=about["endpoint"],
            deployment=deployment or about["deployments"][0],
            api_version=about["api_version"],
            gateway=about["gateway"],
            api_key=about["api_key"],
        )

    def ledger(self) -> list[dict[str, Any]]:
        if not self._ledger.exists():
            # Before its first call.
            return []
        return [json.loads(line) for line in self._ledger.read_text().splitlines()]

    def line_of(self, request_id: str) -> dict[str, Any]:
        """A call's line of the ledger, as soon as it is there."""
        return awaited(lambda: line_of(self._ledger, request_id))

    def logged(self, category: str) -> list[dict[str, Any]]:
        paths = self.logs.glob(f"insights-logs-{category.lower()}/**/PT1H.json")
        return [json.loads(line) for path in paths for line in path.read_text("utf-8-sig").splitlines()]


@contextmanager
def simulating(folder: Path, config: str = "", *options: str) -> Iterator[Simulated]:
    """`config` is TOML, in the place of the default's tables that it has."""
    path = folder / "simulator.toml"
    path.write_text(config)
    command = [str(BIN / "simulator"), "--config", str(path), "--data", str(folder / "data"), "--exit-with-stdin"]
    said = folder / "stderr.txt"
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, *options],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None and process.stdin is not None
    try:
        line = process.stdout.readline()
        assert line, said.read_text()
        yield Simulated(json.loads(line))
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
    # Whatever was done to it, it has nothing to complain of.
    assert (process.returncode, said.read_text()) == (0, "")


def all_targets(simulated: Simulated, folder: Path) -> dict[str, str]:
    """Settings with every target of the simulator's, by the file that names them."""
    about = simulated.ready["targets"]
    (folder / "targets.toml").write_text("\n".join(_target(name, one) for name, one in about.items()))
    keys = {f"KEY_{name.upper()}": one["api_key"] for name, one in about.items()}
    return {**keys, "HEADROOM_TARGETS_FILE": str(folder / "targets.toml")}


def _target(name: str, about: dict[str, Any]) -> str:
    return (
        f'[{name}]\nendpoint = "{about["endpoint"]}"\ndeployment = "{about["deployments"][0]}"\n'
        f'api_version = "{about["api_version"]}"\ngateway = "{about["gateway"]}"\napi_key_env = "KEY_{name.upper()}"\n'
    )
