"""What the stand-in for a model says: words of one token each, or the arguments of a tool's call.

Decided.  An answer has exactly as many tokens as it is allowed, or 200 and a `stop`. A tool that is offered is called
          once, with arguments that fit its schema, and not again after it has answered.
Facts.    A `stop` is billed with one token more than the text has, a tool's call with 8 more than its name and its
          arguments (measured on Azure's recorded replies). Hidden tokens come in multiples of 64.
"""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from simulator.service.tokens import Encoder
from simulator.surfaces.answers import Answer, ToolCall

NATURAL_TOKENS = 200
_CALL_OVERHEAD = 8
_REASONING_STEP = 64
# Each is one token after a space, and at the start of a text too.
_WORDS = "the of and to in is that for it as was with be by on not he his but at are this have from or".split()
_SPACED = [f" {word}" for word in _WORDS] * 8


def words(tokens: int, start: int) -> list[str]:
    """A text of so many tokens, one a piece, beginning anywhere in the list of words."""
    if tokens <= 0:
        return []
    start %= len(_WORDS)
    repeats = (start + tokens) // len(_SPACED) + 1
    pieces = (_SPACED * repeats)[start : start + tokens]
    pieces[0] = pieces[0][1:]
    return pieces


def hidden_tokens(median: int, rng: random.Random) -> int:
    """How many reasoning tokens an answer has."""
    return round(median * rng.uniform(0.5, 1.5) / _REASONING_STEP) * _REASONING_STEP if median else 0


def answer_text(
    *,
    created: int,
    model: str,
    prompt_tokens: int,
    cached_tokens: int,
    max_tokens: int | None,
    reasoning_tokens: int,
    json_object: bool,
    rng: random.Random,
) -> Answer:
    room = NATURAL_TOKENS if max_tokens is None else max(0, max_tokens - reasoning_tokens)
    hidden = reasoning_tokens if max_tokens is None else min(reasoning_tokens, max_tokens)
    pieces: Sequence[str] = words(room, rng.randrange(len(_WORDS)))
    if json_object and room > 4:
        pieces = ['{"', "text", '":"', *words(room - 4, 0), '"}']
    return Answer(
        created=created,
        model=model,
        pieces=pieces,
        finish_reason="stop" if max_tokens is None else "length",
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        reasoning_tokens=hidden,
        unseen_tokens=1 if max_tokens is None else 0,
    )


def answer_call(
    function: Mapping[str, Any],
    *,
    created: int,
    model: str,
    prompt_tokens: int,
    cached_tokens: int,
    reasoning_tokens: int,
    encoder: Encoder,
    call_id: str,
) -> Answer:
    name = str(function.get("name", ""))
    arguments = json.dumps(_fitting(function.get("parameters") or {}), separators=(",", ":"))
    pieces = [encoder.encoding.decode([token]) for token in encoder.encoding.encode_ordinary(arguments)]
    return Answer(
        created=created,
        model=model,
        pieces=(),
        finish_reason="tool_calls",
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        reasoning_tokens=reasoning_tokens,
        tool_calls=(ToolCall(call_id, name, pieces),),
        unseen_tokens=encoder.text(name) + _CALL_OVERHEAD,
    )


def _fitting(schema: object) -> Any:
    """A value that the schema allows, as far as it is one."""
    if not isinstance(schema, Mapping):
        return None
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    kind, properties = schema.get("type"), schema.get("properties")
    if kind == "object":
        named = properties.items() if isinstance(properties, Mapping) else ()
        return {name: _fitting(about) for name, about in named}
    if kind == "array":
        return [_fitting(schema.get("items") or {})]
    return {"integer": 1, "number": 1.5, "boolean": True, "null": None}.get(str(kind), "Paris")
