"""Objectives of a run: the language, what they are judged on, and what a run says of them."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locustfiles._slo import Values, read_objectives
from probe.target import SettingsError
from tests.commands import run
from tests.runs import ended, load_of, only_run, openai_shaped, results_in
from tests.test_render import a_call
from tests.wire import answers, serving


def values(*calls: Mapping[str, object]) -> Values:
    taken = Values()
    for call in calls:
        taken.take(a_call(**call))
    return taken


THROTTLED: dict[str, object] = {
    "outcome": "throttled",
    "throttle_kind": "rate_tokens",
    "error_type": "429",
    "status_code": 429,
    "duration": 0.1,
}
NOT_SENT: dict[str, object] = {
    "outcome": "dropped_not_sent",
    "error_type": "dropped_not_sent",
    "status_code": None,
    "duration": None,
}


def judged(text: str, taken: Values, known: bool = True) -> list[tuple[bool, float | None, int]]:
    return [(one.held, one.value, one.n) for one in taken.judge(read_objectives(text), known)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ttft_p95", "not METRIC<LIMIT"),
        ("ttft_p95>1s", "not METRIC<LIMIT"),
        ("latency_p95<1s", "there is no 'latency'; there are: ttft, duration, throttled, failed, dropped"),
        ("ttft<1s", "takes a statistic, as in ttft_p95"),
        ("throttled_p95<1%", "takes no statistic"),
        ("ttft_p95<1", "in s or ms, not nothing"),
        ("ttft_p95<1m", "in s or ms, not m"),
        ("throttled<1", "in %, not nothing"),
        ("throttled<1%; ttft_p95<5%", "'ttft_p95<5%'"),
    ],
)
def test_what_is_no_objective_is_said_in_one_line(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match="--slo") as refused:
        read_objectives(text)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_quantiles_are_of_every_value_to_half_a_thousandth_and_mean_and_maximum_exact() -> None:
    taken = values(*({"duration": number / 10} for number in range(11)))
    found = judged("duration_p95<949ms; duration_p95<=0.951s; duration_mean<0.6s; duration_max<1s", taken)
    assert found == [
        (False, pytest.approx(0.95, rel=5e-4), 11),
        (True, pytest.approx(0.95, rel=5e-4), 11),
        (True, pytest.approx(0.5), 11),
        (False, 1.0, 11),
    ]


def test_shares_are_of_what_was_sent_or_due_and_cancelled_calls_say_nothing() -> None:
    cancelled = {"outcome": "cancelled_user", "error_type": "cancelled", "duration": 9.0}
    failed = {"outcome": "server_error", "error_type": "500", "status_code": 500}
    taken = values({}, {}, THROTTLED, failed, NOT_SENT, cancelled)
    assert judged("throttled<25%; failed<=25%; dropped<20.1%; duration_max<8s", taken)[:3] == [
        (False, 0.25, 4),
        (True, 0.25, 4),
        (True, 0.2, 5),
    ]
    assert judged("duration_max<8s", taken)[0][2] == 2


def test_what_was_not_observed_has_not_held_and_nor_has_what_may_be_late() -> None:
    assert judged("ttft_p50<9s", values({})) == [(False, None, 0)]
    first = values({"request_stream": True, "time_to_first_token": 0.1})
    assert judged("ttft_p50<9s", first) == [(True, 0.1, 1)]
    assert judged("ttft_p50<9s", first, known=False) == [(False, None, 1)]


@given(st.lists(st.floats(0, 100), min_size=1), st.integers(0, 50))
def test_it_makes_no_difference_in_which_process_a_call_was_made(times: list[float], cut: int) -> None:
    calls: list[dict[str, object]] = [{"duration": one} for one in times]
    one, other = values(*calls[:cut]), values(*calls[cut:])
    one.add(other)
    asked = "duration_p90<50s; duration_max<50s; throttled<1%"
    assert judged(asked, one) == judged(asked, values(*calls))


def test_an_unknown_metric_ends_in_one_line_before_the_run(tmp_path: Path) -> None:
    with serving(answers(openai_shaped())) as server:
        done = run("locust", "--headless", "--slo", "p95<1s", settings=results_in(tmp_path, server.url))
        assert done.returncode == 2 and not server.requests and "not METRIC<LIMIT" in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("*/run.json"))


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["alone", "two workers"])
def test_a_run_says_its_objectives_first_and_ends_with_7_where_one_has_not_held(
    tmp_path: Path, processes: tuple[str, ...]
) -> None:
    with serving(answers(openai_shaped(refuse_every=5))) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_RATE="40", HEADROOM_SLO="duration_max<20s;throttled<1%")
        done = run("locust", "--headless", "-t", "2s", "-u", "2", *processes, settings=settings)
    assert done.returncode == 7, done.stderr
    calls = load_of(tmp_path)
    throttled = sum(call.outcome == "throttled" for call in calls) / len(calls)
    held, missed = json.loads((only_run(tmp_path) / "run.json").read_text())["ended"]["slo"]
    assert held["held"] and held["value"] == max(call.duration or 0 for call in calls if call.outcome == "ok")
    assert missed == {"objective": "throttled<1%", "held": False, "n": len(calls), "value": throttled}
    assert done.stderr.index("duration_max<20s: held") < done.stderr.index("calls were due")
    assert f"throttled<1%: NOT held; {throttled:.2%} of {len(calls)} calls" in done.stderr


def test_objectives_given_as_flags_that_hold_leave_the_exit_code_alone(tmp_path: Path) -> None:
    with serving(answers(openai_shaped(seconds=0.05))) as server:
        flags = ("--slo", "duration_p99<20s", "--slo", "failed<=0%")
        done = run("locust", "--headless", "-t", "1s", *flags, settings=results_in(tmp_path, server.url))
    assert done.returncode == 0, done.stderr
    assert [one["held"] for one in ended(tmp_path)["slo"]] == [True, True]  # type: ignore[attr-defined]


def test_a_cap_that_ends_a_run_as_planned_does_not_hide_an_objective_that_has_not_held(tmp_path: Path) -> None:
    with serving(answers(openai_shaped())) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_MAX_REQUESTS="20")
        done = run("locust", "--headless", "--slo", "duration_p50<=0ms", settings=settings)
    assert done.returncode == 7 and ended(tmp_path)["how"] == "capped"
