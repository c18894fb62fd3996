"""The process that starts runs: Locust alone, or its master.

It makes a run's folder when all is well (`_preflight`), gathers what all processes of the run tell it (`_gathered`),
and has the last word when they have had theirs (`_conclusion`).
"""

import os
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import gevent
import msgspec
from locust.runners import STATE_CLEANUP, STATE_STOPPING, MasterRunner
from locust.web import WebUI

from locustfiles._board import board
from locustfiles._caps import Reached
from locustfiles._conclusion import conclude
from locustfiles._course import course
from locustfiles._endings import leave_by_itself
from locustfiles._gathered import Gathered
from locustfiles._listening import check_listening, check_port
from locustfiles._load import Load
from locustfiles._preflight import Preflight, RefusedError
from locustfiles._scenario import Scenario
from locustfiles._send import Senders
from locustfiles._tending import end, tend
from locustfiles._terminal import LOOK_SECONDS, ROWS, Children, View, view
from locustfiles._told import plan_line, progress_line, say
from locustfiles._web import add_tab
from locustfiles._worker import share, told
from probe.advice import EXIT_SETTINGS
from probe.journal import JournalError, end_run, start_run
from probe.spending import Caps, Ledger, Spent
from probe.target import SettingsError

# The open model's clock starts a little after the run is set up, so that its first calls are not late.
LEAD_SECONDS = 0.5
PROGRESS_SECONDS = 2.0


class Starter:
    def __init__(self, scenario: Scenario, senders: Senders, children: Children) -> None:
        self._scenario = scenario
        self._senders = senders
        self._children = children
        self._preflight = Preflight()
        self._reached = Reached(scenario)
        self._gathered = Gathered()
        # What the checks spent before the run that is on.
        self._checked = Spent()
        self._view: View | None = None

    def open(self, on_early_end: Callable[[], None]) -> None:
        """Reads the settings and checks the targets; `on_early_end` is told of a child that went before there was a
        run. Raises `RefusedError`."""
        course.listen()
        self._reached.listen()
        if isinstance(course.runner, MasterRunner):
            leave_by_itself(lambda: course.code)
            self._gathered.listen(course.runner, on_early_end)
        if course.environment.web_ui is not None:
            self._add_tab(course.environment.web_ui)
        for line in check_listening(course.options):
            say(line)
        self._preflight.check(self._scenario, course.options)
        if self._preflight.options.send and course.workers is None:
            # Locust has set the code by the time that it is known whether everything was sent.
            leave_by_itself(lambda: course.code)

    def begin(self) -> None:
        checks, options = self._preflight, self._preflight.options
        course.begin()
        self._reached.begin(options)
        caps, self._checked = options.caps.less(checks.spent), checks.spent
        try:
            load = self._load(caps)
        except JournalError as error:
            course.fail(str(error))
            return
        checked = checks.calls
        checks.calls, checks.spent = [], Spent()
        if course.workers is not None:
            course.workers.begin()
        self._tell_workers(load, caps)
        say(f"run {load.run.folder}: {plan_line(options, self._scenario.compared(checks.targets))}")
        self._scenario.begin(load, checked)
        gevent.spawn(self._progress, load)
        gevent.spawn(tend, load, self._gathered.look)

    def end(self, load: Load) -> None:
        self._gathered.take_seen(end(load, self._scenario))
        came_to = conclude(load, self._scenario, self._gathered, self._checked)
        self._gathered.standing.last_word = f"{came_to.verdict.text}. Next: {came_to.verdict.next}"
        try:
            end_run(load.run, course.how, came_to.about(), course.why)
        except JournalError as error:
            course.fail(str(error))
        self._senders.run_ended()
        if self._view is not None:
            self._view.show(board(self._gathered.standing, ROWS))
            self._view.close()
        for line in came_to.lines():
            say(line)
        say(f"run {course.how}: {load.run.folder}")
        say(f"next: {came_to.verdict.next}")

    def close(self) -> None:
        if self._preflight.simulator is not None:
            self._preflight.simulator.stop()
            self._preflight.simulator = None

    def _add_tab(self, ui: WebUI) -> None:
        """Raises `RefusedError`."""
        try:
            check_port(course.options)
        except SettingsError as error:
            raise RefusedError(str(error), EXIT_SETTINGS) from None
        add_tab(ui, lambda: board(self._gathered.standing), course.options.web_base_path or "")

    def _load(self, caps: Caps) -> Load:
        """Makes the run's folder and this process's part in the run. Raises `JournalError`."""
        checks, options = self._preflight, self._preflight.options
        lead = LEAD_SECONDS if options.is_open else 0.0
        run = start_run(Path(options.results), self._scenario.name, self._about(), lead)
        self._gathered.begin(run)
        part, ledger = share(options, 0, 1), Ledger(caps, checks.prices)
        load = course.load = Load(self._scenario, run, options, checks.targets, part, ledger)
        self._senders.start(run, options.send)
        self._gathered.take_joined(load.journal.worker_id)
        for call in checks.calls:
            load.append(call)
        return load

    def _about(self) -> dict[str, Any]:
        options, simulator = self._preflight.options, self._preflight.simulator
        about: dict[str, Any] = {
            "arrivals": options.arrivals,
            "queueing": "measured" if options.is_open else "not measured",
            "options": msgspec.to_builtins(options),
            "targets": [target.public() for target in self._preflight.targets],
        }
        if simulator is not None:
            # As seen from a run's folder, so that the results can be moved as a whole.
            about["logs"] = [os.path.relpath(simulator.logs, Path(options.results) / "run")]
        return about

    def _tell_workers(self, load: Load, caps: Caps) -> None:
        """Locust sends them its options when they are to begin."""
        checks, options = self._preflight, course.options
        simulated = None if checks.simulator is None else checks.simulator.public()
        options.headroom_run = told(load.run, checks.options, simulated, caps, checks.prices)
        self._view = view(options)
        if self._view is not None and course.workers is not None:
            options.headroom_run["terminal"] = self._children.listen()

    def _progress(self, load: Load) -> None:
        began = time.perf_counter()
        for look in count(1):
            gevent.sleep(PROGRESS_SECONDS if self._view is None else LOOK_SECONDS)
            if course.load is load:
                self._reached.end_if_all()
            if course.load is not load:
                return
            if self._view is not None:
                self._view.show(board(self._gathered.standing, ROWS))
                continue
            first_token = self._gathered.standing.all().values.times["ttft"].quantile(0.5)
            line = progress_line(course.environment, first_token, time.perf_counter() - began)
            if course.how == "interrupted" or course.runner.state in (STATE_CLEANUP, STATE_STOPPING):
                say(f"{line}; waiting for {course.open_calls} open calls")
            elif look % self._scenario.looks_a_line == 0:
                say(line)
