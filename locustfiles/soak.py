"""The soak: does anything drift in hours at a set share of capacity: latency, errors, refusals, memory?

Offers the mix at random times, on average `--share` (0.7) of what each target takes: `--capacity` in calls a minute, or
what a run of `knee.py` found, or else the limits that the target states itself.

    locust -f locustfiles/soak.py --headless --run-time 4h --capacity results --share 0.7

At its end, whatever ended it, each figure has its drift an hour with a 99 % interval (the slope of Theil and Sen), or
"no detectable drift" and the interval that says how much could have stayed hidden. Read memory and lateness first: they
are this side's, and where they rise the others are not the service's alone. An hour finds drifts that ten minutes hide.

Costs the share of the capacity for as long as it goes on: the plan says how much before anything is sent. Nobody else
should use much of the deployments, or their drift is what is found.
"""

from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from itertools import repeat
from math import sqrt
from pathlib import Path

from locust import constant, task

from locustfiles._arrivals import Arrival, Call, Share, poisson
from locustfiles._capacity import Capacity, given
from locustfiles._options import Options
from locustfiles._plan import Expected, mean_tokens
from locustfiles._run import listen
from locustfiles._scenario import Ending, Findings, Scenario
from locustfiles._soak import Kept, Offered, Soaked
from locustfiles._steps import stated_rate
from locustfiles._told import say
from locustfiles._user import AzureOpenAIUser
from locustfiles._words import amount
from locustfiles._words import share as percent
from probe.prompts import EvenMix, Mix
from probe.record import ObservedCall
from probe.target import SettingsError, Target


class Soaking(Scenario):
    # A line a minute.
    looks_a_line = 30

    def __init__(self) -> None:
        super().__init__("soak")
        # Of the process that starts runs: by target.
        self._offered: dict[str, Offered] = {}

    def settings(self, options: Options) -> Options:
        for flag, value in (("--rate", options.rate), ("--schedule", options.schedule), ("--trace", options.trace)):
            if value is not None:
                raise SettingsError(f"{flag} says what is offered; here that is --share of --capacity")
        return options

    def check(self, options: Options, targets: Sequence[Target]) -> None:
        _rates(options, _given(options, targets))

    def checked(self, options: Options, targets: Sequence[Target], checks: Sequence[ObservedCall]) -> Options:
        capacities = _given(options, targets) or _stated(options, checks)
        for target in targets:
            if target.name not in capacities:
                raise SettingsError(
                    f"{target.name} states no limits, so its capacity is not known; --capacity (HEADROOM_CAPACITY) says"
                    " it: calls a minute, or where a run of knee.py is"
                )
        rates = _rates(options, capacities)
        self._offered = {
            target.name: Offered(target.name, target.deployment, rates[target.name] * 60, *capacities[target.name])
            for target in targets
        }
        for one in self._offered.values():
            say(f"{one}, {percent(options.share)} of {amount(one.capacity)} ({one.source})")
        return options.at_rates(rates)

    def arrivals(self, options: Options, mix: Mix, share: Share, targets: Sequence[Target]) -> Iterator[Arrival]:
        # Of like calls in every stretch, so that what differs is the service.
        even = EvenMix(options.mix, options.stream_share, f"{options.seed}-{share.number}")
        times = [poisson(options.rates[target.name], f"{options.seed}-{target.name}", share) for target in targets]
        # The number is there for times that are equal: targets have no order.
        ways = [zip(due, repeat(number)) for number, due in enumerate(times)]
        return (Arrival(due, (Call(even.draw(), targets[number]),)) for due, number in merge(*ways))

    def expected(self, options: Options, targets: Sequence[Target], users: int, seconds: float | None) -> Expected:
        sizes, known = mean_tokens(options.mix), _given(options, targets)
        if seconds is None:
            return Expected(None, None, *sizes)
        if not known:
            return Expected(None, options.max_rate * seconds, *sizes)
        calls = sum(_rates(options, known).values()) * seconds
        return Expected(calls, calls + 4 * sqrt(calls), *sizes)

    def traffic(self, options: Options, users: int) -> str:
        known = "--capacity" if options.capacity else f"the limits it states, up to {options.max_rate:g} calls a second"
        return f"to each target {percent(options.share)} of {known}"

    def findings(self) -> Findings:
        return Kept()

    def ended(self, options: Options, folder: Path, findings: Findings) -> Ending:
        assert isinstance(findings, Kept)
        soaked = Soaked(list(self._offered.values()), findings)
        found = {"share": options.share, **soaked.about()}
        return Ending({"soak": found}, list(soaked.lines()), soaked.verdict(folder))


def _rates(options: Options, capacities: Mapping[str, Capacity]) -> dict[str, float]:
    """Calls a second of this engine to each target. Raises `SettingsError`."""
    rates = {name: one.per_minute / 60 * options.share / options.engines for name, one in capacities.items()}
    if (total := sum(rates.values())) > options.max_rate:
        raise SettingsError(
            f"{percent(options.share)} of the capacity is {amount(total)} calls a second, above --max-rate"
            f" (HEADROOM_MAX_RATE), which is {options.max_rate:g}"
        )
    return rates


def _given(options: Options, targets: Sequence[Target]) -> dict[str, Capacity]:
    return given(options.capacity, options.mix, [target.name for target in targets])


def _stated(options: Options, checks: Sequence[ObservedCall]) -> dict[str, Capacity]:
    tokens = sum(mean_tokens(options.mix))
    rates = {check.target: stated_rate(check, tokens) for check in checks}
    return {name: Capacity(rate * 60, "the limits that it states") for name, rate in rates.items() if rate is not None}


listen(Soaking())


class SoakUser(AzureOpenAIUser):
    wait_time = constant(0)

    @task
    def soak(self) -> None:
        self.dispatch()
