"""Chat completions: what a request asks for, a whole reply, and the chunks of a stream. Pure.

Observed:

- The first chunk has the prompt's filter results and no choice, the second only the role. With `include_usage` every
  chunk but the last has `usage: null`, and the last has the usage, the service's own timings and no choice.
- `obfuscation` pads each chunk to a random length since late 2025. `service_tier` is there since 2026, a fingerprint
  only before.
- A tool call's name comes with the role, its arguments in pieces; chunks of tool calls have no filter results.
- With the asynchronous filter text comes unfiltered, and chunks without a delta and with an empty id say later what was
  checked, up to after the finish reason.
"""

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from simulator.surfaces import asks
from simulator.surfaces.answers import PROMPT_FILTERED, Answer, Event, ToolCall
from simulator.wire import dump

DONE = b"data: [DONE]\n\n"

_SAFE = {"filtered": False, "severity": "safe"}
_UNDETECTED = {"detected": False, "filtered": False}
# What chunks without text say of the filter.
_UNFILTERED: Mapping[str, Any] = {}
_HARMS = {"hate": _SAFE, "self_harm": _SAFE, "sexual": _SAFE, "violence": _SAFE}
_GUARDED_PROMPT = {
    "hate": _SAFE,
    "jailbreak": _UNDETECTED,
    "self_harm": _SAFE,
    "sexual": _SAFE,
    "violence": _SAFE,
}
_GUARDED_ANSWER = {
    "hate": _SAFE,
    "protected_material_code": _UNDETECTED,
    "protected_material_text": _UNDETECTED,
    "self_harm": _SAFE,
    "sexual": _SAFE,
    "violence": _SAFE,
}
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789" * 4
# How many characters the asynchronous filter looks at between two of its reports.
_CHECKED_AT_ONCE = 400


class Dialect(NamedTuple):
    """What differs in the body from one generation to the next."""

    prompt_filter: Mapping[str, Any]
    answer_filter: Mapping[str, Any]
    refusal: bool = True
    obfuscation: bool = True
    fingerprint: str | None = None
    service_tier: bool = True
    checkpoint: bool = True


DIALECTS: dict[str, Dialect] = {
    "2023": Dialect(_HARMS, _HARMS, refusal=False, obfuscation=False, service_tier=False, checkpoint=False),
    "2024": Dialect(_HARMS, _HARMS, refusal=False, obfuscation=False, service_tier=False, checkpoint=False),
    "2025": Dialect(_HARMS, _HARMS, fingerprint="fp_03e44fcc34", service_tier=False, checkpoint=False),
    "2026-02": Dialect(_GUARDED_PROMPT, _HARMS, fingerprint="fp_efad92c60b", service_tier=False, checkpoint=False),
    "2026-03": Dialect(_GUARDED_PROMPT, _GUARDED_ANSWER, checkpoint=False),
    "2026-06": Dialect(_GUARDED_PROMPT, {"protected_material_text": _UNDETECTED}),
    "2026-08": Dialect(_GUARDED_PROMPT, {"protected_material_text": _UNDETECTED}),
}


class Ask(NamedTuple):
    """A valid request. `calls` is the tool that the answer is to call, where it is to call one."""

    messages: list[dict[str, Any]]
    max_tokens: int | None
    stream: bool
    include_usage: bool
    tools: list[dict[str, Any]]
    calls: Mapping[str, Any] | None
    json_object: bool


def read(fields: Mapping[str, Any]) -> Ask:
    messages = _messages(fields)
    options = asks.mapping(fields, "stream_options")
    stream = asks.flag(fields, "stream")
    if options and not stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise asks.InvalidRequestError(message, "stream_options")
    tools = _tools(fields)
    return Ask(
        messages=messages,
        max_tokens=_max_tokens(fields),
        stream=stream,
        include_usage=asks.flag(options, "include_usage"),
        tools=tools,
        calls=_tool_to_call(fields.get("tool_choice") or "auto", tools, messages),
        json_object=asks.mapping(fields, "response_format").get("type") in ("json_object", "json_schema"),
    )


