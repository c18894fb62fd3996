"""The legacy completions' shapes: POST .../completions on the dated path and on v1. Pure.

Observed: of Azure one whole reply (November 2023): names, order, `prompt_filter_results` with the reply and
`content_filter_results` with each choice; of OpenAI a stream (March 2026): a `text_completion` for each token, its
`finish_reason` on the last token where a limit ended it, `[DONE]`. Documented: `max_tokens` is 16 where absent; each
prompt has `n` choices, numbered through; a prompt's tokens count once.

Inferred: a stream's first event, its filters' results and its last event with `include_usage` are as in Azure's chat
completions; an answer that stops by itself ends in a choice without text.

Decided: `echo`, `suffix`, `best_of`, `logprobs` and `stop` change nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from itertools import pairwise
from json.encoder import encode_basestring
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from simulator.surfaces import asks
from simulator.surfaces.answers import PROMPT_FILTERED, Answer, Event

_DEFAULT_MAX_TOKENS = 16
_MOST_CHOICES = 128
# What a prompt is that nobody gave.
_END_OF_TEXT = "<|endoftext|>"
_SAFE = {"filtered": False, "severity": "safe"}
_FILTERED = {"hate": _SAFE, "self_harm": _SAFE, "sexual": _SAFE, "violence": _SAFE}
_BLOCKED = {**_FILTERED, "violence": {"filtered": True, "severity": "medium"}}
_encode = msgspec.json.Encoder().encode

Prompt = str | list[int]


class Ask(NamedTuple):
    """A valid request's body. `model` is None on the dated path, where the deployment is in the path."""

    model: str | None
    prompts: Sequence[Prompt]
    n: int
    max_tokens: int
    stream: bool
    include_usage: bool

    @property
    def choices(self) -> int:
        """How many answers it takes: `n` for the first prompt, then `n` for the next."""
        return len(self.prompts) * self.n


def read(fields: Mapping[str, Any]) -> Ask:
    """Raises `InvalidRequestError`."""
    asks.check_decimal(fields, "temperature", 2)
    asks.check_decimal(fields, "top_p", 1)
    max_tokens = asks.integer(fields, "max_tokens", 0)
    return Ask(
        model=asks.string(fields, "model"),
        prompts=_prompts(fields.get("prompt")),
        n=asks.integer(fields, "n", 1, _MOST_CHOICES) or 1,
        max_tokens=_DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        stream=asks.flag(fields, "stream"),
        include_usage=asks.flag(asks.mapping(fields, "stream_options"), "include_usage"),
    )


def _prompts(given: object) -> list[Prompt]:
    if given is None:
        return [_END_OF_TEXT]
    prompts: list[Any] = given if isinstance(given, list) and not asks.is_tokens(given) else [given]
    for prompt in prompts:
        if not isinstance(prompt, str) and not asks.is_tokens(prompt):
            raise asks.wrong_type("prompt", "one of a string, an array of strings or arrays of tokens", prompt)
    return prompts or [_END_OF_TEXT]


def texts(ask: Ask) -> list[str]:
    """The prompts that have yet to be counted."""
    return [one for one in ask.prompts if isinstance(one, str)]


def given_tokens(ask: Ask) -> int:
    """How many tokens the prompts have that came as tokens."""
    return sum(len(one) for one in ask.prompts if not isinstance(one, str))


def whole(answers: Sequence[Answer], ask: Ask, id: str) -> bytes:
    """`answers` are as many as `ask.choices`, in their order."""
    first = answers[0]
    return _encode(
        {
            "id": id,
            "object": "text_completion",
            "created": first.created,
            "model": first.model,
            "prompt_filter_results": _prompt_filter(ask),
            "choices": [_choice(index, answer) for index, answer in enumerate(answers)],
            "usage": _usage(answers, ask),
        }
    )


def _choice(index: int, answer: Answer) -> dict[str, Any]:
    return {
        "text": "".join(answer.pieces),
        "index": index,
        "finish_reason": answer.finish_reason,
        "logprobs": None,
        "content_filter_results": _results(answer),
    }


def _results(answer: Answer) -> dict[str, Any]:
    return _BLOCKED if answer.finish_reason == "content_filter" else _FILTERED


def _prompt_filter(ask: Ask) -> list[dict[str, Any]]:
    return [{"prompt_index": index, "content_filter_results": _FILTERED} for index in range(len(ask.prompts))]


def _usage(answers: Sequence[Answer], ask: Ask) -> dict[str, int]:
    prompts = sum(answer.prompt_tokens for answer in answers[:: ask.n])
    completions = sum(answer.completion_tokens for answer in answers)
    return {"prompt_tokens": prompts, "completion_tokens": completions, "total_tokens": prompts + completions}


def events(answers: Sequence[Answer], ask: Ask, id: str) -> Iterator[Event]:
    """`answers` are as many as `ask.choices`, in their order. Their choices come side by side, token by token."""
    yield Event(PROMPT_FILTERED, _data(_encode(_opening(ask))))
    last = PROMPT_FILTERED
    for event in merge(*(_texts(index, answer, ask, id) for index, answer in enumerate(answers)), key=itemgetter(0)):
        last = event.token
        yield event
    if ask.include_usage:
        yield Event(last, _data(_encode(_closing(answers, ask, id))))
    yield Event(last, b"data: [DONE]\n\n")


def _data(body: bytes) -> bytes:
    return b"data: %b\n\n" % body


def _opening(ask: Ask) -> dict[str, Any]:
    usage = {"usage": None} if ask.include_usage else {}
    named = {"id": "", "object": "", "created": 0, "model": ""}
    return {**named, "prompt_filter_results": _prompt_filter(ask), "choices": [], **usage}


def _closing(answers: Sequence[Answer], ask: Ask, id: str) -> dict[str, Any]:
    named = {"id": id, "object": "text_completion", "created": answers[0].created, "model": answers[0].model}
    return {**named, "choices": [], "usage": _usage(answers, ask)}


def _texts(index: int, answer: Answer, ask: Ask, id: str) -> Iterator[Event]:
    """A choice's events. What is the same in each is put together once."""
    named = {"id": id, "object": "text_completion", "created": answer.created, "model": answer.model}
    head = f'data: {_encode(named).decode()[:-1]},"choices":[{{"text":'
    after = f',"index":{index},"finish_reason":'
    usage = ',"usage":null' if ask.include_usage else ""
    tail = f',"logprobs":null,"content_filter_results":{_encode(_FILTERED).decode()}}}]{usage}}}\n\n'
    going = f"{after}null{tail}"
    pieces = [*answer.pieces, *([] if answer.finish_reason == "length" and answer.pieces else [""])]
    for token, (piece, _) in enumerate(pairwise(pieces)):
        yield Event(token, f"{head}{encode_basestring(piece)}{going}".encode())
    ended = f"{head}{encode_basestring(pieces[-1])}{after}{encode_basestring(answer.finish_reason)}{tail}"
    yield Event(max(len(answer.pieces) - 1, PROMPT_FILTERED), ended.encode())
