"""How the processes of a run learn that they have to end, and that another one has.

What Locust 2.47 does, and what is done about it here:

Master.   It tells its workers to quit and goes, with their last calls open; this one waits for them. The word is a
          message that a worker can hear while it waits for its calls, so that a second one can stop them.
Workers.  A master learns after 3 s of silence that a worker is gone, logs it and ends with 0. Here it is said at once,
          it is in `run.json`, and the exit code is `EXIT_LOST`.
Silence.  A worker whose master is gone goes on for 60 s of the wall clock, which may be set meanwhile. Here it stops
          after `SILENCE_SECONDS` of the monotonic clock, and at once where its master was its parent.
Joining.  A worker asks for its master for five minutes, also where the master was its parent and has gone meanwhile.
          Here it goes with its parent.
Children. The parent that `--processes` makes asks once for each child, without waiting, whether it has ended, and then
          forgets it. In a container the first process takes all others with it, so here it waits for them.
"""

import atexit
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
import psutil
from locust import runners
from locust.env import Environment
from locust.rpc import Message
from locust.runners import STATE_MISSING, STATE_RUNNING, STATE_SPAWNING, MasterRunner, WorkerRunner

from locustfiles._tables import fold
from probe.advice import EXIT_LOST

SILENCE_SECONDS = 8.0
# How long workers have beyond their calls' time, to connect or to write down what they have.
WORKERS_SECONDS = 30.0
_LOOK_SECONDS = 0.5
# For a message that was sent to be read, on a busy machine.
_READ_SECONDS = 2.0
_DRAIN, _STOP_NOW, _JOINED, _OPEN = "headroom_drain", "headroom_stop_now", "headroom_joined", "headroom_open"


class Workers:
    """A master's view of its workers. `on_lost` gets the name of one that has gone without having ended; `on_early_end`
    is told of a child that went before there was a run."""

    def __init__(
        self,
        master: MasterRunner,
        on_joined: Callable[[str], None],
        on_lost: Callable[[str], None],
        on_early_end: Callable[[], None],
    ) -> None:
        # Those that went without their last word, by their names in the run.
        self.lost: list[str] = []
        self.draining = False
        self._master = master
        self._on_joined, self._on_lost, self._on_early_end = on_joined, on_lost, on_early_end
        # By what Locust calls them: their names in the run, and where they are children of this process their ids.
        self._names: dict[str, str] = {}
        self._pids: dict[str, int] = {}
        self._ended: set[str] = set()
        self._open: dict[str, int] = {}
        options: Any = master.environment.parsed_options
        # At this time there are no others. One that has ended already may be among them or not.
        self._children = {child.pid for child in psutil.Process().children()} if options.processes else set()
        self._too_few = bool(options.processes) and len(self._children) < options.expect_workers
        master.register_message(_JOINED, self._take_joined)
        master.environment.events.worker_report.add_listener(self._take_report)
        self._leave = master.quit
        self._quitting: gevent.Greenlet[..., None] | None = None
        master.quit = self.quit_together  # type: ignore[method-assign]
        gevent.spawn(self._watch)

    def begin(self) -> None:
        """Another run."""
        self.lost.clear()
        self._names.clear()
        self._ended.clear()

    def take_end(self, client_id: str) -> None:
        """A worker's last word in a run."""
        self._ended.add(client_id)
        self._open.pop(client_id, None)

    @property
    def open_calls(self) -> int:
        """By their last reports, which come every three seconds."""
        return sum(self._open.values())

    def stop_now(self) -> None:
        self._send(_STOP_NOW)

    def await_ends(self) -> None:
        """Waits a little for workers that are there and have not had their last word; who has not then is lost."""
        gives_up = time.monotonic() + 5.0
        while self._expected() and time.monotonic() < gives_up:
            gevent.sleep(0.05)
        for client_id in self._names.keys() - self._ended:
            self._lose(client_id)

    def quit_together(self) -> None:
        """Returns when the workers and what is left of Locust's own are gone, whoever asked first."""
        if self._quitting is None:
            self._quitting = gevent.spawn(self._quit)
        self._quitting.join()

    def _quit(self) -> None:
        master = self._master
        if master.state in (STATE_SPAWNING, STATE_RUNNING):
            self.draining = True
            # Or it would give the users of the first worker that has ended to the others.
            master._users_dispatcher = None
            self._send(_DRAIN)
            patience = time.monotonic() + master.environment.stop_timeout + WORKERS_SECONDS
            while self.there() and time.monotonic() < patience:
                gevent.sleep(0.05)
        self._leave()

    def dismiss(self) -> None:
        """There will be no run. A child may not have come so far yet that it would hear a message."""
        for pid in self._children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self._master.quit()

    def await_children(self) -> None:
        """Until the processes that `--processes` started are gone, which is soon after their last word."""
        gives_up = time.monotonic() + WORKERS_SECONDS
        while self._children and time.monotonic() < gives_up:
            self._reap()
            gevent.sleep(0.02)

    def there(self) -> set[str]:
        """Clients that have not quit and are not known to be gone."""
        gone = {client_id for client_id, name in self._names.items() if name in self.lost}
        return {client.id for client in self._master.clients.all if client.state != STATE_MISSING} - gone

    def _expected(self) -> set[str]:
        return (self._names.keys() - self._ended) & self.there()

    def _send(self, kind: str) -> None:
        for client in self._master.clients.all:
            self._master.server.send_to_client(Message(kind, None, client.id))

    def _take_joined(self, environment: Environment, msg: Any, **_: Any) -> None:
        self._names[msg.node_id], pid = msg.data
        if pid in self._children:
            self._pids[msg.node_id] = pid
        self._on_joined(self._names[msg.node_id])

    def _take_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        self._open[client_id] = data.get(_OPEN, 0)
        fold(self._master.stats.errors)

    def _watch(self) -> None:
        while True:
            gevent.sleep(_LOOK_SECONDS)
            dead = self._reap()
            if (dead or self._too_few) and not self._names:
                self._on_early_end()
            for client_id in self._names:
                client = self._master.clients.get(client_id)
                if client is not None and client.state == STATE_MISSING:
                    self._lose(client_id)
                elif self._pids.get(client_id) in dead:
                    # Its last word may be among what has not been read yet.
                    gevent.spawn_later(_READ_SECONDS, self._lose, client_id)

    def _lose(self, client_id: str) -> None:
        name = self._names[client_id]
        if client_id not in self._ended and name not in self.lost:
            self.lost.append(name)
            self._open.pop(client_id, None)
            self._on_lost(name)

    def _reap(self) -> set[int]:
        """Children that have ended since."""
        dead = set()
        for pid in self._children:
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended = pid
            if ended:
                dead.add(pid)
        self._children -= dead
        return dead


