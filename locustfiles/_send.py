"""The processes that send a run's record on while it is on (`analysis send`), a process a destination.

They read the run's files, so that a run writes them and nothing else. Each ends when its standard input closes: this
one closes it when the run has ended, and the system does where this one is killed; what is there is sent first.
"""

import os
import subprocess
import sys
from pathlib import Path

import gevent

from locustfiles._told import say
from probe.journal import RUN_FILE, JournalError, Run


class Senders:
    """Of one process of Locust. `failed` once one of them did not send everything."""

    def __init__(self) -> None:
        self.failed = False
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, run: Run, destinations: tuple[tuple[str, str], ...], process: str = "*") -> None:
        """For a run that begins; for the files of the `process` of this name where it is on a machine of its own."""
        for kind, where in destinations:
            command = [sys.executable, "-m", "analysis", "send", run.folder, f"--{kind}", where, "--process", process]
            self._running.append(
                subprocess.Popen(
                    [*command, "--follow", "--exit-with-stdin"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    # Ctrl-C is not for it: the last calls come after that.
                    start_new_session=True,
                )
            )

    def run_ended(self) -> None:
        """They send what is left, and go."""
        for sender in self._running:
            assert sender.stdin is not None
            sender.stdin.close()

    def wait(self) -> None:
        """Until they are gone, which is soon unless a destination is down."""
        self.run_ended()
        waiting = gevent.spawn_later(2.0, say, "sending what is left of the record; Ctrl-C leaves it unsent here")
        for sender in self._running:
            self.failed |= sender.wait() != 0
        waiting.kill(block=False)
        self._running.clear()

    def abandon(self) -> None:
        for sender in self._running:
            sender.kill()


def is_here(run: Run) -> bool:
    """Whether the master's folder can be reached, which is the one with run.json."""
    return (Path(run.folder) / RUN_FILE).is_file()


def kept_here(run: Run, results: str) -> Run:
    """The run with a folder of the same name on this machine, for its part of it. Raises `JournalError`."""
    folder = Path(os.environ.get("HEADROOM_RESULTS") or results) / Path(run.folder).name
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    except OSError as error:
        raise JournalError(f"cannot make {folder} for this machine's part of the run: {error.strerror}") from None
    say(f"the master's folder is not on this machine; this process's part of the run is kept in {folder}")
    return Run(id=run.id, folder=str(folder), wall_ns=run.wall_ns)
