"""How a run begins and ends in Locust, in whichever process.

The process that starts runs (Locust alone, or its master) makes the run's folder when all is well (`_preflight`).
Workers are told the run's id, its folder and the simulator's targets, but no key of a real one: each reads its own
settings. A call that fails is an observation and changes no exit code.
"""

import logging
import os
import signal
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path
from traceback import extract_tb
from typing import Any, NoReturn

import gevent
import msgspec
from gevent import GreenletExit
from gevent.event import Event
from locust import events, log
from locust.env import Environment
from locust.runners import STATE_CLEANUP, STATE_RUNNING, STATE_STOPPED, STATE_STOPPING, MasterRunner, WorkerRunner

from locustfiles._arrivals import Share
from locustfiles._board import board
from locustfiles._endings import Worker, Workers, leave_by_itself, leave_with_parent
from locustfiles._live import Standing
from locustfiles._load import Load
from locustfiles._options import (
    Options,
    add_options,
    check_listening,
    check_port,
    choose,
    find,
    read_options,
)
from locustfiles._preflight import Preflight, RefusedError
from locustfiles._scenario import Ending, Scenario
from locustfiles._send import Senders, is_here, kept_here
from locustfiles._slo import Judgement, lines
from locustfiles._terminal import LOOK_SECONDS, ROWS, Children, View, view
from locustfiles._told import closing_lines, counts, plan_line, progress_line, say, too_tainted
from locustfiles._verdict import Ran, Verdict, verdict
from locustfiles._web import add_tab
from probe.advice import (
    EXIT_CAPPED,
    EXIT_DISK,
    EXIT_EXPECTATION,
    EXIT_FAILING,
    EXIT_HUNG_UP,
    EXIT_INTERRUPTED,
    EXIT_LOST,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_SETTINGS,
    EXIT_TERMINATED,
    EXIT_THROTTLED,
    EXIT_UNSENT,
)
from probe.application import ApplicationCall
from probe.escaping import printable
from probe.headers import retry_after
from probe.identity import token_provider
from probe.journal import JournalError, Run, add_to_run, end_run, start_run
from probe.outcome import DAY_QUOTA_SECONDS
from probe.prices import Price
from probe.record import ObservedCall
from probe.secrecy import guard
from probe.simulated import simulated_targets
from probe.spending import Caps, Ledger, Spent
from probe.target import SettingsError, Target

# The open model's clock starts a little after the run is set up, so that its first calls are not late.
LEAD_SECONDS = 0.5
PROGRESS_SECONDS = 2.0
# How often the journal and the clocks are looked after.
TEND_SECONDS = 1.0
_ARRIVALS_ENDED = "headroom_arrivals_ended"
_TALLY = "headroom_tally"
_SPENT = "headroom_spent"
_STOP = "headroom_stop"
_FAILED = "headroom_failed"
_SEEN = "headroom_seen"


