"""The stand-in for Azure OpenAI as a child process, for when no endpoint is configured.

The child is reached like the real service: over HTTP, at the targets it names in one JSON line when it is ready. It
lives in a session of its own, so that the Ctrl-C that ends a run does not end it before the run's last calls, and it
stops when its standard input closes, so that it never outlives us, however we end.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from probe.target import SettingsError, Target


class _Resource(msgspec.Struct):
    endpoint: str
    gateway: str
    deployments: list[str]
    api_key: str
    api_version: str


class _Ready(msgspec.Struct):
    targets: dict[str, _Resource]
    logs: str
    ledger: str


class Simulator:
    """A running simulator. `logs` is the folder of its diagnostic logs."""

    def __init__(self, data: Path | None = None) -> None:
        """Returns when it is ready. Raises `SettingsError` where it cannot start."""
        command = [sys.executable, "-m", "simulator", "--exit-with-stdin"]
        if data is not None:
            command += ["--data", str(data)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            self._ready = msgspec.json.decode(line, type=_Ready)
        except msgspec.DecodeError:
            self.stop()
            raise SettingsError("the simulator did not start; run `simulator` to see why") from None
        self.logs = Path(self._ready.logs)
        self.targets = simulated_targets(self.public())

    def public(self) -> dict[str, Any]:
        """Its targets as it named them, for another process of the same run (the keys in it are made up)."""
        return {name: msgspec.to_builtins(resource) for name, resource in self._ready.targets.items()}

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def simulated_targets(resources: Mapping[str, Any]) -> dict[str, Target]:
    """`Simulator.public` as targets."""
    found = msgspec.convert(resources, dict[str, _Resource])
    return {
        name: Target(
            name=name,
            endpoint=one.endpoint,
            deployment=one.deployments[0],
            api_version=one.api_version,
            gateway="apim" if one.gateway == "apim" else "direct",
            api_key=one.api_key,
        )
        for name, one in found.items()
    }
