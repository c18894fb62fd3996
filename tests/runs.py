"""Runs of the `locust` command in tests: a server to send to, how to start one, and what it left behind."""

import json
import subprocess
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Protocol

from probe.journal import read_calls
from probe.record import ObservedCall
from tests.commands import settings_of
from tests.test_client import GOOD, WHOLE
from tests.wire import reply

REFUSAL = reply(b'{"error":{"code":"429","message":"call rate limit"}}', "429 Too Many Requests")


def openai_shaped(refuse_every: int = 10**9, seconds: float = 0) -> Callable[[bytes], bytes]:
    """Answers streams and others alike, after `seconds`, and refuses every so manieth call. Answered at once, a closed
    load makes thousands of calls a second, which takes all of the machine and tells no more."""
    numbers = count(1)

    def make(request: bytes) -> bytes:
        time.sleep(seconds)
        if next(numbers) % refuse_every == 0:
            return REFUSAL
        return GOOD if b'"stream":true' in request else reply(WHOLE)

    return make


def short_calls(folder: Path) -> str:
    """A mix whose calls take a fifth of a second against the simulator, by the file that has it."""
    file = folder / "short.toml"
    file.write_text(
        '[[class]]\nname = "short"\nweight = 1\ninput_tokens = { median = 80, p90 = 160 }\n'
        "output_tokens = { median = 4, p90 = 8 }\n"
    )
    return str(file)


def only_run(results: Path) -> Path:
    (folder,) = [path.parent for path in results.glob("*/run.json")]
    return folder


def load_of(results: Path) -> list[ObservedCall]:
    """A run's calls, without the check of each target that comes before them."""
    read = read_calls(only_run(results))
    assert read.skipped == 0
    return [call for call in read.calls if call.traffic != "preflight"]


def ended(results: Path) -> dict[str, object]:
    return dict(json.loads((only_run(results) / "run.json").read_text())["ended"])


def results_in(folder: Path, endpoint: str, **changes: str) -> dict[str, str]:
    return settings_of(endpoint, HEADROOM_RESULTS=str(folder), **changes)


class Start(Protocol):
    def __call__(self, *command: str, settings: dict[str, str]) -> subprocess.Popen[str]: ...