class Session:
    """One process of Locust, over as many runs as its web UI starts. `load` is there while a run is on."""

    def __init__(self) -> None:
        self.scenario: Scenario
        self.environment: Environment
        self.options: Options
        self.targets: list[Target] = []
        self.load: Load | None = None
        self._preflight = Preflight()
        self._how = "completed"
        self._why: str | None = None
        self._stopping = False
        # What the checks spent before the run that is on.
        self._checked_in_run = Spent()
        # The cap that each process has reached.
        self._spent: dict[str, str] = {}
        self._code: int | None = None
        self._hung_up = False
        self._leaving = False
        # Places in our own code where calls came to grief.
        self._bugs: set[tuple[str, int | None]] = set()
        self._ending: gevent.Greenlet[..., None] | None = None
        # Of a worker: the run that it takes, or took, part in.
        self._joined = ""
        # Of a master, and of a worker.
        self._workers: Workers | None = None
        self._worker: Worker | None = None
        self._senders = Senders()
        self._processes: list[str] = []
        self._workers_done: set[str] = set()
        self._workers_tally: Counter[str] = Counter()
        # Of the run that is on or was last, in the process that starts runs.
        self.standing = Standing()
        self._view: View | None = None
        self._children = Children()
        self._workers_findings: list[Any] = []

    def open(self, environment: Environment) -> None:
        """Reads the settings and checks the targets; anything wrong ends the process here."""
        guard()
        self.environment = environment
        # Locust calls these in reverse order, and its master's own, which ends the run, is there by now.
        environment.events.quitting.add_listener(lambda **_: self.quitting())
        self._take_signals()
        runner = environment.runner
        if runner is None:
            return
        self.scenario.open(runner)
        if isinstance(runner, WorkerRunner):
            self._worker = Worker(runner, self._open_calls, self._stop_now)
            environment.events.report_to_master.add_listener(self._add_seen)
            leave_by_itself(lambda: self._code, self._worker.send_last_words)
            gevent.spawn(self._await_loss, self._worker)
            return
        runner.register_message(_ARRIVALS_ENDED, self._arrivals_ended)
        runner.register_message(_SPENT, lambda environment, msg, **_: self._process_spent(**msg.data))
        runner.register_message(_STOP, lambda environment, msg, **_: self.stop(**msg.data))
        if isinstance(runner, MasterRunner):
            leave_by_itself(lambda: self._code)
            runner.register_message(_TALLY, self._take_tally)
            runner.register_message(_FAILED, self._take_failure)
            self._workers = Workers(runner, self._take_joined, self._take_lost, self._take_early_end)
            environment.events.worker_report.add_listener(lambda data, **_: self._take_seen(data.get(_SEEN)))
        if environment.web_ui is not None:
            options: Any = environment.parsed_options
            try:
                check_port(options)
            except SettingsError as error:
                self._refuse(str(error), EXIT_SETTINGS)
            add_tab(environment.web_ui, lambda: board(self.standing), options.web_base_path or "")
        for line in check_listening(environment.parsed_options):
            say(line)
        try:
            self._preflight.check(self.scenario, environment.parsed_options)
        except RefusedError as refused:
            self._refuse(refused.message, refused.code)
        self.options, self.targets = self._preflight.options, self._preflight.targets
        if self.options.send and self._workers is None:
            # Locust has set the code by the time that it is known whether everything was sent.
            leave_by_itself(lambda: self._code)

    def begin(self) -> None:
        if isinstance(self.environment.runner, WorkerRunner):
            self._join()
            return
        self._how, self._why, self._stopping = "completed", None, False
        self._spent.clear()
        checks = self._preflight
        caps, self._checked_in_run = self.options.caps.less(checks.spent), checks.spent
        lead = LEAD_SECONDS if self.options.is_open else 0.0
        try:
            run = start_run(Path(self.options.results), self.scenario.name, self._about(), lead)
            part = share(self.options, 0, 1)
            self.standing = Standing(run.id, self._seconds())
            self.load = Load(self.scenario, run, self.options, self.targets, part, Ledger(caps, checks.prices))
            self._senders.start(run, self.options.send)
            self._processes = []
            self._take_joined(self.load.journal.worker_id)
            for call in checks.calls:
                self.load.append(call)
        except JournalError as error:
            self.fail(str(error))
            return
        checked = checks.calls
        checks.calls, checks.spent = [], Spent()
        self._workers_done.clear()
        self._workers_tally.clear()
        self._workers_findings.clear()
        if self._workers is not None:
            self._workers.begin()
        simulated = None if checks.simulator is None else checks.simulator.public()
        told: Any = self.environment.parsed_options
        told.headroom_run = {
            "run": msgspec.to_builtins(run),
            "seed": self.options.seed,
            "rates": self.options.rates,
            "simulated": simulated,
            "caps": self._caps_of_workers(caps),
            "prices": msgspec.to_builtins(checks.prices),
        }
        self._view = view(told)
        if self._view is not None and self._workers is not None:
            told.headroom_run["terminal"] = self._children.listen()
        say(f"run {run.folder}: {plan_line(self.options, self.scenario.compared(self.targets))}")
        self.scenario.begin(self.load, checked)
        gevent.spawn(self._progress, self.load)
        gevent.spawn(self._tend, self.load)

    def end(self) -> None:
        """May be called in a greenlet that Locust kills meanwhile."""
        if self.load is not None:
            self._ending = gevent.spawn(self._end, self.load)
            self.load = None
        if self._ending is not None:
            self._ending.join()

    def _end(self, load: Load) -> None:
        seen = self._seen(load)
        load.close()
        self.scenario.end()
        if load.journal.failure is not None:
            self.fail(str(load.journal.failure))
        runner = self.environment.runner
        assert runner is not None
        if isinstance(runner, WorkerRunner):
            ended = {**load.tally, **records(load), "raised": int(log.unhandled_greenlet_exception)}
            told = {"seen": seen, "findings": load.findings.packed()}
            runner.send_message(_TALLY, {"counts": ended, **told})
            self._senders.run_ended()
            return
        self._take_seen(seen)
        lost: list[str] = []
        if self._workers is not None:
            self._workers.await_ends()
            lost = self._workers.lost
        tally = load.tally + self._workers_tally + records(load)
        tally["spent_tokens"] += self._checked_in_run.tokens
        tally["spent_microdollars"] += round(self._checked_in_run.cost * 1e6)
        if lost or tally["internal"] or tally["raised"] or runner.exceptions or log.unhandled_greenlet_exception:
            self._end_with(EXIT_LOST)
        judgements = self._judge(tally)
        counted: dict[str, Any] = {**counts(tally, self.options.is_open), **({"lost": lost} if lost else {})}
        if judgements:
            counted["slo"] = msgspec.to_builtins(judgements)
        for packed in self._workers_findings:
            load.findings.add(packed)
        ending = self.scenario.ended(self.options, Path(load.run.folder), load.findings)
        counted |= ending.found
        last = self._verdict(load, judgements, ending, too_tainted(tally, self.options), len(lost))
        counted["verdict"] = msgspec.to_builtins(last)
        self.standing.last_word = f"{last.text}. Next: {last.next}"
        try:
            end_run(load.run, self._how, counted, self._why)
        except JournalError as error:
            self.fail(str(error))
        self._senders.run_ended()
        if self._view is not None:
            self._view.show(board(self.standing, ROWS))
            self._view.close()
        for line in (*ending.lines, *lines(judgements), *closing_lines(tally, self.options)):
            say(line)
        say(last.text)
        say(f"run {self._how}: {load.run.folder}")
        say(f"next: {last.next}")

    def _verdict(self, load: Load, judged: list[Judgement], ending: Ending, tainted: bool, lost: int) -> Verdict:
        if self._how == "completed" and ending.verdict is not None and not lost and not self.scenario.is_judged:
            return ending.verdict
        ran = Ran(self._how, self._why, load.run.folder, tainted, lost)
        return verdict(ran, self.standing, judged, ending.verdict)

    def _judge(self, tally: Counter[str]) -> list[Judgement]:
        if not self.scenario.is_judged:
            return []
        judgements = list(self.standing.all().values.judge(self.options.slo, not too_tainted(tally, self.options)))
        told: Any = self.environment.parsed_options
        # A cap that was to end the run has set 0.
        if told.headless and not self.environment.process_exit_code and not all(one.held for one in judgements):
            self.environment.process_exit_code = EXIT_EXPECTATION
        return judgements

    def quitting(self) -> None:
        """Fired before the last calls have ended when Locust was told to quit, after them when it came to its end."""
        runner = self.environment.runner
        if self.load is None or runner is None or runner.state == STATE_STOPPED:
            return
        # Locust runs the handler of SIGTERM in a greenlet of its own, and Ctrl-C in the main one.
        by_ctrl_c = gevent.getcurrent().parent is None
        self._end_with(EXIT_HUNG_UP if self._hung_up else EXIT_INTERRUPTED if by_ctrl_c else EXIT_TERMINATED)
        waiting = runner.state == STATE_CLEANUP or (self._workers is not None and self._workers.draining)
        if self._how == "interrupted" or waiting:
            # The open calls were being waited for already.
            self._stop_now()
        elif not isinstance(runner, WorkerRunner):
            seconds = f"{self.environment.stop_timeout:g} s"
            say(f"stopping; {self._open_calls()} open calls have {seconds} to end; Ctrl-C again stops them now")
        if self._how != "failed":
            self._how = "interrupted"

    def _end_with(self, code: int) -> None:
        """The first reason for another exit code than 0 is the one that is told."""
        if self.environment.process_exit_code is None:
            self.environment.process_exit_code = code

    def _take_signals(self) -> None:
        """By default Ctrl-C is raised in whichever greenlet runs, which would end the call that it is in the middle of.

        A shell that starts us in the background has it ignored, and so it stays; so does `nohup` with the hanging up.
        """
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            gevent.signal_handler(signal.SIGINT, self._on_ctrl_c)
            # Then it is no greenlet's error to be printed: it goes on to the main one, where Locust acts on it.
            gevent.get_hub().NOT_ERROR += (KeyboardInterrupt,)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            gevent.signal_handler(signal.SIGHUP, self._on_hanging_up)

    def _on_ctrl_c(self) -> None:
        options: Any = self.environment.parsed_options
        if self._leaving:
            self._senders.abandon()
        elif self._how == "interrupted":
            self._stop_now()
        elif self.load is None and self._ending is None and options.headless:
            self._refuse("stopped before there was a run", EXIT_INTERRUPTED)
        elif isinstance(self.environment.runner, WorkerRunner) and options.processes:
            # The terminal sends Ctrl-C to us and to our master, who will tell us to quit.
            self._how = "interrupted"
        else:
            raise KeyboardInterrupt

    def _on_hanging_up(self) -> None:
        """As Locust ends by SIGTERM."""
        self._hung_up = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _stop_now(self) -> None:
        """The open calls end here and now, each on record as cancelled."""
        runner = self.environment.runner
        assert runner is not None
        runner.user_greenlets.kill(block=False)
        if self._workers is not None:
            self._workers.stop_now()

    def close(self, code: int | None = None) -> None:
        """The last that Locust asks of us, with the code that it would end with. Its handler of SIGTERM and its main
        greenlet can both come here: the first goes on and ends the process, and with it the other."""
        if self._leaving:
            Event().wait()
        self._leaving = True
        if self._ending is not None:
            self._ending.join()
        if self._workers is not None:
            self._workers.await_children()
            self._children.close()
        self._senders.wait()
        if self._senders.failed and not self.environment.process_exit_code and not code:
            self.environment.process_exit_code = EXIT_UNSENT
        told = self.environment.process_exit_code
        self._code = code if told is None else told
        if self._preflight.simulator is not None:
            self._preflight.simulator.stop()
            self._preflight.simulator = None

    def fail(self, why: str, code: int = EXIT_DISK) -> None:
        """The run cannot go on, above all where the journal cannot be written: says so once, and stops the traffic."""
        if self._how == "failed":
            return
        self._how, self._why = "failed", why
        self._end_with(code)
        say(f"{why}; the run stops")
        runner = self.environment.runner
        assert runner is not None
        if isinstance(runner, WorkerRunner):
            runner.send_message(_FAILED, {"why": why, "code": code})
        self._stop_now()
        gevent.spawn(runner.quit)

    def stop(self, why: str, how: str, code: int) -> None:
        """The run ends here, when its open calls have. A worker has its master end it."""
        runner = self.environment.runner
        if runner is None or self._stopping:
            return
        self._stopping = True
        if isinstance(runner, WorkerRunner):
            runner.send_message(_STOP, {"why": why, "how": how, "code": code})
        elif self._how == "completed":
            self._how, self._why = how, why
            options: Any = self.environment.parsed_options
            if options.headless:
                self.environment.process_exit_code = code
            say(f"{why}; the run ends when its open calls have")
            gevent.spawn(runner.quit if options.headless else runner.stop)

    def watch(self, load: Load, call: ObservedCall) -> None:
        """Ends a run that only fails, or that a quota of a day, or our own side, stands against."""
        if call.error_type == "descriptors":
            self.fail(call.error_message or "")
        elif call.throttle_kind == "quota_day":
            self._quota_of_a_day(call.target, retry_after(call.headers))
        elif load.breaker.trips(call, time.monotonic()):
            last = f"the last, of {printable(call.target)}: {call.outcome}"
            self.stop(
                f"half or more of the calls of {self.options.breaker:g} s were not answered ({last}; --breaker)",
                "stopped",
                EXIT_FAILING,
            )

    def watch_attempts(self, call: ApplicationCall, none_left: str | None) -> None:
        """`none_left` says why an attempt could not begin for want of descriptors."""
        if none_left is not None:
            self.fail(none_left)
        longest = max((attempt.retry_after or 0.0 for attempt in call.attempts), default=0.0)
        if longest >= DAY_QUOTA_SECONDS:
            self._quota_of_a_day(call.target, longest)

    def met_bug(self, bug: Exception) -> None:
        """In a call, which is on record as `internal`. Each bug is told once, with its traceback."""
        *_, frame = extract_tb(bug.__traceback__)
        if (frame.filename, frame.lineno) not in self._bugs:
            self._bugs.add((frame.filename, frame.lineno))
            logging.getLogger("headroom").error("a call met a bug of headroom's own", exc_info=bug)

    def _quota_of_a_day(self, target: str, wait: float | None) -> None:
        asked = "" if wait is None else f"; it asks to wait for {wait:,.0f} s"
        self.stop(f"{printable(target)} has used up a quota that is no minute's{asked}", "stopped", EXIT_THROTTLED)

    def cap_reached(self, load: Load) -> None:
        """A call of this process was not sent, and none will be. The run ends when that is so in every process."""
        runner = self.environment.runner
        cap = load.ledger.reached
        if runner is not None and cap is not None and not load.told_of_cap:
            load.told_of_cap = True
            runner.send_message(_SPENT, {"process": getattr(runner, "client_id", "local"), "cap": cap})

    def _process_spent(self, process: str, cap: str) -> None:
        self._spent[process] = cap
        self._end_if_spent()

    def _end_if_spent(self) -> None:
        runner = self.environment.runner
        if self._spent and not (isinstance(runner, MasterRunner) and self._some_can_send(runner)):
            cap = next(iter(self._spent.values()))
            its_end = self._seconds() is None and not self.scenario.ends(self.options)
            self.stop(
                f"the cap {cap} {self.options.caps.named()[cap]} is reached",
                "capped",
                EXIT_OK if its_end else EXIT_CAPPED,
            )

    def _some_can_send(self, master: MasterRunner) -> bool:
        """Whether a worker has users and has not reached its part of a cap; until all are spawned, any may have."""
        left = [worker for worker in master.clients.all if worker.id not in self._spent]
        return bool(left) and (master.state != STATE_RUNNING or any(worker.user_count for worker in left))

    def _caps_of_workers(self, caps: Caps) -> dict[str, Any]:
        runner = self.environment.runner
        workers = runner.clients.all if isinstance(runner, MasterRunner) else []
        return {worker.id: msgspec.to_builtins(caps.part(i, len(workers))) for i, worker in enumerate(workers)}

    def _seconds(self) -> float | None:
        """How long the run may take at most."""
        options: Any = self.environment.parsed_options
        return float(options.run_time) if options.run_time else None

    def refused(self, target: Target, bearer: str | None) -> None:
        """A call was answered with 401. A key stays as bad as it is; a token is replaced, once."""
        why = "its key is refused (401)"
        if target.api_key is None:
            reason = token_provider(target.identity, target.trust).refuse(bearer)
            if reason is None:
                return
            why = f"signing in again did not help (401): {reason}"
        self.stop(f"{printable(target.name)}: {why}", "failed", EXIT_REFUSED)

    def all_sent(self) -> None:
        """The last call of this process's schedule has ended. The run ends when that is so in every process."""
        runner = self.environment.runner
        assert runner is not None
        runner.send_message(_ARRIVALS_ENDED, getattr(runner, "client_id", "local"))

    def _open_calls(self) -> int:
        if self._workers is not None:
            return self._workers.open_calls
        return 0 if self.load is None else self.load.journal.in_flight

    def _tend(self, load: Load) -> None:
        """Once a second: the journal to the disk, outside the event loop; a look at the clocks; and whether all is
        well with the journal."""
        while self.load is load:
            step = load.look_at_clocks()
            if step is not None and self._worker is None:
                self._add_to_run(load, {"clock_steps": load.clocks.steps})
                say(f"the wall clock was set by {step:+.1f} s, or the machine slept; times measured here are not of it")
            load.seen.look_at_limits(load.now())
            if self._worker is None:
                self._take_seen(self._seen(load))
                self.standing.look_at_rates(load.now())
            gevent.get_hub().threadpool.apply(load.journal.sync)
            if self.load is load and load.journal.failure is not None:
                self.fail(str(load.journal.failure))
            gevent.sleep(TEND_SECONDS)

    def _seen(self, load: Load) -> tuple[str, str, bytes]:
        return load.run.id, load.journal.worker_id, load.report()

    def _add_seen(self, data: dict[str, Any], **_: Any) -> None:
        """To what a worker tells its master every three seconds."""
        if self.load is not None:
            data[_SEEN] = self._seen(self.load)

    def _take_seen(self, seen: tuple[str, str, bytes] | None) -> None:
        if seen is not None:
            run, process, packed = seen
            if run == self.standing.run:
                self.standing.take(process, packed)

    def _take_joined(self, name: str) -> None:
        self._processes.append(name)
        if self.load is not None:
            self._add_to_run(self.load, {"processes": self._processes})

    def _add_to_run(self, load: Load, about: dict[str, Any]) -> None:
        try:
            add_to_run(load.run, about)
        except JournalError as error:
            self.fail(str(error))

    def _take_lost(self, name: str) -> None:
        say(f"the worker {name} is gone without having ended; its part of the load is missing from here on")
        self._end_with(EXIT_LOST)
        assert self._workers is not None and self.environment.runner is not None
        if self.load is not None and not self._workers.draining and not self._workers.there():
            say("no worker is left; the run stops")
            self._how = "failed"
            gevent.spawn(self.environment.runner.quit)

    def _take_early_end(self) -> None:
        """A process of `--processes` has ended before it was a worker; Locust would wait for it for good."""
        if self.load is None and self._ending is None and not self._leaving and self._how != "failed":
            self._refuse("a worker's process ended before the run could begin; see above", EXIT_LOST)

    def _take_tally(self, environment: Environment, msg: Any, **_: Any) -> None:
        assert self._workers is not None
        self._workers_tally.update(msg.data["counts"])
        self._take_seen(msg.data["seen"])
        self._workers_findings.append(msg.data["findings"])
        self._workers.take_end(msg.node_id)

    def _take_failure(self, environment: Environment, msg: Any, **_: Any) -> None:
        self.fail(f"a worker: {msg.data['why']}", msg.data["code"])

    def _await_loss(self, worker: Worker) -> None:
        worker.await_loss()
        if self.load is not None:
            say(f"the master is gone; {self._open_calls()} open calls have {self.environment.stop_timeout:g} s to end")
            self._how = "failed"
        self._end_with(EXIT_LOST)
        worker.drain()

    def _refuse(self, message: str, code: int) -> NoReturn:
        say(message)
        self._how = "failed"
        if self._workers is not None:
            self._workers.dismiss()
        self.close(code)
        sys.exit(code)

    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = {
            "arrivals": self.options.arrivals,
            "queueing": "measured" if self.options.is_open else "not measured",
            "options": msgspec.to_builtins(self.options),
            "targets": [target.public() for target in self.targets],
        }
        if self._preflight.simulator is not None:
            # As seen from a run's folder, so that the results can be moved as a whole.
            about["logs"] = [os.path.relpath(self._preflight.simulator.logs, Path(self.options.results) / "run")]
        return about

    def _progress(self, load: Load) -> None:
        began = time.perf_counter()
        for look in count(1):
            gevent.sleep(PROGRESS_SECONDS if self._view is None else LOOK_SECONDS)
            if self.load is load:
                self._end_if_spent()
            if self.load is not load:
                return
            if self._view is not None:
                self._view.show(board(self.standing, ROWS))
                continue
            first_token = self.standing.all().values.times["ttft"].quantile(0.5)
            line = progress_line(self.environment, first_token, time.perf_counter() - began)
            if self._how == "interrupted" or self._is_draining():
                say(f"{line}; waiting for {self._open_calls()} open calls")
            elif look % self.scenario.looks_a_line == 0:
                say(line)

    def _is_draining(self) -> bool:
        runner = self.environment.runner
        return runner is not None and runner.state in (STATE_CLEANUP, STATE_STOPPING)

    def _join(self) -> None:
        """A worker's part in the run that the master has made."""
        parsed: Any = self.environment.parsed_options
        told = parsed.headroom_run
        if self._joined == told["run"]["id"]:
            # It has ended here; the master goes on handing out users for a moment, who would begin again.
            return
        self._joined = told["run"]["id"]
        self._children.join(told.get("terminal"))
        asked = msgspec.structs.replace(read_options(parsed).of_engine(), seed=told["seed"])
        self.options = self.scenario.settings(asked).at_rates(told["rates"])
        simulated = told["simulated"]
        found = find(self.options) if simulated is None else simulated_targets(simulated)
        index = max(0, getattr(self.environment.runner, "worker_index", 0))
        part = share(self.options, index, max(1, parsed.expect_workers))
        self._how, self._stopping = "completed", False
        try:
            run = msgspec.convert(told["run"], Run)
            alone = not is_here(run)
            if alone:
                run = kept_here(run, self.options.results)
            prices = msgspec.convert(told["prices"], dict[str, Price])
            # A worker that came too late to have a part of them may send nothing.
            none = {name: 0 for name, cap in msgspec.to_builtins(self.options.caps).items() if cap is not None}
            mine = told["caps"].get(getattr(self.environment.runner, "client_id", ""), none)
            ledger = Ledger(msgspec.convert(mine, Caps), prices)
            targets = choose(found, self.options.targets)
            self.load = Load(self.scenario, run, self.options, targets, part, ledger)
        except SettingsError as error:
            self.fail(str(error), EXIT_SETTINGS)
            return
        except JournalError as error:
            self.fail(str(error))
            return
        assert self._worker is not None
        self._worker.join(self.load.journal.worker_id)
        self.scenario.begin(self.load, ())
        if alone:
            self._senders.start(run, self.options.send, self.load.journal.worker_id)
        gevent.spawn(self._tend, self.load)

    def _arrivals_ended(self, environment: Environment, msg: Any, **_: Any) -> None:
        self._workers_done.add(str(msg.data))
        runner = environment.runner
        assert runner is not None
        if self._workers is not None and len(self._workers_done) < len(self._workers.there()):
            return
        options: Any = environment.parsed_options
        gevent.spawn(runner.quit if options.headless else runner.stop)


def records(load: Load) -> Counter[str]:
    return Counter({kind: load.journal.counts[kind] for kind in ("calls", "applications")})


def share(options: Options, index: int, processes: int) -> Share:
    """Of one of an engine's processes. A rate is the engine's own part already (`Options.of_engine`)."""
    if options.arrivals not in ("schedule", "trace"):
        return Share(index, processes)
    return Share((options.engine or 0) * processes + index, options.engines * processes)


session = Session()


def listen(scenario: Scenario) -> None:
    """Makes `session` follow Locust's events. Called once by each scenario file."""
    session.scenario = scenario
    leave_with_parent()
    events.init_command_line_parser.add_listener(add_options)
    events.init.add_listener(lambda environment, **_: session.open(environment))
    events.test_start.add_listener(lambda **_: session.begin())
    events.test_stop.add_listener(lambda **_: session.end())
    events.quit.add_listener(lambda exit_code, **_: session.close(exit_code))


def running() -> Load:
    """The run that is on. Where there is none, because it could not begin, the user that asks ends."""
    if session.load is None:
        raise GreenletExit
    return session.load
