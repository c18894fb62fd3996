"""What a gateway adds, on tables made here with known differences: its intervals hold as often as they say."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.gateway import added
from tests.test_regions import FEWEST, MOST

ROUNDS = 40
Made = Callable[[np.random.Generator, int], tuple[pd.DataFrame, pd.DataFrame]]


def times(rng: np.random.Generator, n: int, service: Any, *, through: bool) -> pd.DataFrame:
    """The way there and back takes 20 ms or so; the gateway 12 ms or so, at times much more."""
    way = 0.02 * np.exp(0.3 * rng.standard_normal(n))
    gateway = 0.012 * np.exp(0.6 * rng.standard_normal(n)) if through else 0.0
    return pd.DataFrame(
        {
            "target": "gate" if through else "direct",
            "gateway": "apim" if through else "direct",
            "group": "answered",
            "at": np.arange(n) * 2.0 + through,
            "request_stream": True,
            "request_max_tokens": 100,
            "region": "East US 2",
            "reasoning_tokens": pd.array([None] * n, "Int64"),
            "service_first_token": service,
            "time_to_first_token": service + way + gateway,
        }
    )


def service(rng: np.random.Generator, n: int) -> Any:
    return 0.3 * np.exp(0.2 * rng.standard_normal(n))


def in_rounds(rng: np.random.Generator, n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same prompt both ways, which takes the service much the same time."""
    prompts = 0.3 * np.exp(0.5 * rng.standard_normal(n))
    both = [times(rng, n, prompts + 0.1 * service(rng, n), through=through) for through in (True, False)]
    one, other = (part.assign(round=np.arange(n), prompt_id="100-1") for part in both)
    return one, other


def independent(rng: np.random.Generator, n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Prompts of the same mix, none of them twice."""
    both = [times(rng, n, service(rng, n), through=through) for through in (True, False)]
    one, other = (
        part.assign(round=pd.array([None] * n, "Int64"), prompt_id=[f"{way}-{number}" for number in range(n)])
        for way, part in enumerate(both)
    )
    return one, other


def truths(make: Made) -> dict[str, float]:
    """Medians that have no closed form, of a million calls."""
    through, direct = make(np.random.default_rng(1), 1_000_000)
    marks = {
        "first token": [part["time_to_first_token"] for part in (through, direct)],
        "first token, less the service's own": [
            part["time_to_first_token"] - part["service_first_token"] for part in (through, direct)
        ],
    }
    paired = make is in_rounds
    return {
        mark: float((ours - theirs).median() if paired else ours.median() - theirs.median())
        for mark, (ours, theirs) in marks.items()
    }


def found(make: Made, runs: int) -> Iterator[dict[str, dict[Any, Any]]]:
    for seed in range(runs):
        table = pd.concat(make(np.random.default_rng(seed), ROUNDS), ignore_index=True)
        # What is not looked at takes no time.
        rows = added(table.assign(time_to_headers=np.nan, duration=np.nan, service_duration=np.nan))
        yield {str(row["mark"]): dict(row) for row in rows.to_dict("records")}


@pytest.mark.parametrize("make", [in_rounds, pytest.param(independent, marks=pytest.mark.soak)])
def test_intervals_of_what_a_gateway_adds_hold_at_their_nominal_rate_over_200_runs(make: Made) -> None:
    true = truths(make)
    runs = list(found(make, 200))
    held = {mark: sum(run[mark]["added_low"] <= true[mark] <= run[mark]["added_high"] for run in runs) for mark in true}
    assert all(row["paired"] == (make is in_rounds) for run in runs for row in run.values())
    assert all(FEWEST <= number <= MOST for number in held.values()), held
    assert 0.008 < true["first token, less the service's own"] < 0.016


def test_less_the_services_own_time_the_same_pairs_tell_it_far_more_exactly() -> None:
    (run,) = found(in_rounds, 1)
    whole, less = (
        run[mark]["added_high"] - run[mark]["added_low"]
        for mark in ("first token", "first token, less the service's own")
    )
    assert less < whole
