"""What a request body asks to be put into the prompt, whichever API it is for, or why that cannot be known here.

The service has more to read than the body holds where the body points elsewhere: to a stored conversation, a file, a
picture's address. And it adds what nobody can foresee where it searches, runs code or reads files itself. Both are
reasons, not numbers.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from probe.image_size import image_size

# The header of any picture lies well within this many characters of base64, but for a JPEG with much ahead of it.
_HEADER = 4096


class UncountableError(Exception):
    """Its text is the reason."""


class Call(NamedTuple):
    """A function that the model called in the history. `arguments` as it wrote them, JSON where it could."""

    name: str
    arguments: str


class Image(NamedTuple):
    """Pixels; `detail` as asked."""

    width: int
    height: int
    detail: str


class Message(NamedTuple):
    role: str
    text: str
    images: tuple[Image, ...] = ()
    calls: tuple[Call, ...] = ()
    name: str | None = None


class Format(NamedTuple):
    """A response schema."""

    name: str
    schema: object
    description: str


class Choice(NamedTuple):
    """Of tools: `mode` is auto, required, none or named."""

    mode: Literal["auto", "required", "none", "named"] = "auto"
    name: str = ""


class Prompt(NamedTuple):
    """`json_mode` is `{"type": "json_object"}`."""

    messages: tuple[Message, ...]
    functions: tuple[Mapping[str, Any], ...] = ()
    choice: Choice = Choice()
    format: Format | None = None
    json_mode: bool = False


# What makes the service add text of its own to the prompt, or read more than the body holds.
_UNKNOWABLE = {
    "data_sources": "On Your Data adds what it retrieves to the prompt",
    "web_search_options": "web search adds what it finds to the prompt",
    "prediction": "a predicted output adds to the prompt",
    "audio": "audio is not counted in text tokens",
    "previous_response_id": "the conversation before it is stored with the service",
    "conversation": "the conversation before it is stored with the service",
    "prompt": "the prompt is a template that is stored with the service",
}
# Which key of a part of such a type holds its text.
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


def chat(body: Mapping[str, Any]) -> Prompt:
    """Of a chat-completions body. Raises `UncountableError`."""
    _refuse(body)
    messages = body.get("messages")
    if not isinstance(messages, list | tuple) or not messages:
        raise UncountableError("no messages")
    functions = [_function(tool, "function") for tool in _list(body.get("tools"))]
    functions += [_mapping(function, "a function") for function in _list(body.get("functions"))]
    kind, holder = _format(body.get("response_format"))
    return Prompt(
        tuple(map(_chat_message, messages)),
        tuple(functions),
        _choice(body.get("tool_choice", body.get("function_call"))),
        _schema(holder.get("json_schema")) if kind == "json_schema" else None,
        kind == "json_object",
    )


def responses(body: Mapping[str, Any]) -> Prompt:
    """Of a body of the Responses API. Raises `UncountableError`."""
    _refuse(body)
    messages = [Message("system", text)] if (text := _instructions(body.get("instructions"))) else []
    asked = body.get("input")
    if isinstance(asked, str):
        messages.append(Message("user", asked))
    else:
        for item in _without_forgotten(_list(asked), body.get("reasoning")):
            _append(messages, _mapping(item, "an input item"))
    if not messages:
        raise UncountableError("no input")
    text_options = body.get("text")
    kind, holder = _format(text_options.get("format") if isinstance(text_options, Mapping) else None)
    return Prompt(
        tuple(messages),
        tuple(_function(tool, None) for tool in _list(body.get("tools"))),
        _choice_of(body),
        _schema(holder) if kind == "json_schema" else None,
        kind == "json_object",
    )


def texts(value: object) -> Iterator[str | int]:
    """What an embeddings request or a legacy completion reads: texts, or how many tokens it was sent as such."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple) and value and all(type(token) is int for token in value):
        yield len(value)
    elif isinstance(value, list | tuple) and value:
        for one in value:
            if not isinstance(one, str | list | tuple):
                raise UncountableError("an input is neither text nor tokens")
            yield from texts(one)
    else:
        raise UncountableError("no input")


