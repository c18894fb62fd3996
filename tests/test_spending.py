"""Spending: what is said and asked before a run, caps that hold, and the runs that end themselves."""

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locustfiles._breaker import Breaker
from probe.prices import read_prices
from probe.prompts import numbered
from probe.record import ObservedCall, Outcome
from probe.spending import Caps, Ledger, Reservation, most_tokens, price_of
from probe.target import SettingsError, Target
from tests.commands import BIN, ROOT, environment, run
from tests.runs import ended, load_of, only_run, openai_shaped, results_in
from tests.simulators import AT_ONCE, Simulated, simulating
from tests.wire import answers, reply, serving

MADE_UP = Target(name="t", endpoint="http://127.0.0.1:1", deployment="gpt-4o", api_version="v1", api_key="made-up")


def target(**changes: Any) -> Target:
    return Target(**{name: getattr(MADE_UP, name) for name in MADE_UP.__struct_fields__} | changes)


def ledger(**caps: Any) -> Ledger:
    return Ledger(Caps(**caps), {"t": price_of(MADE_UP, read_prices())[0]})


attempts = st.lists(
    st.tuples(st.integers(8, 3000), st.integers(1, 3000), st.floats(0, 1), st.sampled_from([200, 429, None])),
    max_size=60,
)


@given(attempts, st.integers(1, 20_000), st.integers(1, 30), st.floats(0.001, 0.05), st.integers(1, 5))
def test_whatever_is_sent_and_however_it_ends_no_cap_is_exceeded(
    calls: list[tuple[int, int, float, int | None]], tokens: int, requests: int, cost: float, open_at_once: int
) -> None:
    kept = ledger(tokens=tokens, requests=requests, cost=cost)
    price = read_prices().price("gpt-4o")
    assert price is not None
    billed = paid = sent = 0.0
    waiting: list[tuple[Reservation, int, int, float, int | None]] = []
    for input_tokens, max_tokens, share, status in calls:
        reservation = kept.reserve(MADE_UP, numbered(1, input_tokens, max_tokens))
        if reservation is None:
            break
        waiting.append((reservation, input_tokens, max_tokens, share, status))
        sent += 1
        if len(waiting) >= open_at_once:
            one, used, most, part, ending = waiting.pop(0)
            output = int(most * part)
            if ending != 429:
                billed += used + output
                paid += price.cost(used, output)
            kept.settle(one, ending, used if ending == 200 else None, output if ending == 200 else None)
    # Those still open may be billed for all they asked for.
    billed += sum(used + most for _, used, most, _, _ in waiting)
    paid += sum(price.cost(used, most) for _, used, most, _, _ in waiting)
    assert billed <= kept.spent.tokens <= tokens
    assert sent == kept.spent.requests <= requests
    assert paid <= kept.spent.cost + 1e-12 and kept.spent.cost <= cost


@given(st.integers(0, 1000), st.integers(0, 10**9), st.floats(0, 1e6), st.integers(1, 20))
def test_the_parts_of_a_cap_are_together_no_more_than_it(requests: int, tokens: int, cost: float, of: int) -> None:
    parts = [Caps(requests, tokens, cost).part(number, of) for number in range(of)]
    assert sum(part.requests or 0 for part in parts) == requests
    assert sum(part.tokens or 0 for part in parts) == tokens
    assert sum(part.cost or 0 for part in parts) <= cost * (1 + 1e-9)


def test_the_most_a_call_can_come_to_counts_what_its_target_adds() -> None:
    prompt = numbered(1, 100, 50)
    assert most_tokens(MADE_UP, prompt) == (100, 50)
    assert most_tokens(target(surface="embeddings"), prompt) == (100, 0)
    assert most_tokens(target(extra_body={"max_completion_tokens": 4000, "n": 3}), prompt) == (100, 12_000)
    added = most_tokens(target(extra_body={"instructions": "x" * 1000}), prompt)
    assert added[0] >= 1100 and added[1] == 50
    with pytest.raises(SettingsError, match="no longest"):
        most_tokens(target(extra_body={"max_tokens": None}), prompt)


def ended_as(outcome: Outcome) -> ObservedCall:
    return ObservedCall(
        target="t",
        gateway="direct",
        server_address="127.0.0.1",
        server_port=1,
        start_time_unix_nano=1,
        operation="chat",
        request_model="d",
        request_stream=False,
        outcome=outcome,
        throttle_kind="tokens" if outcome == "throttled" else None,
        error_type=outcome,
        duration=1.0,
    )


def tripped(seconds: float, outcomes: list[tuple[float, Outcome]]) -> float | None:
    """When."""
    breaker = Breaker(seconds)
    return next((at for at, outcome in outcomes if breaker.trips(ended_as(outcome), at)), None)


