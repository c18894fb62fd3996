"""What a run came to when all of its calls are on record: what `run.json` has of that, and what is said of it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from locust import log

from locustfiles._course import course
from locustfiles._gathered import Gathered
from locustfiles._load import Load
from locustfiles._options import Options
from locustfiles._scenario import Ending, Scenario
from locustfiles._slo import Judgement, lines
from locustfiles._told import closing_lines, counts, too_tainted
from locustfiles._verdict import Ran, Verdict, verdict
from probe.advice import EXIT_EXPECTATION, EXIT_LOST
from probe.spending import Spent


class Conclusion(NamedTuple):
    """`tally` is of all processes; `lost` are the names of workers, `judged` the objectives of the whole run."""

    options: Options
    tally: Counter[str]
    lost: list[str]
    judged: list[Judgement]
    ending: Ending
    verdict: Verdict

    def about(self) -> dict[str, Any]:
        """As `ended` in `run.json`."""
        about: dict[str, Any] = dict(counts(self.tally, self.options.is_open))
        if self.lost:
            about["lost"] = self.lost
        if self.judged:
            about["slo"] = msgspec.to_builtins(self.judged)
        return {**about, **self.ending.found, "verdict": msgspec.to_builtins(self.verdict)}

    def lines(self) -> Iterator[str]:
        yield from self.ending.lines
        yield from lines(self.judged)
        yield from closing_lines(self.tally, self.options)
        yield self.verdict.text


def conclude(load: Load, scenario: Scenario, gathered: Gathered, checked: Spent) -> Conclusion:
    """When the workers have had their last words, or time to; `checked` is what the checks spent before the run. What
    was lost, and what missed the objectives, is in the exit code."""
    lost = _await_workers()
    spent = Counter(spent_tokens=checked.tokens, spent_microdollars=round(checked.cost * 1e6))
    tally = load.counted() + gathered.tally + spent
    if lost or tally["internal"] or tally["raised"] or course.runner.exceptions or log.unhandled_greenlet_exception:
        course.end_with(EXIT_LOST)
    tainted = too_tainted(tally, load.options)
    judged = _judge(load.options, gathered, tainted) if scenario.is_judged else []
    for packed in gathered.findings:
        load.findings.add(packed)
    ending = scenario.ended(load.options, Path(load.run.folder), load.findings)
    ran = Ran(course.how, course.why, load.run.folder, tainted, len(lost))
    own = ending.verdict
    if own is None or ran.how != "completed" or lost or scenario.is_judged:
        own = verdict(ran, gathered.standing, judged, own)
    return Conclusion(load.options, tally, lost, judged, ending, own)


def _await_workers() -> list[str]:
    """The names of those that were lost."""
    if course.workers is None:
        return []
    course.workers.await_ends()
    return course.workers.lost


def _judge(options: Options, gathered: Gathered, tainted: bool) -> list[Judgement]:
    judged = list(gathered.standing.all().values.judge(options.slo, not tainted))
    # A cap that was to end the run has set 0.
    open_yet = course.options.headless and not course.environment.process_exit_code
    if open_yet and not all(one.held for one in judged):
        course.environment.process_exit_code = EXIT_EXPECTATION
    return judged
