"""The Responses API's shapes: POST /openai/v1/responses, and /openai/responses with a dated api-version. Pure.

Observed:

- A stream's events come as an `event:` and a `data:` line, in this order, numbered from 0 by `sequence_number`, and no
  `[DONE]` follows: `response.created` and `response.in_progress` at once; a reasoning item added and done; a message
  added, its part added, a delta for each token, text, part and item done; for each call of a tool its item added, a
  delta for each token of its arguments, arguments and item done; `response.completed`, or `response.incomplete` if a
  limit ended it.
- `response.created`, `.in_progress` and the last event repeat the whole response; only the last has usage and the
  filters' results. The key sets are those of August 2026.
- A model that spends `max_output_tokens` on reasoning says nothing: the reasoning item is then all the output.
- `obfuscation` pads a delta's text to the next multiple of 16 characters.
- Ids of one answer share 16 hexadecimal digits of chance; then come "01", the second, and 24 digits of their own.
- `model` is the deployment's name as asked, not the snapshot. `service_tier` is "auto" until the end.
- Where `include` asks for it a reasoning item has `encrypted_content`, another at each mention.
- A whole reply is indented by 2 and ASCII; a stream's events are compact and UTF-8.
- An error after the 200 is an `error` event with the details nested under `error`, then `response.failed`. The front
  end's own have `headers: {"x-ms-fe-error": "true"}` in them; a 429 can come so.

Inferred: that an item cut short is `incomplete`; a reasoning item for each answer that has reasoning tokens, and no
other; how the filters' offsets grow with the text; that models without reasoning have no `effort`.

Decided: a prompt's texts include the tools' definitions as JSON; what a `previous_response_id` brings along is the
caller's to add. `completed_at` is the answer's second plus `seconds`, how long the caller will make it take.
"""

import json
import random
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b, shake_128
from json.encoder import encode_basestring
from typing import Any, NamedTuple

import msgspec

from simulator.surfaces import asks
from simulator.surfaces.answers import PROMPT_FILTERED, Answer, Event, ToolCall
from simulator.surfaces.asks import InvalidRequestError

