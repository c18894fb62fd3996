"""The burst: how does each target's limiter charge, how wide is its window, what is its Retry-After worth?

Leaves the target alone for half a minute, sends a few calls by themselves, then as many at once as its quota is, then
one a second until the window has passed, and a second burst. From what the replies and refusals said it names the
limiter: the generation of its headers, window or bucket, what a call is charged, the limit; and whether waiting as a
refusal asked was enough. `analysis throttling RUN` has the tables behind it.

Anybody else who calls the deployment meanwhile blurs this, and is throttled by it. A gateway's retries hide refusals.

Costs what a quota of two minutes costs, in calls of the mix; at most some `--max-rate` calls a second for 50 s and two
a second for as long, for each target. Takes two and a half minutes for each.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from locust import constant, task

from locustfiles._burst import Burst, Plan, in_short, said_limit
from locustfiles._options import Options
from locustfiles._plan import mean_tokens
from locustfiles._run import listen
from locustfiles._scenario import Ending, Findings
from locustfiles._steps import Stepped, stated_rate
from locustfiles._user import AzureOpenAIUser
from locustfiles._verdict import Verdict, again, analysis
from probe.record import ObservedCall
from probe.target import Target


class Bursting(Stepped):
    def direct(self, options: Options, target: Target, check: ObservedCall | None, now: float) -> Burst:
        allowed = None if check is None else stated_rate(check, mean_tokens(options.mix)[0])
        quota = None if allowed is None else allowed * options.window
        return Burst(Plan(quota, options.window, options.max_rate), now)

    def most_calls(self, options: Options) -> float:
        return Plan(None, options.window, options.max_rate).most_calls

    def ended(self, options: Options, folder: Path, findings: Findings) -> Ending:
        # In a process of its own: what it imports is heavy, and complains of the way in which this one ends.
        command = [sys.executable, "-m", "analysis", "throttling", str(folder), "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            return Ending({}, [f"what this shows cannot be told: {' '.join(done.stderr.split()) or done.returncode}"])
        found, lines = in_short(json.loads(done.stdout))
        return Ending({"burst": found}, lines, verdict(found, folder, options))


def verdict(found: Sequence[Mapping[str, Any]], folder: Path, options: Options) -> Verdict:
    silent = [about["targets"] for about in found if not about["refusals"]]
    if silent or not found:
        why = f"nothing was refused at {', '.join(silent) or 'any target'}"
        return Verdict(
            f"no verdict: {why}, at up to {options.max_rate:g} calls a second", again(max_rate=4 * options.max_rate)
        )
    limits = ("; ".join(said_limit(row) for row in about["limits"]) for about in found)
    text = "; ".join(f"{about['targets']}: {said}" for about, said in zip(found, limits, strict=True))
    known = any("model" in row for about in found for row in about["limits"])
    return Verdict(f"{'found' if known else 'no verdict'}: {text}", analysis("throttling", folder))


listen(Bursting("burst", again=False))


class BurstUser(AzureOpenAIUser):
    wait_time = constant(0)

    @task
    def burst(self) -> None:
        self.dispatch()
