"""The surfaces of the service by one interface: what is asked, and how an answer is told.

Each takes a request's parsed body and raises `InvalidRequestError` for one it does not take.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from simulator.config import Generation
from simulator.service.deployment import Deployment
from simulator.service.limits import DebitRule, text_of
from simulator.service.tokens import is_openais
from simulator.surfaces import chat, completions, embeddings, partner, responses
from simulator.surfaces.answers import Answer, Event
from simulator.surfaces.composing import answer_call, answer_text, hidden_tokens


class Told(NamedTuple):
    """What a reply's body is made from besides the answer."""

    deployment: Deployment
    request_id: str
    checkpoint: Mapping[str, int]
    # How long the answer takes.
    seconds: float
    rng: random.Random


class Begun(NamedTuple):
    """What an answer is made from besides what was asked."""

    deployment: Deployment
    created: int
    prompt_tokens: int
    cached_tokens: int
    rng: random.Random


class Surface(Protocol):
    stream: bool
    max_tokens: int | None
    # Whether a reasoning model's stream holds its headers until the first visible token.
    holds_headers: bool
    # How many answers it gets, all alike.
    choices: int

    def text(self) -> str:
        """What the prompt cache sees."""
        ...

    def prompt_tokens(self, deployment: Deployment) -> int:
        """Raises `InvalidRequestError` for what this deployment's model cannot do."""
        ...

    def rule(self, generation: Generation) -> DebitRule: ...

    def answer(self, begun: Begun) -> Answer: ...

    def whole(self, answer: Answer, told: Told) -> bytes: ...

    def events(self, answer: Answer, told: Told) -> Iterator[Event]: ...


_CHAT_RULES: dict[str, DebitRule] = {
    "2023": "max_tokens",
    "2024": "max_tokens",
    "2025": "characters",
    "2026-02": "characters",
}


class Chat:
    holds_headers = True
    choices = 1

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._ask = ask = chat.read(fields)
        self.stream = ask.stream
        self.max_tokens = ask.max_tokens

    def text(self) -> str:
        return "\n".join(text_of(message.get("content")) for message in self._ask.messages)

    def prompt_tokens(self, deployment: Deployment) -> int:
        return deployment.encoder.chat(self._ask.messages, self._ask.tools)

    def rule(self, generation: Generation) -> DebitRule:
        return _CHAT_RULES.get(generation, "prompt")

    def answer(self, begun: Begun) -> Answer:
        if self._ask.calls is not None:
            return _call(self._ask.calls, begun)
        return _text(begun, self.max_tokens, self._ask.json_object)

    def whole(self, answer: Answer, told: Told) -> bytes:
        if _is_partners(told):
            return partner.whole(answer, told.request_id)
        dialect = chat.DIALECTS[told.deployment.settings.generation]
        return chat.whole(answer, dialect, _chat_id(told), told.checkpoint)

    def events(self, answer: Answer, told: Told) -> Iterator[Event]:
        if _is_partners(told):
            return partner.events(answer, told.request_id)
        settings = told.deployment.settings
        dialect, asynchronous = chat.DIALECTS[settings.generation], settings.content_filter == "asynchronous"
        chunks = chat.Chunks(answer, self._ask, dialect, _chat_id(told), told.rng, asynchronous)
        return chunks.events(told.checkpoint)


def _text(begun: Begun, max_tokens: int | None, json_object: bool = False) -> Answer:
    return answer_text(
        created=begun.created,
        model=begun.deployment.model,
        prompt_tokens=begun.prompt_tokens,
        cached_tokens=begun.cached_tokens,
        max_tokens=max_tokens,
        reasoning_tokens=hidden_tokens(begun.deployment.settings.reasoning_tokens, begun.rng),
        json_object=json_object,
        rng=begun.rng,
    )


def _call(function: Mapping[str, Any], begun: Begun) -> Answer:
    return answer_call(
        function,
        created=begun.created,
        model=begun.deployment.model,
        prompt_tokens=begun.prompt_tokens,
        cached_tokens=begun.cached_tokens,
        reasoning_tokens=hidden_tokens(begun.deployment.settings.reasoning_tokens, begun.rng),
        encoder=begun.deployment.encoder,
        call_id=f"call_{begun.rng.getrandbits(120):030x}"[:29],
    )


def _is_partners(told: Told) -> bool:
    return told.deployment.settings.generation in ("2026-06", "2026-08") and not is_openais(told.deployment.model)