_LEAST_OUTPUT_TOKENS = 16
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
_REASONS = re.compile(r"(o\d|gpt-[5-9]|codex)(?!.*-chat)")
# Those of chat completions, and what they are called here.
_MOVED = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
}
_SAFE = {"filtered": False, "severity": "safe"}
_UNDETECTED = {"detected": False, "filtered": False}
_HARMS = {"hate": _SAFE, "sexual": _SAFE, "violence": _SAFE, "self_harm": _SAFE}
_PROMPT_RESULTS = {**_HARMS, "jailbreak": _UNDETECTED}
_COMPLETION_RESULTS = {"protected_material_code": _UNDETECTED, "protected_material_text": _UNDETECTED, **_HARMS}
_BLOCKED_RESULTS = {**_COMPLETION_RESULTS, "violence": {"filtered": True, "severity": "medium"}}
# What the filter sees of a prompt besides its own text, by the recordings.
_PROMPT_FRAME = 1133
_TOOL_USAGE = {
    "image_gen": {
        "input_tokens": 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "total_tokens": 0,
    },
    "web_search": {"num_requests": 0},
}
_PADDING = "".join(random.Random(16).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", k=4096))
_STARTS = len(_PADDING) - 16
_encode = msgspec.json.Encoder().encode


class Ask(NamedTuple):
    """A valid request's body. `fields` are the whole of it, much of which a response repeats."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None
    max_output_tokens: int | None
    stream: bool
    tools: list[dict[str, Any]]
    previous_response_id: str | None
    effort: str | None
    encrypted: bool
    obfuscated: bool
    fields: Mapping[str, Any]


def read(fields: Mapping[str, Any]) -> Ask:
    """Raises `InvalidRequestError`."""
    for old, new in _MOVED.items():
        if fields.get(old) is not None:
            raise _moved(old, new)
    model = asks.string(fields, "model")
    if not model:
        raise asks.missing("model")
    asks.check_decimal(fields, "temperature", 2)
    asks.check_decimal(fields, "top_p", 1)
    return Ask(
        model=model,
        input=_input(fields),
        instructions=asks.string(fields, "instructions"),
        max_output_tokens=asks.integer(fields, "max_output_tokens", _LEAST_OUTPUT_TOKENS),
        stream=asks.flag(fields, "stream"),
        tools=_tools(fields),
        previous_response_id=asks.string(fields, "previous_response_id"),
        effort=_effort(fields, model),
        encrypted="reasoning.encrypted_content" in asks.sequence(fields, "include"),
        obfuscated=asks.mapping(fields, "stream_options").get("include_obfuscation") is not False,
        fields={**fields, "text": asks.mapping(fields, "text")},
    )


def _moved(old: str, new: str) -> InvalidRequestError:
    message = (
        f"Unsupported parameter: '{old}'. In the Responses API, this parameter has moved to '{new}'. "
        "Try again with the new parameter. See the API documentation for more information: "
        "https://platform.openai.com/docs/api-reference/responses/create."
    )
    return InvalidRequestError(message, old, "unsupported_parameter")


def _input(fields: Mapping[str, Any]) -> str | list[dict[str, Any]]:
    given = fields.get("input")
    if given is None:
        if fields.get("previous_response_id") is None and fields.get("prompt") is None:
            raise asks.missing("input")
        return []
    if isinstance(given, list):
        for number, item in enumerate(given):
            if not isinstance(item, dict):
                raise asks.wrong_type(f"input[{number}]", "an object", item)
        return given
    if not isinstance(given, str):
        raise asks.wrong_type("input", "one of a string or an array of objects", given)
    return given


def _tools(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools = asks.sequence(fields, "tools")
    for number, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise asks.wrong_type(f"tools[{number}]", "an object", tool)
        for name in ("type", *(["name"] if tool.get("type") == "function" else [])):
            if not tool.get(name):
                raise asks.missing(f"tools[{number}].{name}")
    return tools


def _effort(fields: Mapping[str, Any], model: str) -> str | None:
    effort: str | None = asks.mapping(fields, "reasoning").get("effort")
    if effort is None:
        return "medium" if _REASONS.match(model) else None
    if effort not in _EFFORTS:
        supported = ", ".join(f"'{one}'" for one in _EFFORTS[:-1])
        raise asks.wrong_value("reasoning.effort", effort, f"{supported}, and '{_EFFORTS[-1]}'")
    return effort


def texts(ask: Ask) -> list[str]:
    """All whose tokens the prompt is charged for."""
    found = [] if ask.instructions is None else [ask.instructions]
    if isinstance(ask.input, str):
        found.append(ask.input)
    else:
        found += [text for item in ask.input for text in _item_texts(item)]
    return found + [json.dumps(tool, separators=(",", ":"), ensure_ascii=False) for tool in ask.tools]


def _item_texts(item: Mapping[str, Any]) -> Iterator[str]:
    for name in ("name", "arguments", "output", "content", "summary"):
        value = item.get(name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str))


def new_id(created: int, rng: random.Random) -> str:
    return f"resp_0{rng.getrandbits(60):015x}01{created:08x}{rng.getrandbits(96):024x}"


def whole(answer: Answer, ask: Ask, id: str, *, seconds: float = 0.0) -> bytes:
    body = msgspec.json.format(_encode(_ended(answer, ask, id, _output(answer, ask, id), seconds)), indent=2)
    return body if body.isascii() else _UNASCII.sub(_escape, body.decode()).encode()


_UNASCII = re.compile(r"[^\x00-\x7f]+")


def _escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def _ended(answer: Answer, ask: Ask, id: str, output: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    status = _status(answer)
    return _response(
        ask,
        id,
        answer.created,
        status,
        completed_at=answer.created + int(seconds) if status == "completed" else None,
        content_filters=_filters(answer, ask),
        incomplete_details=None if status == "completed" else {"reason": _LIMITS[answer.finish_reason]},
        output=output,
        service_tier="default",
        usage=_usage(answer),
    )


_LIMITS = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _status(answer: Answer) -> str:
    return "incomplete" if answer.finish_reason in _LIMITS else "completed"


def _response(
    ask: Ask,
    id: str,
    created: int,
    status: str,
    *,
    completed_at: int | None = None,
    content_filters: list[dict[str, Any]] | None = None,
    error: dict[str, str] | None = None,
    incomplete_details: dict[str, str] | None = None,
    output: Sequence[dict[str, Any]] = (),
    service_tier: str | None = None,
    usage: dict[str, Any] | None = None,
) -> dict[str, Any]:
    get = ask.fields.get
    return {
        "id": id,
        "object": "response",
        "created_at": created,
        "status": status,
        "background": False,
        "completed_at": completed_at,
        "content_filters": content_filters,
        "error": error,
        "frequency_penalty": 0.0,
        "incomplete_details": incomplete_details,
        "instructions": ask.instructions,
        "max_output_tokens": ask.max_output_tokens,
        "max_tool_calls": get("max_tool_calls"),
        "model": ask.model,
        "moderation": None,
        "output": output,
        "parallel_tool_calls": get("parallel_tool_calls") is not False,
        "presence_penalty": 0.0,
        "previous_response_id": ask.previous_response_id,
        "prompt_cache_key": get("prompt_cache_key"),
        "prompt_cache_retention": get("prompt_cache_retention") or "in_memory",
        "reasoning": _reasoning(ask),
        "safety_identifier": get("safety_identifier"),
        "service_tier": service_tier or get("service_tier") or "auto",
        "store": get("store") is not False,
        "temperature": 1.0 if get("temperature") is None else get("temperature"),
        "text": {"format": {"type": "text"}, "verbosity": "medium", **ask.fields["text"]},
        "tool_choice": get("tool_choice") or "auto",
        "tool_usage": _TOOL_USAGE,
        "tools": [_repeated(tool) for tool in ask.tools],
        "top_logprobs": get("top_logprobs") or 0,
        "top_p": 1.0 if get("top_p") is None else get("top_p"),
        "truncation": get("truncation") or "disabled",
        "usage": usage,
        "user": get("user"),
        "metadata": get("metadata") or {},
    }


def _reasoning(ask: Ask) -> dict[str, Any]:
    asked = ask.fields.get("reasoning") or {}
    return {"context": "current_turn", "effort": ask.effort, "mode": "standard", "summary": asked.get("summary")}


def _repeated(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function":
        return tool
    return {
        "type": "function",
        "description": tool.get("description"),
        "name": tool["name"],
        "parameters": tool.get("parameters"),
        "strict": tool.get("strict") is not False,
    }


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "input_tokens": answer.prompt_tokens,
        "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": answer.cached_tokens},
        "output_tokens": answer.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }


def _filters(answer: Answer, ask: Ask) -> list[dict[str, Any]]:
    blocked = answer.finish_reason == "content_filter"
    said = sum(map(len, answer.pieces)) + sum(len(piece) for call in answer.tool_calls for piece in call.arguments)
    asked = _PROMPT_FRAME + sum(map(len, texts(ask)))
    return [
        _filter("prompt", False, _PROMPT_RESULTS, asked),
        _filter(
            "completion",
            blocked,
            _BLOCKED_RESULTS if blocked else _COMPLETION_RESULTS,
            4 + said + 5 * answer.reasoning_tokens,
        ),
    ]


def _filter(source: str, blocked: bool, results: dict[str, Any], end: int) -> dict[str, Any]:
    return {
        "blocked": blocked,
        "source_type": source,
        "content_filter_raw": [],
        "content_filter_results": results,
        "content_filter_offsets": {"start_offset": 0, "end_offset": end, "check_offset": 0},
    }


def _output(answer: Answer, ask: Ask, id: str) -> list[dict[str, Any]]:
    items = []
    if answer.reasoning_tokens:
        items.append(_thought(answer, ask, id, 3))
    if _speaks(answer):
        items.append(_message(_item_id("msg", id, len(items)), _status(answer), [_part("".join(answer.pieces))]))
    for call in answer.tool_calls:
        items.append(_call(_item_id("fc", id, len(items)), _status(answer), call, "".join(call.arguments)))
    return items


def _speaks(answer: Answer) -> bool:
    """Only reasoning that used the limit up, and a tool's call, leave a model without a message."""
    return bool(answer.pieces) or not (answer.tool_calls or answer.finish_reason == "length")


def _item_id(kind: str, id: str, output_index: int) -> str:
    return f"{kind}_{id[5:31]}{blake2b(f'{id} {output_index}'.encode(), digest_size=12).hexdigest()}"


def _thought(answer: Answer, ask: Ask, id: str, mention: int) -> dict[str, Any]:
    item_id = _item_id("rs", id, 0)
    if not ask.encrypted:
        return {"id": item_id, "type": "reasoning", "summary": []}
    size = 672 + (0 if mention == 1 else 5 * answer.reasoning_tokens)
    chance = shake_128(f"{item_id} {mention}".encode()).digest(size)
    sealed = urlsafe_b64encode(b"\x80" + answer.created.to_bytes(8, "big") + chance).decode()
    return {"id": item_id, "type": "reasoning", "content": [], "encrypted_content": sealed, "summary": []}


def _message(item_id: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "status": status, "content": content, "role": "assistant"}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _call(item_id: str, status: str, call: ToolCall, arguments: str) -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "arguments": arguments,
        "call_id": call.id,
        "name": call.name,
    }


