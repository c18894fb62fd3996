import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.commands import BIN, ROOT, environment
from tests.runs import Start


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command in a process group of its own, which is gone when the test is over."""
    started = []

    def start_one(*command: str, settings: dict[str, str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            env=environment(settings),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell that runs the tests in the background has Ctrl-C ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