def _instructions(value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise UncountableError("instructions that are no text are not counted")
    return value or ""


def _without_forgotten(items: Sequence[Any], options: object) -> Iterator[Any]:
    """Reasoning of before the last user's message is thrown away, unless all of it was asked to be kept."""
    users = [place for place, item in enumerate(items) if isinstance(item, Mapping) and item.get("role") == "user"]
    keeps = isinstance(options, Mapping) and options.get("context") is not None
    last = users[-1] if users and not keeps else 0
    for place, item in enumerate(items):
        if place > last or not isinstance(item, Mapping) or item.get("type") != "reasoning":
            yield item


def _choice_of(body: Mapping[str, Any]) -> Choice:
    """Where all tools are allowed that there are, saying so costs nothing, whatever the mode."""
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        allowed = {tool.get("name") for tool in _list(choice.get("tools")) if isinstance(tool, Mapping)}
        if all(isinstance(tool, Mapping) and tool.get("name") in allowed for tool in _list(body.get("tools"))):
            return Choice()
    return _choice(choice)


def _append(messages: list[Message], item: Mapping[str, Any]) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        messages.append(Message(_role(item), *_content(item.get("content"))))
    elif kind == "function_call_output":
        messages.append(Message("tool", *_content(item.get("output"))))
    elif kind == "function_call" and not item.get("namespace"):
        messages.append(Message("assistant", "", calls=(_call(item),)))
    elif kind == "reasoning":
        raise UncountableError("what reasoning after the last user's message is billed as is not known beforehand")
    else:
        raise UncountableError(f"input items of type {kind!r} are not counted")


def _refuse(body: Mapping[str, Any]) -> None:
    for key, reason in _UNKNOWABLE.items():
        if body.get(key):
            raise UncountableError(reason)


def _list(value: object) -> Sequence[Any]:
    if value is not None and not isinstance(value, list | tuple):
        raise UncountableError("what should be a list is none")
    return value or ()


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UncountableError(f"{what} is not an object")
    return value


def _function(tool: object, key: str | None) -> Mapping[str, Any]:
    tool = _mapping(tool, "a tool")
    if tool.get("type") != "function":
        raise UncountableError(f"tools of type {tool.get('type')!r} add text of the service's own to the prompt")
    function = _mapping(tool.get(key), "a function") if key else tool
    if not isinstance(function.get("name"), str):
        raise UncountableError("a function has no name")
    return function


def _choice(choice: object) -> Choice:
    if choice in ("auto", "required", "none"):
        return Choice(choice)
    if isinstance(choice, Mapping):
        holder = choice.get("function", choice)
        if isinstance(holder, Mapping) and isinstance(name := holder.get("name"), str):
            return Choice("named", name)
    if choice is None:
        return Choice()
    raise UncountableError(f"a tool choice that is not counted: {json.dumps(choice, default=str)[:80]}")


def _format(value: object) -> tuple[str, Mapping[str, Any]]:
    kind = value.get("type") if isinstance(value, Mapping) else value
    if kind not in (None, "text", "json_object", "json_schema"):
        raise UncountableError(f"a response format that is not counted: {kind!r}")
    return kind or "text", value if isinstance(value, Mapping) else {}


def _schema(value: object) -> Format:
    value = _mapping(value, "the response schema")
    name, description = value.get("name"), value.get("description")
    if not isinstance(name, str) or not isinstance(value.get("schema"), Mapping):
        raise UncountableError("a response schema without name or schema")
    return Format(name, value["schema"], description if isinstance(description, str) else "")


def _chat_message(message: object) -> Message:
    message = _mapping(message, "a message")
    if message.get("audio"):
        raise UncountableError(_UNKNOWABLE["audio"])
    text, images = _content(message.get("content"))
    refusal, name = message.get("refusal"), message.get("name")
    return Message(
        _role(message),
        text + (refusal if isinstance(refusal, str) else ""),
        images,
        tuple(_chat_calls(message)),
        name if isinstance(name, str) and name else None,
    )


def _role(message: Mapping[str, Any]) -> str:
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise UncountableError(f"messages of role {role!r} are not counted")
    return role


def _chat_calls(message: Mapping[str, Any]) -> Iterator[Call]:
    for call in _list(message.get("tool_calls")):
        yield _call(_mapping(call, "a tool call").get("function"))
    if message.get("function_call"):
        yield _call(message["function_call"])


def _call(value: object) -> Call:
    value = _mapping(value, "a tool call")
    name, arguments = value.get("name"), value.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise UncountableError("a tool call without name or arguments")
    return Call(name, arguments)


def _content(content: object) -> tuple[str, tuple[Image, ...]]:
    """Text parts joined with nothing between them, and the pictures."""
    if content is None or isinstance(content, str):
        return content or "", ()
    if not isinstance(content, list | tuple):
        raise UncountableError("a message's content is neither text nor a list of parts")
    texts: list[str] = []
    images: list[Image] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "image_url":
            images.append(_chat_image(part.get("image_url")))
        elif kind == "input_image":
            images.append(_image(part.get("image_url"), part.get("detail")))
        else:
            texts.append(_part_text(part, kind))
    return "".join(texts), tuple(images)


def _part_text(part: Any, kind: object) -> str:
    text = part.get(_TEXTS[kind]) if isinstance(kind, str) and kind in _TEXTS else None
    if not isinstance(text, str):
        raise UncountableError(f"content of type {kind!r} is not counted")
    return text


def _chat_image(value: object) -> Image:
    holder = value if isinstance(value, Mapping) else {"url": value}
    return _image(holder.get("url"), holder.get("detail"))


def _image(url: object, detail: object) -> Image:
    if not isinstance(url, str) or not url.startswith("data:"):
        raise UncountableError("the size of a picture is not known from its address")
    head, _, data = url.partition(",")
    try:
        size = image_size(_first_bytes(data, _HEADER)) or image_size(_first_bytes(data, len(data)))
    except (binascii.Error, ValueError):
        size = None
    if size is None or not head.endswith(";base64"):
        raise UncountableError("a picture's data does not tell its size (PNG, JPEG, GIF and WebP are read)")
    return Image(*size, detail if isinstance(detail, str) else "auto")


def _first_bytes(data: str, characters: int) -> bytes:
    """Of base64, cut where a group of four characters ends."""
    cut = data[:characters]
    return base64.b64decode(cut + "=" * (-len(cut) % 4))
