import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.sse import MAX_EVENT_BYTES, Event, EventTooLargeError, SSEReader


def read(*chunks: bytes) -> list[Event]:
    reader = SSEReader()
    return [event for chunk in chunks for event in reader.feed(chunk)] + reader.close()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(edges)]


BODIES = st.lists(
    st.sampled_from(
        [
            b"data: a",
            b"data:b",
            b"data",
            b": ping",
            b"event: x",
            b"id: 7",
            b"retry",
            b"",
            b"data: \xc3\xa9",
            b"[DONE]",
            b"\xef\xbb",
        ]
    ),
    max_size=12,
).flatmap(
    lambda lines: st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=len(lines), max_size=len(lines)).map(
        lambda ends: b"".join(line + end for line, end in zip(lines, ends, strict=True))
    )
)


@given(BODIES, st.lists(st.integers(0, 200), max_size=6), st.booleans())
def test_however_a_body_is_cut_up_its_events_are_the_same(body: bytes, places: list[int], with_bom: bool) -> None:
    body = b"\xef\xbb\xbf" + body if with_bom else body
    assert read(*cut(body, places)) == read(body)


@given(BODIES)
def test_the_kind_of_line_end_makes_no_difference(body: bytes) -> None:
    assert read(re.sub(rb"\r\n|\r", b"\n", body)) == read(body)


def test_data_lines_of_one_event_are_joined_by_a_line_feed() -> None:
    assert read(b"data: one\ndata: two\n\n") == [Event(b"", b"one\ntwo")]


def test_only_one_space_after_the_colon_is_dropped_and_none_is_needed() -> None:
    assert read(b"data:  x\n\ndata:y\n\n") == [Event(b"", b" x"), Event(b"", b"y")]


def test_the_event_field_names_its_own_event_only() -> None:
    assert read(b"event: response.created\ndata: 1\n\ndata: 2\n\n") == [
        Event(b"response.created", b"1"),
        Event(b"", b"2"),
    ]


def test_an_event_is_out_as_soon_as_its_empty_line_is_in() -> None:
    reader = SSEReader()
    assert reader.feed(b"data: 1\r") == []
    assert reader.feed(b"\r") == [Event(b"", b"1")]
    assert reader.feed(b"\ndata: 2\n\n") == [Event(b"", b"2")]


def test_comments_are_counted_and_end_no_event() -> None:
    reader = SSEReader()
    assert reader.feed(b": ping\n\n: ping\n\ndata: 1\n\n") == [Event(b"", b"1")]
    assert reader.comments == 2


def test_an_event_that_the_end_cuts_short_is_handed_out_at_the_end() -> None:
    assert read(b"data: 1\n\ndata: [DONE]") == [Event(b"", b"1"), Event(b"", b"[DONE]")]


def test_done_by_itself_is_the_event_that_it_was_meant_to_be() -> None:
    done = Event(b"", b"[DONE]")
    assert read(b"data: a\n\n", b"[DON", b"E]") == read(b"data: a\n\n[DONE]\n\n") == [Event(b"", b"a"), done]
    assert read(b"x[DONE]\n\n") == read(b"[DONE]x\n\n") == []


def test_an_event_without_data_is_no_event() -> None:
    assert read(b"event: x\n\nid: 1\n\n") == []


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 65536 + b"\n", b"x" * 65536])
def test_an_endless_event_is_refused_before_it_fills_the_memory(piece: bytes) -> None:
    reader = SSEReader()
    with pytest.raises(EventTooLargeError):
        for _ in range(2 * MAX_EVENT_BYTES // len(piece)):
            reader.feed(piece)
