"""A worker's part in a run that its master has made: what it is told of the run, and what it tells of its part.

It is told the run's id, its folder and the simulator's targets, but no key of a real one: it reads its own settings.
"""

from collections.abc import Mapping
from typing import Any

import gevent
import msgspec
from locust import log
from locust.runners import WorkerRunner

from locustfiles._arrivals import Share
from locustfiles._caps import parts
from locustfiles._course import course
from locustfiles._endings import Worker, leave_by_itself
from locustfiles._load import Load
from locustfiles._options import Options, choose, find, read_options
from locustfiles._scenario import Scenario
from locustfiles._send import Senders, is_here, kept_here
from locustfiles._tending import end, tend
from locustfiles._terminal import Children
from locustfiles._told import say
from probe.advice import EXIT_LOST, EXIT_SETTINGS
from probe.journal import JournalError, Run
from probe.prices import Price
from probe.simulated import simulated_targets
from probe.spending import Caps, Ledger
from probe.target import SettingsError

TALLY = "headroom_tally"
# Among what a worker tells its master every three seconds.
SEEN = "headroom_seen"


def told(
    run: Run, options: Options, simulated: Mapping[str, Any] | None, caps: Caps, prices: Mapping[str, Price]
) -> dict[str, Any]:
    """What workers have to know of a run, for Locust's options, which it sends them. `caps` are those of the run."""
    return {
        "run": msgspec.to_builtins(run),
        "seed": options.seed,
        "rates": options.rates,
        "simulated": simulated,
        "caps": parts(caps),
        "prices": msgspec.to_builtins(prices),
    }


def share(options: Options, index: int, processes: int) -> Share:
    """Of one of an engine's processes. A rate is the engine's own part already (`Options.of_engine`)."""
    if options.arrivals not in ("schedule", "trace"):
        return Share(index, processes)
    return Share((options.engine or 0) * processes + index, options.engines * processes)


class Member:
    """A process that takes part in runs and starts none."""

    def __init__(self, runner: WorkerRunner, scenario: Scenario, senders: Senders, children: Children) -> None:
        self._runner = runner
        self._scenario = scenario
        self._senders = senders
        self._children = children
        # The run that it takes, or took, part in.
        self._joined = ""
        self._worker = Worker(runner, lambda: course.open_calls, course.stop_now)

    def open(self) -> None:
        self._runner.environment.events.report_to_master.add_listener(self._add_seen)
        leave_by_itself(lambda: course.code, self._worker.send_last_words)
        gevent.spawn(self._await_loss)

    def begin(self) -> None:
        about = course.options.headroom_run
        if self._joined == about["run"]["id"]:
            # It has ended here; the master goes on handing out users for a moment, who would begin again.
            return
        self._joined = about["run"]["id"]
        self._children.join(about.get("terminal"))
        options = self._options(about)
        simulated = about["simulated"]
        found = find(options) if simulated is None else simulated_targets(simulated)
        course.begin()
        try:
            run = msgspec.convert(about["run"], Run)
            alone = not is_here(run)
            if alone:
                run = kept_here(run, options.results)
            ledger = self._ledger(about, options)
            targets = choose(found, options.targets)
            load = course.load = Load(self._scenario, run, options, targets, self._share(options), ledger)
        except SettingsError as error:
            course.fail(str(error), EXIT_SETTINGS)
            return
        except JournalError as error:
            course.fail(str(error))
            return
        self._worker.join(load.journal.worker_id)
        self._scenario.begin(load, ())
        if alone:
            self._senders.start(run, options.send, load.journal.worker_id)
        gevent.spawn(tend, load)

    def end(self, load: Load) -> None:
        seen = end(load, self._scenario)
        counts = {**load.counted(), "raised": int(log.unhandled_greenlet_exception)}
        self._runner.send_message(TALLY, {"counts": counts, "seen": seen, "findings": load.findings.packed()})
        self._senders.run_ended()

    def _options(self, about: dict[str, Any]) -> Options:
        asked = msgspec.structs.replace(read_options(course.options).of_engine(), seed=about["seed"])
        return self._scenario.settings(asked).at_rates(about["rates"])

    def _share(self, options: Options) -> Share:
        index = max(0, getattr(self._runner, "worker_index", 0))
        return share(options, index, max(1, course.options.expect_workers))

    def _ledger(self, about: dict[str, Any], options: Options) -> Ledger:
        # A worker that came too late to have a part of them may send nothing.
        none = {name: 0 for name, cap in msgspec.to_builtins(options.caps).items() if cap is not None}
        mine = about["caps"].get(self._runner.client_id, none)
        return Ledger(msgspec.convert(mine, Caps), msgspec.convert(about["prices"], dict[str, Price]))

    def _add_seen(self, data: dict[str, Any], **_: Any) -> None:
        if course.load is not None:
            data[SEEN] = course.load.report()

    def _await_loss(self) -> None:
        self._worker.await_loss()
        if course.load is not None:
            seconds = f"{course.environment.stop_timeout:g} s"
            say(f"the master is gone; {course.open_calls} open calls have {seconds} to end")
            course.how = "failed"
        course.end_with(EXIT_LOST)
        self._worker.drain()
