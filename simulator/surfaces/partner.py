"""Chat with another company's model, as Foundry passes it on since 2026: no filters' results, and other chunks. Pure.

Observed of grok on `/models`: the role comes with the first text, a choice has nothing but its index and delta, a
tool's call comes whole, and the usage in a chunk of its own whether asked for or not.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from simulator.surfaces.answers import Answer, Event
from simulator.wire import dump

_SETTINGS = {"system_fingerprint": "fp_49c5j0a323", "service_tier": "default"}


def whole(answer: Answer, request_id: str) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.pieces), "refusal": None}
    if answer.tool_calls:
        message["tool_calls"] = _calls(answer)
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    reply = {**_shared(answer, request_id, "chat.completion"), "choices": [choice], "usage": _usage(answer)}
    return dump({**reply, **_SETTINGS})


def events(answer: Answer, request_id: str) -> Iterator[Event]:
    role = {"role": "assistant"}
    if answer.tool_calls:
        yield Event(0, _chunk(answer, request_id, {"delta": {**role, "tool_calls": _calls(answer)}}))
    for token, piece in enumerate(answer.pieces):
        yield Event(token, _chunk(answer, request_id, {"delta": {"content": piece, **role}}))
        role = {}
    last = answer.sent_tokens - 1
    yield Event(last, _chunk(answer, request_id, {"delta": {}, "finish_reason": answer.finish_reason}))
    used = {**_shared(answer, request_id, "chat.completion.chunk"), "choices": [], "usage": _usage(answer), **_SETTINGS}
    yield Event(last, b"data: " + dump(used) + b"\n\n")
    yield Event(last, b"data: [DONE]\n\n")


def _shared(answer: Answer, request_id: str, kind: str) -> dict[str, Any]:
    return {"id": request_id, "object": kind, "created": answer.created, "model": answer.model}


def _chunk(answer: Answer, request_id: str, choice: Mapping[str, Any]) -> bytes:
    shared = _shared(answer, request_id, "chat.completion.chunk")
    told = {**shared, "choices": [{"index": 0, **choice}], **_SETTINGS}
    return b"data: " + dump(told) + b"\n\n"


def _calls(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id,
            "function": {"name": call.name, "arguments": "".join(call.arguments)},
            "index": index,
            "type": "function",
        }
        for index, call in enumerate(answer.tool_calls)
    ]


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        "prompt_tokens_details": {
            "text_tokens": answer.prompt_tokens,
            "audio_tokens": 0,
            "image_tokens": 0,
            "cached_tokens": answer.cached_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": answer.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
        "num_sources_used": 0,
        "cost_in_usd_ticks": 0,
    }
