"""How many prompt tokens the service will bill a request body as.

Rules.  Found in recorded requests with the `usage` the service returned, and told with their certainty in
        docs/tokens.md. A message costs 3, its role, its content and, where it has a name, 1 and the name; the prompt as
        a whole costs 3 more. Reasoning models bill 1 less in all; o4-mini and gpt-5 bill 2 more for every assistant
        message. Tools and a response schema are text (`probe.definitions`), read as part of the first system message or
        as one of their own. A function call is a message to its recipient, with its arguments as compact JSON.
Model.  The rules follow the model that served the call (`model` in the reply), not the deployment's name.
Reason. What these rules do not cover gets a reason and no number.
Text.   The name of a special token in a prompt, such as `<|endoftext|>`, is text like any other.
"""

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from probe import definitions
from probe.bodies import Call, Choice, Image, Message, Prompt, UncountableError, chat, responses, texts
from probe.ranks import EncodingName, RanksUnavailableError, encoding

__all__ = ["Count", "RanksUnavailableError", "input_tokens"]


class Count(msgspec.Struct, frozen=True):
    """`tokens`, or the `reason` why they cannot be known beforehand."""

    tokens: int | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.tokens is None) == (self.reason is None):
            raise ValueError("a count has either tokens or a reason")


# What is longer is not kept for the next time it comes.
_SHORT = 100


class _Tiles(msgspec.Struct, frozen=True):
    """A picture is fitted into 2048 x 2048, its short side brought down to 768, and cut into tiles of 512 x 512."""

    base: int
    each: int

    def tokens(self, image: Image) -> int:
        if image.detail == "low":
            return self.base
        shrink = min(1.0, 2048 / max(image.width, image.height))
        shrink *= min(1.0, 768 / (min(image.width, image.height) * shrink))
        across, down = (math.ceil(round(side * shrink, 6) / 512) for side in (image.width, image.height))
        return self.base + self.each * across * down


class _Patches(msgspec.Struct, frozen=True):
    """A picture is shrunk until 1,536 patches of 32 x 32 cover it."""

    factor: float

    def tokens(self, image: Image) -> int:
        if image.detail == "low":
            raise UncountableError("what this model bills for a picture of low detail was not measured")
        patches = math.ceil(image.width / 32) * math.ceil(image.height / 32)
        if patches > 1536:
            patches = self._shrunk(image)
        # In floating point, as the service does it: 300 patches at 1.62 are 487, not 486.
        return math.ceil(patches * self.factor) + 1

    def _shrunk(self, image: Image) -> int:
        shrink = math.sqrt(32 * 32 * 1536 / (image.width * image.height))
        across, down = image.width * shrink / 32, image.height * shrink / 32
        shrink *= min(math.floor(across) / across, math.floor(down) / down)
        return math.ceil(round(image.width * shrink / 32, 6)) * math.ceil(round(image.height * shrink / 32, 6))


class _Responses(msgspec.Struct, frozen=True):
    """The Responses API puts tools and a response schema into messages of their own, with less of a heading."""

    per_call: int
    per_tools: int = -1
    headed: bool = False
    per_required: int = 8


class _Family(msgspec.Struct, frozen=True):
    encoding: EncodingName
    images: _Tiles | _Patches | None = None
    per_prompt: int = 3
    per_message: int = 3
    per_name: int = 1
    # Over and above `per_message`; None where it was never measured.
    per_assistant: int | None = 0
    per_call: int | None = 2
    # With tools, beside their text.
    per_tools: int = -1
    # The models before parallel calls have none; gpt-5 writes one message for each.
    calls_apart: bool = False
    # gpt-5 has a text of the service's own before the tools, in a message of its own where there is a system message.
    per_tools_with_system: int = 0
    # With a response schema, beside its text.
    per_format: int = 0
    per_undescribed: int = 0
    # None where tools and tool calls of the Responses API were never measured.
    responses: _Responses | None = None
    choice_costs: bool = True

    def count(self, text: str) -> int:
        if len(text) <= _SHORT:
            return _count_again(self.encoding, text)
        return len(encoding(self.encoding).encode_ordinary(text))


_with = msgspec.structs.replace

