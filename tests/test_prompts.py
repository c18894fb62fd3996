import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.counting import input_tokens
from probe.prompts import numbered, rebuild


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-35-turbo"])
@given(st.integers(0, 999_999), st.integers(8, 5000))
@settings(deadline=None)
def test_a_prompt_rebuilt_from_its_id_counts_as_what_it_was_planned_to(model: str, number: int, size: int) -> None:
    rebuilt = rebuild(numbered(number, size, max_tokens=1).id)
    assert rebuilt.input_tokens == size
    assert input_tokens({"model": model, "messages": rebuilt.messages}).tokens == size
