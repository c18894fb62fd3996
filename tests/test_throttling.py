"""`analysis throttling` on runs written here, worked out by hand, and on one against the simulator."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from analysis.cli import analysis
from analysis.runs import read_run
from analysis.signals import LIMIT_HEADERS, promised, signals
from analysis.throttling import Throttling, analyse
from probe.prompts import numbered
from probe.record import ObservedCall
from tests.commands import run
from tests.runs import only_run
from tests.simulators import AT_ONCE, all_targets, simulating
from tests.test_analysis import call, refused, write_run


def throttling(folder: Path, *calls: ObservedCall) -> Throttling:
    return analyse(read_run(write_run(folder, calls), LIMIT_HEADERS).calls)


def row(frame: pd.DataFrame) -> dict[str, Any]:
    (found,) = frame.to_dict("records")
    return {str(key): value for key, value in found.items()}


def test_a_promise_is_kept_where_the_next_call_after_it_was_admitted(tmp_path: Path) -> None:
    found = row(
        throttling(
            tmp_path,
            call(0),
            refused(1, ("retry-after", "2")),  # due at 3: the next call is refused
            refused(2, ("retry-after", "2")),  # due at 4: refused
            refused(3.5, ("retry-after", "3")),  # due at 6.5: admitted
            refused(4, ("retry-after", "1")),  # due at 5: admitted
            call(6),
            call(7),
        ).promises
    )
    assert (found["refused"], found["promised"], found["tried"]) == (4, 4, 4)
    assert (found["promised_p50"], found["kept"]) == (2.0, 0.5)
    # Between the last refusal, at 4, and the first call admitted after it, at 6.
    assert (found["enough_low_p50"], found["enough_high_p50"]) == (pytest.approx(1.25), pytest.approx(3.25))


def test_a_promise_that_nobody_put_to_the_test_is_neither_kept_nor_broken(tmp_path: Path) -> None:
    found = row(throttling(tmp_path, call(0), refused(1, ("retry-after", "60"))).promises)
    assert (found["promised"], found["tried"]) == (1, 0)
    assert pd.isna(found["kept"]) and pd.isna(found["enough_high_p50"])


@pytest.mark.parametrize(
    ("headers", "message", "seconds"),
    [
        ([("retry-after-ms", "1500"), ("retry-after", "2")], None, 1.5),
        ([("x-rate-limit-reset-tokens", "55")], "Please retry after 9 seconds.", 55),
        ([], "Please retry after 45 seconds.", 45),
        ([], "too busy", None),
    ],
)
def test_what_a_refusal_asked_to_wait_is_found_in_each_place_it_has_been_said(
    tmp_path: Path, headers: list[tuple[str, str]], message: str | None, seconds: float | None
) -> None:
    folder = write_run(tmp_path, [refused(0, *headers, error_message=message)])
    (said,) = promised(read_run(folder, LIMIT_HEADERS).calls)
    assert said == seconds or (seconds is None and pd.isna(said))


def test_refusals_far_apart_are_spells_of_their_own_each_with_its_recovery(tmp_path: Path) -> None:
    spells = [refused(at) for at in (10, 11, 12, 30, 31)]
    found = row(throttling(tmp_path, call(0), *spells, call(14), call(32)).episodes)
    assert (found["first"], found["episodes"], found["lasted_max"]) == (10, 2, 2)
    assert (found["recovery_p50"], found["recovery_max"]) == (1.5, 2.0)


def test_a_gateways_503_is_its_pools_refusal_and_a_services_503_is_not(tmp_path: Path) -> None:
    down = {"outcome": "gateway_error", "status_code": 503, "error_type": "503", "throttle_kind": None}
    found = throttling(
        tmp_path,
        refused(1, gateway="apim", target="apim", **down),
        refused(2, **{**down, "outcome": "server_error"}),
        refused(3),
    )
    assert list(found.causes[["target", "cause", "refused"]].itertuples(index=False, name=None)) == [
        ("apim", "pool", 1),
        ("eastus", "tokens", 1),
    ]


def test_offered_admitted_and_refused_tokens_are_kept_by_minute_and_by_what_is_known_of_them(tmp_path: Path) -> None:
    asked = {"prompt_id": numbered(7, 40, 1).id, "request_max_tokens": 10}
    found = throttling(tmp_path, call(0, **asked), call(1, **asked, output_tokens=3), refused(61, **asked)).minutes
    assert found.to_dict("records") == [
        {
            "target": "eastus",
            "minute": 0,
            "offered": 2,
            "dropped": 0,
            "admitted": 2,
            "refused": 0,
            "offered_estimated_tokens": 100,
            "admitted_billed_tokens": 93,
            "refused_estimated_tokens": 0,
        },
        {
            "target": "eastus",
            "minute": 1,
            "offered": 1,
            "dropped": 0,
            "admitted": 0,
            "refused": 1,
            "offered_estimated_tokens": 50,
            "admitted_billed_tokens": 0,
            "refused_estimated_tokens": 50,
        },
    ]


def test_the_simulators_limiters_are_found_by_the_command_whoever_shares_them(tmp_path: Path) -> None:
    deployments = f"""
[resources.one]
region = "East US 2"
{AT_ONCE}
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
generation = "2025"
tokens_per_minute = 9000
requests_per_minute = 600
[gateways.front]
backends = [{{ resource = "one" }}]
"""
    results, mix = tmp_path / "results", tmp_path / "mix.toml"
    mix.write_text(
        '[[class]]\nname = "c"\nweight = 1\ninput_tokens = { median = 200, p90 = 500 }\n'
        "output_tokens = { median = 20, p90 = 40 }\n"
    )
    with simulating(tmp_path, deployments) as simulated:
        settings = {
            **all_targets(simulated, tmp_path),
            "HEADROOM_RESULTS": str(results),
            "HEADROOM_MIX": str(mix),
            "HEADROOM_RATE": "12",
        }
        ran = run("locust", "--headless", "--users", "1", "--run-time", "6s", settings=settings)
    assert ran.returncode == 0, ran.stderr
    said = run("analysis", "throttling", str(only_run(results)), "-o", "json")
    found = {limiter["limit"]: limiter for limiter in json.loads(said.stdout)["limiters"]}
    tokens = found["tokens"]
    assert (tokens["targets"], tokens["model"], tokens["charge"]) == ("front + one", "fixed window", "characters")
    assert tokens["explained"] > 0.9 and found["requests"]["model"] == "fixed window"
    assert {cause["cause"] for cause in json.loads(said.stdout)["causes"]} == {"tokens"}
    shown = CliRunner().invoke(analysis, ["throttling", str(only_run(results))])
    assert "front + one, chat in " in shown.stdout and "charged by characters" in shown.stdout


def test_deployments_of_one_name_in_one_region_have_each_its_own_limiter(tmp_path: Path) -> None:
    """A gateway's calls count against what is behind it, where that is known."""
    places = {"one": ("one.openai.azure.com", "direct"), "two": ("two.openai.azure.com", "direct")}
    places["front"] = ("front.azure-api.net", "apim")
    calls = [
        call(n, target=name, server_address=address, gateway=gateway)
        for n, (name, (address, gateway)) in enumerate(places.items())
    ]
    assert limited_together(tmp_path, *calls) == [["one"], ["two"], ["front"]]
    assert limited_together(tmp_path / "less", *(one for one in calls if one.target != "two")) == [["front", "one"]]


def limited_together(folder: Path, *calls: ObservedCall) -> list[list[str]]:
    return [sorted(targets) for *_, targets in signals(read_run(write_run(folder, calls), LIMIT_HEADERS).calls)]