def test_the_breaker_trips_after_its_time_of_half_the_calls_failing_and_not_of_throttling() -> None:
    half: list[tuple[float, Outcome]] = [(n / 2, "server_error" if n % 2 else "ok") for n in range(200)]
    third: list[tuple[float, Outcome]] = [(n / 2, "connect" if n % 3 == 0 else "ok") for n in range(200)]
    assert tripped(30, half) == pytest.approx(30, abs=1)
    assert tripped(30, third) is None
    assert tripped(30, [(n / 2, "throttled") for n in range(200)]) is None
    assert tripped(0, half) is None
    # A run that was well for an hour is judged by its last half minute.
    well: list[tuple[float, Outcome]] = [(float(n), "ok") for n in range(3600)]
    assert tripped(30, [*well, *((3600 + n, "timeout_total") for n in range(60))]) == pytest.approx(3615, abs=2)
    assert tripped(30, [(n * 60.0, "timeout_total") for n in range(20)]) == 540


SIMULATED = f"""
[resources.one]
region = "East US 2"
{AT_ONCE}
[resources.one.deployments.chat]
model = "gpt-4o-2024-08-06"
tokens_per_minute = 1000000000
requests_per_minute = 1000000
"""


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("simulator"), SIMULATED) as simulated:
        yield simulated


def against(simulated: Simulated, results: Path, **changes: str) -> dict[str, str]:
    chosen = simulated.target("one")
    return results_in(
        results,
        chosen.endpoint,
        AZURE_OPENAI_API_KEY=chosen.api_key or "",
        AZURE_OPENAI_DEPLOYMENT=chosen.deployment,
        **changes,
    )


def lines_of(simulated: Simulated) -> list[dict[str, Any]]:
    try:
        return simulated.ledger()
    except FileNotFoundError:
        return []


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["alone", "two workers"])
@pytest.mark.parametrize(
    "cap", [{"HEADROOM_MAX_TOKENS": "10000"}, {"HEADROOM_MAX_REQUESTS": "37"}], ids=["tokens", "requests"]
)
def test_a_hundred_users_never_exceed_a_cap_by_the_simulators_count(
    tmp_path: Path, simulator: Simulated, cap: dict[str, str], processes: tuple[str, ...]
) -> None:
    before = len(lines_of(simulator))
    done = run("locust", "--headless", "--users", "100", *processes, settings=against(simulator, tmp_path, **cap))
    lines = lines_of(simulator)[before:]
    tokens = sum(line.get("prompt_tokens", 0) + line.get("completion_tokens", 0) for line in lines)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    how = ended(tmp_path)
    assert how["how"] == "capped" and how["spent_tokens"] == tokens
    if "HEADROOM_MAX_TOKENS" in cap:
        assert 2500 < tokens <= 10_000
        assert how["why"] == "the cap --max-tokens 10,000 is reached"
    else:
        assert len(lines) == 37


def test_calls_that_were_due_after_the_cap_was_reached_are_on_record_as_not_sent(
    tmp_path: Path, simulator: Simulated
) -> None:
    changes = {"HEADROOM_MAX_REQUESTS": "21", "HEADROOM_RATE": "100"}
    done = run("locust", "--headless", "--run-time", "60s", settings=against(simulator, tmp_path, **changes))
    assert done.returncode == 8, done.stderr
    calls, how = load_of(tmp_path), ended(tmp_path)
    stopped = [call for call in calls if call.outcome == "budget_stop"]
    assert stopped and len(calls) - len(stopped) == 20 == how["sent"]
    assert how["scheduled"] == len(calls) and how["dropped"] == len(stopped)


def test_the_attempts_of_the_sdk_count_each(tmp_path: Path) -> None:
    refusal = reply(b'{"error":{"code":"429","message":"x"}}', "429 Too Many Requests", "retry-after-ms: 1")
    with serving(answers(lambda _: refusal)) as server:
        settings_ = results_in(tmp_path, server.url, HEADROOM_MAX_REQUESTS="20", HEADROOM_PAUSE="0")
        done = run("locust", "-f", "locustfiles/sdk_retries.py", "--headless", "--users", "2", settings=settings_)
        received = len(server.requests)
    assert received == 20 and done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_only_fails_is_given_up(tmp_path: Path) -> None:
    failing = iter([reply(b'{"choices":[{"finish_reason":"stop","message":{"content":"x"}}]}')])
    broken = reply(b"{}", "500 Internal Server Error", "apim-request-id: x")
    with serving(answers(lambda _: next(failing, broken))) as server:
        settings_ = results_in(tmp_path, server.url, HEADROOM_BREAKER="1", HEADROOM_PAUSE="0.1")
        done = run("locust", "--headless", "--run-time", "60s", "--processes", "2", settings=settings_)
    assert done.returncode == 9, done.stderr
    assert ended(tmp_path)["how"] == "stopped" and "were not answered" in str(ended(tmp_path)["why"])
    said, verdict = [line for line in done.stderr.splitlines() if "were not answered" in line]
    assert said != verdict and verdict.startswith("headroom: ended early: ")


