from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.assertions import NAMES, Assertion
from tests.test_render import a_call

CALL = a_call(
    request_stream=True,
    time_to_headers=0.2,
    time_to_first_token=0.31,
    response_model="gpt-4o",
    headers=(
        ("X-MS-Region", "Sweden Central"),
        ("azure-openai-deployment-utilization", "88.4%"),
        ("x-ratelimit-remaining-tokens", "969"),
    ),
)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ('h["x-ms-region"] == "Sweden Central"', True),
        ('h["x-ms-region"] != "Sweden Central"', False),
        ('region in ["East US", "Sweden Central"] and status == 200', True),
        ('"Sweden" in region', True),
        ("0 < ttft < 0.5", True),
        ("0 < ttft < 0.3", False),
        ("not stream or ttft < 0.3", False),
        ('h["azure-openai-deployment-utilization"] < 90', True),
        ("utilisation < 80", False),
        ("remaining_tokens / 1000 > 0.5", True),
        ("-remaining_tokens + 1 < 0", True),
        ('h["x-none"] == None', True),
        ('h["x-none"] == "a"', False),
        ('outcome == "ok"', True),
        ('status == "200"', True),
    ],
)
def test_an_expression_holds_or_not(text: str, held: bool) -> None:
    assert Assertion(text).judge(CALL).held is held


def test_what_it_looked_at_is_told() -> None:
    verdict = Assertion('h["x-ms-region"] == "West US" and ttft < 9').judge(CALL)
    assert verdict.values == {'h["x-ms-region"]': "Sweden Central"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("input_tokens < 5", "was not observed"),
        ('"gpt" in h["x-none"]', "was not observed"),
        ("region < 5", "do not compare"),
        ("remaining_tokens / 0 > 1", "division by zero"),
        ('region * 1000000000 == ""', "do not compare"),
        ("h == 1", "h alone is no value"),
    ],
)
def test_what_has_no_answer_fails_and_says_why(text: str, problem: str) -> None:
    verdict = Assertion(text).judge(CALL)
    assert not verdict.held and verdict.problem is not None and problem in verdict.problem


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "status.__class__",
        "(lambda: 1)()",
        "[x for x in region]",
        "h[status]",
        "region[0]",
        "2 ** 99999999",
        "f'{status}'",
        "b'x' == region",
        "statsu == 200",
        "status = 200",
        "status == 200; 1",
        "",
        "1 if status else 0",
        "(" * 400 + "1" + ")" * 400,
        "not " * 300 + "1",
        "status == 200 or " * 100 + "1",
    ],
)
def test_nothing_else_is_of_the_language(text: str) -> None:
    try:
        assertion = Assertion(text)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        # Python's parser takes it, and so it has an answer.
        assert text.startswith("not ") and assertion.judge(CALL).held


def test_a_call_that_does_not_stream_is_not_judged_by_its_first_token() -> None:
    whole = a_call(request_stream=False)
    assert not Assertion("ttft < 1").applies_to(whole)
    assert Assertion("duration < 1").applies_to(whole)


texts = st.text(st.sampled_from('status ttft h["x"] ()<>=!+-*/.,\'012 andornoti'), max_size=40)


@given(texts | st.text(max_size=40))
def test_any_text_is_refused_in_one_line_or_has_an_answer(text: str) -> None:
    try:
        assertion = Assertion(text)
    except ValueError as error:
        assert str(error).isprintable()
        return
    values: dict[str, Any] = assertion.judge(CALL).values
    assert all(name in NAMES or name.startswith("h[") for name in values)
