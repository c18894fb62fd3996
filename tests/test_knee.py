"""The knee and the burst: the search on simulated time against the simulator's limiters, and the commands as run."""

import heapq
import json
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.verify import verify
from locustfiles._arrivals import Pace, Share
from locustfiles._burst import Burst, Plan
from locustfiles._knee import Search, Seen, Sent, Settings, in_each, with_refusals
from locustfiles._plan import mean_tokens
from locustfiles._slo import read_objectives
from probe.prompts import CONVERSATION, Ask, EvenMix, Mix
from probe.record import ObservedCall
from simulator.service.limits import RefillLimiter, Refusal, WindowLimiter
from simulator.service.provisioned import Charge, ProvisionedLimiter, provisioned_model
from tests.commands import run, settings_of
from tests.runs import Start, ended, load_of, only_run, openai_shaped, results_in, short_calls
from tests.simulators import Simulated, simulating
from tests.wire import answers, serving

PTU, GPT_4O = provisioned_model("gpt-4.1-mini"), provisioned_model("gpt-4o")
INPUT, OUTPUT = mean_tokens(CONVERSATION)
# What the service does with a call: lets it in, or refuses it.
Admit = Callable[[Ask, float], bool]


class Service:
    """A limiter, and calls that take a time to their answer that depends on the rate."""

    def __init__(self, limiter: Any, first_token: Callable[[float], float] = lambda rate: 0.4) -> None:
        self.limiter = limiter
        self.first_token = first_token
        self._settle: list[tuple[float, int, Charge, int]] = []
        self._numbers = count()

    def admit(self, ask: Ask, now: float) -> bool:
        if not isinstance(self.limiter, ProvisionedLimiter):
            return self.limiter is None or self.limiter.admit(ask.prompt.input_tokens - 2, now) is None
        while self._settle and self._settle[0][0] <= now:
            at, _, settled, used = heapq.heappop(self._settle)
            self.limiter.settle(settled, used, at)
        charge: Charge | Refusal = self.limiter.admit(ask.prompt.input_tokens, 0, ask.prompt.max_tokens, now)
        if isinstance(charge, Refusal):
            return False
        heapq.heappush(self._settle, (now + 3, next(self._numbers), charge, ask.prompt.max_tokens // 2))
        return True


def searched(service: Service, *, slo: str = "", seed: int = 1, processes: int = 1, most: float = 50) -> Search:
    """To the search's end, on a clock of its own. Refused calls are offered again first, as `_steps` does."""
    search = Search(Settings(with_refusals(read_objectives(slo)), 1.0, most, INPUT, OUTPUT), 0.0)
    mixes = [EvenMix(CONVERSATION, 0.7, f"{seed}-{number}") for number in range(processes)]
    paces = [Pace(Share(number, processes)) for number in range(processes)]
    again: list[list[Ask]] = [[] for _ in mixes]
    coming: list[tuple[float, float, Seen]] = []
    now = 0.0
    while (rate := search.rate(now)) is not None:
        for pace in paces:
            pace.set(rate, now)
        while min(pace.due for pace in paces) <= now + 0.1:
            turn = min(range(processes), key=lambda number: paces[number].due)
            due = paces[turn].take()
            ask = again[turn].pop(0) if again[turn] else mixes[turn].draw()
            search.take([Sent(due, 0.0, ask.prompt.input_tokens, ask.prompt.max_tokens)], [])
            if service.admit(ask, due):
                ttft = service.first_token(rate)
                tokens = ask.prompt.input_tokens + ask.prompt.max_tokens
                seen = Seen(due, tokens=tokens, ttft=ttft, duration=ttft + 2)
                heapq.heappush(coming, (due + ttft + 2, due, seen))
            else:
                again[turn].append(ask)
                heapq.heappush(coming, (due + 0.05, due, Seen(due, refused=True)))
        now += 0.1
        while coming and coming[0][0] <= now:
            search.take([], [heapq.heappop(coming)[2]])
    assert now < 300, "five minutes"
    return search


def capacity(kind: str) -> tuple[Any, float]:
    """A limiter, and the calls of the mix a minute that it takes."""
    if kind == "window":
        return WindowLimiter(1e9, 300_000), 300_000 / (INPUT - 2)
    if kind == "refill":
        return RefillLimiter(1e9, 300_000), 300_000 / (INPUT - 2)
    if kind == "requests":
        return WindowLimiter(240, 1e9, 10), 240
    return ProvisionedLimiter(PTU, 25), 25 * PTU.input_tpm_per_ptu / (INPUT + PTU.output_weight * OUTPUT / 2)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", ["window", "refill", "requests", "provisioned"])
def test_the_capacity_of_every_limiter_is_found_within_3_percent_in_5_minutes(kind: str, processes: int) -> None:
    limiter, true = capacity(kind)
    found = searched(Service(limiter), processes=processes)
    assert found.capacity is not None and found.capacity.low is not None and found.capacity.high is not None
    assert found.capacity.value == pytest.approx(true, rel=0.03)
    assert found.capacity.low * 0.99 <= true <= found.capacity.high * 1.01
    assert (found.broke_by, found.limited_by, found.held) == ("throttled<1%", None, found.capacity)


def test_a_time_to_first_token_that_breaks_is_narrowed_down_to_5_percent() -> None:
    found = searched(Service(None, lambda rate: 0.4 if rate < 7.3 else 2.0), slo="ttft_p95<1s")
    assert found.broke_by == "ttft_p95<1s" and found.capacity is None and found.held is not None
    low, high = found.held.low, found.held.high
    assert low is not None and high is not None
    assert low <= 7.3 * 60 <= high < 1.06 * low
    assert [step.kind for step in found.steps if step.kind != "raise"][-2:] == ["narrow", "confirm"] and found.confirmed


def test_a_time_that_holds_only_on_what_a_bucket_lends_is_not_confirmed() -> None:
    """A full bucket bears seven calls a second for over a minute, and four for good."""
    found = searched(Service(RefillLimiter(240, 1e9), lambda rate: 0.4 if rate < 7.3 else 2.0), slo="ttft_p95<1s")
    assert found.broke_by == "throttled<1%" and not found.confirmed
    assert found.held is not None and found.held.value < 7.3 * 60


def test_where_nothing_breaks_no_more_is_claimed_than_a_bucket_could_not_have_lent() -> None:
    found = searched(Service(None), most=10)
    assert (found.broke_by, found.limited_by) == (None, "max-rate")
    assert found.held is not None and found.held.high is None and 300 < found.held.value < 600


@pytest.mark.parametrize("late", [0.0, 2.0])
def test_a_generator_that_cannot_keep_up_is_no_knee(late: float) -> None:
    """It sends less than it should, or everything late."""
    search = Search(Settings(with_refusals(()), 4.0, 50.0, INPUT, OUTPUT), 0.0)
    now, due = 0.0, 0.0
    while (rate := search.rate(now)) is not None:
        while due <= now:
            search.take([Sent(due, late)], [Seen(due, tokens=10)])
            due += 1 / (rate if late else min(rate, 10.0))
        now += 0.1
    assert search.limited_by == "generator" and search.broke_by is None


@pytest.mark.parametrize(
    ("rate", "offered"),
    [
        (12.0, (8.0, "--step-seconds")),
        (0.1, (pytest.approx(30.0), "for 3 calls")),
        (0.01, (60.0, "--window")),
        (50.0, (120.0, "two of --window: no rate is higher")),
    ],
)
def test_how_long_the_first_rate_takes_is_known_with_its_reason(rate: float, offered: tuple[float, str]) -> None:
    assert Settings(with_refusals(()), rate, 50.0, INPUT, OUTPUT).to_offer(rate) == offered


def test_what_was_found_before_an_end_that_was_not_its_own_can_be_told() -> None:
    search = Search(Settings(with_refusals(()), 4.0, 50.0, INPUT, OUTPUT), 0.0)
    assert search.rate(0.0) == 4.0
    assert search.about() == {"broke_by": None, "confirmed": False, "steps": []}


@given(
    st.lists(st.floats(0, 50), max_size=40),
    st.floats(1, 10),
)
@settings(max_examples=50)
def test_sums_of_sliding_windows_are_those_counted_one_by_one(times: list[float], window: float) -> None:
    times.sort()
    amounts = [float(number + 1) for number in range(len(times))]
    found = list(in_each(times, amounts, 0.0, 50.0, window))
    for number, total in enumerate(found):
        begin = number / 10
        inside = [amount for at, amount in zip(times, amounts, strict=True) if begin <= at < begin + window]
        assert total == pytest.approx(sum(inside))


@given(st.lists(st.tuples(st.floats(0.1, 20), st.floats(0.2, 5)), min_size=1, max_size=6), st.integers(1, 4))
@settings(max_examples=30)
def test_processes_together_keep_to_a_rate_that_changes(spells: list[tuple[float, float]], processes: int) -> None:
    paces = [Pace(Share(number, processes)) for number in range(processes)]
    now, sent, wanted = 0.0, 0, 0.0
    for rate, seconds in spells:
        for pace in paces:
            pace.set(rate, now)
        now, wanted = now + seconds, wanted + rate * seconds
        for pace in paces:
            while pace.due <= now:
                pace.take()
                sent += 1
    assert abs(sent - wanted) <= processes


def off(kind: type[Mix], average: float, tokens_of: Callable[[Ask], int]) -> float:
    """By what share 200 calls of a mix are off its average, themselves on average."""
    mixes = [kind(CONVERSATION, 0.7, seed) for seed in range(30)]
    means = [sum(tokens_of(mix.draw()) for _ in range(200)) / 200 for mix in mixes]
    return sum(abs(mean / average - 1) for mean in means) / len(means)


def test_calls_of_an_even_mix_are_together_much_nearer_to_its_average_than_drawn_ones() -> None:
    for average, tokens_of in (
        (INPUT, lambda ask: ask.prompt.input_tokens),
        (OUTPUT, lambda ask: ask.prompt.max_tokens),
    ):
        assert off(EvenMix, average, tokens_of) < 0.5 * off(Mix, average, tokens_of)


def test_a_call_that_is_offered_again_is_of_the_same_size_with_words_of_its_own() -> None:
    mix = EvenMix(CONVERSATION, 0.7, 1)
    asks = [mix.draw() for _ in range(200)]
    assert sum(ask.stream for ask in asks) == pytest.approx(140, abs=5)
    again = mix.again(asks[0])
    assert again.prompt.id != asks[0].prompt.id
    assert (again.prompt.input_tokens, again.prompt.max_tokens) == (
        asks[0].prompt.input_tokens,
        asks[0].prompt.max_tokens,
    )


def test_a_burst_has_its_phases_and_sends_no_more_than_it_says() -> None:
    plan = Plan(quota=None, window=60.0, max_rate=50.0)
    burst = Burst(plan, 0.0)
    news: list[str] = []
    now, sent = 0.0, 0.0
    while (rate := burst.rate(now)) is not None:
        sent += rate * 0.1
        news += burst.news()
        now += 0.1
    assert sent <= plan.most_calls and now < 295
    phases = [line.split("s  ")[1].partition(";")[0] for line in news]
    assert phases[:5] == ["idle", "lone calls", "burst", "recovering", "second burst"]


SHORT = """
[resources.std]
region = "East US 2"
[resources.std.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
tokens_per_minute = 54000
requests_per_minute = 60000
token_period = 2
[resources.std.latency]
between_tokens = { median = 0.001 }
"""
KNEE = ("locust", "-f", "locustfiles/knee.py", "--headless", "--window", "2", "--step-seconds", "0.5")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    """A deployment whose minute is two seconds, and takes some 10 calls a second."""
    with simulating(tmp_path_factory.mktemp("short"), SHORT) as running:
        yield running


def settings_for(simulated: Simulated, folder: Path, **changes: str) -> dict[str, str]:
    target = simulated.target("std")
    return {
        **settings_of(target.endpoint),
        "AZURE_OPENAI_API_KEY": target.api_key or "",
        "HEADROOM_RESULTS": str(folder / "results"),
        "HEADROOM_MIX": short_calls(folder),
        **changes,
    }


def test_a_knee_is_found_by_two_processes_and_is_in_the_record(short: Simulated, tmp_path: Path) -> None:
    # A breaker that trips at once, were wanted refusals failures.
    settings = settings_for(short, tmp_path, HEADROOM_BREAKER="1", HEADROOM_RATE="12")
    done = run(*KNEE, "--processes", "2", settings=settings)
    assert done.returncode == 0, done.stderr
    found: Any = ended(tmp_path / "results")["knee"]
    (knee,) = found
    input_tokens = sum(call.input_tokens or 0 for call in load_of(tmp_path / "results"))
    answered = sum(call.input_tokens is not None for call in load_of(tmp_path / "results"))
    true = 54_000 / (input_tokens / answered - 2)
    assert knee["capacity"]["requests_per_minute"]["value"] == pytest.approx(true, rel=0.15)
    assert knee["target"] and knee["deployment"] == "chat" and knee["broke_by"] == "throttled<1%"
    assert {"offered_rpm", "sent", "throttled_share", "tokens_per_minute", "held"} <= knee["steps"][-1].keys()
    assert len({call.worker_id for call in load_of(tmp_path / "results")}) == 2
    assert "calls a minute" in done.stderr and "broke throttled<1%" in done.stderr
    assert verify(only_run(tmp_path / "results")).adds_up


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["standard", "provisioned"])
def test_with_windows_of_a_minute_the_capacity_is_found_within_3_percent_in_5_minutes(
    kind: str, tmp_path: Path
) -> None:
    limits, model = SHORT.index("tokens_per_minute"), "gpt-4.1-mini-2025-04-14"
    deployment = SHORT[:limits] + "tokens_per_minute = 120000\nrequests_per_minute = 60000\n"
    if kind == "provisioned":
        deployment = SHORT[:limits].replace(model, "gpt-4o-2024-08-06") + "ptu = 50\n"
    with simulating(tmp_path, deployment + SHORT[SHORT.index("[resources.std.latency]") :]) as simulated:
        done = run(*KNEE[:4], settings=settings_for(simulated, tmp_path), timeout=400)
    assert done.returncode == 0, done.stderr
    found: Any = ended(tmp_path / "results")["knee"]
    (knee,) = found
    calls = load_of(tmp_path / "results")
    assert max(call.issued or 0 for call in calls) < 300
    answered = [call for call in calls if call.input_tokens is not None]
    cost = sum(charged(kind, call) for call in answered) / len(answered)
    true = (50 * GPT_4O.input_tpm_per_ptu if kind == "provisioned" else 120_000) / cost
    assert knee["capacity"]["requests_per_minute"]["value"] == pytest.approx(true, rel=0.03)
    assert knee["broke_by"] == "throttled<1%"


def charged(kind: str, call: ObservedCall) -> float:
    """What the limiter takes for it."""
    tokens = call.input_tokens or 0
    if kind == "standard":
        return tokens - 2
    return tokens - (call.cached_tokens or 0) + GPT_4O.output_weight * (call.output_tokens or 0)


def test_a_knee_that_is_stopped_says_what_it_has_found_so_far(short: Simulated, tmp_path: Path, start: Start) -> None:
    process = start(*KNEE, "--step-seconds", "30", settings=settings_for(short, tmp_path, HEADROOM_RATE="5"))
    deadline = time.monotonic() + 30
    while not list((tmp_path / "results").glob("*/calls-*.jsonl")) or len(load_of(tmp_path / "results")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "first window: about 150 calls at 5 a second, 30 s (--step-seconds);" in said
    assert "no rate was found that held" in said
    assert json.loads((only_run(tmp_path / "results") / "run.json").read_text())["ended"]["knee"][0]["steps"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rate", "60"), "--rate, the first that is offered, is 60, above --max-rate"),
        (("--trace", "x.csv"), "--trace says when calls are due, and knee.py decides that itself"),
        (("--engines", "2"), "knee.py decides in one place"),
        (("--window", "0"), "--window (HEADROOM_WINDOW) is '0'"),
        (("--slo", "ttft<1s"), "takes a statistic"),
    ],
)
def test_what_cannot_be_a_knee_is_said_in_one_line(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    settings = results_in(tmp_path, "http://127.0.0.1:9")
    done = run("locust", "-f", "locustfiles/knee.py", "--headless", *arguments, settings=settings)
    lines = [line for line in done.stderr.splitlines() if line.startswith("headroom:")]
    assert done.returncode == 2 and len(lines) == 1 and says in lines[0]


@pytest.mark.parametrize(("scenario", "most"), [("knee", "at most 14,750 calls"), ("burst", "at most 2,584 calls")])
def test_what_it_may_come_to_at_most_is_said_before_it_is_sent(scenario: str, most: str, tmp_path: Path) -> None:
    with serving(answers(openai_shaped())) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_PLAN="only")
        done = run("locust", "-f", f"locustfiles/{scenario}.py", "--headless", settings=settings)
        assert server.requests == []
    assert done.returncode == 0 and most in done.stderr and "at most $" in done.stderr
