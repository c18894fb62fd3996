import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.limits import PERIOD, Bucket, Limiter, debit

DEBITS = Path(__file__).parents[2] / "shared" / "fixtures" / "remaining_tokens_debits.json"

requests = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 300)), max_size=60)


@given(requests, st.integers(1, 1000), st.integers(1, 50))
def test_no_window_ever_admits_more_than_the_bucket_and_its_refill(
    traffic: list[tuple[float, int]], tpm: int, rpm: int
) -> None:
    limiter, now, admitted = Limiter(rpm, tpm, 0.0), 0.0, [(0.0, 0)]
    for gap, tokens in traffic:
        now += gap
        if limiter.admit(tokens, now) is None:
            admitted.append((now, tokens))
    for start in range(len(admitted)):
        for end in range(start, len(admitted)):
            window = admitted[end][0] - admitted[start][0]
            inside = admitted[start : end + 1]
            # The last one may overdraw a full bucket that is smaller than it.
            largest = max(tokens for _, tokens in inside)
            assert sum(tokens for _, tokens in inside) <= max(tpm, largest) + tpm * window / PERIOD + largest * 1e-6
            assert len(inside) <= rpm + 1 + rpm * window / PERIOD + 1e-6


@given(requests, st.integers(1, 400))
def test_the_wait_it_names_is_enough_and_no_more_than_that(traffic: list[tuple[float, int]], tokens: int) -> None:
    limiter, now = Limiter(20, 500, 0.0), 0.0
    for gap, amount in traffic:
        now += gap
        limiter.admit(amount, now)
    refused = limiter.admit(tokens, now)
    if refused is None:
        return
    _, wait = refused
    assert wait > 0
    assert limiter.admit(tokens, now + wait * 0.999 - 1e-6) is not None
    assert limiter.admit(tokens, now + wait) is None


def test_reset_is_what_was_used_times_the_period_over_the_limit() -> None:
    # As recorded in March 2026: 1 of 120 requests and 14 of 120,000 tokens gave 500 and 7 ms.
    limiter = Limiter(120, 120_000, 0.0)
    assert limiter.admit(14, 0.0) is None
    assert limiter.requests.reset(0.0) == pytest.approx(0.5)
    assert limiter.tokens.reset(0.0) == pytest.approx(0.007)
    assert limiter.requests.remaining(0.0) == 119


def test_a_refused_request_takes_nothing() -> None:
    limiter = Limiter(1, 1000, 0.0)
    limiter.admit(10, 0.0)
    before = limiter.tokens.remaining(1.0)
    refused = limiter.admit(10, 1.0)
    assert refused is not None and refused[0] == "requests" and refused[1] == pytest.approx(59.0)
    assert limiter.tokens.remaining(1.0) == before


def test_a_request_larger_than_the_bucket_overdraws_it_when_it_is_full() -> None:
    bucket = Bucket(100, 0.0)
    assert bucket.wait(250, 0.0) == 0
    bucket.take(250, 0.0)
    assert bucket.remaining(0.0) == -150
    assert bucket.reset(0.0) == pytest.approx(150.0)


def test_a_message_is_charged_a_quarter_of_its_characters_and_one() -> None:
    parts = [{"type": "text", "text": "1234"}, {"type": "text", "text": "567"}]
    assert debit([{"content": "12345678"}, {"content": ""}, {"content": None}, {"content": parts}]) == 3 + 1 + 1 + 2


@pytest.mark.skipif(not DEBITS.exists(), reason="the recorded debits are not beside this checkout")
def test_the_charge_is_the_one_recorded_for_every_plain_chat_request_to_an_openai_model() -> None:
    rows: list[dict[str, Any]] = json.loads(DEBITS.read_text())["rows"]
    # DeepSeek and MAI deployments were charged their max_tokens instead.
    plain = [
        row
        for row in rows
        if None not in row["message_char_lengths"]
        and not row["has_tools"]
        and not row["model"].startswith(("deepseek", "mai"))
    ]
    charged = [debit([{"content": "x" * length} for length in row["message_char_lengths"]]) for row in plain]
    assert len(plain) > 30
    assert charged == [row["observed_debit"] for row in plain]