class Worker:
    """A worker's view of its master."""

    def __init__(self, runner: WorkerRunner, open_calls: Callable[[], int], stop_now: Callable[[], None]) -> None:
        self._runner = runner
        self._heard = time.monotonic()
        self._parent = os.getppid()
        runners.MASTER_HEARTBEAT_TIMEOUT = math.inf  # type: ignore[assignment]
        events = runner.environment.events
        events.heartbeat_received.add_listener(self._take_heartbeat)
        events.report_to_master.add_listener(lambda data, **_: data.update({_OPEN: open_calls()}))
        runner.register_message(_DRAIN, lambda **_: self.drain(), concurrent=True)
        runner.register_message(_STOP_NOW, lambda **_: stop_now(), concurrent=True)

    def join(self, name: str) -> None:
        self._runner.client.send(Message(_JOINED, (name, os.getpid()), self._runner.client_id))

    def drain(self) -> None:
        self._runner.stop()
        self._runner._send_stats()
        self._runner.quit()

    def await_loss(self) -> None:
        """Returns when the master is gone."""
        options: Any = self._runner.environment.parsed_options
        while time.monotonic() - self._heard < SILENCE_SECONDS:
            if options.processes and os.getppid() != self._parent:
                return
            gevent.sleep(_LOOK_SECONDS)

    def send_last_words(self) -> None:
        """What was sent has not left this process yet. Where the master is gone it never will: a second is enough."""
        socket: Any = self._runner.client.socket
        socket.context.destroy(linger=1000)

    def _take_heartbeat(self, **_: Any) -> None:
        self._heard = time.monotonic()


def leave_with_parent() -> None:
    """From now on a process forked from this one that asks for its master in vain ends when this one has."""
    connect, parent = WorkerRunner.connect_to_master, os.getpid()

    def connect_or_leave(runner: WorkerRunner) -> None:
        if os.getpid() == parent:
            # A worker by itself. Its master is somewhere else, and may come later.
            connect(runner)
            return
        watching = gevent.spawn(_leave_after, parent)
        try:
            connect(runner)
        finally:
            watching.kill(block=False)

    WorkerRunner.connect_to_master = connect_or_leave  # type: ignore[method-assign]


def _leave_after(parent: int) -> None:
    while os.getppid() == parent:
        gevent.sleep(_LOOK_SECONDS)
    os._exit(EXIT_LOST)


def leave_by_itself(code: Callable[[], int | None], last: Callable[[], None] | None = None) -> None:
    """At the very end, and instead of what Locust does there for its children: they are gone, and it would complain.

    Locust's way is left where there is no code, as where something raised.
    """

    def leave() -> None:
        if (known := code()) is None:
            return
        if last is not None:
            last()
        for stream in (sys.stdout, sys.stderr):
            # The terminal may be gone.
            with suppress(OSError):
                stream.flush()
        os._exit(known)

    atexit.register(leave)
