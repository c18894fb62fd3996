import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import settings

from tests.commands import BIN, ROOT, environment
from tests.runs import Start

# How long an example takes is the machine's matter: other tests run beside it.
settings.register_profile("headroom", deadline=None)
settings.load_profile("headroom")

# A shell that runs the tests in the background has these ignored, and every command would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
