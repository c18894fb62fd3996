"""What is shown of a server's words: nothing that acts on a terminal or in a spreadsheet."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.escaping import csv_safe, json_printable, printable

ACTS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
ANY = st.text(st.characters(exclude_categories=()))


@given(ANY)
def test_printed_text_has_nothing_that_acts_and_keeps_what_does_not(text: str) -> None:
    shown = printable(text)
    assert not ACTS.search(shown)
    assert printable(shown) == shown


@given(st.dictionaries(st.text(), st.text()))
def test_json_for_a_terminal_is_the_same_json(value: dict[str, str]) -> None:
    line = json_printable(json.dumps(value, ensure_ascii=False))
    assert json.loads(line) == value
    assert not ACTS.search(line)


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\0=1", "\uff1d1", "-", "+1-1"]
)
def test_a_cell_that_begins_like_a_formula_is_made_text(cell: str) -> None:
    assert csv_safe(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["-1", "+1.5", "-.5e-3", "42", "", "chat", "a=b", "'=1"])
def test_numbers_and_words_stay_as_they_are(cell: str) -> None:
    assert csv_safe(cell) == cell
