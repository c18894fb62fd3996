import math
from collections import Counter
from itertools import islice, pairwise, repeat
from pathlib import Path
from statistics import mean, quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locustfiles._arrivals import Share, constant, drawn, poisson, read_schedule, replay, rounds
from probe.prompts import CONVERSATION, Mix
from probe.target import SettingsError, Target
from probe.traces import Row, read_trace

TRACE = Path(__file__).parents[2] / "shared" / "fixtures" / "traces" / "AzureLLMInferenceTrace_conv.csv"
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def mix() -> Mix:
    return Mix(CONVERSATION, 0.5, "1")


def test_poisson_arrivals_come_at_their_rate_with_exponential_gaps() -> None:
    dues = list(islice(poisson(20, "1", Share(0, 1)), 20_000))
    gaps = [later - earlier for earlier, later in zip([0.0, *dues], dues, strict=False)]
    assert mean(gaps) == pytest.approx(1 / 20, rel=0.02)
    # Of an exponential distribution: the median is ln 2 and the 90th percentile ln 10 times the mean.
    deciles = quantiles(gaps, n=10)
    assert deciles[4] == pytest.approx(0.6931 / 20, rel=0.04)
    assert deciles[8] == pytest.approx(2.3026 / 20, rel=0.04)


def test_the_gaps_of_poisson_arrivals_pass_a_kolmogorov_smirnov_test() -> None:
    count, rate = 20_000, 20.0
    dues = [0.0, *islice(poisson(rate, "1", Share(0, 1)), count)]
    expected = [1 - math.exp(-rate * gap) for gap in sorted(later - earlier for earlier, later in pairwise(dues))]
    distance = max(max((n + 1) / count - at, at - n / count) for n, at in enumerate(expected))
    # What one run in twenty of true exponential gaps would exceed.
    assert distance * math.sqrt(count) < 1.358


def test_processes_share_a_poisson_rate_and_each_has_its_own_arrivals() -> None:
    parts = [list(islice(poisson(20, "1", Share(n, 4)), 5_000)) for n in range(4)]
    assert [part[-1] for part in parts] == pytest.approx([1000] * 4, rel=0.05)
    assert len({part[0] for part in parts}) == 4


def test_the_same_seed_gives_the_same_run() -> None:
    first, again = ([*islice(drawn(poisson(5, "7", Share(0, 1)), mix()), 50)] for _ in range(2))
    assert first == again


@given(st.integers(1, 5), st.floats(0.1, 1000))
def test_constant_arrivals_are_evenly_spaced_over_all_processes_together(of: int, rate: float) -> None:
    parts = [islice(constant(rate, Share(n, of)), 20) for n in range(of)]
    dues = sorted(due for part in parts for due in part)
    assert dues == [number / rate for number in range(20 * of)]


TARGETS = [
    Target(name=name, endpoint="http://127.0.0.1:1", deployment="chat", api_version="v1", api_key="made-up")
    for name in ("east", "west", "gate")
]


@given(st.integers(1, 5), st.integers(1, 30), st.booleans())
def test_every_round_is_one_process_and_calls_each_target_once_with_equal_sizes(
    of: int, count: int, own_texts: bool
) -> None:
    parts = [
        list(rounds(constant(2, Share(n, of)), mix(), TARGETS, count, "1", Share(n, of), own_texts=own_texts))
        for n in range(of)
    ]
    made = sorted((arrival for part in parts for arrival in part), key=lambda one: one.due)
    assert [arrival.due for arrival in made] == [number / 2 for number in range(count)]
    for number, arrival in enumerate(made, 1):
        asks = [ask for ask, _ in arrival.calls]
        assert {target.name for _, target in arrival.calls if target} == {"east", "west", "gate"}
        assert {ask.round for ask in asks} == {number}
        assert len({(ask.prompt.input_tokens, ask.prompt.max_tokens, ask.stream, ask.traffic) for ask in asks}) == 1
        assert len({ask.prompt.id for ask in asks}) == (len(TARGETS) if own_texts else 1)


def test_the_orders_of_rounds_are_drawn_evenly_and_again_the_same() -> None:
    again = [list(rounds(repeat(0.0), mix(), TARGETS, 600, "1", Share(0, 1), own_texts=False)) for _ in range(2)]
    orders = Counter(tuple(target.name for _, target in arrival.calls if target) for arrival in again[0])
    assert again[0] == again[1]
    # Each of six: 100, give or take four deviations.
    assert len(orders) == 6 and all(60 < times < 140 for times in orders.values())


