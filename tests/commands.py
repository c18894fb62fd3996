"""Runs the project's commands the way a user does: in a process of their own, with an environment of their own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

# What a developer's own shell may have set must not reach a test.
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT", "MPLCONFIGDIR")

# What commands keep between runs goes here, and not into the home of whoever runs the tests.
_STATE = tempfile.TemporaryDirectory(prefix="headroom-state-")


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # Nobody is there to be asked; tests of the question take it away.
    ours = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": _STATE.name, "HEADROOM_YES": "1"}
    return {**kept, **ours, **(settings or {})}


def run(
    *command: str, settings: Mapping[str, str] | None = None, folder: Path = ROOT, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """One of the installed commands, run to its end."""
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        env=environment(settings),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def settings_of(endpoint: str, **changes: str) -> dict[str, str]:
    """The four variables of a target, and whatever else."""
    return {
        "AZURE_OPENAI_ENDPOINT": endpoint,
        "AZURE_OPENAI_API_KEY": "made-up-key",
        "AZURE_OPENAI_DEPLOYMENT": "chat",
        "OPENAI_API_VERSION": "2024-10-21",
        **changes,
    }
