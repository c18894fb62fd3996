"""Streams recorded from the service (beside this checkout, where they are): read to what is in them."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.record import ObservedCall
from probe.sse import Event, SSEReader
from probe.target import V1
from tests.test_client import observe
from tests.wire import LAST_CHUNK, chunk, sends, stream_head

FOLDER = Path(__file__).parents[2] / "shared" / "fixtures" / "sse"
# What Responses calls the ends of an answer, and what the record does.
ENDS = {"completed": ("stop", "tool_calls"), "incomplete": ("length",)}


class Recorded(NamedTuple):
    name: str
    surface: str
    body: bytes
    expected: dict[str, Any]


def recorded() -> Iterator[Recorded]:
    index = FOLDER / "index.jsonl"
    for line in index.read_text(encoding="utf-8").splitlines() if index.exists() else []:
        one = json.loads(line)
        yield Recorded(one["file"], one["endpoint"], (FOLDER / one["file"]).read_bytes(), one["expect"])


ALL = list(recorded())
READ = [one for one in ALL if one.surface in ("chat", "responses")]
pytestmark = pytest.mark.skipif(not ALL, reason="the recorded streams are not beside this checkout")


def events(*pieces: bytes) -> list[Event]:
    reader = SSEReader()
    return [event for piece in pieces for event in reader.feed(piece)] + reader.close()


@given(st.data())
@settings(max_examples=200)
def test_a_recorded_stream_has_the_same_events_wherever_it_is_cut(data: st.DataObject) -> None:
    one = data.draw(st.sampled_from(ALL))
    places = data.draw(st.lists(st.integers(0, len(one.body)), max_size=8))
    edges = sorted({0, len(one.body), *places})
    found = events(*(one.body[start:end] for start, end in pairwise(edges)))
    assert found == events(one.body)
    assert sum(event.data != b"[DONE]" for event in found) == one.expected["n_data_events"]


def test_a_recorded_stream_has_the_same_events_cut_in_two_at_every_byte() -> None:
    one = min(ALL, key=lambda one: len(one.body))
    whole = events(one.body)
    assert all(events(one.body[:place], one.body[place:]) == whole for place in range(len(one.body)))


@pytest.mark.parametrize("one", READ, ids=lambda one: one.name[:3])
def test_the_events_of_a_recorded_stream_make_up_its_text(one: Recorded) -> None:
    bodies = [json.loads(event.data) for event in events(one.body) if event.data != b"[DONE]"]
    if one.surface == "responses":
        text = "".join(body["delta"] for body in bodies if body["type"] == "response.output_text.delta")
    else:
        deltas = [choice.get("delta", {}) for body in bodies for choice in body["choices"][:1]]
        text = "".join(delta.get("content") or "" for delta in deltas)
    assert text == (one.expected["text"] or "")


def call_of(one: Recorded) -> ObservedCall:
    asked: dict[str, Any] = {"surface": "responses", "api_version": V1} if one.surface == "responses" else {}
    return observe(sends(stream_head() + chunk(one.body) + LAST_CHUNK), **asked)


@pytest.mark.parametrize("one", READ, ids=lambda one: one.name[:3])
def test_a_recorded_stream_is_read_to_its_usage_finish_reason_and_content(one: Recorded) -> None:
    call, expected, usage = call_of(one), one.expected, one.expected["usage"] or {}
    assert call.outcome in ("ok", "ok_length") and "bad_event" not in call.warnings
    reason = expected["finish_reason"]
    assert set(call.finish_reasons) <= set(ENDS.get(reason, (reason,))) and call.finish_reasons
    taken = (
        usage.get("prompt_tokens", usage.get("input_tokens")),
        usage.get("completion_tokens", usage.get("output_tokens")),
    )
    assert (call.input_tokens, call.output_tokens) == taken
    if one.surface == "chat":
        assert ("no_done" in call.warnings) is not expected["done_sentinel"]
    if expected["n_content_chunks"] and not expected["tool_calls"]:
        assert len(call.event_times) == expected["n_content_chunks"]