def events(answer: Answer, ask: Ask, id: str, rng: random.Random, *, seconds: float = 0.0) -> Iterator[Event]:
    """Each is one server-sent event; the number of those before it is its `sequence_number`."""
    stream = _Stream(answer, ask, id, rng)
    begun = _response(ask, id, answer.created, "in_progress")
    yield stream.event("response.created", response=begun)
    yield stream.event("response.in_progress", response=begun)
    if answer.reasoning_tokens:
        yield from stream.reasoning()
    if _speaks(answer):
        yield from stream.message()
    for call in answer.tool_calls:
        yield from stream.call(call)
    yield stream.event(f"response.{_status(answer)}", response=_ended(answer, ask, id, stream.output, seconds))


class _Stream:
    """One stream's numbering: of its events, of its items and of the tokens they go out with."""

    def __init__(self, answer: Answer, ask: Ask, id: str, rng: random.Random) -> None:
        self._answer = answer
        self._ask = ask
        self._id = id
        self._pad = _padding(rng) if ask.obfuscated else _no_padding
        self._sequence = 0
        # The token that is out, or about to be.
        self._token = PROMPT_FILTERED
        self.output: list[dict[str, Any]] = []

    def event(self, kind: str, **fields: object) -> Event:
        data = _event(kind, self._sequence, fields)
        self._sequence += 1
        return Event(self._token, data)

    def reasoning(self) -> Iterator[Event]:
        added, done, final = (_thought(self._answer, self._ask, self._id, mention) for mention in (1, 2, 3))
        self._token = 0
        yield self.event("response.output_item.added", item=added, output_index=0)
        self._token = self._answer.reasoning_tokens - 1
        yield self.event("response.output_item.done", item=done, output_index=0)
        self.output.append(final)

    def message(self) -> Iterator[Event]:
        index, pieces = len(self.output), self._answer.pieces
        item_id = _item_id("msg", self._id, index)
        place = {"content_index": 0, "item_id": item_id, "output_index": index}
        text = "".join(pieces)
        part = _part(text)
        item = _message(item_id, _status(self._answer), [part])
        self._advance(pieces)
        yield self.event("response.output_item.added", item=_message(item_id, "in_progress", []), output_index=index)
        yield self.event("response.content_part.added", part=_part(""), **place)
        before, after = '"content_index":0,"delta":', f',"item_id":"{item_id}","logprobs":[]'
        yield from self._deltas("response.output_text.delta", pieces, before, after, index)
        yield self.event("response.output_text.done", logprobs=[], text=text, **place)
        yield self.event("response.content_part.done", part=part, **place)
        yield self.event("response.output_item.done", item=item, output_index=index)
        self.output.append(item)

    def call(self, call: ToolCall) -> Iterator[Event]:
        index = len(self.output)
        item_id = _item_id("fc", self._id, index)
        arguments = "".join(call.arguments)
        item = _call(item_id, _status(self._answer), call, arguments)
        kind = "response.function_call_arguments"
        self._advance(call.arguments)
        yield self.event("response.output_item.added", item=_call(item_id, "in_progress", call, ""), output_index=index)
        before, after = '"delta":', f',"item_id":"{item_id}"'
        yield from self._deltas(f"{kind}.delta", call.arguments, before, after, index)
        yield self.event(f"{kind}.done", arguments=arguments, item_id=item_id, output_index=index)
        yield self.event("response.output_item.done", item=item, output_index=index)
        self.output.append(item)

    def _advance(self, pieces: Sequence[str]) -> None:
        """An item comes with the token of its first piece."""
        if pieces:
            self._token += 1

    def _deltas(self, kind: str, pieces: Sequence[str], before: str, after: str, index: int) -> Iterator[Event]:
        """One for each piece. Nearly all of a stream: what is the same in each is put together once."""
        head = f'event: {kind}\ndata: {{"type":"{kind}",{before}'
        tail = f',"output_index":{index},"sequence_number":'
        pad = self._pad
        first, sequence = self._token, self._sequence
        for number, piece in enumerate(pieces):
            text = f"{head}{encode_basestring(piece)}{after}{pad(piece)}{tail}{sequence + number}}}\n\n"
            yield Event(first + number, text.encode())
        self._sequence += len(pieces)
        self._token = first + max(len(pieces) - 1, 0)


