"""The rows of Locust's tables stay few and harmless, whatever a failing service says."""

import string
import uuid
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from locustfiles._tables import MOST_ERRORS, OTHER, ErrorTexts, fold, normalised


@given(st.uuids(), st.uuids(), st.integers(0, 10**12), st.integers(0, 10**12))
def test_errors_that_differ_by_ids_and_numbers_are_one_row(
    one: uuid.UUID, other: uuid.UUID, first: int, second: int
) -> None:
    texts = [
        f"request {guid} ({guid.hex}) failed after {number} ms at {number}"
        for guid, number in ((one, first), (other, second))
    ]
    assert normalised(texts[0]) == normalised(texts[1]) == "request {guid} ({guid}) failed after {n} ms at {n}"


def test_what_names_an_error_is_left() -> None:
    for code in ("DeploymentNotFound", "unsupported_parameter", "context_length_exceeded", "AttributeError"):
        assert normalised(code) == code
    assert normalised("trace chatcmpl-AbC0123456789xYz at 0xdeadbeef") == "trace {id} at {id}"


def test_after_two_hundred_kinds_of_error_the_rest_are_one_row() -> None:
    errors = ErrorTexts()
    codes = [f"{first}{second}" for first in string.ascii_letters for second in string.ascii_letters]
    texts = {errors.text("bad_request", None, "400", code) for code in codes}
    assert len(texts) == MOST_ERRORS + 1 and OTHER in texts
    # One that has its row keeps it.
    assert errors.text("bad_request", None, "400", codes[0]) == f"bad_request 400 {codes[0]}"


@given(st.text())
def test_no_error_acts_on_a_terminal_or_a_spreadsheet(code: str) -> None:
    text = ErrorTexts().text(normalised(code))
    assert text.isprintable() and not text.startswith(tuple("=+-@\t\r"))


@dataclass
class Row:
    """As Locust has it."""

    method: str
    name: str
    error: str
    occurrences: int
    first_seen: float | None
    last_seen: float | None


def test_a_masters_rows_of_errors_stay_few_whatever_its_workers_have_and_none_goes_uncounted() -> None:
    errors: dict[str, Row] = {}
    for report in range(3):
        for number in range(MOST_ERRORS):
            kind = f"{report}-{number}"
            errors[kind] = Row("chat", f"target {number % 2}", kind, 1, float(report), float(report))
        fold(errors)
        assert len(errors) == MOST_ERRORS + (2 if report else 0)
    assert sum(row.occurrences for row in errors.values()) == 3 * MOST_ERRORS
    others = [row for row in errors.values() if row.error == OTHER]
    assert sorted((row.name, row.occurrences, row.last_seen) for row in others) == [
        ("target 0", MOST_ERRORS, 2.0),
        ("target 1", MOST_ERRORS, 2.0),
    ]