def test_a_schedule_is_read_in_order_without_its_comments(tmp_path: Path) -> None:
    (tmp_path / "schedule.txt").write_text("# a burst\n2.5\n\n1 # the first\r\n1e1\n")
    assert read_schedule(tmp_path / "schedule.txt") == [1.0, 2.5, 10.0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "no times in it"),
        (b"# nothing\n", "no times in it"),
        (b"1\nsoon\n", "line 2 is 'soon'"),
        (b"-1\n", "line 1 is '-1'"),
        (b"nan\n", "line 1"),
        (b"1\n2\ninf\n", "line 3"),
        (b"\xff\xfe", "codec"),
    ],
)
def test_what_is_wrong_in_a_schedule_is_named_with_its_line(tmp_path: Path, text: bytes, says: str) -> None:
    (tmp_path / "schedule.txt").write_bytes(text)
    with pytest.raises(SettingsError, match=says):
        read_schedule(tmp_path / "schedule.txt")


@given(st.integers(1, 5), st.lists(st.floats(0, 100), min_size=1, max_size=40), st.floats(0.1, 50))
def test_every_row_is_replayed_by_exactly_one_process_at_its_time(of: int, times: list[float], speed: float) -> None:
    rows = [Row(at, 20 + n, n + 1) for n, at in enumerate(sorted(times))]
    parts = [list(replay(rows, speed, 0.5, "1", Share(n, of))) for n in range(of)]
    sent = sorted((arrival for part in parts for arrival in part), key=lambda one: one.calls[0].ask.prompt.max_tokens)
    assert [(one.due, one.calls[0].ask.prompt.input_tokens, one.calls[0].ask.prompt.max_tokens) for one in sent] == [
        (row.at / speed, row.input_tokens, row.output_tokens) for row in rows
    ]
    alone = {one.calls[0].ask.prompt.id: one.calls[0].ask.stream for one in replay(rows, speed, 0.5, "1", Share(0, 1))}
    assert {one.calls[0].ask.prompt.id: one.calls[0].ask.stream for one in sent} == alone


def test_a_trace_is_read_in_order_of_arrival_with_seconds_from_its_first_row(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "\ufeff" + HEADER + "2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:46.6805900,374,44\n",
        encoding="utf-8",
    )
    assert read_trace(trace) == [Row(0.0, 374, 44), Row(4.314579, 396, 109)]
    assert read_trace(trace, seconds=4) == [Row(0.0, 374, 44)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column TIMESTAMP"),
        ("TIMESTAMP,ContextTokens\n", "no column GeneratedTokens"),
        (HEADER, "no rows"),
        (HEADER + "2023-11-16 18:15:46,374,44\nyesterday,1,1\n", "line 3"),
        (HEADER + "2023-11-16 18:15:46,374\n", "line 2"),
    ],
)
def test_what_is_wrong_in_a_trace_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "trace.csv").write_text(text)
    with pytest.raises(SettingsError, match=says):
        read_trace(tmp_path / "trace.csv")


def test_a_burstgpt_trace_is_read_by_its_own_columns(tmp_path: Path) -> None:
    (tmp_path / "burst.csv").write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n118,GPT-4,1087,0,1087,API log\n"
    )
    assert read_trace(tmp_path / "burst.csv") == [Row(0.0, 472, 18), Row(113.0, 1087, 0)]


@pytest.mark.skipif(not TRACE.exists(), reason="the published trace is not beside this checkout")
def test_the_default_mix_has_the_sizes_of_the_published_conversation_trace() -> None:
    rows = read_trace(TRACE)
    drawn = mix()
    asks = [drawn.draw() for _ in range(30_000)]
    for ours, theirs in (
        ([ask.prompt.input_tokens for ask in asks], [row.input_tokens for row in rows]),
        ([ask.prompt.max_tokens for ask in asks], [row.output_tokens for row in rows]),
    ):
        mine, published = quantiles(ours, n=10), quantiles(theirs, n=10)
        assert mine[4] == pytest.approx(published[4], rel=0.05)
        assert mine[8] == pytest.approx(published[8], rel=0.05)
        assert mean(ours) == pytest.approx(mean(theirs), rel=0.10)


def test_the_stream_share_holds_for_the_classes_that_have_none_of_their_own() -> None:
    drawn = Mix(CONVERSATION, 0.25, "1")
    assert mean(drawn.draw().stream for _ in range(10_000)) == pytest.approx(0.25, abs=0.02)
