"""What a run came to in one line, and the command to run next.

A run that ended before its time is told by what ended it. Where this side was late itself, or did not send what was
due, nothing is said of the service. Without objectives a run held if no more than `LEAST` of its calls came to nothing.
"""

import shlex
from collections import Counter
from collections.abc import Sequence

import msgspec

from locustfiles._live import Row, Standing
from locustfiles._slo import Judgement, said
from locustfiles._words import seconds, share
from probe.escaping import printable

# The share of calls below which a refusal or a failure is no news.
LEAST = 0.01


class Verdict(msgspec.Struct, frozen=True):
    """As `ended.verdict` in `run.json`."""

    text: str
    next: str


class Ran(msgspec.Struct, frozen=True):
    """How a run ended, and why where it ended early; `lost` is how many workers were."""

    how: str
    why: str | None
    folder: str
    scenario: str
    too_tainted: bool
    lost: int = 0

    def command(self, name: str) -> str:
        return f"analysis {name} {shlex.quote(self.folder)}"


def verdict(ran: Ran, standing: Standing, judged: Sequence[Judgement]) -> Verdict:
    row = standing.all()
    counts = row.values.counts
    summary = "; ".join(_summary(standing, row))
    if ran.how != "completed":
        return Verdict(f"ended early: {ran.why or ran.how}; {summary}", _after_early_end(ran, row))
    if ran.lost:
        what = "a worker was" if ran.lost == 1 else f"{ran.lost} workers were"
        return Verdict(f"no verdict: {what} lost, and what it had not yet reported; {summary}", ran.command("verify"))
    if not counts["sent"]:
        return Verdict(f"nothing was sent; {summary}", "probe doctor")
    if counts["dropped"] > LEAST * counts["due"]:
        return _of_generator(ran, f"{share(counts['dropped'] / counts['due'])} of the calls due were not sent", summary)
    if missed := [one for one in judged if not one.held and one.value is not None]:
        text = "; ".join(f"{one.objective} was {said(one)}" for one in missed)
        return Verdict(f"broke: {text}; {summary}", _after_miss(ran, missed))
    if not judged and counts["throttled"] + counts["failed"] > LEAST * counts["sent"]:
        return Verdict(f"broke: {summary}", ran.command("throttling" if counts["throttled"] else "report"))
    if ran.too_tainted:
        return _of_generator(ran, "too many first tokens may have been stamped late by this machine", summary)
    if missed := [one for one in judged if not one.held]:
        text = "; ".join(f"{one.objective} cannot be said: {one.why}" for one in missed)
        return Verdict(f"no verdict: {text}; {summary}", ran.command("report"))
    return Verdict(f"held: {summary}", ran.command("report"))


def _of_generator(ran: Ran, why: str, summary: str) -> Verdict:
    return Verdict(f"no verdict: {why}; {summary}", f"locust -f locustfiles/{ran.scenario}.py --processes -1")


def _summary(standing: Standing, row: Row) -> list[str]:
    """Of what was sent: the first tokens, the refusals, the failures."""
    counts, ttft = row.values.counts, row.values.times["ttft"]
    said = [f"{counts['sent']:,} call{'' if counts['sent'] == 1 else 's'}"]
    if ttft.n:
        said.append(f"p95 first token {seconds(ttft.quantile(0.95))}")
    if counts["sent"]:
        at = _most(standing, "refusals")
        said.append(f"{share(counts['throttled'] / counts['sent'])} throttled{f' by {at}' if at else ''}")
    if counts["failed"]:
        said.append(f"{share(counts['failed'] / counts['sent'])} failed, mostly as {_most(standing, 'failures')}")
    return said


def _most(standing: Standing, causes: str) -> str:
    """The commonest cause and where it was met most."""
    met = Counter[tuple[str, str]]()
    for (target, _), row in standing.rows.items():
        for cause, times in getattr(row, causes).items():
            met[cause, target] += times
    ((cause, target), _), *_ = met.most_common(1) or [(("", ""), 0)]
    return f"{cause.replace('_', ' ')} at {printable(target)}" if cause else ""


def _after_early_end(ran: Ran, row: Row) -> str:
    if row.refusals["quota_day"]:
        return ran.command("throttling")
    if not row.values.counts["sent"] or row.failures["auth"]:
        return "probe doctor"
    return ran.command("verify" if ran.how == "failed" else "report")


def _after_miss(ran: Ran, missed: Sequence[Judgement]) -> str:
    """Refusals have their limiter looked at; what was too slow, its rate looked for."""
    objectives = [one.objective for one in missed]
    if any(one.startswith("throttled") for one in objectives):
        return ran.command("throttling")
    if all(one.startswith(("ttft", "duration")) for one in objectives):
        return f"locust -f locustfiles/knee.py --headless {' '.join(f'--slo {shlex.quote(one)}' for one in objectives)}"
    return ran.command("report")