def _messages(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = asks.sequence(fields, "messages")
    if not messages:
        raise asks.missing("messages")
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise asks.wrong_type(f"messages[{number}]", "an object", message)
        content = message.get("content")
        if not isinstance(content, str | list | None):
            raise asks.wrong_type(f"messages[{number}].content", "one of a string or array of objects", content)
        for call in asks.sequence(message, "tool_calls"):
            if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
                raise asks.missing(f"messages[{number}].tool_calls[0].function")
    return messages


def _tools(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools = asks.sequence(fields, "tools")
    for number, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise asks.wrong_type(f"tools[{number}]", "an object", tool)
        function = asks.mapping(tool, "function")
        if not function.get("name") or not isinstance(function["name"], str):
            raise asks.missing(f"tools[{number}].function.name")
        asks.mapping(function, "parameters")
    return tools


def _max_tokens(fields: Mapping[str, Any]) -> int | None:
    given = (asks.integer(fields, name, 1) for name in ("max_tokens", "max_completion_tokens"))
    return min((value for value in given if value is not None), default=None)


def _tool_to_call(
    choice: object, tools: list[dict[str, Any]], messages: list[dict[str, Any]]
) -> Mapping[str, Any] | None:
    """The function named, or else the first one, unless the tools have answered already."""
    functions = [tool["function"] for tool in tools]
    if choice == "none" or (choice == "auto" and messages[-1].get("role") == "tool"):
        return None
    if not isinstance(choice, dict):
        return functions[0] if functions else None
    wanted = asks.mapping(choice, "function").get("name")
    return next((function for function in functions if function["name"] == wanted), None)


def usage(answer: Answer) -> dict[str, Any]:
    return {
        "completion_tokens": answer.completion_tokens,
        "completion_tokens_details": {
            "accepted_prediction_tokens": 0,
            "audio_tokens": 0,
            "reasoning_tokens": answer.reasoning_tokens,
            "rejected_prediction_tokens": 0,
        },
        "prompt_tokens": answer.prompt_tokens,
        "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": answer.cached_tokens},
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }


def whole(answer: Answer, dialect: Dialect, completion_id: str, checkpoint: Mapping[str, int]) -> bytes:
    used = usage(answer)
    if dialect.checkpoint:
        used["latency_checkpoint"] = checkpoint
    reply = {
        "choices": [_choice(answer, dialect)],
        "created": answer.created,
        "id": completion_id,
        "model": answer.model,
        "object": "chat.completion",
        "prompt_filter_results": _prompt_filter(dialect),
        **({"service_tier": "default"} if dialect.service_tier else {}),
        "system_fingerprint": dialect.fingerprint,
        "usage": used,
    }
    return dump(reply)


def _choice(answer: Answer, dialect: Dialect) -> dict[str, Any]:
    message: dict[str, Any] = {"content": None if answer.tool_calls else "".join(answer.pieces), "role": "assistant"}
    if dialect.refusal:
        message = {"annotations": [], "content": message["content"], "refusal": None, "role": "assistant"}
    if answer.tool_calls:
        message["tool_calls"] = [_whole_call(call) for call in answer.tool_calls]
    return {
        "content_filter_results": {} if answer.tool_calls else _answer_filter(answer, dialect),
        "finish_reason": answer.finish_reason,
        "index": 0,
        "logprobs": None,
        "message": message,
    }


def _whole_call(call: ToolCall) -> dict[str, Any]:
    return {
        "function": {"arguments": "".join(call.arguments), "name": call.name},
        "id": call.id,
        "type": "function",
    }


def _prompt_filter(dialect: Dialect) -> list[dict[str, Any]]:
    return [{"prompt_index": 0, "content_filter_results": dialect.prompt_filter}]


def _answer_filter(answer: Answer, dialect: Dialect) -> Mapping[str, Any]:
    if answer.finish_reason != "content_filter":
        return dialect.answer_filter
    return {**_HARMS, "violence": {"filtered": True, "severity": "medium"}}


class Chunks:
    """The events of one stream. All but its text and its padding is rendered once."""

    def __init__(
        self, answer: Answer, ask: Ask, dialect: Dialect, completion_id: str, rng: random.Random, asynchronous: bool
    ) -> None:
        self._answer = answer
        self._ask = ask
        self._dialect = dialect
        self._id = completion_id
        self._rng = rng
        self._asynchronous = asynchronous
        tier = ',"service_tier":"default"' if dialect.service_tier else ""
        usage_so_far = ',"usage":null' if ask.include_usage else ""
        fingerprint = json.dumps(dialect.fingerprint)
        obfuscation = ',"obfuscation":"' if dialect.obfuscation else ""
        self._middle = (
            f'"created":{answer.created},"id":"{completion_id}","model":"{answer.model}"{obfuscation}'.encode()
        )
        quote = '"' if dialect.obfuscation else ""
        self._tail = (
            f'{quote},"object":"chat.completion.chunk"{tier},"system_fingerprint":{fingerprint}{usage_so_far}}}\n\n'
        ).encode()

    def events(self, checkpoint: Mapping[str, int]) -> Iterator[Event]:
        answer = self._answer
        last = answer.sent_tokens - 1
        yield Event(PROMPT_FILTERED, self._prompt_filtered())
        yield from self._calls() if answer.tool_calls else self._text()
        yield Event(last, self._chunk({}, answer.finish_reason, self._filtered() if self._blocked else _UNFILTERED))
        if self._asynchronous:
            yield Event(last, self._checked(0, len("".join(answer.pieces))))
        if self._ask.include_usage:
            yield Event(last, self._usage(checkpoint))
        yield Event(last, DONE)

    @property
    def _blocked(self) -> bool:
        return self._answer.finish_reason == "content_filter"

    def _filtered(self) -> Mapping[str, Any]:
        return _answer_filter(self._answer, self._dialect)

    def _prompt_filtered(self) -> bytes:
        empty = {"choices": [], "created": 0, "id": "", "model": "", "object": ""}
        return b"data: " + dump({**empty, "prompt_filter_results": _prompt_filter(self._dialect)}) + b"\n\n"

    def _text(self) -> Iterator[Event]:
        first = self._answer.reasoning_tokens
        yield Event(first, self._chunk(self._role(""), None))
        filtered = dump({} if self._asynchronous else self._dialect.answer_filter)
        before = b'data: {"choices":[{"content_filter_results":' + filtered + b',"delta":{"content":'
        after = b'},"finish_reason":null,"index":0,"logprobs":null}],' + self._middle
        tail, checked, written = self._tail, 0, 0
        for number, piece in enumerate(self._answer.pieces, first):
            yield Event(number, before + dump(piece) + after + self._padding() + tail)
            written += len(piece)
            if self._asynchronous and written - checked >= _CHECKED_AT_ONCE:
                yield Event(number, self._checked(checked, written))
                checked = written

    def _calls(self) -> Iterator[Event]:
        token, role = self._answer.reasoning_tokens, self._role(None)
        for index, call in enumerate(self._answer.tool_calls):
            named = {
                "function": {"arguments": "", "name": call.name},
                "id": call.id,
                "index": index,
                "type": "function",
            }
            yield Event(token, self._chunk({**role, "tool_calls": [named]}, None))
            role = {}
            for piece in call.arguments:
                delta = {"tool_calls": [{"function": {"arguments": piece}, "index": index}]}
                yield Event(token, self._chunk(delta, None))
                token += 1

    def _role(self, content: str | None) -> dict[str, Any]:
        if self._dialect.refusal:
            return {"content": content, "refusal": None, "role": "assistant"}
        return {"content": content, "role": "assistant"}

    def _checked(self, start: int, end: int) -> bytes:
        """What the asynchronous filter reports: a choice without a delta."""
        choice = {
            "content_filter_offsets": {"check_offset": end, "start_offset": start, "end_offset": end},
            "content_filter_results": self._dialect.answer_filter,
            "finish_reason": None,
            "index": 0,
        }
        return b"data: " + dump({"choices": [choice], "created": 0, "id": "", "model": "", "object": ""}) + b"\n\n"

    def _usage(self, checkpoint: Mapping[str, int]) -> bytes:
        answer, dialect = self._answer, self._dialect
        event: dict[str, Any] = {
            "choices": [],
            "created": answer.created,
            "id": self._id,
            **({"latency_checkpoint": checkpoint} if dialect.checkpoint else {}),
            "model": answer.model,
            **({"obfuscation": self._padding().decode()} if dialect.obfuscation else {}),
            "object": "chat.completion.chunk",
            **({"service_tier": "default"} if dialect.service_tier else {}),
            "system_fingerprint": dialect.fingerprint,
            "usage": usage(answer),
        }
        return b"data: " + dump(event) + b"\n\n"

    def _chunk(
        self, delta: dict[str, Any], finish_reason: str | None, filtered: Mapping[str, Any] = _UNFILTERED
    ) -> bytes:
        choice = {
            "content_filter_results": filtered,
            "delta": delta,
            "finish_reason": finish_reason,
            "index": 0,
            "logprobs": None,
        }
        return b'data: {"choices":[' + dump(choice) + b"]," + self._middle + self._padding() + self._tail

    def _padding(self) -> bytes:
        """1 to 15 letters, which hide how long a token is."""
        if not self._dialect.obfuscation:
            return b""
        drawn = int(self._rng.random() * 3000)
        return _LETTERS[drawn // 15 : drawn // 15 + drawn % 15 + 1]
