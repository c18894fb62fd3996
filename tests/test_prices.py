"""Prices: which one holds for a model and a day, and what a call costs by it."""

from datetime import date
from pathlib import Path

import pytest

from probe.prices import read_prices
from probe.target import SettingsError

OWN = """
[[table]]
as_of = 2026-03-01
source = "agreement"
[table.per_million_tokens]
"gpt-4o" = { input = 2.0, output = 8.0 }
"house-model" = { input = 500.0, output = 1.0 }

[[table]]
as_of = 2026-09-01
source = "agreement, renewed"
[table.per_million_tokens]
"gpt-4o" = { input = 1.0, cached_input = 0.5, output = 4.0 }
"""


def own_file(folder: Path, text: str = OWN) -> Path:
    path = folder / "prices.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("served", "priced"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("GPT-4o", "gpt-4o"),
        ("gpt-3.5-turbo-0125", "gpt-35-turbo"),
    ],
)
def test_a_version_costs_what_its_model_does_unless_it_has_a_price_of_its_own(served: str, priced: str) -> None:
    price = read_prices().price(served)
    assert price is not None and price.model == priced


@pytest.mark.parametrize(
    "model", ["gpt-4o-realtime-preview", "gpt-35-turbo-instruct", "gpt-4o-audio", "my-deployment", "gpt", "gpt-9", ""]
)
def test_a_model_without_a_price_gets_none_of_a_relative(model: str) -> None:
    assert read_prices().price(model) is None


def test_the_dearest_is_no_cheaper_than_any_model_in_any_part(tmp_path: Path) -> None:
    dearest = read_prices(own_file(tmp_path)).dearest()
    assert dearest.input == 500.0 and dearest.output == 180.0


def test_the_price_of_a_day_is_the_newest_that_is_not_after_it_and_a_users_own_wins(tmp_path: Path) -> None:
    prices = read_prices(own_file(tmp_path))
    days = {date(2025, 1, 1): 2.0, date(2026, 8, 31): 2.0, date(2026, 9, 1): 1.0, None: 1.0}
    for day, rate in days.items():
        price = prices.price("gpt-4o-2024-08-06", day)
        assert price is not None and price.input == rate and price.source.startswith("agreement")
    ours = prices.price("gpt-4.1")
    assert ours is not None and ours.input == 2.0


def test_cached_tokens_cost_their_own_rate_and_the_full_one_where_none_is_known(tmp_path: Path) -> None:
    prices = read_prices(own_file(tmp_path))
    new, old = prices.price("gpt-4o"), prices.price("gpt-4o", date(2026, 3, 1))
    assert new is not None and old is not None
    assert new.cost(1_000_000, 500_000, cached_tokens=400_000) == pytest.approx(0.6 + 0.2 + 2.0)
    assert old.cost(1_000_000, 0, cached_tokens=400_000) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[table", "end of document"),
        ("x = 1", "prices.toml"),
        ('[[table]]\nas_of = 2026-01-01\nsource = "s"\n[table.per_million_tokens]\nm = {input = 1}', "output"),
        (
            '[[table]]\nas_of = 2026-01-01\nsource = "s"\n[table.per_million_tokens]\nm = {input = -1, output = 1}',
            "below",
        ),
    ],
)
def test_a_file_of_prices_that_cannot_be_read_is_named_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        read_prices(own_file(tmp_path, text))
    assert "prices.toml" in str(caught.value) and "\n" not in str(caught.value)
