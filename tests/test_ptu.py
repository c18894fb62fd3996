"""`analysis ptu`: the documented arithmetic, and the replay against another reading of the bucket."""

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.blocks import count_interval, share_interval, smallest_counts
from analysis.cli import analysis
from analysis.costs import rates
from analysis.ptu import LOAD_COLUMNS, Asked, grown, size
from analysis.ptu_models import Offer, by_average, find_model
from analysis.replay import Charges, Replayed, charges, replay
from probe.prices import read_prices
from probe.target import SettingsError
from simulator.service.limits import Refusal
from simulator.service.provisioned import ProvisionedLimiter, provisioned_model
from tests.commands import ROOT, run
from tests.test_analysis import call, refused, write_run

SHARED = ROOT.parent / "shared" / "fixtures"
TRACE = SHARED / "traces" / "AzureLLMInferenceTrace_conv.csv"
GPT_41 = find_model("gpt-4.1", "global")


def ptu(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(analysis, ["ptu", *arguments, "-o", "json"])
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_calculators_published_case_comes_out_exactly() -> None:
    given = ("--model", "gpt-5.1", "--rpm", "200", "--input-tokens", "2000", "--output-tokens", "400")
    found = ptu(*given, "--cached-share", "0.5")
    assert (found["ptu"], found["normalised_tpm"]) == (180, 840_000)


@pytest.mark.skipif(not SHARED.exists(), reason="the recorded table is not beside this checkout")
def test_every_model_of_the_recorded_table_is_known_with_its_worth() -> None:
    recorded = json.loads((SHARED / "ptu_table.json").read_text())
    for row in recorded["rows"]:
        name = row["model"].split(" / ")[0]
        for kind, offer in (("G", "global"), ("DZ", "datazone"), ("R", "regional")):
            if kind not in row["deployments"].split(","):
                with pytest.raises(SettingsError, match="is not sold as"):
                    find_model(name, offer)  # type: ignore[arg-type]
                continue
            model = find_model(name, offer)  # type: ignore[arg-type]
            size = "regional" if kind == "R" else "global_dz"
            assert (model.input_tpm, model.output_weight) == (row["input_tpm_per_ptu"], row["output_weight"])
            assert (model.minimum, model.step) == (row[f"{size}_min"], row[f"{size}_increment"])
    hour = read_prices().provisioned()[0]
    recorded_hour = recorded["price_per_ptu_hour"]
    assert (hour.global_hour, hour.regional_hour) == (recorded_hour["global"], recorded_hour["regional"])


@pytest.mark.parametrize(
    ("offer", "units", "sold"),
    [("global", 3, 15), ("global", 15, 15), ("global", 15.01, 20), ("regional", 51, 100), ("regional", 100.0, 100)],
)
def test_what_is_sold_begins_at_the_minimum_and_goes_up_in_steps(offer: Offer, units: float, sold: int) -> None:
    assert find_model("gpt-4.1-2025-04-14", offer).sold(units) == sold


def test_a_model_that_is_not_known_is_not_guessed_and_a_file_can_add_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'gpt-9' is worth is not known"):
        find_model("gpt-9", "global")
    own = tmp_path / "models.toml"
    own.write_text(
        '[[table]]\nas_of = 2027-01-01\nsource = "ours"\n[table.models]\n'
        '"gpt-9" = { input_tpm_per_ptu = 1000, output_weight = 5, global = [10, 1] }\n'
    )
    assert by_average(find_model("gpt-9", "global", own), 100, 50, 10, 0).ptu == 10
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('[[table]]\nas_of = 2027-01-01\nsource = "ours"\nmodels = { "gpt-9" = { input_tpm = 1 } }\n')
    with pytest.raises(SettingsError, match=r"models .*wrong\.toml: Object"):
        find_model("gpt-9", "global", wrong)


def load(rng: random.Random, calls: int, *, rate: float, spread: float) -> pd.DataFrame:
    """Calls at random times; a larger `spread` makes both their sizes and their gaps less even."""
    at = np.cumsum([rng.expovariate(rate) * rng.lognormvariate(0, spread) for _ in range(calls)])
    output = [rng.randrange(1, 400) for _ in range(calls)]
    return pd.DataFrame(
        {
            "at": at,
            "input_tokens": [round(rng.lognormvariate(6, spread)) for _ in range(calls)],
            "cached_tokens": [rng.choice([0, 0, 128]) for _ in range(calls)],
            "output_tokens": output,
            "max_tokens": [max(one, rng.choice([one, 500])) for one in output],
            "duration": [rng.uniform(0.1, 20) for _ in range(calls)],
        }
    ).astype("float64")


def by_the_simulator(calls: pd.DataFrame, name: str, units: int) -> list[bool]:
    limiter = ProvisionedLimiter(provisioned_model(name), units)
    at, duration = calls["at"].tolist(), calls["duration"].tolist()
    events = [(now, 1, i) for i, now in enumerate(at)]
    events += [(now + lasted, 0, i) for i, (now, lasted) in enumerate(zip(at, duration, strict=True))]
    admitted: dict[int, Any] = {}
    for now, arrives, i in sorted(events):
        row = calls.iloc[i]
        if arrives:
            added = limiter.admit(int(row["input_tokens"]), int(row["cached_tokens"]), int(row["max_tokens"]), now)
            if not isinstance(added, Refusal):
                admitted[i] = added
        elif i in admitted:
            limiter.settle(admitted[i], int(row["output_tokens"]), now)
    return [i not in admitted for i in range(len(calls))]


@pytest.mark.parametrize("model", ["gpt-4.1", "gpt-5", "gpt-4o-mini"])
@pytest.mark.parametrize("spread", [0.1, 1.0])
@pytest.mark.parametrize("fullness", [0.7, 1.0, 1.6])
def test_the_replay_refuses_the_calls_that_the_simulators_bucket_refuses(
    model: str, spread: float, fullness: float
) -> None:
    calls = load(random.Random(f"{model} {spread} {fullness}"), 3_000, rate=20, spread=spread)
    known = find_model(model, "global")
    needed = charges(calls, known)
    minutes = (needed.at[-1] - needed.at[0]) / 60
    units = max(1, round(float((needed.added - needed.returned).sum()) / minutes / known.input_tpm / fullness))
    assert list(replay(needed, known, units).refused) == by_the_simulator(calls, model, units)


def even(calls: int, every: float, tokens: float, output: float = 0.0) -> pd.DataFrame:
    columns = {"at": np.arange(calls) * every, "input_tokens": tokens, "output_tokens": output, "duration": 0.0}
    return pd.DataFrame(columns).reindex(columns=LOAD_COLUMNS).astype("float64")


def on(calls: pd.DataFrame, units: float, **options: Any) -> Replayed:
    return replay(charges(calls, GPT_41), GPT_41, units, **options)


def test_a_full_bucket_refuses_until_time_has_drained_it() -> None:
    # One unit drains 50 tokens a second and holds 3,000; each call brings 1,000 a second.
    found = on(even(10, 1.0, 1_000.0), 1)
    assert list(np.flatnonzero(~found.refused)) == [0, 1, 2, 3]
    assert found.level[3] == pytest.approx((3_000 - 150) / 3_000)


def test_a_call_that_generates_less_than_it_may_gives_the_rest_back_when_it_ends() -> None:
    calls = even(4, 1.0, 0.0, output=1.0).assign(max_tokens=500.0, duration=0.5)
    # Each takes 2,000 of 3,000 and has given back all but 4 of them when the next one comes.
    assert not on(calls, 1).refused.any()
    assert list(on(calls.assign(duration=60.0), 1).refused) == [False, False, True, True]


def test_a_retry_comes_when_it_was_told_to_and_waits_no_longer() -> None:
    calls = even(5, 0.0, 1_000.0)
    alone, again = on(calls, 1), on(calls, 1, retries=1)
    assert list(alone.refused) == [False, False, False, True, True]
    # The fourth is told to wait for nothing but the bucket's edge; it is in after a millisecond, the fifth after 20 s.
    assert not again.refused[3] and again.waited[3] == pytest.approx(0.001)
    assert again.attempts >= 2
    assert on(calls, 1, retries=3).refused.sum() == 0


@given(st.integers(0, 10**6), st.floats(0.2, 3))
@settings(max_examples=25)
def test_the_three_ways_to_replay_agree_where_nothing_is_returned_and_nothing_tried_again(
    seed: int, units: float
) -> None:
    calls = load(random.Random(seed), 200, rate=2, spread=0.5).assign(max_tokens=np.nan)
    needed = charges(calls, GPT_41)
    nearly = Charges(needed.at, needed.added, needed.ended, np.full(len(needed.at), 1e-9))
    assert list(replay(needed, GPT_41, units).refused) == list(replay(nearly, GPT_41, units).refused)


def sized(calls: pd.DataFrame, **asked: Any) -> Any:
    return size(calls, GPT_41, Asked(**asked), rates("gpt-4.1"))


def test_the_answer_is_the_smallest_count_that_refuses_no_more_than_is_allowed() -> None:
    calls = load(random.Random(2), 6_000, rate=4, spread=1.3)
    found = sized(calls, throttled=0.02)
    needed = charges(calls, GPT_41)
    assert replay(needed, GPT_41, found.ptu).share <= 0.02 < replay(needed, GPT_41, found.ptu - 5).share
    assert found.low <= found.ptu <= found.high
    shares = list(found.counts["refused_share"])
    assert all(one >= other for one, other in pairwise(shares)) and shares[0] > 0.02


def test_a_load_shorter_than_the_bucket_is_not_sized_below_its_average() -> None:
    found = sized(even(200, 0.1, 5_000.0), throttled=0.0)
    assert found.average.units == pytest.approx(1_000)
    assert (found.ptu, found.low) == (1_000, None)


def test_a_load_that_grows_keeps_its_bursts_and_needs_more() -> None:
    calls = load(random.Random(3), 2_000, rate=4, spread=0.8)
    assert len(grown(calls, 2.5)) == pytest.approx(5_000, rel=0.03)
    assert sized(calls, growth=2.0).ptu > 1.5 * sized(calls).ptu


def test_a_run_is_sized_with_its_refused_calls_as_estimated_and_says_so(tmp_path: Path) -> None:
    calls = [call(at, response_model="gpt-4.1-2025-04-14", request_max_tokens=20) for at in range(30)]
    found = ptu(str(write_run(tmp_path, [*calls, *(refused(30 + at, request_max_tokens=20) for at in range(10))])))
    assert (found["model"], found["calls"]) == ("gpt-4.1", 40)
    assert found["average"]["output_tokens"] == 10
    assert any("10 calls that were not answered" in note for note in found["notes"])
    assert any("closed model" in note for note in found["notes"])


WRONG: list[tuple[list[str], str]] = [
    (["--model", "gpt-5.1", "--rpm", "1"], "--input-tokens is missing"),
    (["nowhere"], "no such run, log, trace or mix"),
    (["--model", "gpt-9", "--rpm", "1", "--input-tokens", "1", "--output-tokens", "1"], "--models FILE adds others"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_what_is_wrong_ends_in_one_line(arguments: list[str], says: str) -> None:
    done = run("analysis", "ptu", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert says in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(not TRACE.exists(), reason="the published trace is not beside this checkout")
def test_an_hour_of_a_production_trace_needs_more_than_its_average() -> None:
    found = ptu(str(TRACE), "--model", "gpt-4.1")
    assert found["average"]["ptu"] < found["ptu"] <= found["ptu_high"]
    assert found["ptu_low"] <= found["ptu"]
    assert (
        "It is bursts that need the units"
        in CliRunner().invoke(analysis, ["ptu", str(TRACE), "--model", "gpt-4.1"]).stdout
    )
    assert found["money"]["payg"] > 0


def test_how_sensitive_the_answer_is_to_answers_and_cache_is_what_such_loads_would_need() -> None:
    # 120 calls a minute of 800 tokens, of which 300 were cached, and 250: 180,000 for units of 3,000.
    calls = even(1_200, 0.5, 800.0, output=250.0).assign(cached_tokens=300.0)
    found = sized(calls)
    assert found.ptu == 60
    needs = dict(found.sensitivity[["change", "ptu"]].itertuples(index=False))
    assert needs == {
        "output -25%": 50,
        "output +25%": 70,
        "nothing cached": 75,
        "10 % more of the input cached": 60,
        "20 % more calls": needs["20 % more calls"],
    }
    # 500 - 80 + 1,000 tokens a call is 56.8 units; a fifth more calls is 72.
    assert needs["20 % more calls"] in (75, 80)


def test_the_interval_is_what_stretches_drawn_again_and_again_would_need() -> None:
    """Ten stretches of a hundred calls, of which so many are refused by a count of units."""
    calls = np.full(10, 100.0)
    by_count = {
        count: np.column_stack([np.array(refused, float), calls])
        for count, refused in ((10, [40] * 10), (15, [0] * 5 + [4] * 5), (20, [0] * 9 + [1]), (25, [0] * 10))
    }
    draws = smallest_counts(by_count, np.full(10, 12.0), 0.01)
    # On 15 units a draw holds where at most two of its ten stretches are of the five that refuse 4 in 100.
    assert float((draws == 15).mean()) == pytest.approx(56 / 1024, abs=0.015)
    # On 20 no draw can have more than ten times one of a thousand.
    assert set(draws) == {15, 20} and count_interval(draws, 20) == (15, 25)
    low, high = share_interval(by_count[15])
    assert low is not None and high is not None and low < 0.02 < high
    assert (low, high) == pytest.approx((0.008, 0.032), abs=0.004)
    # Nor is it ever less than the load takes on average: here 16, and so is each draw's.
    assert set(smallest_counts(by_count, np.full(10, 16.5), 0.01)) == {20}
    assert count_interval(None, 20) == (None, None) == share_interval(None)


def in_spells(seed: int, minutes: float, burstiness: float) -> pd.DataFrame:
    """Two calls a second on average; a fifth of the spells, of 40 s or so, have so many times the usual rate."""
    rng = np.random.default_rng(seed)
    usual, times, at = 2.0 / (0.8 + 0.2 * burstiness), [], 0.0
    while at < 60 * minutes:
        length, now = rng.exponential(40), usual * (burstiness if rng.random() < 0.2 else 1)
        times.append(np.sort(rng.uniform(at, at + length, rng.poisson(now * length))))
        at += length
    calls = pd.DataFrame({"at": np.concatenate(times)})
    calls["input_tokens"] = rng.lognormal(6.5, 0.6, len(calls)).round()
    calls["output_tokens"] = rng.exponential(150, len(calls)).round() + 1
    return calls.reindex(columns=LOAD_COLUMNS).astype("float64").assign(duration=0.0)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("burstiness", "minutes", "least"), [(1, 30, 0.95), (4, 30, 0.7), (4, 120, 0.85), (10, 30, 0.65), (10, 120, 0.85)]
)
def test_the_interval_of_short_loads_holds_what_a_week_of_them_needs(
    burstiness: float, minutes: float, least: float
) -> None:
    """Less often than 95 times in 100 where there are a few large bursts: what is to come is not in what was seen."""
    true = sized(in_spells(0, 7 * 24 * 60, burstiness)).ptu
    found = [sized(in_spells(1 + seed, minutes, burstiness)) for seed in range(60)]
    held = float(np.mean([one.low <= true <= one.high for one in found]))
    print(f"{burstiness}x for {minutes} min: {true} units, within {held:.0%} of the intervals")
    assert held >= least
