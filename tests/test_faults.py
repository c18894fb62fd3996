"""Every fault that a call can meet, F01 to F58, through the client over real sockets: each alone, and all of them at
5 % among healthy calls of one client.

`tests/faults/table.py` has the rows. `xfail` marks what the client does not do yet, and fails once it does.
"""

import os
import random
import re
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import trustme
from rich.console import Console

from probe.advice import advice
from probe.client import Client
from probe.prompts import Prompt
from probe.record import ObservedCall, decode
from probe.render import render_call
from probe.target import Target
from probe.transport import Timeouts
from tests.commands import run, settings_of
from tests.faults.fault import LONG, SHORT, Fault, facts
from tests.faults.table import ALL, GOOD, TABLE, WHOLE
from tests.wire import (
    LAST_CHUNK,
    Script,
    WireServer,
    blackhole,
    chunk,
    head,
    reply,
    sends,
    sends_and_closes,
    sends_and_resets,
    serving,
    stream_head,
    tunnels,
)

NUMBER = re.compile(rb"call (\d+)")
# One timeout for all: the silent rows last as long as it, the others must never come near it.
MIXED = Timeouts(connect=1.0, first_byte=0.4, idle=0.4, total=0.6)
HEALTHY = 19


def asking(number: int) -> Prompt:
    return Prompt(str(number), ({"role": "user", "content": f"call {number}"},), 8, 2)


def number_of(request: bytes) -> int:
    found = NUMBER.search(request)
    assert found is not None
    return int(found[1])


def healthy(connection: socket.socket, request: bytes) -> None:
    """An answer that is this call's alone: its id, its region and its count of tokens are the call's number."""
    number = number_of(request)
    named = (f"apim-request-id: r-{number}", f"x-ms-region: region-{number}")
    if b'"stream":true' in request:
        events = ALL.replace(b"chatcmpl-1", b"own-%d" % number).replace(b'_tokens":2', b'_tokens":%d' % number)
        connection.sendall(stream_head(*named) + chunk(events) + LAST_CHUNK)
    else:
        body = WHOLE.replace(b"chatcmpl-1", b"own-%d" % number).replace(b'_tokens":1', b'_tokens":%d' % number)
        connection.sendall(reply(body, "200 OK", *named))


class Own(NamedTuple):
    outcome: str
    status: int | None
    id: str | None
    request_id: str | None
    region: tuple[str, ...]
    output_tokens: int | None


def own(number: int) -> Own:
    return Own("ok", 200, f"own-{number}", f"r-{number}", (f"region-{number}",), number)


def seen_as(call: ObservedCall) -> Own:
    return Own(
        call.outcome,
        call.status_code,
        call.response_id,
        call.service_request_id,
        call.header("x-ms-region"),
        call.output_tokens,
    )


def target_at(endpoint: str, name: str = "t") -> Target:
    return Target(name=name, endpoint=endpoint, deployment="chat", api_version="2024-10-21", api_key="k-1")


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client(timeouts=LONG)
    yield made
    made.close()


class Alone(NamedTuple):
    """What became of a call that met the fault, and of the one after it."""

    call: ObservedCall
    after: ObservedCall
    connections: int


@cache
def alone(name: str) -> Alone:
    row = TABLE[name]
    client = Client(timeouts=row.timeouts)
    with serving(row.script, healthy) as server:
        target = target_at(server.url)
        call = client.observe(target, asking(1), stream=row.stream)
        after = client.observe(target, asking(2), stream=True)
        client.close()
        return Alone(call, after, server.connections)


def expected_of(row: Fault) -> dict[str, object]:
    return {"outcome": row.outcome, **row.keeps}


def marked(row: Fault) -> ParameterSet:
    marks = [pytest.mark.xfail(strict=True, reason=row.today)] if row.today else []
    return pytest.param(row, id=row.name, marks=marks)


def test_every_number_of_the_list_has_a_row_or_a_test_of_its_own() -> None:
    own_tests = {1, 2, 3, 4, 5, 6, 9, 27}
    in_the_table = {int(row.number[1:]) for row in TABLE.values()}
    assert in_the_table | own_tests == set(range(1, 59))
    assert not in_the_table & own_tests


@pytest.mark.parametrize("row", map(marked, TABLE.values()))
def test_a_fault_comes_out_as_what_it_is_with_what_had_come_until_then(row: Fault) -> None:
    call = alone(row.name).call
    expected = expected_of(row)
    assert facts(call, expected) == expected


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_the_call_after_a_fault_is_unharmed(row: Fault) -> None:
    seen = alone(row.name)
    assert seen_as(seen.after) == own(2)
    if row.survives is not None and not row.today:
        assert (seen.connections == 1) is row.survives


def shuffled() -> list[Fault | None]:
    """Each fault once and nineteen healthy calls to each, in the same order every time."""
    plan: list[Fault | None] = [*TABLE.values(), *[None] * (HEALTHY * len(TABLE))]
    random.Random(58).shuffle(plan)
    return plan


def test_at_5_percent_among_healthy_calls_every_call_comes_out_as_its_own() -> None:
    plan = shuffled()

    def script(connection: socket.socket, request: bytes) -> None:
        row = plan[number_of(request)]
        (healthy if row is None else row.script)(connection, request)

    client = Client(timeouts=MIXED)
    wrong = {}
    with serving(script) as server:
        target = target_at(server.url)
        for number, row in enumerate(plan):
            call = client.observe(target, asking(number), stream=number % 2 == 0 if row is None else row.stream)
            if row is None and seen_as(call) != own(number):
                wrong[number] = str(seen_as(call))
            elif row is not None and not row.today and call.outcome != row.outcome:
                wrong[number] = f"{row.name}: {call.outcome}"
        client.close()
        assert len(server.requests) == len(plan)
    assert wrong == {}
