"""All faults of the tables at 5 % among healthy calls, each of which has an answer that is its alone.

Run as a module it does so under gevent, as in Locust: several clients at once, and a watch on how long the hub was held
up. It prints what was wrong, one line a call.
"""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import random
import re
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from probe.client import Client
from probe.prompts import Prompt
from probe.record import ObservedCall
from probe.target import Target
from probe.transport import Timeouts
from tests.faults.fault import Fault
from tests.faults.table import ALL, TABLE, WHOLE
from tests.wire import LAST_CHUNK, WireServer, chunk, reply, serving, stream_head

NUMBER = re.compile(rb"call (\d+)")
# One for all: the rows in which the server falls silent last as long. The whole is less than a drip lasts (2 s), and
# more than 50 MB take on a busy machine.
TIMEOUTS = Timeouts(connect=1.0, first_byte=0.5, idle=0.5, total=1.6)
HEALTHY = 19
AT_ONCE = 8
# No scripted fault may hold up the others' calls for longer; a garbage collection may take some of it.
LONGEST_LAG = 0.4


def target_at(endpoint: str, name: str = "t") -> Target:
    return Target(name=name, endpoint=endpoint, deployment="chat", api_version="2024-10-21", api_key="k-1")


def asking(number: int) -> Prompt:
    return Prompt(str(number), ({"role": "user", "content": f"call {number}"},), 8, 2)


def number_of(request: bytes) -> int:
    found = NUMBER.search(request)
    assert found is not None
    return int(found[1])


def healthy(connection: socket.socket, request: bytes) -> None:
    """Its id, its region and its count of tokens are the call's number."""
    number = number_of(request)
    named = (f"apim-request-id: r-{number}", f"x-ms-region: region-{number}")
    if b'"stream":true' in request:
        events = ALL.replace(b"chatcmpl-1", b"own-%d" % number).replace(b'n_tokens":2', b'n_tokens":%d' % number)
        connection.sendall(stream_head(*named) + chunk(events) + LAST_CHUNK)
    else:
        body = WHOLE.replace(b"chatcmpl-1", b"own-%d" % number).replace(b'n_tokens":1', b'n_tokens":%d' % number)
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


def _plan() -> list[Fault | None]:
    plan: list[Fault | None] = [*TABLE.values(), *[None] * (HEALTHY * len(TABLE))]
    random.Random(58).shuffle(plan)
    return plan


PLAN = _plan()


def by_number(connection: socket.socket, request: bytes) -> None:
    row = PLAN[number_of(request)]
    (healthy if row is None else row.script)(connection, request)


def wrong(server: WireServer, numbers: Iterable[int]) -> Iterator[str]:
    """One client's calls, one after the other; those that did not come out as their own script says."""
    client = Client(timeouts=TIMEOUTS)
    target = target_at(server.url)
    for number in numbers:
        row = PLAN[number]
        stream = number % 2 == 0 if row is None else row.stream
        call = client.observe(target, asking(number), stream=stream)
        if row is None:
            if seen_as(call) != own(number):
                yield f"call {number}, healthy: {seen_as(call)}"
        elif call.outcome != row.outcome:
            yield f"call {number}, {row.name}: {call.outcome}"
    client.close()


def _under_gevent() -> Iterator[str]:
    import gevent

    longest = [0.0]

    def watch() -> None:
        while True:
            began = time.perf_counter()
            gevent.sleep(0.01)
            longest[0] = max(longest[0], time.perf_counter() - began - 0.01)

    watcher = gevent.spawn(watch)
    with serving(by_number) as server:
        clients = [
            gevent.spawn(lambda first: list(wrong(server, range(first, len(PLAN), AT_ONCE))), first)
            for first in range(AT_ONCE)
        ]
        for one in gevent.joinall(clients, raise_error=True):
            yield from one.get()
        if len(server.requests) != len(PLAN):
            yield f"{len(server.requests)} requests for {len(PLAN)} calls"
    watcher.kill()
    if longest[0] > LONGEST_LAG:
        yield f"the hub was held up for {longest[0]:.3f} s"


if __name__ == "__main__":
    found = list(_under_gevent())
    print(*found, sep="\n", file=sys.stderr)
    sys.exit(bool(found))
