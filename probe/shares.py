"""Where a call's time went: the service's own timings laid over the client's.

The service's clock starts when the request reaches it, ours when the request is issued, so only durations are compared,
never moments. With the fields of `latency_checkpoint` (milliseconds, undocumented) and the client's times:

    filter       pre_inference                                  reported; that it is the prompt's filter is inferred
    queue        service_ttft - pre_inference - engine_ttft     inferred: what is left before the first token
    engine       engine_ttft                                    reported: the model's work up to the first token
    generation   service_ttlt - service_ttft                    reported; of a whole call only
    network      one round trip, as the TCP handshake took      inferred; only where this call opened the connection
    outside      the client's time - the service's - network    inferred: through API Management the `gateway` with its
                 own way to the service; on direct calls `unaccounted`: the service's front end, its filter of the
                 answer, and the network beyond one round trip

What is missing gives fewer parts: without a handshake network and outside are one part, without a checkpoint the
service's parts are one with what lies around them. The parts always add up to `whole`.

Reasoning.  The service's first token may be a hidden one, so a first token after reasoning is not divided up.
Rounding.   The service rounds to milliseconds: a difference as little below 0 as that is 0. Where the service's own
            times are longer than the client's the two cannot be laid over each other, and `note` says so.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from probe.record import LatencyCheckpoint, ObservedCall

Part = Literal[
    "network",
    "gateway",
    "unaccounted",
    "network and gateway",
    "network and front end",
    "gateway and service",
    "front end and service",
    "service",
    "filter",
    "queue",
    "engine",
    "generation",
]
Basis = Literal["reported", "inferred"]

_ROUNDING = 0.003


class Share(msgspec.Struct, frozen=True):
    """`basis`: reported by the service, or inferred from what was measured and reported."""

    part: Part
    seconds: float
    basis: Basis


class Shares(msgspec.Struct, frozen=True):
    """The parts of the time to the first token, or of the whole call, in the order in which they come to pass."""

    of: Literal["first token", "whole call"]
    whole: float
    parts: tuple[Share, ...]
    note: str | None = None

    def seconds(self, part: Part) -> float | None:
        return next((share.seconds for share in self.parts if share.part == part), None)


def first_token_shares(call: ObservedCall) -> Shares | None:
    """Of a stream's time to the first token; None where there was none, or hidden reasoning came before it."""
    if call.time_to_first_token is None or call.reasoning_tokens or not call.request_stream:
        return None
    told = call.latency_checkpoint
    return _shares(call, "first token", call.time_to_first_token, None if told is None else _before_first_token(told))


def call_shares(call: ObservedCall) -> Shares | None:
    """Of the time to the last byte; None where nothing was sent or nothing came back."""
    if call.duration is None or call.time_to_headers is None:
        return None
    told = call.latency_checkpoint
    return _shares(call, "whole call", call.duration, None if told is None else _whole(told))


def _before_first_token(told: LatencyCheckpoint) -> list[Share] | None:
    pre, first, engine = told.pre_inference_ms, told.service_ttft_ms, told.engine_ttft_ms
    if first is None:
        return None
    if pre is None or engine is None or first - pre - engine < -_ROUNDING * 1000:
        return [Share("service", first / 1000, "reported")]
    return [
        Share("filter", pre / 1000, "reported"),
        Share("queue", max(0, first - pre - engine) / 1000, "inferred"),
        Share("engine", engine / 1000, "reported"),
    ]


def _whole(told: LatencyCheckpoint) -> list[Share] | None:
    first, last = told.service_ttft_ms, told.service_ttlt_ms
    if last is None:
        return None
    before = _before_first_token(told)
    if before is None or first is None or last < first:
        return [Share("service", last / 1000, "reported")]
    return [*before, Share("generation", (last - first) / 1000, "reported")]


def _shares(
    call: ObservedCall, of: Literal["first token", "whole call"], whole: float, told: list[Share] | None
) -> Shares:
    inside = told or []
    outside = whole - sum(share.seconds for share in inside)
    if outside < -_ROUNDING:
        note = f"the service says it took {-outside * 1000:,.0f} ms longer than the client saw: no shares"
        return Shares(of, whole, (), note)
    around = tuple(_around(call, max(0.0, outside), alone=not inside))
    unsaid = None if inside else "not divided further: the service gave too few timings of its own"
    return Shares(of, whole, (*around, *inside), unsaid)


def _around(call: ObservedCall, outside: float, *, alone: bool) -> Iterator[Share]:
    """What lies between the client and the service; `alone` where the service's own part is in it too."""
    through_gateway = call.gateway == "apim"
    if call.connect is None or call.connect > outside:
        if not alone:
            yield Share("network and gateway" if through_gateway else "network and front end", outside, "inferred")
        return
    yield Share("network", call.connect, "inferred")
    rest: Part = "gateway" if through_gateway else "unaccounted"
    if alone:
        rest = "gateway and service" if through_gateway else "front end and service"
    yield Share(rest, outside - call.connect, "inferred")
