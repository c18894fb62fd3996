import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from simulator.service.limits import Level, Limiter, RefillLimiter, WindowLimiter, debit

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
recorded = pytest.mark.skipif(not FIXTURES.exists(), reason="the recordings are not beside this checkout")
# A clock that has run for a year, for the roundings that its size brings.
YEAR = 31_536_000.0

traffic = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300)), max_size=60)
periods = st.sampled_from([60, 10, 1])
limiters = st.sampled_from([WindowLimiter, RefillLimiter])
both = pytest.mark.parametrize("kind", [WindowLimiter, RefillLimiter])


class Admitted(NamedTuple):
    at: float
    tokens: int


def admitted_by(limiter: Limiter, calls: Iterable[tuple[int, int]]) -> list[Admitted]:
    """Of calls that follow each other after so many tenths of a second."""
    tenths, passed = 0, []
    for gap, tokens in calls:
        tenths += gap
        if limiter.admit(tokens, YEAR + tenths / 10) is None:
            passed.append(Admitted(tenths / 10, tokens))
    return passed


def in_windows(admitted: list[Admitted], period: float) -> Iterable[list[Admitted]]:
    """Each opens with the first call admitted after the one before it closed."""
    window: list[Admitted] = []
    for call in admitted:
        if window and call.at - window[0].at > period - 1e-3:
            yield window
            window = []
        window.append(call)
    yield window


def levels(limiter: Limiter, now: float) -> tuple[Level, Level]:
    requests, tokens, _ = limiter.standing(now)
    assert requests is not None and tokens is not None
    return requests, tokens


@given(traffic, st.integers(1, 600), st.integers(1, 1000), periods)
@example([(0, 1), (590, 1), (10, 1)], 1, 1, 60)
def test_no_window_admits_more_than_its_limit_but_for_one_call_that_is_larger_itself(
    calls: list[tuple[int, int]], rpm: int, tpm: int, period: int
) -> None:
    admitted = admitted_by(WindowLimiter(rpm, tpm, period), calls)
    for window in in_windows(admitted, 60):
        assert sum(call.tokens for call in window) <= tpm or len(window) == 1
    for window in in_windows(admitted, period):
        assert len(window) <= max(1, rpm * period / 60)


@given(traffic, st.integers(1, 60), st.integers(1, 1000), periods, st.lists(st.integers(1, 10), max_size=60))
def test_no_span_admits_more_than_a_full_bucket_and_its_refill_under_any_reduction(
    calls: list[tuple[int, int]], rpm: int, tpm: int, period: int, tenths: list[int]
) -> None:
    limiter, now = RefillLimiter(rpm, tpm, period), 0.0
    # For each limit and every time a call has been admitted: what has come back since, at most, and been taken.
    spans: list[list[float]] = []
    share = 1.0
    for number, (gap, tokens) in enumerate(calls):
        now += gap / 10
        for span in spans:
            span[0] += gap / 10 * rpm * share / 60
            span[1] += gap / 10 * tpm * share / 60
        if number < len(tenths):
            share = tenths[number] / 10
            limiter.set_limits(rpm * share, tpm * share, now)
        if limiter.admit(tokens, now) is not None:
            continue
        spans.append([0.0, 0.0])
        for span in spans:
            span[0] -= 1
            span[1] -= tokens
            assert -span[0] <= max(rpm * share * period / 60, 1) + 1e-3
            assert -span[1] <= max(tpm * share, tokens) + 1e-3


@given(traffic, limiters, st.integers(1, 60), st.integers(1, 1000), periods, st.integers(1, 1200))
@example([(0, 1), (0, 1)], RefillLimiter, 1, 1, 60, 1)
def test_the_wait_it_names_is_enough_and_no_more_than_that(
    calls: list[tuple[int, int]],
    kind: Callable[[float, float, float], Limiter],
    rpm: int,
    tpm: int,
    period: int,
    tokens: int,
) -> None:
    limiter = kind(rpm, tpm, period)
    admitted_by(limiter, calls)
    now = YEAR + sum(gap for gap, _ in calls) / 10
    refused = limiter.admit(tokens, now)
    if refused is None:
        return
    if refused.wait > 1e-3:
        assert limiter.admit(tokens, now + refused.wait - 1e-4) is not None
    assert limiter.admit(tokens, now + refused.wait) is None


