"""`analysis compare`: on runs written here, of which it is known whether and by how much they differ."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from analysis.cli import analysis
from analysis.compare import CLEAR, Comparison, compare, is_unjudged
from analysis.compare_figures import CALL_COLUMNS, HEADERS, SAMPLED
from analysis.compare_told import as_result
from analysis.output import as_json
from analysis.runs import Run, read_run
from probe.record import ObservedCall
from tests.commands import run
from tests.test_analysis import call, refused, write_run

MIX = [{"name": "short", "weight": 1}, {"name": "long", "weight": 1}]


def stream(at: float, rng: random.Random, *, slower: float = 1.0, **changes: Any) -> ObservedCall:
    first = slower * 0.3 * rng.lognormvariate(0, 0.4)
    events = tuple(round((first + 0.02 * slower * event) * 1e6) for event in range(5))
    usual = {
        "time_to_first_token": first,
        "duration": first + 0.5 * rng.lognormvariate(0, 0.3),
        "event_times": events,
        "traffic": rng.choice(["short", "long"]),
        "output_tokens": rng.randrange(50, 90),
    }
    return call(at, **{**usual, **changes})


def calls(seed: int, number: int = 400, **changes: Any) -> Iterator[ObservedCall]:
    rng = random.Random(seed)
    for n in range(number):
        yield stream(n * 0.5, rng, **changes)


def written(folder: Path, made: Iterator[ObservedCall], **about: Any) -> Path:
    return write_run(folder, made, **{"arrivals": "constant", "options": {"mix": MIX}, **about})


def compared(a: Path, b: Path) -> Comparison:
    return compare(*(read_run(one, HEADERS, CALL_COLUMNS, SAMPLED) for one in (a, b)))


def figures(a: Path, b: Path) -> dict[str, dict[str, Any]]:
    found = as_json(as_result(compared(a, b), ("a", "b")))
    return {row["figure"]: row for row in found["figures"]}


def invoked(*arguments: str) -> Any:
    return CliRunner().invoke(analysis, ["compare", *arguments])


def test_a_run_that_is_slower_is_worse_and_one_that_is_not_cannot_be_told_from_it(tmp_path: Path) -> None:
    before, same, after = (
        written(tmp_path / name, calls(seed, slower=slower))
        for name, seed, slower in (("a", 1, 1.0), ("b", 2, 1.0), ("c", 3, 1.6))
    )
    slower, alike = figures(before, after), figures(before, same)
    for name in ("ttft_p50", "ttft_p95", "token_gap_p50", "longest_gap_p50"):
        assert slower[name]["verdict"] == "worse", name
        assert alike[name]["verdict"] == "no detectable difference", name
    assert slower["ttft_p50"]["difference"] == pytest.approx(0.18, abs=0.05)
    assert slower["ttft_p50"]["low"] < 0.18 < slower["ttft_p50"]["high"]
    assert slower["token_gap_p50"]["difference"] == pytest.approx(0.012, abs=1e-5)
    assert figures(after, before)["ttft_p50"]["verdict"] == "better"
    assert slower["output_tokens"]["verdict"] == "no detectable difference"


def test_the_command_says_what_is_worse_and_fails_on_it_where_it_is_told_to(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a", calls(1)), written(tmp_path / "b", calls(2, slower=1.6))
    done = run("analysis", "compare", str(a), str(b), "--fail-on", "worse")
    assert (done.returncode, done.stderr) == (7, "")
    assert "ttft_p50: worse, " in done.stdout and "spells of a minute" in done.stdout
    assert invoked(str(a), str(b)).exit_code == 0
    assert invoked(str(a), str(a), "--fail-on", "worse").exit_code == 0
    assert "| ttft\\_p50 | s |" in invoked(str(a), str(b), "-o", "md").stdout
    printed = json.loads(invoked(str(a), str(b), "-o", "json").stdout)
    assert printed["verdicts"]["worse"] >= 3 and printed["figures"][0]["n"] == [400, 400]


def throttled_in_spells(seed: int, share: float) -> Iterator[ObservedCall]:
    """Ten minutes in which each minute is throttled throughout or not at all, by chance."""
    rng = random.Random(seed)
    for minute in range(10):
        closed = rng.random() < share
        for n in range(60):
            at = minute * 60.0 + n
            yield refused(at, throttle_kind="tokens") if closed else stream(at, rng)


def test_refusals_that_come_in_spells_do_not_pass_for_as_many_refusals(tmp_path: Path) -> None:
    said = []
    for seed in range(6):
        a, b = (
            written(tmp_path / f"{seed}{one}", throttled_in_spells(2 * seed + n, 0.3)) for n, one in enumerate("ab")
        )
        said.append(figures(a, b)["throttled"])
    assert {row["verdict"] for row in said} <= {"no detectable difference", "perhaps worse", "perhaps better"}
    # Independent calls of such shares would often be sure to differ.
    assert max(abs(row["difference"]) for row in said) > 0.2
    rng = random.Random(5)
    few, many = (
        written(
            tmp_path / name, (refused(n) if rng.random() < share else stream(n, rng) for n in map(float, range(600)))
        )
        for name, share in (("few", 0.05), ("many", 0.2))
    )
    assert figures(few, many)["throttled"]["verdict"] == "worse"


def alike(run: Run, rng: np.random.Generator, number: int = 150) -> Run:
    """Calls of a long run drawn at random, one after the other: another run of the same distribution."""
    drawn = run.calls.sample(number, random_state=int(rng.integers(2**31))).reset_index(drop=True)
    return run._replace(calls=drawn.assign(at=np.arange(number) * 0.5))


@pytest.mark.parametrize("pairs", [10, pytest.param(200, marks=pytest.mark.soak)])
def test_two_runs_alike_are_told_apart_no_more_often_than_chance_allows(tmp_path: Path, pairs: int) -> None:
    rng = np.random.default_rng(5)
    whole = read_run(written(tmp_path, calls(1, 3_000)), HEADERS, CALL_COLUMNS, SAMPLED)
    verdicts: list[str] = []
    tables = told = 0
    for _ in range(pairs):
        found = compare(alike(whole, rng), alike(whole, rng))
        for table in (found.figures, found.parts):
            verdicts += list(table["verdict"])
            tables += 1
            told += int(table["verdict"].isin(CLEAR).any())
    judged = [one for one in verdicts if not is_unjudged(one)]
    perhaps = sum(one.startswith("perhaps ") for one in judged)
    print(f"{len(judged):,} figures judged, {perhaps} perhaps; {told} of {tables} tables with one called different")
    # Of figures 5 in 100 may look different by themselves, of tables 5 in 100 have one that is called so.
    assert len(judged) > 20 * pairs and perhaps <= 0.05 * len(judged) and told <= max(1, 0.05 * tables)


def with_mix(folder: Path, mix: list[dict[str, Any]], **about: Any) -> Path:
    return written(folder, calls(7, slower=2.0), options={"mix": mix, "rate": 3.0}, **about)


def test_another_mix_is_not_compared_but_for_the_classes_that_both_have_alike(tmp_path: Path) -> None:
    a = with_mix(tmp_path / "a", MIX)
    b = with_mix(tmp_path / "b", [MIX[0], {"name": "long", "weight": 9}])
    found = compared(a, b)
    assert set(found.figures["verdict"]) == {"not compared: another mix of calls"}
    assert found.figures["difference"].notna().all()
    classes = found.parts[found.parts["of"] == "class"].set_index(["name", "figure"])["verdict"]
    assert classes["short", "ttft_p50"] == "no detectable difference"
    assert classes["long", "ttft_p50"] == "not compared: another mix of calls"
    assert dict(found.about.changed.set_index("setting")["b"]) == {"class long": '{"name":"long","weight":9}'}
    # In a pipeline, what was not compared has not passed.
    assert invoked(str(a), str(b), "--fail-on", "worse").exit_code == 7


def test_the_open_and_the_closed_model_are_not_compared_but_for_what_calls_are_made_of(tmp_path: Path) -> None:
    a, b = with_mix(tmp_path / "a", MIX, arrivals="closed"), with_mix(tmp_path / "b", MIX)
    found = figures(a, b)
    assert found["ttft_p50"]["verdict"] == found["throttled"]["verdict"] == "not compared: open and closed model"
    assert found["output_tokens"]["verdict"] == "no detectable difference"


def test_another_scenario_is_not_compared_and_other_targets_are_said(tmp_path: Path) -> None:
    east = [{"name": "east", "endpoint": "https://east.openai.azure.com", "deployment": "chat"}]
    west = [{**east[0], "endpoint": "https://west.openai.azure.com"}]
    a, b = written(tmp_path / "a", calls(1, 60), targets=east), written(tmp_path / "b", calls(2, 60), targets=west)
    said = invoked(str(a), str(b)).stdout
    assert "! The targets were others, or other deployments of them." in said
    assert "chat, east.openai.azure.com" in said and "chat, west.openai.azure.com" in said
    about = json.loads((b / "run.json").read_text())
    (b / "run.json").write_text(json.dumps({**about, "scenario": "burst"}))
    done = invoked(str(a), str(b), "--fail-on", "worse")
    assert done.exit_code == 7 and "Nothing of them can be compared." in done.stdout
    assert "as their load is not the same: another scenario." in done.stdout


def at_random(seed: int, rate: float = 2.0, output: float = 30.0) -> Iterator[ObservedCall]:
    """Of gpt-4.1, at random times."""
    rng, at = random.Random(seed), 0.0
    while (at := at + rng.expovariate(rate)) < 1_000:
        tokens = {"input_tokens": 500, "output_tokens": 1 + round(rng.expovariate(1 / output))}
        yield stream(at, rng, response_model="gpt-4.1-2025-04-14", request_max_tokens=None, **tokens)


def test_units_that_a_load_needs_are_compared_with_an_interval_and_so_is_its_price(tmp_path: Path) -> None:
    before, same, longer = (
        written(tmp_path / name, at_random(seed, output=output))
        for name, seed, output in (("a", 1, 30.0), ("b", 2, 30.0), ("c", 3, 150.0))
    )
    found = compared(before, longer)
    (units,) = found.parts[found.parts["of"] == "deployment"].to_dict("records")
    # 120 calls a minute of 500 + 4 x 31 tokens over 3,000 are 25 units; of 500 + 4 x 151 they are 44.
    assert (units["figure"], units["verdict"]) == ("units_needed", "higher")
    assert units["low"] <= units["difference"] <= units["high"] and units["difference"] == pytest.approx(19, abs=7)
    price = found.figures.set_index("figure").loc["list_price"]
    # $2 and $8 a million.
    assert price["a"] == pytest.approx(1.0 + 31 * 0.008, rel=0.05) and price["verdict"] == "worse"
    assert "list_price: worse, $2.2" in invoked(str(before), str(longer)).stdout
    again = compared(before, same).parts
    assert list(again.loc[again["of"] == "deployment", "verdict"]) == ["no detectable difference"]


def test_what_else_was_another_is_said(tmp_path: Path) -> None:
    a = with_mix(tmp_path / "a", MIX)
    b = written(
        tmp_path / "b",
        calls(8, response_model="gpt-4.1-2025-04-14"),
        options={"mix": MIX, "rate": 5.0},
        versions={"aoai-headroom": "0.0.9"},
    )
    found = compared(a, b)
    said = "\n".join(found.about.warnings)
    for part in ("other versions of aoai-headroom", "Another model answered", "The load was another: rate differ"):
        assert part in said
    changed = found.about.changed.set_index("setting")
    assert list(changed.loc["rate"]) == ["3.0", "5.0"]
    assert list(changed.loc["answered by"]) == ["gpt-4o-2024-08-06", "gpt-4.1-2025-04-14"]


NOTHING: dict[str, Callable[[], Iterator[ObservedCall]]] = {
    "empty": lambda: iter(()),
    "only 429s": lambda: (refused(float(n)) for n in range(60)),
    "no success": lambda: (
        refused(float(n), outcome="server_error", throttle_kind=None, status_code=500) for n in range(60)
    ),
    "one call": lambda: calls(4, 1),
}


@pytest.mark.parametrize(
    ("one", "other"),
    [*((one, "usual") for one in NOTHING), ("empty", "empty"), ("only 429s", "only 429s"), ("empty", "no success")],
)
def test_runs_of_which_there_is_little_or_nothing_to_say_are_compared_and_why_is_said(
    tmp_path: Path, one: str, other: str
) -> None:
    a = written(tmp_path / "a", NOTHING[one]())
    b = written(tmp_path / "b", calls(2, 60) if other == "usual" else NOTHING[other]())
    done = invoked(str(a), str(b))
    assert done.exit_code == 0, done.exception
    if "empty" in (one, other):
        assert "Nothing of them can be compared." in done.stdout
    found = figures(a, b)
    if (one, other) == ("only 429s", "usual"):
        assert found["throttled"]["verdict"] == "better" and found["ttft_p50"]["verdict"] == "A has none"
        assert found["throttled"]["difference"] == -1.0
    if (one, other) == ("one call", "usual"):
        assert found["ttft_p50"]["verdict"] == found["throttled"]["verdict"] == "fewer than 30 calls"
        assert "there is too little to judge by" in done.stdout or "Nothing of them" in done.stdout
    if (one, other) == ("no success", "usual"):
        assert found["failed"]["verdict"] == "better" and found["ttft_p50"]["verdict"] == "A has none"
    if {one, other} == {"only 429s"}:
        assert found["throttled"]["verdict"] == "no detectable difference"


def test_first_tokens_that_the_client_may_have_made_late_are_not_compared(tmp_path: Path) -> None:
    a = written(tmp_path / "a", calls(1))
    b = written(tmp_path / "b", calls(2, loop_lag=0.2, clock="user"), options={"mix": MIX, "max_tainted": 0.01})
    found = compared(a, b)
    assert any("B has no times to the first token" in warning for warning in found.about.warnings)
    assert figures(a, b)["ttft_p50"]["verdict"] == "B has none"


def test_how_a_provisioned_run_used_its_units_is_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def full(level: float) -> Iterator[ObservedCall]:
        for n in range(200):
            shown = f"{level + rng.normal(0, 3):.1f}%"
            yield call(float(n), headers=(("azure-openai-deployment-utilization", shown),))

    found = figures(written(tmp_path / "a", full(40)), written(tmp_path / "b", full(70)))["utilization_p50"]
    assert found["verdict"] == "higher" and found["difference"] == pytest.approx(0.3, abs=0.02)


def test_what_is_no_run_ends_in_one_line(tmp_path: Path) -> None:
    done = run("analysis", "compare", str(tmp_path), str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "") and "is no run" in done.stderr and done.stderr.count("\n") == 1