def _chat_id(told: Told) -> str:
    return f"chatcmpl-{told.request_id.replace('-', '')[:29]}"


class Responses:
    holds_headers = False
    choices = 1

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._ask = ask = responses.read(fields)
        self.stream = ask.stream
        self.max_tokens = ask.max_output_tokens

    def text(self) -> str:
        return "\n".join(responses.texts(self._ask))

    def prompt_tokens(self, deployment: Deployment) -> int:
        """As chat would be billed for the same."""
        ask = self._ask
        given = [ask.input] if isinstance(ask.input, str) else [text_of(item.get("content")) for item in ask.input]
        messages = [{"role": "user", "content": text} for text in given]
        if ask.instructions is not None:
            messages.insert(0, {"role": "system", "content": ask.instructions})
        return deployment.encoder.chat(messages, ask.tools)

    def rule(self, generation: Generation) -> DebitRule:
        return "responses"

    def answer(self, begun: Begun) -> Answer:
        function = self._function()
        return _text(begun, self.max_tokens) if function is None else _call(function, begun)

    def whole(self, answer: Answer, told: Told) -> bytes:
        return responses.whole(answer, self._ask, responses.new_id(answer.created, told.rng), seconds=told.seconds)

    def events(self, answer: Answer, told: Told) -> Iterator[Event]:
        response_id = responses.new_id(answer.created, told.rng)
        return responses.events(answer, self._ask, response_id, told.rng, seconds=told.seconds)

    def _function(self) -> Mapping[str, Any] | None:
        """The one that is named, or else the first, unless it has answered already."""
        functions = [tool for tool in self._ask.tools if tool["type"] == "function"]
        choice = self._ask.fields.get("tool_choice") or "auto"
        answered = isinstance(self._ask.input, list) and any(
            item.get("type") == "function_call_output" for item in self._ask.input[-1:]
        )
        if choice == "none" or (choice == "auto" and answered):
            return None
        wanted = choice.get("name") if isinstance(choice, dict) else None
        return next((one for one in functions if wanted in (None, one["name"])), None)


class Completions:
    holds_headers = False

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._ask = ask = completions.read(fields)
        self.stream = ask.stream
        self.max_tokens: int | None = ask.max_tokens
        self.choices = ask.choices

    def text(self) -> str:
        return "\n".join(completions.texts(self._ask))

    def prompt_tokens(self, deployment: Deployment) -> int:
        counted = sum(map(deployment.encoder.text, completions.texts(self._ask)))
        return counted + completions.given_tokens(self._ask)

    def rule(self, generation: Generation) -> DebitRule:
        return "max_tokens"

    def answer(self, begun: Begun) -> Answer:
        return _text(begun, self.max_tokens)

    def whole(self, answer: Answer, told: Told) -> bytes:
        return completions.whole(self._answers(answer), self._ask, _completion_id(told))

    def events(self, answer: Answer, told: Told) -> Iterator[Event]:
        return completions.events(self._answers(answer), self._ask, _completion_id(told))

    def _answers(self, answer: Answer) -> list[Answer]:
        """The same for each choice; the prompts are counted once, with the first."""
        return [answer, *[answer._replace(prompt_tokens=0)] * (self._ask.choices - 1)]


class Embeddings:
    holds_headers = False
    choices = 1
    stream = False
    max_tokens: int | None = 0

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._ask = embeddings.read(fields)

    def text(self) -> str:
        return ""

    def prompt_tokens(self, deployment: Deployment) -> int:
        embeddings.dimensions(self._ask, deployment.model)
        return sum(map(deployment.encoder.text, embeddings.texts(self._ask))) + embeddings.given_tokens(self._ask)

    def rule(self, generation: Generation) -> DebitRule:
        return "embeddings"

    def answer(self, begun: Begun) -> Answer:
        return Answer(begun.created, begun.deployment.model, (), "stop", begun.prompt_tokens)

    def whole(self, answer: Answer, told: Told) -> bytes:
        return embeddings.whole(self._ask, answer.model, answer.prompt_tokens)

    def events(self, answer: Answer, told: Told) -> Iterator[Event]:
        raise NotImplementedError("embeddings do not stream")


SURFACES: dict[str, Callable[[Mapping[str, Any]], Surface]] = {
    "chat": Chat,
    "completions": Completions,
    "embeddings": Embeddings,
    "responses": Responses,
}


def _completion_id(told: Told) -> str:
    return f"cmpl-{told.request_id.replace('-', '')[:29]}"