_GPT_4 = _Family("cl100k_base", _Tiles(85, 170))
_GPT_4O = _Family("o200k_base", _Tiles(85, 170), responses=_Responses(per_call=3))
_SMALL = _with(_GPT_4O, responses=_Responses(per_call=0))
_O = _Family("o200k_base", per_prompt=2, per_tools=0, choice_costs=False)
_GPT_5 = _Family(
    "o200k_base",
    _Tiles(70, 140),
    per_prompt=2,
    per_assistant=2,
    per_call=6,
    calls_apart=True,
    per_tools=-1 + 82,
    per_tools_with_system=3,
    per_format=-1,
    per_undescribed=-1,
    choice_costs=False,
    responses=_Responses(per_call=4, headed=True, per_required=0),
)

# The first pattern that a model's name begins with decides, unless a letter or a digit follows. None: no rule known.
_FAMILIES: tuple[tuple[str, _Family | None], ...] = (
    # Audio, and models that search, bill by other rules.
    (r"gpt-4o(-mini)?-(audio|realtime|search|transcribe|tts)", None),
    (r"gpt-5-search|o[34](-mini)?-deep-research", None),
    (r"gpt-3\.?5-turbo-0301", _Family("cl100k_base", per_message=4, per_name=-1)),
    (r"gpt-3\.?5(-turbo)?|gpt-4(-turbo|-32k)?(?!\.)", _GPT_4),
    (r"gpt-4o-mini", _with(_SMALL, images=_Tiles(2833, 5667))),
    (r"gpt-4\.1-mini", _with(_SMALL, images=_Patches(1.62))),
    (r"gpt-4\.1-nano", _with(_SMALL, images=_Patches(2.46), responses=_Responses(per_call=0, per_required=9))),
    (r"gpt-4o|chatgpt-4o|gpt-4\.1|gpt-4\.5", _GPT_4O),
    (r"gpt-5-chat|o1-mini", _with(_GPT_4O, images=None)),
    # Whether it reasons, and so bills 1 less, was not measured.
    (r"o1-preview", None),
    (r"gpt-5-mini", _with(_GPT_5, images=_Patches(1.2))),
    (r"gpt-5-nano", _with(_GPT_5, images=_Patches(1.5))),
    (r"gpt-5(?!\.)", _GPT_5),
    (r"gpt-5\.[1-3]", _with(_GPT_5, responses=_Responses(per_call=6, headed=True, per_required=0))),
    (r"gpt-5\.\d+", _with(_GPT_5, images=None, responses=_Responses(per_call=7, headed=True, per_required=0))),
    (
        r"o4-mini",
        _with(
            _O,
            images=_Patches(1.72),
            per_assistant=2,
            per_call=3,
            responses=_Responses(per_call=4, per_tools=2, per_required=0),
        ),
    ),
    (r"o1|o3-mini", _with(_O, images=_Tiles(75, 150))),
    (r"o3|codex-mini", _with(_O, images=_Tiles(75, 150), per_assistant=None)),
)
# Embeddings and legacy completions bill the bare text.
_BARE = re.compile(
    r"text-embedding-(3-small|3-large|ada-002)|gpt-3\.?5-turbo-instruct|(davinci|babbage)(-002|:2023-07-21)"
)
_SYSTEM = frozenset({"system", "developer"})


def input_tokens(request: Mapping[str, Any]) -> Count:
    """The prompt tokens of a request body, with the served model as its `model`.

    Of chat completions, the Responses API, embeddings and legacy completions. Raises `RanksUnavailableError`.
    """
    try:
        return Count(_count(request))
    except UncountableError as why:
        return Count(reason=str(why))
    except RecursionError:
        return Count(reason="nested too deeply")


def _count(request: Mapping[str, Any]) -> int:
    name = model.lower().removeprefix("ft:") if isinstance(model := request.get("model"), str) else ""
    if _BARE.match(name):
        return _bare(request.get("input", request.get("prompt")))
    if "messages" in request:
        return _chat(chat(request), _family(name))
    if "input" in request or "instructions" in request:
        return _responses(responses(request), _family(name))
    raise UncountableError("no messages and no input")


def _bare(asked: object) -> int:
    return sum(
        one if isinstance(one, int) else len(encoding("cl100k_base").encode_ordinary(one)) for one in texts(asked)
    )


def _family(name: str) -> _Family:
    family = next((family for pattern, family in _FAMILIES if re.match(rf"({pattern})(?![a-z0-9])", name)), None)
    if family is None:
        raise UncountableError(f"no counting rule for model {name!r}" if name else "the request names no model")
    return family


