"""What a month costs, by prices so round that every sum can be worked out by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from analysis.cli import analysis

# A unit takes 960 tokens a minute, 16 a second; a million of them cost $10, of cached ones $5, and of output $20.
MODELS = """
[[table]]
as_of = 2027-01-01
source = "ours"
[table.models]
"round" = { input_tpm_per_ptu = 960, output_weight = 4, global = [1, 1], datazone = [1, 1], regional = [10, 10] }
"""
PRICES = """
[[table]]
as_of = 2027-01-02
source = "our agreement"
ptu = { global_hour = 2.0, datazone_hour = 3.0, regional_hour = 4.0, reserved_month = 500.0, reserved_year = 4800.0 }
[table.per_million_tokens]
"round" = { input = 10.0, cached_input = 5.0, output = 20.0 }
"""


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    (tmp_path / "models.toml").write_text(MODELS)
    (tmp_path / "prices.toml").write_text(PRICES)
    files = ["--models", str(tmp_path / "models.toml"), "--prices", str(tmp_path / "prices.toml")]
    return ["--model", "round", *files]


def trace(folder: Path, calls: Sequence[tuple[int, int, int]]) -> str:
    """Of seconds, tokens in and tokens out."""
    rows = [f"2027-01-01 00:{at // 60:02}:{at % 60:02},{tokens},{answer}" for at, tokens, answer in calls]
    (folder / "trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    return str(folder / "trace.csv")


def said(*arguments: str) -> str:
    done = CliRunner().invoke(analysis, ["ptu", *arguments])
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def found(*arguments: str) -> dict[str, Any]:
    return dict(json.loads(said(*arguments, "-o", "json")))


EVEN = ["--rpm", "10", "--input-tokens", "1000", "--output-tokens", "90", "--cached-share", "0.4"]


def test_every_way_to_pay_is_the_sum_worked_out_by_hand(tables: list[str]) -> None:
    # A call is 600 + 4 x 90 tokens to a unit, ten of them a minute 10 units; by the token $0.006 + $0.002 + $0.0018.
    ten = found(*tables, *EVEN)
    payg = 10 * 0.0098 * 60 * 730
    assert ten["ptu"] == 10
    assert ten["money"] == pytest.approx(
        {
            "payg": payg,
            "hourly": 10 * 2 * 730,
            "reserved_month": 10 * 500,
            "reserved_year": 10 * 4_800 / 12,
            # 10,900 tokens a minute cost $4,292.40; as many times more cost what the units do.
            "break_even_tpm": 10_900 * 5_000 / 4_292.4,
            "break_even_hourly_tpm": 10_900 * 14_600 / 4_292.4,
            "break_even_year_tpm": 10_900 * 4_000 / 4_292.4,
            "tpm": 10_900,
        }
    )
    assert ten["prices"] == {"as_of": "2027-01-02", "source": "our agreement", "units_as_of": "2027-01-02"}
    for offer, dollars in (("datazone", 3), ("regional", 4)):
        assert found(*tables, *EVEN, "--offer", offer)["money"]["hourly"] == 10 * dollars * 730


def test_where_a_load_stands_beside_the_break_evens_is_said(tables: list[str]) -> None:
    told = said(*tables, *EVEN)
    assert "$4,292 pay-as-you-go; units $14,600 by the hour, $5,000 reserved by the month, $4,000 by the year" in told
    assert "37,075 tokens a minute by the hour, 12,697 reserved by the month, 10,157 by the year" in told
    assert "this load has 10,900: the units are cheaper by the year." in told
    # Longer answers weigh four times a token on the units and cost twice: 19 units, and $0.0138 a call.
    longer = said(*tables, "--rpm", "10", "--input-tokens", "1000", "--output-tokens", "290", "--cached-share", "0.4")
    assert "this load has 12,900: pay-as-you-go is cheaper." in longer
    # What is cached costs nothing on the units: 10 of them, and $0.0055 a call.
    cached = said(*tables, "--rpm", "96", "--input-tokens", "1000", "--output-tokens", "0", "--cached-share", "0.9")
    assert "the units are cheaper by the hour and reserved by the month and by the year." in cached


# On one unit, which holds 960 tokens and drains as many a minute: two calls a minute at once, then one, and so on.
BURSTS = [(60 * minute, 960, 0) for minute in range(40) for _ in range(2 if minute % 4 == 0 else 1)]


def test_what_spills_over_is_what_the_units_refuse_and_costs_its_tokens_uncached(
    tables: list[str], tmp_path: Path
) -> None:
    file = trace(tmp_path, BURSTS)
    whole = found(file, *tables, "--throttled", "0.3", "--spillover", "--cached-share", "0")
    # 50 calls, of which every fourth minute's second finds the bucket full: 10 of 960 tokens, $0.0096 each.
    assert whole["ptu"] == 1 and whole["calls"] == 50
    month = 10 * 0.0096 * 730 * 60 / whole["minutes"]
    spilled = whole["spillover"]
    assert (spilled["calls"], spilled["input_tokens"], spilled["output_tokens"]) == (10, 9_600, 0)
    assert (spilled["dollars_month"], spilled["total_month"]) == pytest.approx((month, 500 + month))
    assert spilled["cheapest"] == {"ptu": 1, "dollars_month": pytest.approx(500 + month)}
    assert "With spillover: 10 calls (20.00%), 9,600 tokens in and 0 out, go to pay-as-you-go" in said(
        file, *tables, "--throttled", "0.3", "--spillover", "--cached-share", "0"
    )
    # On two units nothing spills, and they cost $1,000.
    by_count = {row["ptu"]: row["dollars_month"] for row in whole["counts"]}
    assert by_count[1] == pytest.approx(500 + month) and by_count[2] == 1_000
    lost = found(file, *tables, "--throttled", "0.3")
    assert lost["spillover"] is None and lost["counts"][0]["dollars_month"] == 500


def test_half_of_the_input_cached_makes_room_for_a_burst_and_is_not_cached_where_it_spills_to(
    tables: list[str], tmp_path: Path
) -> None:
    thrice = [(60 * minute, 960, 0) for minute in range(40) for _ in range(3 if minute % 4 == 0 else 1)]
    half = found(trace(tmp_path, thrice), *tables, "--throttled", "0.3", "--spillover", "--cached-share", "0.5")
    # Of three at once that weigh 480 the third finds the bucket full; it costs all of its tokens.
    assert (half["ptu"], half["spillover"]["calls"], half["spillover"]["input_tokens"]) == (1, 10, 9_600)
    assert half["spillover"]["dollars_month"] == pytest.approx(0.096 * 730 * 60 / half["minutes"])


def test_a_client_that_tries_again_waits_for_the_bucket_and_spills_nothing(tables: list[str], tmp_path: Path) -> None:
    file = trace(tmp_path, [(60 * minute, 960, 0) for minute in range(0, 40, 4) for _ in range(2)])
    alone = found(file, *tables, "--throttled", "0.5", "--cached-share", "0")
    again = found(file, *tables, "--throttled", "0.5", "--retries", "2", "--spillover", "--cached-share", "0")
    one = {name: rows["counts"][0]["refused_share"] for name, rows in (("alone", alone), ("again", again))}
    assert one == {"alone": 0.5, "again": 0.0}
    assert again["counts"][0]["refused_attempts"] == 10 and again["spillover"]["calls"] == 0
    # The second of each pair waits a millisecond: then the bucket is a hair under full.
    assert again["counts"][0]["waited_p95"] == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trace", "--spillover", "--offer", "regional"], "--spillover: regional deployments do not spill over"),
        ([*EVEN, "--spillover"], "--spillover needs a SOURCE"),
        ([*EVEN, "--retries", "1"], "--retries needs a SOURCE"),
    ],
)
def test_what_cannot_be_had_ends_in_one_line(arguments: list[str], says: str, tables: list[str]) -> None:
    done = CliRunner().invoke(analysis, ["ptu", *arguments, *tables])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1) and says in done.stderr


def test_a_model_without_a_price_is_sized_and_its_costs_are_not_made_up(tables: list[str], tmp_path: Path) -> None:
    file, without = trace(tmp_path, BURSTS), tables[:4]
    whole = found(file, *without, "--spillover", "--throttled", "0.3")
    assert whole["ptu"] == 1 and whole["money"] is None and whole["spillover"] is None
    assert all(row["dollars_month"] is None for row in whole["counts"])
    assert "there is no price for this model; --prices FILE adds one" in said(file, *without, "--throttled", "0.3")