@given(traffic, limiters, st.integers(1, 20), st.integers(1, 500))
def test_a_refused_request_takes_nothing(
    calls: list[tuple[int, int]], kind: Callable[[float, float], Limiter], rpm: int, tpm: int
) -> None:
    limiter, now = kind(rpm, tpm), 0.0
    for gap, tokens in calls:
        now += gap / 10
        before = limiter.standing(now)
        if limiter.admit(tokens, now) is not None:
            assert limiter.standing(now) == before


@both
def test_each_limit_refuses_in_its_own_name(kind: Callable[[float, float], Limiter]) -> None:
    limiter = kind(2, 1000)
    assert limiter.admit(900, 0.0) is None
    refused = limiter.admit(200, 0.0)
    assert refused is not None and refused.limit == "tokens"
    assert limiter.admit(100, 0.0) is None
    refused = limiter.admit(1, 0.0)
    assert refused is not None and refused.limit == "requests"


@both
def test_a_request_larger_than_the_limit_overdraws_it_when_nothing_is_used(
    kind: Callable[[float, float], Limiter],
) -> None:
    limiter = kind(10, 100)
    assert limiter.admit(250, 0.0) is None
    assert levels(limiter, 0.0)[1].remaining == -150
    assert limiter.admit(1, 30.0) is not None


@both
def test_a_reduction_shows_as_a_lower_limit_and_what_was_used_remains_used(
    kind: Callable[[float, float], Limiter],
) -> None:
    limiter = kind(100, 1000)
    limiter.admit(600, 0.0)
    limiter.set_limits(50, 500, 0.0)
    assert levels(limiter, 0.0)[1][:2] == (500, -100)
    assert limiter.admit(1, 0.0) is not None
    limiter.set_limits(100, 1000, 0.0)
    assert levels(limiter, 0.0)[1][:2] == (1000, 400)


def test_what_came_back_before_a_reduction_came_back_at_the_old_rate() -> None:
    limiter = RefillLimiter(100, 1000)
    limiter.admit(600, 0.0)
    limiter.set_limits(50, 500, 30.0)
    assert levels(limiter, 30.0)[1].remaining == pytest.approx(400)
    assert levels(limiter, 36.0)[1].remaining == pytest.approx(450)


@both
def test_a_limit_of_nothing_is_refused(kind: Callable[[float, float], Limiter]) -> None:
    with pytest.raises(ValueError, match="a limit of 0 a minute"):
        kind(10, 0)


@pytest.mark.parametrize(
    ("rpm", "charge", "requests_reset", "tokens_reset"), [(120, 14, 0.5, 0.007), (50, 7, 1.2, 0.0035)]
)
def test_reset_is_what_was_used_times_the_period_over_the_limit(
    rpm: int, charge: int, requests_reset: float, tokens_reset: float
) -> None:
    limiter = RefillLimiter(rpm, 120_000)
    limiter.admit(charge, YEAR)
    requests, tokens = levels(limiter, YEAR)
    assert (requests.reset, tokens.reset) == pytest.approx((requests_reset, tokens_reset))


@pytest.mark.parametrize("apart", [1.0, 2.0, 3.0])
def test_two_calls_seconds_apart_both_find_the_bucket_full(apart: float) -> None:
    limiter = RefillLimiter(120, 120_000)
    for now in (YEAR, YEAR + apart):
        limiter.admit(14, now)
        requests, tokens = levels(limiter, now)
        assert (requests.remaining, tokens.remaining) == (119, 119_986)


