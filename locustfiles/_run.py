"""How a run begins and ends in Locust, in whichever process.

`_starter` is the process that starts runs, Locust alone or its master; `_worker` takes part in them. What ends a run
before its time is `_course`; which calls do is `_watch`, and which caps `_caps`.
"""

import os
import signal
import sys
from typing import NoReturn

import gevent
from gevent import GreenletExit
from gevent.event import Event
from locust import events
from locust.env import Environment
from locust.runners import STATE_CLEANUP, STATE_STOPPED, WorkerRunner

from locustfiles._course import course
from locustfiles._endings import leave_with_parent
from locustfiles._listening import refuse_a_port_that_no_master_gets
from locustfiles._load import Load
from locustfiles._options import add_options
from locustfiles._preflight import RefusedError
from locustfiles._scenario import Scenario
from locustfiles._send import Senders
from locustfiles._signals import take_signals
from locustfiles._starter import Starter
from locustfiles._terminal import Children
from locustfiles._told import say
from locustfiles._worker import Member
from probe.advice import EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_LOST, EXIT_TERMINATED, EXIT_UNSENT
from probe.secrecy import guard


class Session:
    """One process of Locust, over as many runs as its web UI starts."""

    def __init__(self) -> None:
        self.scenario: Scenario
        self._role: Starter | Member | None = None
        self._senders = Senders()
        self._children = Children()
        self._hung_up = False
        self._ending: gevent.Greenlet[..., None] | None = None
        self._leaving = False

    def open(self, environment: Environment) -> None:
        """Reads the settings and checks the targets; anything wrong ends the process here."""
        guard()
        course.environment = environment
        # Locust calls these in reverse order, and its master's own, which ends the run, is there by now.
        environment.events.quitting.add_listener(lambda **_: self.quitting())
        take_signals(self._on_ctrl_c, self._on_hanging_up)
        runner = environment.runner
        if runner is None:
            return
        self.scenario.open(runner)
        if isinstance(runner, WorkerRunner):
            self._role = member = Member(runner, self.scenario, self._senders, self._children)
            member.open()
            return
        self._role = starter = Starter(self.scenario, self._senders, self._children)
        try:
            starter.open(self._on_early_end)
        except RefusedError as refused:
            self._refuse(refused.message, refused.code)

    def begin(self) -> None:
        assert self._role is not None
        self._role.begin()

    def end(self) -> None:
        """May be called in a greenlet that Locust kills meanwhile."""
        if course.load is not None and self._role is not None:
            self._ending = gevent.spawn(self._role.end, course.load)
            course.load = None
        if self._ending is not None:
            self._ending.join()

    def quitting(self) -> None:
        """Fired before the last calls have ended when Locust was told to quit, after them when it came to its end."""
        if course.load is None or course.runner.state == STATE_STOPPED:
            return
        # Locust runs the handler of SIGTERM in a greenlet of its own, and Ctrl-C in the main one.
        by_ctrl_c = gevent.getcurrent().parent is None
        course.end_with(EXIT_HUNG_UP if self._hung_up else EXIT_INTERRUPTED if by_ctrl_c else EXIT_TERMINATED)
        draining = course.workers is not None and course.workers.draining
        if course.how == "interrupted" or course.runner.state == STATE_CLEANUP or draining:
            # The open calls were being waited for already.
            course.stop_now()
        elif not isinstance(course.runner, WorkerRunner):
            seconds = f"{course.environment.stop_timeout:g} s"
            say(f"stopping; {course.open_calls} open calls have {seconds} to end; Ctrl-C again stops them now")
        if course.how != "failed":
            course.how = "interrupted"

    def close(self, code: int | None = None) -> None:
        """The last that Locust asks of us, with the code that it would end with. Its handler of SIGTERM and its main
        greenlet can both come here: the first goes on and ends the process, and with it the other."""
        if self._leaving:
            Event().wait()
        self._leaving = True
        if self._ending is not None:
            self._ending.join()
        if course.workers is not None:
            course.workers.await_children()
            self._children.close()
        self._senders.wait()
        if self._senders.failed and not course.environment.process_exit_code and not code:
            course.environment.process_exit_code = EXIT_UNSENT
        told = course.environment.process_exit_code
        course.code = code if told is None else told
        if isinstance(self._role, Starter):
            self._role.close()

    def _on_ctrl_c(self) -> None:
        options = course.options
        if self._leaving:
            self._senders.abandon()
        elif course.how == "interrupted":
            course.stop_now()
        elif course.load is None and self._ending is None and options.headless:
            self._refuse("stopped before there was a run", EXIT_INTERRUPTED)
        elif isinstance(course.environment.runner, WorkerRunner) and options.processes:
            # The terminal sends Ctrl-C to us and to our master, who will tell us to quit.
            course.how = "interrupted"
        else:
            raise KeyboardInterrupt

    def _on_hanging_up(self) -> None:
        """As Locust ends by SIGTERM."""
        self._hung_up = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _on_early_end(self) -> None:
        """A process of `--processes` has ended before it was a worker; Locust would wait for it for good."""
        if course.load is None and self._ending is None and not self._leaving and course.how != "failed":
            self._refuse("a worker's process ended before the run could begin; see above", EXIT_LOST)

    def _refuse(self, message: str, code: int) -> NoReturn:
        say(message)
        course.how = "failed"
        if course.workers is not None:
            course.workers.dismiss()
        self.close(code)
        sys.exit(code)


session = Session()


def listen(scenario: Scenario) -> None:
    """Makes `session` follow Locust's events. Called once by each scenario file."""
    session.scenario = scenario
    leave_with_parent()
    refuse_a_port_that_no_master_gets()
    events.init_command_line_parser.add_listener(add_options)
    events.init.add_listener(lambda environment, **_: session.open(environment))
    events.test_start.add_listener(lambda **_: session.begin())
    events.test_stop.add_listener(lambda **_: session.end())
    events.quit.add_listener(lambda exit_code, **_: session.close(exit_code))


def running() -> Load:
    """The run that is on. Where there is none, because it could not begin, the user that asks ends."""
    if course.load is None:
        raise GreenletExit
    return course.load
