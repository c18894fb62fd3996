"""How fast the `probe` command answers, as ratios to commands that everybody knows, and what watching costs.

python -m bench.commands        needs an idle machine
"""

import os
import pty
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

from probe.simulated import Simulator

_BIN = Path(sys.executable).parent
_TIMES = 7
_WATCHED = 20.0


def seconds(*command: str) -> float:
    """The median of several runs, output and all."""
    took = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        subprocess.run(command, check=False, capture_output=True)
        took.append(time.perf_counter() - began)
    return median(took)


def core_share() -> float:
    """Of one core, while `probe --watch 2s` runs against the simulator: of the probe alone, without its start."""
    with tempfile.TemporaryDirectory() as folder:
        simulator = Simulator(Path(folder))
        target = simulator.targets["eastus2"]
        settings = {
            "AZURE_OPENAI_ENDPOINT": target.endpoint,
            "AZURE_OPENAI_API_KEY": target.api_key or "",
            "AZURE_OPENAI_DEPLOYMENT": target.deployment,
        }
        spent = [_cpu(looks, {**os.environ, **settings}) for looks in (1, 1 + int(_WATCHED / 2))]
        simulator.stop()
    return (spent[1] - spent[0]) / _WATCHED


def _cpu(looks: int, environment: dict[str, str]) -> float:
    """On a terminal, whose screen is drawn anew at each look."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours, theirs = pty.openpty()
    command = [str(_BIN / "probe"), "--watch", "2s", "--looks", str(looks)]
    terminal = {**environment, "TERM": "xterm-256color"}
    with subprocess.Popen(command, env=terminal, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        with suppress(OSError):
            # Linux says so when the other end of a terminal is closed.
            while os.read(ours, 65536):
                pass
    os.close(ours)
    assert process.returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    bare = seconds(sys.executable, "-c", "pass")
    rows = {
        "python -c pass": bare,
        "curl --version": seconds("curl", "--version"),
        "probe --help": seconds(str(_BIN / "probe"), "--help"),
        "locust --version": seconds(str(_BIN / "locust"), "--version"),
        "probe, the simulator's start included": seconds(str(_BIN / "probe")),
    }
    for what, took in rows.items():
        print(f"{what:<40}{took * 1000:>8.0f} ms  {took / bare:>6.1f} times a bare Python")
    print(f"{'probe --watch 2s':<40}{core_share():>8.2%} of a core")


if __name__ == "__main__":
    main()
