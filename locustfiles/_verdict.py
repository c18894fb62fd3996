"""What a run came to in one line, and the command to run next.

A run that ended before its time is told by what ended it. Where this side was late itself, or did not send what was
due, nothing is said of the service. Without objectives a run held if no more than `LEAST` of its calls came to nothing.
"""

import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from locustfiles._live import Row, Standing
from locustfiles._slo import Judgement, said
from locustfiles._words import calls, seconds, share
from probe.escaping import printable

# The share of calls below which a refusal or a failure is no news.
LEAST = 0.01
# Whom a run calls, with what, and how: what a command of another scenario takes over from this one.
_TAKEN_OVER = {
    *("--targets", "--mix", "--stream-share", "--results", "--prices"),
    *("--allow-host", "--ca-bundle", "--insecure-skip-verify"),
}


class Verdict(msgspec.Struct, frozen=True):
    """As `ended.verdict` in `run.json`."""

    text: str
    next: str


class Ran(msgspec.Struct, frozen=True):
    """How a run ended, and why where it ended early; `lost` is how many workers were."""

    how: str
    why: str | None
    folder: str
    too_tainted: bool
    lost: int = 0

    def command(self, name: str) -> str:
        return analysis(name, self.folder)


def analysis(name: str, folder: object) -> str:
    return f"analysis {name} {shlex.quote(str(folder))}"


def again(**changes: object) -> str:
    """The command that this run was started with, but for these options."""
    flags = dict(_flags(changes))
    kept = [part for part in _parts(sys.argv[1:]) if part[0].partition("=")[0] not in flags]
    return _command(kept, changes)


def another(scenario: str, **changes: object) -> str:
    """The command of another scenario, with this run's targets and traffic."""
    taken = [part for part in _parts(sys.argv[1:]) if part[0].partition("=")[0] in _TAKEN_OVER]
    return _command([["-f", f"locustfiles/{scenario}.py"], ["--headless"], *taken], changes)


def _command(parts: Sequence[Sequence[str]], changes: dict[str, object]) -> str:
    words = ["locust", *(word for part in parts for word in part)]
    for flag, values in _flags(changes):
        words += [word for value in values for word in (flag, value)]
    return shlex.join(words)


def _flags(changes: dict[str, object]) -> Iterator[tuple[str, list[str]]]:
    for name, given in changes.items():
        values = given if isinstance(given, list) else [given]
        yield f"--{name.replace('_', '-')}", [f"{one:g}" if isinstance(one, float) else str(one) for one in values]


def _parts(words: Sequence[str]) -> list[list[str]]:
    """Options, each with its values; `--processes -1` is one."""
    parts: list[list[str]] = []
    for word in words:
        if not parts or (word.startswith("-") and not re.fullmatch(r"-[0-9.]+", word)):
            parts.append([])
        parts[-1].append(word)
    return parts


def verdict(ran: Ran, standing: Standing, judged: Sequence[Judgement], own: Verdict | None = None) -> Verdict:
    """`own` is the scenario's, which takes the place of `held`."""
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
        return _of_generator(f"{share(counts['dropped'] / counts['due'])} of the calls due were not sent", summary)
    if missed := [one for one in judged if not one.held and one.value is not None]:
        text = "; ".join(f"{one.objective} was {said(one)}" for one in missed)
        return Verdict(f"broke: {text}; {summary}", _after_miss(ran, missed))
    if not judged and counts["throttled"] + counts["failed"] > LEAST * counts["sent"]:
        text = f"broke: {summary}" if own is None else f"broke: {summary}; {own.text}"
        return Verdict(text, ran.command("throttling" if counts["throttled"] else "report"))
    if ran.too_tainted:
        return _of_generator("too many first tokens may have been stamped late by this machine", summary)
    if missed := [one for one in judged if not one.held]:
        text = "; ".join(f"{one.objective} cannot be said: {one.why}" for one in missed)
        return Verdict(f"no verdict: {text}; {summary}", ran.command("report"))
    return own or Verdict(f"held: {summary}", ran.command("report"))


def _of_generator(why: str, summary: str) -> Verdict:
    return Verdict(f"no verdict: {why}; {summary}", again(processes=-1))


def _summary(standing: Standing, row: Row) -> list[str]:
    """Of what was sent and not cut off: the first tokens, the refusals, the failures."""
    counts, ttft = row.values.counts, row.values.times["ttft"]
    said = [calls(counts["sent"])]
    if ttft.n:
        said.append(f"p95 first token {seconds(ttft.quantile(0.95))}")
    if counts["sent"]:
        at = _most(standing, "refusals")
        said.append(f"{share(counts['throttled'] / counts['sent'])} throttled{f' by {at}' if at else ''}")
    if counts["failed"]:
        said.append(f"{share(counts['failed'] / counts['sent'])} failed, mostly as {_most(standing, 'failures')}")
    if row.cancelled:
        said.append(f"{row.cancelled:,} cut off at the end")
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
        return another("knee", slo=objectives)
    return ran.command("report")
