"""The knee: how many calls and tokens a minute does each target take before an objective breaks?

Offers the mix at a rate that doubles until an objective (`--slo`; refusals under 1 % where it says nothing of them)
does not hold, then measures what is let in while more is offered, and tries that; or narrows the rate down where it
was the time to an answer that broke. Targets have their turns, up to `--target-seconds` (295) each.

Read `held` as what can be kept up, with its interval. `capacity` is what the limiter lets in in the long run: for a
provisioned deployment that is 100 % utilisation. A run that ended at `--max-rate`, or that this machine could not have
sent, says so and names no knee. The 429s that it makes are wanted, and count in nobody's favour: other callers of the
deployment are throttled, too.

Costs what its target lets in for about four minutes, and never more than `--max-rate` calls a second for
`--target-seconds`, for each target; refused calls cost nothing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from locust import constant, task

from locustfiles._knee import Range, Search, Settings, Step, with_refusals
from locustfiles._options import Options
from locustfiles._plan import mean_tokens
from locustfiles._run import listen
from locustfiles._scenario import Ending, Findings
from locustfiles._steps import Stepped, stated_rate
from locustfiles._user import AzureOpenAIUser
from locustfiles._verdict import Verdict, again, another
from locustfiles._words import amount, calls
from probe.record import ObservedCall
from probe.target import Target

# What is tried next, by what held.
BELOW = 0.9


class Knee(Search):
    """Says what it finds."""

    def __init__(self, target: Target, settings: Settings, began: float) -> None:
        super().__init__(settings, began)
        self._target = target
        self._told = 0

    def news(self) -> Iterator[str]:
        # At a low rate it takes a minute until there is a step to tell of.
        lines = [begins(self.settings), *map(said, self.steps)]
        for line in lines[self._told :]:
            yield f"  {line}"
        self._told = len(lines)

    def about(self) -> dict[str, Any]:
        return {"target": self._target.name, "deployment": self._target.deployment, **super().about()}


def first_rate(check: ObservedCall | None, tokens: float) -> float:
    """An eighth of what the target says that it allows, so that the rise is short; else one a second."""
    allowed = None if check is None else stated_rate(check, tokens)
    return 1.0 if allowed is None else max(0.05, allowed / 8)


def begins(settings: Settings) -> str:
    """What is offered first, for how long and why."""
    rate = settings.lowest_rate
    seconds, why = settings.to_offer(rate)
    some = f"about {calls(max(1, round(rate * seconds)))} at {amount(rate)} a second"
    return f"first window: {some}, {amount(seconds)} s ({why}); twice as fast while it holds"


def said(step: Step) -> str:
    """One line."""
    parts = [f"{step.kind:8} {step.rate * 60:8,.0f} a minute for {step.ended - step.began:3.0f} s"]
    if step.throttled_share is not None:
        parts.append(f"{step.throttled_share:.1%} refused")
    if step.ttft_p95_s is not None:
        parts.append(f"first token p95 {step.ttft_p95_s * 1000:,.0f} ms")
    if step.utilization is not None:
        parts.append(f"utilisation {step.utilization:.0%}")
    if step.kind != "saturate":
        parts.append({True: "held", False: f"broke {step.broke_by}", None: "not judged"}[step.held])
    return ", ".join(parts)


def lines(knee: Knee) -> Iterator[str]:
    about, held, name = knee.about(), knee.held, knee.about()["target"]
    yield f"{name}: {'' if held is None else 'held '}{found(knee)}"
    if knee.capacity is not None and knee.capacity != held:
        yield f"{name}: lets in {_rates(knee.capacity, about['capacity'])} of what is more than it takes"


def found(knee: Knee) -> str:
    held = knee.held
    return f"{'no rate was found that held' if held is None else _rates(held, knee.about()['held'])}{_why(knee)}"


def verdict(knees: Sequence[Knee], options: Options) -> Verdict | None:
    """Next is what this could not find out, or ten minutes a little below what held: at random times and in other sizes
    a limit refuses more."""
    if not knees or not all(one.steps for one in knees):
        return None
    text = "; ".join(f"{one.about()['target']} {found(one)}" for one in knees)
    if any(one.limited_by == "generator" for one in knees):
        return Verdict(f"no verdict: {text}", again(processes=-1))
    held = [one.held.value / 60 for one in knees if one.held is not None]
    if len(held) < len(knees):
        return Verdict(f"broke: {text}", again(rate=min(step.rate for one in knees for step in one.steps) / 8))
    if any(one.broke_by is None for one in knees):
        return Verdict(f"held: {text}", again(max_rate=4 * options.max_rate))
    rate, slo = float(f"{BELOW * min(held) * len(knees):.3g}"), [one.text for one in with_refusals(options.slo)]
    return Verdict(f"held: {text}", another("mixed", rate=rate, run_time="10m", slo=slo))


def _rates(rate: Range, both: dict[str, dict[str, float]]) -> str:
    ends = "" if rate.high is None else f" ({rate.low:,.1f} to {rate.high:,.1f})"
    tokens = both.get("tokens_per_minute")
    return f"{rate.value:,.1f} calls a minute{ends}" + (f", {tokens['value']:,.0f} tokens" if tokens else "")


def _why(knee: Knee) -> str:
    if knee.limited_by == "generator":
        return "; this machine could not send more in time: no knee of the target's (--processes gives it more)"
    if knee.limited_by == "max-rate" and knee.broke_by is None:
        return f" at least: nothing broke up to --max-rate, {knee.settings.max_rate:g} a second"
    if knee.broke_by is None:
        return " so far; nothing broke"
    tried = any(step.kind == "confirm" for step in knee.steps)
    sure = "" if knee.confirmed or tried else "; there was no time to confirm it"
    return f"; {knee.broke_by} broke above{sure}"


class Rising(Stepped):
    def direct(self, options: Options, target: Target, check: ObservedCall | None, now: float) -> Knee:
        sizes = mean_tokens(options.mix)
        settings = Settings(
            objectives=with_refusals(options.slo),
            first_rate=options.rate or first_rate(check, sum(sizes)),
            max_rate=options.max_rate,
            input_tokens=sizes[0],
            max_tokens=sizes[1],
            step=options.step_seconds,
            window=options.window,
            seconds=options.target_seconds,
            max_tainted=options.max_tainted,
        )
        return Knee(target, settings, now)

    def most_calls(self, options: Options) -> float:
        return options.max_rate * options.target_seconds

    def ended(self, options: Options, folder: Path, findings: Findings) -> Ending:
        knees = [one for one in self.directors.values() if isinstance(one, Knee)]
        said = [line for one in knees for line in lines(one)]
        return Ending({"knee": [one.about() for one in knees]}, said, verdict(knees, options))


listen(Rising("knee", again=True))


class KneeUser(AzureOpenAIUser):
    wait_time = constant(0)

    @task
    def rise(self) -> None:
        self.dispatch()
