"""The simulator's query language: what each operator leaves of the rows, and what a wrong query is told."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.azure.kql import Column, KqlError, Table, run, ticks

NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
COLUMNS = (
    Column("At", "datetime"),
    Column("Name", "string"),
    Column("Status", "string"),
    Column("Ms", "long"),
    Column("Ok", "bool"),
    Column("Extra", "dynamic"),
)
ROWS: tuple[Mapping[str, Any], ...] = (
    {"At": "2026-09-01T11:30:00Z", "Name": "Chat_Create", "Status": "200", "Ms": 120, "Ok": True},
    {"At": "2026-09-01T10:30:00.5000000Z", "Name": "chat completions", "Status": "429", "Ms": 3, "Ok": False},
    {"At": "2026-09-01T11:00:00.1234567Z", "Name": "Embeddings", "Status": "200", "Ok": True, "Extra": {"a": [1]}},
)


def answer(query: str, rows: tuple[Mapping[str, Any], ...] = ROWS) -> list[list[Any]]:
    return run(query, {"T": Table(COLUMNS, rows)}, NOW)[1]


def names(condition: str) -> list[str]:
    return [row[0] for row in answer(f"T | where {condition} | project Name")]


def refusal(query: str) -> KqlError:
    with pytest.raises(KqlError) as raised:
        answer(query)
    return raised.value


CHAT, WORDS, EMBEDDINGS = (row["Name"] for row in ROWS)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("Status == '200'", [CHAT, EMBEDDINGS]),
        ('Status != "200"', [WORDS]),
        ("Name =~ 'EMBEDDINGS'", [EMBEDDINGS]),
        ("Name == 'EMBEDDINGS'", []),
        ("Status in ('429', '500')", [WORDS]),
        ("Ms in (3, 120)", [CHAT, WORDS]),
        ("Name contains 'OMPLET'", [WORDS]),
        ("Name has 'chat'", [CHAT, WORDS]),
        ("Name has 'Chat_Create'", [CHAT]),
        ("Name has 'comple'", []),
        ("Name has 'reate'", []),
        ("Ms > 3", [CHAT]),
        ("Ms >= 3.0", [CHAT, WORDS]),
        ("Ms < 4 and Ms > -1", [WORDS]),
        ("Ms between (3 .. 120)", [CHAT, WORDS]),
        ("Ok", [CHAT, EMBEDDINGS]),
        ("Ok == false", [WORDS]),
        ("Status == '429' or Status == '200' and Ms > 100", [CHAT, WORDS]),
        ("(Status == '429' or Status == '200') and Ms > 100", [CHAT]),
        ("not(Status == '200')", [WORDS]),
        ("At > ago(1h)", [CHAT, EMBEDDINGS]),
        ("At < ago(1.5h) or At > now()", []),
        ("At <= ago(89m)", [WORDS]),
        ("At between (datetime(2026-09-01T10:30:00.5Z) .. datetime(2026-09-01 11:00))", [WORDS]),
        ("At >= datetime(2026-09-01T13:00:00+02:00)", [CHAT, EMBEDDINGS]),
    ],
)
def test_a_condition_keeps_the_rows_it_is_true_of(condition: str, expected: list[str]) -> None:
    assert names(condition) == expected


def test_a_missing_number_is_unequal_to_any_and_otherwise_neither_above_nor_below() -> None:
    assert names("Ms != 3") == [CHAT, EMBEDDINGS]
    assert names("not(Ms > 3)") == [WORDS]
    assert names("not(Ms > 3 and Ok)") == [WORDS]
    assert names("Ms > 3 or Ok") == [CHAT, EMBEDDINGS]
    assert names("Ms == Ms") == [CHAT, WORDS]


def test_a_missing_string_is_empty() -> None:
    assert answer("T | where Status == '' | project Status", ({"Ms": 1},)) == [[""]]


def test_strings_have_escapes_and_comments_are_skipped() -> None:
    rows = ({"Name": 'a "quoted"\\ // name\n'},)
    assert answer(
        r"""T // all | of them
        | where Name == "a \"quoted\"\\ // name\n" | count""",
        rows,
    ) == [[1]]


def test_a_projection_orders_and_renames_columns_and_keeps_their_types() -> None:
    columns, rows = run("T | project Milliseconds = Ms, At, Extra | take 1", {"T": Table(COLUMNS, ROWS[2:])}, NOW)
    assert columns == [("Milliseconds", "long"), ("At", "datetime"), ("Extra", "dynamic")]
    assert rows == [[None, "2026-09-01T11:00:00.1234567Z", '{"a":[1]}']]


def test_times_are_written_as_short_as_they_are() -> None:
    assert [row[0] for row in answer("T | project At | limit 2")] == ["2026-09-01T11:30:00Z", "2026-09-01T10:30:00.5Z"]


def test_rows_are_in_descending_order_unless_told_and_nulls_are_the_smallest() -> None:
    assert [row[0] for row in answer("T | order by Ms | project Name")] == [CHAT, WORDS, EMBEDDINGS]
    assert [row[0] for row in answer("T | sort by Ms asc | project Name")] == [EMBEDDINGS, WORDS, CHAT]
    assert [row[0] for row in answer("T | order by Status asc, At desc | project Name")] == [CHAT, EMBEDDINGS, WORDS]


def test_operators_see_what_the_one_before_left() -> None:
    assert answer("T | take 2 | where Status == '200' | count") == [[1]]
    assert answer("T | where Status == '200' | take 2 | count") == [[2]]


def test_counts_are_by_the_values_of_columns() -> None:
    columns, rows = run("T | summarize count() by Status, Ok", {"T": Table(COLUMNS, ROWS)}, NOW)
    assert columns == [("Status", "string"), ("Ok", "bool"), ("count_", "long")]
    assert sorted(rows) == [["200", True, 2], ["429", False, 1]]
    assert answer("T | summarize n = count() | where n > 2") == [[3]]


def test_nothing_is_counted_as_nothing() -> None:
    assert answer("T | count", ()) == answer("T | summarize count()", ()) == [[0]]
    assert answer("T | summarize count() by Status", ()) == []


@pytest.mark.parametrize(
    ("query", "text", "position"),
    [
        ("| take 1", "Query could not be parsed at '|' on line [1,0]", (1, 0)),
        ("T |", "Query could not be parsed at '<EOF>' on line [1,3]", (1, 3)),
        ("T\n\n| where Ms >\n", "Query could not be parsed at '<EOF>' on line [4,0]", (4, 0)),
        ("T | join (U) on Name", "Query could not be parsed at 'join' on line [1,4]", (1, 4)),
        ("T | take 1.5", "Query could not be parsed at '1.5' on line [1,9]", (1, 9)),
        ("T | where Name == 'open", "Query could not be parsed at ''' on line [1,18]", (1, 18)),
        ("T | where strlen(Name) > 1", "Query could not be parsed at 'strlen' on line [1,10]", (1, 10)),
        ("T | where (Ms > 1", "Query could not be parsed at '<EOF>' on line [1,17]", (1, 17)),
        ("T | where Ms > 1 Ms < 3", "Query could not be parsed at 'Ms' on line [1,17]", (1, 17)),
        ("T | summarize avg(Ms)", "Query could not be parsed at 'avg' on line [1,14]", (1, 14)),
        ("T | where At > datetime(soon)", "Failed to parse datetime literal: 'datetime(soon)'", (1, 15)),
        ("T | where " + "(" * 5000, "nested too deeply", (1, 0)),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(query: str, text: str, position: tuple[int, int]) -> None:
    error = refusal(query)
    assert text in str(error)
    assert (error.code, (error.line, error.position)) == ("SYN0002", position)


@pytest.mark.parametrize(
    ("query", "code", "text"),
    [
        ("U | take 1", "SEM0100", "'take' operator: Failed to resolve table or column expression named 'U'"),
        ("U", "SEM0100", "Failed to resolve table or column expression named 'U'"),
        ("T | where ms > 1", "SEM0100", "'where' operator: Failed to resolve column or scalar expression named 'ms'"),
        ("T | project Ms | where Ok", "SEM0100", "column or scalar expression named 'Ok'"),
        ("T | where Status == 429", "SEM0064", "Cannot compare values of types string and long"),
        ("T | where Status in (429)", "SEM0064", "Cannot compare values of types string and long"),
        ("T | where At > '2026-09-01'", "SEM0064", "Cannot compare values of types datetime and string"),
        ("T | where Name > 'A'", "SEM0064", "Cannot compare values of types string and string"),
        ("T | where Ms has 1", "SEM0064", "Cannot compare values of types long and long"),
        ("T | where Ms", "SEM0001", "'where' operator"),
        ("T | where not(Ms)", "SEM0001", "'where' operator"),
        ("T | order by Extra", "SEM0001", "'Extra' is of the type dynamic"),
        ("T | project Ms, Ms", "SEM0022", "A column named 'Ms' already exists"),
        ("T | summarize Ok = count() by Ok", "SEM0022", "A column named 'Ok' already exists"),
    ],
)
def test_what_makes_no_sense_is_refused_even_of_an_empty_table(query: str, code: str, text: str) -> None:
    with pytest.raises(KqlError) as raised:
        run(query, {"T": Table(COLUMNS, ())}, NOW)
    assert raised.value.code == code
    assert text in str(raised.value)


@given(st.text("T|where()[]<>=!~ \"'\\1.,-\nMsandorinbetweenprojectagodatetime/", max_size=60))
def test_any_text_is_answered_or_refused(text: str) -> None:
    try:
        answer(f"T | {text}")
    except KqlError as error:
        assert error.line >= 1 and error.position >= 0


@given(st.integers(0, 3_000_000 * 86400 * 10**7))
def test_a_time_keeps_all_its_digits(at: int) -> None:
    whole = datetime(1, 1, 1) + timedelta(seconds=at // 10**7)
    text = f"{whole.isoformat()}.{at % 10**7:07d}Z"
    [[written]] = answer("T | project At", ({"At": text},))
    assert ticks(text) == ticks(written) == at


@given(st.lists(st.one_of(st.none(), st.integers(-5, 5))), st.integers(-5, 5))
def test_a_condition_and_its_opposite_and_the_nulls_are_all_rows(numbers: list[int | None], than: int) -> None:
    rows = tuple({"Ms": number} for number in numbers)
    [[above]] = answer(f"T | where Ms > {than} | count", rows)
    [[opposite]] = answer(f"T | where not(Ms > {than}) | count", rows)
    assert above + opposite + numbers.count(None) == len(numbers)