def test_the_recorded_window_of_o1_runs_down_without_refill_across_the_clocks_minute() -> None:
    # 28 November 2025: seconds since the first call at 23:46:16, and what was left.
    seen = [(3, 4998, 29_999_876), (35, 4995, 29_999_719), (35, 4994, 29_999_715)]
    seen += [(49, 4990, 29_999_418), (50, 4989, 29_999_393)]
    limiter = WindowLimiter(5000, 30_000_000)
    limiter.admit(3, 0.0)
    for at, requests_left, tokens_left in seen:
        requests, tokens = levels(limiter, at)
        for _ in range(int(requests.remaining) - requests_left - 1):
            limiter.admit(0, at)
        limiter.admit(tokens.remaining - tokens_left, at)
        requests, tokens = levels(limiter, at)
        assert (requests.remaining, tokens.remaining) == (requests_left, tokens_left)
    assert levels(limiter, 59.9)[0].remaining == 4989
    assert levels(limiter, 60.0)[0] == (5000, 5000, 60, 0)


def test_requests_and_tokens_have_windows_of_their_own_as_recorded_on_a_small_deployment() -> None:
    # 1,000 tokens and 6 requests a minute, kept over 10 s; calls at 05:29:11 and 05:29:22 on 13 November 2024.
    limiter = WindowLimiter(6, 1000, 10)
    assert limiter.admit(6, 11.0) is None
    assert [level.remaining for level in levels(limiter, 11.0)] == [0, 994]
    assert limiter.admit(6, 20.0) == ("requests", 1.0)
    assert limiter.admit(6, 22.0) is None
    assert [level.remaining for level in levels(limiter, 22.0)] == [0, 988]


def test_a_window_opens_with_the_first_call_after_the_last_one_closed() -> None:
    limiter = WindowLimiter(1, 1000)
    assert limiter.admit(1, 30.0) is None
    assert limiter.admit(1, 89.9) is not None
    assert limiter.admit(1, 100.0) is None
    assert limiter.admit(1, 159.9) is not None
    assert limiter.admit(1, 160.0) is None


def test_the_roundings_of_a_young_clock_do_not_make_a_window_wait_longer() -> None:
    limiter = WindowLimiter(1, 1000)
    limiter.admit(1, 0.1)
    refused = limiter.admit(1, 8.3)
    assert refused is not None and 8.3 + refused.wait < 0.1 + 60
    assert limiter.admit(1, 8.3 + refused.wait) is None


@pytest.mark.parametrize("period", [10, 1])
@both
def test_a_limit_kept_over_a_short_period_is_its_share_of_the_minute(
    kind: Callable[[float, float, float], Limiter], period: int
) -> None:
    # gpt-4o's 30,000,000 tokens a minute come with 180,000 requests, and its headers said 30,000.
    requests, tokens = levels(kind(180_000, 30_000_000, period), 0.0)
    assert requests == (3_000 * period, 3_000 * period, period, 0)
    assert tokens == (30_000_000, 30_000_000, 60, 0)


def test_each_text_of_a_chat_is_charged_a_quarter_of_its_characters_and_one() -> None:
    parts = [{"type": "text", "text": "1234"}, {"type": "text", "text": ""}, {"type": "image_url", "image_url": {}}]
    contents = ["12345678", "", None, [], parts]
    body = {"messages": [{"content": content} for content in contents], "max_tokens": 1000}
    assert debit("characters", body) == 3 + 1 + 0 + 0 + (2 + 1)


def test_tools_and_the_answers_format_are_charged_as_compact_json() -> None:
    body: dict[str, Any] = {"messages": [{"content": "1234"}], "response_format": {"type": "json_object"}}
    # As recorded: 22 characters.
    assert debit("characters", body) == 2 + 6
    body["tools"] = [{"type": "function"}]
    assert debit("characters", body) == 2 + 6 + 6


@pytest.mark.parametrize(("asked", "charged"), [({"max_tokens": 100}, 117), ({}, 657), ({"tools": [{}]}, 657)])
def test_gpt_4o_in_2024_was_charged_its_prompt_and_its_max_tokens_as_recorded(
    asked: Mapping[str, Any], charged: int
) -> None:
    assert debit("both", {"messages": [{"content": "x" * 67}], **asked}) == charged


@pytest.mark.parametrize(("asked", "charged"), [({}, 16), ({"max_tokens": 1}, 1), ({"max_completion_tokens": 50}, 50)])
def test_older_models_were_charged_their_max_tokens_or_16(asked: Mapping[str, Any], charged: int) -> None:
    assert debit("max_tokens", {"messages": [{"content": "x" * 67}], **asked}) == charged


