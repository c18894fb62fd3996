"""`analysis regions`: on tables made here, with known medians."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from analysis.cli import analysis
from analysis.regions import Regions, analyse, backend_pool, differences
from tests.commands import run
from tests.test_analysis import call, write_run

SLOWER, FASTER = 0.35, 0.30
# Of 200 intervals that hold in 95 of 100 cases, fewer or more hold once in five hundred.
FEWEST, MOST = 180, 198


def calls(
    rng: np.random.Generator, n: int, medians: dict[str, float], *, paired: bool = False, start: int = 0
) -> pd.DataFrame:
    """Streams of each target in turn. Prompts differ in how long they take; paired targets get the same ones."""
    parts = []
    prompts = rng.integers(0, 10**6, n)
    weight = 0.5 * rng.standard_normal(n)
    for number, (target, median) in enumerate(medians.items()):
        own = weight if paired else 0.5 * rng.standard_normal(n)
        first = median * np.exp(own + 0.2 * rng.standard_normal(n))
        parts.append(
            pd.DataFrame(
                {
                    "target": target,
                    "gateway": "direct",
                    "group": "answered",
                    "region": f"Region of {target}",
                    "at": np.arange(n) * 2.0 + number,
                    "start_time_unix_nano": (start + np.arange(n)) * 10**9,
                    "prompt_id": [f"100-{one}" for one in (prompts if paired else rng.integers(0, 10**6, n))],
                    "request_stream": True,
                    "request_max_tokens": 100,
                    "time_to_first_token": first,
                    "duration": first + 1.0,
                    "output_tokens": 51,
                    "reasoning_tokens": pd.array([None] * n, "Int64"),
                    "azureai-model-sessionid": pd.Series([None] * n, dtype="str"),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def compared(seed: int, **options: Any) -> dict[Any, Any]:
    table = calls(np.random.default_rng(seed), 60, {"east": SLOWER, "west": FASTER}, **options)
    (row,) = differences(table).to_dict("records")
    return row


def found(seed: int, n: int, **options: Any) -> Regions:
    return analyse(calls(np.random.default_rng(seed), n, {"east": SLOWER, "west": FASTER}, **options))


def test_intervals_of_independent_calls_hold_at_their_nominal_rate_over_200_runs() -> None:
    runs = [compared(seed) for seed in range(200)]
    held = sum(row["difference_low"] <= SLOWER - FASTER <= row["difference_high"] for row in runs)
    assert not any(row["paired"] for row in runs)
    assert FEWEST <= held <= MOST


def test_intervals_of_paired_calls_hold_at_their_nominal_rate_over_200_runs() -> None:
    # The median of such differences has no closed form.
    truth = float(np.median(_pair(np.random.default_rng(0), 1_000_000)))
    runs = [compared(seed, paired=True) for seed in range(200)]
    held = sum(row["difference_low"] <= truth <= row["difference_high"] for row in runs)
    assert all(row["paired"] for row in runs)
    assert FEWEST <= held <= MOST


def _pair(rng: np.random.Generator, n: int) -> Any:
    weight, one, other = (scale * rng.standard_normal(n) for scale in (0.5, 0.2, 0.2))
    return np.exp(weight) * (SLOWER * np.exp(one) - FASTER * np.exp(other))


def test_pairs_find_with_few_calls_what_independent_calls_do_not() -> None:
    assert found(1, 80, paired=True).differences.iloc[0]["verdict"] == "slower"
    assert found(1, 80).differences.iloc[0]["verdict"] == "no detectable difference"


def test_targets_are_weighed_by_their_speed_and_alike_where_they_cannot_be_told_apart() -> None:
    medians = {"east": 0.30, "west": 0.301, "south": 0.60}
    weights = analyse(calls(np.random.default_rng(3), 400, medians)).weights
    by_target = dict(zip(weights["target"], weights["weight"], strict=True))
    assert by_target["east"] == by_target["west"] == 100
    assert by_target["south"] == pytest.approx(50, abs=6)
    services = backend_pool(weights)["pool"]["services"]
    assert {service["id"] for service in services} == {"/backends/east", "/backends/west", "/backends/south"}


def test_fewer_than_30_calls_are_marked_and_weigh_nothing() -> None:
    few = found(1, 20)
    assert few.speed["few"].all() and few.hours["few"].all() and few.weights.empty
    assert few.differences.iloc[0]["verdict"] == "fewer than 30 calls"


def test_hours_are_those_of_the_day_in_utc() -> None:
    hours = found(1, 90, start=3 * 3600 - 30).hours
    assert list(hours[hours["region"] == "Region of east"][["hour", "calls"]].itertuples(index=False, name=None)) == [
        (2, 30),
        (3, 60),
    ]


def test_an_hour_also_has_the_medians_of_all_its_calls_and_of_what_the_log_took() -> None:
    table = calls(np.random.default_rng(1), 40, {"east": 0.3}, start=3 * 3600).assign(duration_ms=1500)
    # Of the next hour, which has no stream.
    whole = table.head(3).assign(start_time_unix_nano=4 * 3600 * 10**9, time_to_first_token=np.nan, duration=9.0)
    three, four = analyse(pd.concat([table, whole], ignore_index=True)).hours.to_dict("records")
    assert (three["hour"], three["calls"], three["logged_p50"], three["few"]) == (3, 40, 1.5, False)
    assert three["tokens_per_second_p50"] == pytest.approx(50) and 1.2 < three["duration_p50"] < 1.4
    assert (four["hour"], four["calls"], four["duration_p50"], four["few"]) == (4, 0, 9.0, True)


def test_a_targets_success_is_of_the_calls_that_were_sent_and_not_ended_by_us() -> None:
    table = calls(np.random.default_rng(1), 100, {"east": 0.3})
    table["group"] = ["failed"] * 4 + ["throttled"] * 6 + ["cancelled"] * 5 + ["dropped"] * 5 + ["answered"] * 80
    (row,) = analyse(table).success.to_dict("records")
    assert (row["sent"], row["answered"], row["throttled"], row["failed"]) == (90, 80, 6, 4)
    # Wilson's, by hand: (0.8889 + z2/180 -+ z sqrt(0.8889 x 0.1111 / 90 + z2/(4 x 8100))) / (1 + z2/90), z = 1.96.
    assert row["share"] == pytest.approx(8 / 9)
    assert (row["share_low"], row["share_high"]) == (pytest.approx(0.807, abs=5e-4), pytest.approx(0.9387, abs=5e-4))


def test_tokens_a_second_are_counted_after_the_first() -> None:
    # 50 tokens in the second after the first token.
    assert found(1, 30).speed.iloc[0]["tokens_per_second_p50"] == pytest.approx(50)


def test_where_the_model_ran_is_told_where_a_reply_said_it() -> None:
    table = calls(np.random.default_rng(1), 2, {"east": 0.3})
    table["azureai-model-sessionid"] = ["a;b;c;d010-2025;DR:westeurope;pool;aoai-balanced", None]
    (row,) = analyse(table).served.to_dict("records")
    assert (row["region"], row["serving_region"], row["calls"]) == ("Region of east", "westeurope", 1)


def invoked(*arguments: str) -> Result:
    return CliRunner().invoke(analysis, ["regions", *arguments])


def test_the_command_says_the_verdict_and_a_run_without_an_answer_says_so(tmp_path: Path) -> None:
    answered = write_run(
        tmp_path / "a",
        [
            call(at, target=target, time_to_first_token=0.1 * (1 + (target == "west")) + at / 10_000)
            for at in range(40)
            for target in ("east", "west")
        ],
    )
    said = run("analysis", "regions", str(answered))
    assert "east is faster than west by 100 ms to the first token" in said.stdout
    pool = json.loads(invoked(str(answered), "-o", "json").stdout)["backend_pool"]
    assert [service["weight"] for service in pool["pool"]["services"]] == [100, 50]
    nothing = invoked(str(write_run(tmp_path / "b", [])))
    assert nothing.exit_code == 0 and "no target was called directly and answered" in nothing.stdout
