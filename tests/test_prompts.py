from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.counting import input_tokens
from probe.prompts import Mix, Prefix, numbered, read_mix, rebuild, streaming
from tests.commands import ROOT


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-35-turbo"])
@given(st.integers(0, 999_999), st.integers(8, 5000))
def test_a_prompt_rebuilt_from_its_id_counts_as_what_it_was_planned_to(model: str, number: int, size: int) -> None:
    rebuilt = rebuild(numbered(number, size, max_tokens=1).id)
    assert rebuilt.input_tokens == size
    assert input_tokens({"model": model, "messages": rebuilt.messages}).tokens == size


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-35-turbo"])
@given(st.integers(0, 999_999), st.integers(8, 3000), st.integers(0, 3000), st.integers(0, 999_999))
def test_a_prefix_changes_no_size_and_a_prompt_with_one_is_rebuilt_from_its_id(
    model: str, number: int, size: int, shared: int, prefix: int
) -> None:
    made = numbered(number, size, 1, Prefix(shared, prefix))
    assert rebuild(made.id) == made
    assert made.input_tokens == size == input_tokens({"model": model, "messages": made.messages}).tokens


def test_prompts_of_one_prefix_share_so_many_tokens_and_no_more() -> None:
    one, other, third = (
        numbered(number, size, 1, Prefix(600, prefix)).messages[0]["content"]
        for number, size, prefix in ((7, 1000, 42), (950_008, 1800, 42), (7, 1000, 43))
    )
    common = one[: next(at for at, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) == 2)]
    assert input_tokens({"model": "gpt-4o", "messages": [{"role": "user", "content": common}]}).tokens == 600 + 7
    assert one.startswith("000042") and third.startswith("000043")


@pytest.mark.parametrize("text", ["", "8", "8-", "8-1-2", "8-1-2-3-4", "x-1", "8-1-2-x"])
def test_what_is_no_id_of_a_prompt_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a prompt id"):
        rebuild(text)


def test_the_example_of_a_mix_is_what_it_says() -> None:
    classes = read_mix(ROOT / "locustfiles" / "traffic.toml")
    mix = Mix(classes, 0.5, "1")
    asks = [mix.draw() for _ in range(3000)]
    shares = {name: number / 3000 for name, number in Counter(ask.traffic for ask in asks).items()}
    assert shares == pytest.approx({"chat": 0.7, "retrieval": 0.2, "json": 0.1}, abs=0.03)
    assert all(ask.stream == (ask.traffic != "json") for ask in asks)
    assert streaming(classes, 0.5) == 0.9
    prefixes = {(ask.traffic, *ask.prompt.id.split("-")[2:]) for ask in asks if ask.prompt.input_tokens > 3000}
    assert len(prefixes) == len({traffic for traffic, *_ in prefixes})