@pytest.mark.parametrize(("characters", "charged"), [(24, 6), (31, 7), (39, 9), (43, 10)])
def test_a_response_is_charged_a_quarter_of_its_input_as_recorded_however_it_is_given(
    characters: int, charged: int
) -> None:
    text = "x" * characters
    message = {"role": "user", "content": text}
    parts = {"role": "user", "content": [{"type": "input_text", "text": text[:5]}, {"text": text[5:]}]}
    for given_as in (text, [message], [parts]):
        assert debit("responses", {"input": given_as, "tools": [{"type": "function"}]}) == charged


def test_a_responses_calls_and_their_results_are_input_too_as_recorded() -> None:
    turns = [{"content": "x" * 43}, {"name": "weather", "arguments": "x" * 17}, {"output": "x" * 44}]
    assert debit("responses", {"input": turns}) == 26


@pytest.mark.parametrize(
    ("given_as", "charged"), [("x" * 34, 9), ("x" * 21, 6), (["x" * 34, "x"], 10), ([1, 2], 2), ([[1, 2], [3]], 3)]
)
def test_embeddings_are_charged_for_each_text(given_as: object, charged: int) -> None:
    assert debit("embeddings", {"input": given_as}) == charged


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FIXTURES / name).read_text().splitlines()]


def body_of(row: Mapping[str, Any]) -> dict[str, Any]:
    lengths = row["message_char_lengths"]
    messages = [{"content": None if length is None else "x" * length} for length in lengths]
    return {"messages": messages, row["param"]: row["max_tokens_requested"]}


@recorded
def test_every_recorded_chat_was_charged_by_its_models_rule() -> None:
    rows = json.loads((FIXTURES / "remaining_tokens_debits.json").read_text())["rows"]
    foundry = [row for row in rows if row["model"].startswith(("deepseek", "mai"))]
    plain = [row for row in rows if row not in foundry and not row["has_tools"]]
    assert len(foundry) > 15 and len(plain) > 40
    assert [debit("max_tokens", body_of(row)) for row in foundry] == [row["observed_debit"] for row in foundry]
    assert [debit("characters", body_of(row)) for row in plain] == [row["observed_debit"] for row in plain]


@recorded
def test_every_recorded_chat_with_tools_was_charged_by_the_rule_for_its_whole_body() -> None:
    rows = json.loads((FIXTURES / "remaining_tokens_debits.json").read_text())["rows"]
    bodies = {case["source"].partition("/azure/")[2]: case["request"] for case in lines("token_cases.jsonl")}
    kept = [(row, bodies.get(f"{row['model']}/{row['fixture']}#0")) for row in rows if row["has_tools"]]
    charged = [(debit("characters", body), row["observed_debit"]) for row, body in kept if body is not None]
    assert len(charged) >= 4
    assert all(ours == theirs for ours, theirs in charged)


@recorded
def test_what_was_left_between_two_calls_of_one_recording_fell_by_the_charge_of_the_second() -> None:
    recordings: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for case in lines("token_cases.jsonl"):
        cassette, _, number = case["source"].partition("#")
        if "azure" in cassette and case["endpoint"] == "chat" and "apim-request-id" in case["headers"]:
            recordings[cassette].append((int(number), case))
    compared = 0
    for cases in recordings.values():
        ordered = [case for _, case in sorted(cases, key=lambda pair: pair[0])]
        for before, after in pairwise(ordered):
            drop = [fell(before, after, kind) for kind in ("requests", "tokens")]
            if drop[0] == 1 and seconds_between(before, after) < 60:
                compared += 1
                assert debit("characters", after["request"]) == drop[1], after["source"]
    assert compared > 5


def fell(before: Mapping[str, Any], after: Mapping[str, Any], kind: str) -> int | None:
    left = [case["headers"].get(f"x-ratelimit-remaining-{kind}") for case in (before, after)]
    return None if None in left else int(left[0]) - int(left[1])


def seconds_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    times = [parsedate_to_datetime(case["headers"]["date"]).timestamp() for case in (before, after)]
    return times[1] - times[0]