def _event(kind: str, sequence_number: int, fields: Mapping[str, object]) -> bytes:
    numbered = {**fields, "sequence_number": sequence_number}
    body = _encode({"type": kind, **dict(sorted(numbered.items()))})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), body)


def _padding(rng: random.Random) -> Callable[[str], str]:
    chance = rng.random

    def pad(piece: str) -> str:
        start = int(chance() * _STARTS)
        return f',"obfuscation":"{_PADDING[start : start + 16 - len(piece) % 16]}"'

    return pad


def _no_padding(piece: str) -> str:
    return ""


def failed(ask: Ask, id: str, created: int, sequence_number: int, *, type: str, code: str, message: str) -> bytes:
    """The two events with which a stream breaks off, the first of them numbered `sequence_number`.

    `type` and `code` of a 429 are "too_many_requests" and "rate_limit_exceeded", of a 500 "server_error" both.
    """
    error: dict[str, Any] = {"type": type, "code": code, "message": message, "param": None}
    if type != "server_error":
        error = {"type": type, "code": code, "headers": {"x-ms-fe-error": "true"}, "message": message, "param": None}
    response = _response(ask, id, created, "failed", error={"code": code, "message": message})
    return _event("error", sequence_number, {"error": error}) + _event(
        "response.failed", sequence_number + 1, {"response": response}
    )