def test_a_quota_of_a_day_ends_the_run_at_once(tmp_path: Path) -> None:
    used_up = reply(
        b'{"error":{"code":"429","message":"Please retry after 86400 seconds."}}',
        "429 Too Many Requests",
        "Retry-After: 86400",
    )
    good = iter([reply(b'{"choices":[{"finish_reason":"stop","message":{"content":"x"}}]}')])
    with serving(answers(lambda _: next(good, used_up))) as server:
        done = run("locust", "--headless", "--run-time", "60s", settings=results_in(tmp_path, server.url))
        assert len(server.requests) < 30
    assert done.returncode == 6 and "86,400 s" in done.stderr
    assert ended(tmp_path)["how"] == "stopped"


PLAN = {"HEADROOM_YES": "", "HEADROOM_PLAN": "always", "HEADROOM_MAX_COST": "0.5"}


def test_without_a_terminal_and_without_yes_nothing_is_sent(tmp_path: Path) -> None:
    with serving(answers(openai_shaped())) as server:
        done = run("locust", "--headless", settings=results_in(tmp_path, server.url, **PLAN))
        assert server.requests == []
    assert done.returncode == 2 and "--yes" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_plan_says_what_would_be_sent_and_what_it_may_cost(tmp_path: Path) -> None:
    changes = {**PLAN, "HEADROOM_PLAN": "only", "AZURE_OPENAI_DEPLOYMENT": "gpt-4o"}
    with serving(answers(openai_shaped())) as server:
        done = run("locust", "--headless", "--run-time", "10m", settings=results_in(tmp_path, server.url, **changes))
        assert server.requests == []
    assert done.returncode == 0
    for said in (
        server.url,
        "deployment gpt-4o",
        "12 users",
        "600 s",
        "at most $0.50",
        "2026-08-06",
        "--max-cost",
        str(tmp_path),
    ):
        assert said in done.stderr, said


def test_a_model_without_a_price_is_said_to_be_taken_for_the_dearest(tmp_path: Path) -> None:
    changes = {**PLAN, "HEADROOM_PLAN": "only", "AZURE_OPENAI_DEPLOYMENT": "ours"}
    done = run("locust", "--headless", settings=results_in(tmp_path, "http://127.0.0.1:1", **changes))
    assert "no price is known for ours" in done.stderr and "$180 out" in done.stderr


def test_a_run_without_an_end_is_refused_where_it_would_cost(tmp_path: Path) -> None:
    settings_ = results_in(tmp_path, "https://contoso.openai.azure.com", HEADROOM_YES="1")
    done = run("locust", "--headless", "--loglevel", "ERROR", settings=settings_)
    assert done.returncode == 2 and "needs an end" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("", 2)])
def test_on_a_terminal_it_asks_and_only_a_yes_sends(tmp_path: Path, answer: str, code: int) -> None:
    controller, terminal = pty.openpty()
    with serving(answers(openai_shaped())) as server:
        changes = results_in(tmp_path, server.url, HEADROOM_YES="", HEADROOM_PLAN="always", HEADROOM_MAX_REQUESTS="5")
        process = subprocess.Popen(
            [str(BIN / "locust"), "--headless", "--loglevel", "ERROR"],
            env=environment(changes),
            cwd=ROOT,
            stdin=terminal,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        os.close(terminal)
        os.write(controller, f"{answer}\n".encode())
        said = process.communicate(timeout=60)[1].decode()
        received = len(server.requests)
    os.close(controller)
    assert "Send? [y/N]" in said and process.returncode == code, said
    assert received == (5 if code == 0 else 0)
    if code == 0:
        assert json.loads((only_run(tmp_path) / "run.json").read_text())["options"]["caps"] == {"requests": 5}


def test_the_probe_says_what_its_calls_come_to_and_sends_nothing_unasked(tmp_path: Path) -> None:
    settings_ = results_in(tmp_path, "https://contoso.openai.azure.com", HEADROOM_YES="")
    done = run("probe", settings={**settings_, "AZURE_OPENAI_DEPLOYMENT": "gpt-4o"})
    assert done.returncode == 2 and done.stdout == ""
    assert "2 requests, at most 128 tokens and $0.0008" in done.stderr and "nothing was sent" in done.stderr
