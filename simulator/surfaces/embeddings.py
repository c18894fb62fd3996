"""The embeddings' shapes: POST .../embeddings on the dated path and on v1. Pure.

Observed: a reply is JSON indented by 2, its vectors arrays of numbers, or, as OpenAI's clients ask by default, base64
of little-endian 32-bit floats. Documented: text-embedding-3-large has 3,072 dimensions, 3-small and ada-002 1,536; the
3 models can be asked for fewer, and then a vector is the beginning of the full one, made unit-long again; a request has
at most 2,048 inputs.

Decided: a vector is unit-long and belongs to its text alone; that like texts have like vectors is not simulated. Each
byte of a text's hash picks one of 256 blocks of 12 numbers, 48 bytes and so 64 characters of base64, made once.
"""

import math
import random
import struct
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import shake_128
from typing import Any, NamedTuple

import msgspec

from simulator.surfaces import asks
from simulator.surfaces.asks import InvalidRequestError

_MOST_INPUTS = 2048
_BLOCK = 12
_FORMATS = ("float", "base64")

Input = str | list[int]


class Ask(NamedTuple):
    """A valid request's body. `model` is None on the dated path, where the deployment is in the path."""

    model: str | None
    inputs: Sequence[Input]
    dimensions: int | None
    base64: bool


def read(fields: Mapping[str, Any]) -> Ask:
    """Raises `InvalidRequestError`."""
    encoding = asks.string(fields, "encoding_format")
    if encoding not in (None, *_FORMATS):
        raise asks.wrong_value("encoding_format", encoding, " and ".join(f"'{one}'" for one in _FORMATS))
    return Ask(
        model=asks.string(fields, "model"),
        inputs=_inputs(fields.get("input")),
        dimensions=asks.integer(fields, "dimensions", 1),
        base64=encoding == "base64",
    )


def _inputs(given: object) -> list[Input]:
    if given is None:
        raise asks.missing("input")
    inputs: list[Any] = given if isinstance(given, list) and not asks.is_tokens(given) else [given]
    if not inputs or not all((isinstance(one, str) and one) or asks.is_tokens(one) for one in inputs):
        message = (
            "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
        )
        raise InvalidRequestError(message, "input")
    if len(inputs) > _MOST_INPUTS:
        message = (
            f"Invalid 'input': array too long. Expected an array with maximum length {_MOST_INPUTS}, "
            f"but got an array with length {len(inputs)} instead."
        )
        raise InvalidRequestError(message, "input", "array_above_max_length")
    return inputs


def texts(ask: Ask) -> list[str]:
    """The inputs that have yet to be counted."""
    return [one for one in ask.inputs if isinstance(one, str)]


def given_tokens(ask: Ask) -> int:
    """How many tokens the inputs have that came as tokens."""
    return sum(len(one) for one in ask.inputs if not isinstance(one, str))


def dimensions(ask: Ask, model: str) -> int:
    """Of each vector. Raises `InvalidRequestError` where the model does not have so many."""
    most = 3072 if model.startswith("text-embedding-3-large") else 1536
    if ask.dimensions is None:
        return most
    if not model.startswith("text-embedding-3"):
        raise InvalidRequestError("This model does not support specifying dimensions.", "dimensions")
    if ask.dimensions > most:
        message = f"Invalid value for 'dimensions' = {ask.dimensions}. Must be less than or equal to {most}."
        raise InvalidRequestError(message, "dimensions")
    return ask.dimensions


def whole(ask: Ask, model: str, prompt_tokens: int) -> bytes:
    """Raises `InvalidRequestError` as `dimensions` does."""
    size = dimensions(ask, model)
    render = _base64 if ask.base64 else _numbers
    data = ",\n".join(_ITEM % (index, render(one, size)) for index, one in enumerate(ask.inputs))
    return (_REPLY % (data, msgspec.json.encode(model).decode(), prompt_tokens, prompt_tokens)).encode()


_ITEM = """\
    {
      "object": "embedding",
      "index": %d,
      "embedding": %s
    }"""
_REPLY = """\
{
  "object": "list",
  "data": [
%s
  ],
  "model": %s,
  "usage": {
    "prompt_tokens": %d,
    "total_tokens": %d
  }
}
"""


def _base64(given: Input, size: int) -> str:
    return f'"{"".join([block.base64 for block in _vector(given, size)])}"'


def _numbers(given: Input, size: int) -> str:
    return f"[\n        {_NEXT.join([block.numbers for block in _vector(given, size)])}\n      ]"


_NEXT = ",\n        "


class _Block(NamedTuple):
    base64: str
    numbers: str


def _vector(given: Input, size: int) -> list[_Block]:
    name = given if isinstance(given, str) else f"\0{given}"
    # A longer digest begins with the shorter one, as a full vector does with the shortened.
    *picked, last = shake_128(name.encode("utf-8", "surrogatepass")).digest(math.ceil(size / _BLOCK))
    blocks = _blocks(_BLOCK, size)
    return [*[blocks[pick] for pick in picked], _blocks(size % _BLOCK or _BLOCK, size)[last]]


@lru_cache(maxsize=64)
def _blocks(length: int, size: int) -> list[_Block]:
    """256 blocks of so many numbers, each with its share of a unit vector of `size` dimensions."""
    rng = random.Random(_BLOCK)
    return [_block(rng, length, math.sqrt(length / size)) for _ in range(256)]


def _block(rng: random.Random, length: int, norm: float) -> _Block:
    drawn = [rng.gauss(0.0, 1.0) for _ in range(_BLOCK)][:length]
    scale = norm / math.hypot(*drawn)
    packed = struct.pack(f"<{length}f", *(number * scale for number in drawn))
    shown = [f"{number:.8g}" for number in struct.unpack(f"<{length}f", packed)]
    return _Block(b64encode(packed).decode(), _NEXT.join(shown))