def _chat(prompt: Prompt, family: _Family) -> int:
    _refuse_json_mode(prompt, family)
    system = next((message for message in prompt.messages if message.role in _SYSTEM), None)
    written = _definitions(prompt)
    tokens = family.per_prompt + _beside(prompt, family, system is not None)
    if written and system is None:
        tokens += _system("\n\n".join(written), family)
    for message in prompt.messages:
        text = "\n\n".join((message.text, *written)) if message is system else message.text
        tokens += _message(message, text, family)
    return tokens


def _refuse_json_mode(prompt: Prompt, family: _Family) -> None:
    if prompt.json_mode and family.encoding == "cl100k_base":
        raise UncountableError("what JSON mode adds was measured on o200k models only")


def _responses(prompt: Prompt, family: _Family) -> int:
    _refuse_json_mode(prompt, family)
    tokens = family.per_prompt
    if prompt.functions or any(message.calls for message in prompt.messages):
        if family.responses is None:
            raise UncountableError("what this model bills for tools of the Responses API was not measured")
        family = _with(family, per_call=family.responses.per_call, calls_apart=True)
    if prompt.functions and family.responses:
        text = (definitions.tools if family.responses.headed else definitions.namespace)(prompt.functions)
        tokens += _system(text, family) + family.responses.per_tools + _undescribed(prompt, family)
        tokens += family.responses.per_required if prompt.choice.mode == "required" else _choice(prompt.choice, family)
    if prompt.format is not None:
        tokens += _system(definitions.response_format(*prompt.format), family) - 3 + family.per_format
    return tokens + sum(_message(message, message.text, family) for message in prompt.messages)


def _undescribed(prompt: Prompt, family: _Family) -> int:
    return family.per_undescribed * sum(not function.get("description") for function in prompt.functions)


def _system(text: str, family: _Family) -> int:
    return family.per_message + family.count("system") + family.count(text)


def _definitions(prompt: Prompt) -> list[str]:
    """What the system message ends in."""
    tools = [definitions.tools(prompt.functions)] if prompt.functions else []
    return tools + ([definitions.response_format(*prompt.format)] if prompt.format is not None else [])


def _beside(prompt: Prompt, family: _Family, has_system: bool) -> int:
    """What tools and a response schema cost beside their text."""
    tokens = 0
    if prompt.functions:
        tokens += family.per_tools + _choice(prompt.choice, family) + _undescribed(prompt, family)
        tokens += family.per_tools_with_system if has_system else 0
    if prompt.format is not None:
        # Where no tool can be called instead, the reply's head names the format.
        free = bool(prompt.functions) and prompt.choice.mode != "none"
        tokens += family.per_format + (0 if free else 2 + family.count(prompt.format.name))
    return tokens


def _choice(choice: Choice, family: _Family) -> int:
    if not family.choice_costs or choice.mode in ("auto", "required"):
        return 0
    return 1 if choice.mode == "none" else 4 + family.count(f" to=functions.{choice.name}")


def _message(message: Message, text: str, family: _Family) -> int:
    tokens = family.per_message + family.count(message.role) + family.count(text)
    if message.role == "assistant":
        if family.per_assistant is None:
            raise UncountableError("what this model bills for assistant messages was not measured")
        tokens += family.per_assistant + _calls(message.calls, family)
    if message.name and message.role not in ("tool", "function"):
        tokens += family.per_name + family.count(message.name)
    return tokens + sum(_image(image, family) for image in message.images)


def _image(image: Image, family: _Family) -> int:
    if family.images is None:
        raise UncountableError("what this model bills for pictures was not measured")
    return family.images.tokens(image)


def _calls(calls: tuple[Call, ...], family: _Family) -> int:
    if len(calls) > 1 and not family.calls_apart:
        return _parallel(calls, family)
    if calls and family.per_call is None:
        raise UncountableError("what this model bills for tool calls was not measured")
    return sum(
        (family.per_call or 0)
        + family.count(f" to=functions.{call.name}")
        + family.count(call.name)
        + family.count(_compact(call.arguments))
        for call in calls
    )


def _parallel(calls: tuple[Call, ...], family: _Family) -> int:
    """One call of a tool that calls others."""
    uses = ",".join(
        f'{{"recipient_name":"functions.{call.name}","parameters":{_compact(call.arguments)}}}' for call in calls
    )
    return 18 + family.count(" to=multi_tool_use.parallel") + family.count(f'{{"tool_uses":[{uses}]}}')


def _compact(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return arguments


# Roles, names and the definitions of tools come again with every request.
@lru_cache(maxsize=1024)
def _count_again(name: EncodingName, text: str) -> int:
    return len(encoding(name).encode_ordinary(text))
