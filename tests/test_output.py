"""What every `analysis` command prints, to the letter."""

import json

import pandas as pd
from hypothesis import example, given
from hypothesis import strategies as st

from analysis.output import Result, Table, as_json, render, render_runs

FRAME = pd.DataFrame(
    {
        "target": ["east", "日本|west"],
        "calls": pd.array([1200, None], "Int64"),
        "share": [0.01234, float("nan")],
        "few": [False, True],
    }
)
RESULT = Result(
    ["2 calls of 3 were joined."],
    {"joined": 2, "skew": float("nan"), "period": (1.5, None)},
    {
        "regions": Table("Regions", FRAME, "no call answered"),
        "gaps": Table("Gaps", FRAME[:0], "nothing streamed"),
    },
)


def test_a_table_has_numbers_to_the_right_and_a_dash_for_what_is_not_known() -> None:
    assert render(RESULT, "table") == (
        "2 calls of 3 were joined.\n\n"
        "Regions\n\n"
        "  target     calls    share  few\n"
        "  east       1,200  0.01234  no\n"
        "  日本|west      -        -  yes\n\n"
        "Gaps: nothing streamed"
    )


def test_markdown_escapes_what_would_be_markup() -> None:
    assert render(RESULT, "md") == (
        "- 2 calls of 3 were joined.\n\n"
        "### Regions\n\n"
        "| target | calls | share | few |\n"
        "| --- | --- | --- | --- |\n"
        "| east | 1,200 | 0.01234 | no |\n"
        "| 日本\\|west | - | - | yes |\n\n"
        "### Gaps\n\n"
        "nothing streamed"
    )


def test_json_has_the_values_themselves_and_null_for_what_is_not_known() -> None:
    assert json.loads(render(RESULT, "json")) == {
        "joined": 2,
        "skew": None,
        "period": [1.5, None],
        "regions": [
            {"target": "east", "calls": 1200, "share": 0.01234, "few": False},
            {"target": "日本|west", "calls": None, "share": None, "few": True},
        ],
        "gaps": [],
    }


@example("\x7f")
@given(st.text(max_size=20))
def test_nothing_that_acts_on_a_terminal_is_printed_and_json_keeps_it(text: str) -> None:
    result = Result([text], {}, {"rows": Table("Rows", pd.DataFrame({"name": [text]}), "")})
    for output in ("table", "md", "json"):
        assert all(c.isprintable() or c == "\n" for c in render(result, output))
    assert as_json(result)["rows"] == [{"name": text}]
    assert json.loads(render(result, "json"))["rows"] == [{"name": text}]


def test_several_runs_are_named_and_as_json_a_list() -> None:
    few = Result(["nothing."], {"n": 0}, {})
    assert render_runs([("one", few)], "table") == "nothing."
    assert render_runs([("one", few), ("two", few)], "md") == "## one\n\n- nothing.\n\n## two\n\n- nothing."
    assert json.loads(render_runs([("one", few)], "json")) == {"run": "one", "n": 0}
    assert [found["run"] for found in json.loads(render_runs([("one", few), ("two", few)], "json"))] == ["one", "two"]
