"""Numbered prompts of known size, and the mixes of them that make up a run's traffic.

No prompt text is stored with a run: a prompt is rebuilt from its id, so that a token count can be made afterwards.

Size.   A prompt of n tokens is billed as n: 3 for the message, 1 for its role, 3 for the reply's start, and its text.
        The text is made of words that are one token each, after a space, in cl100k_base and in o200k_base alike.
        (Reasoning models bill one less; that is the counting rules' affair.)
Number. Long prompts begin with their number, so that no two share a prefix that the service could cache.
"""

import math
import random
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

# Message, role and the start of the reply.
OVERHEAD = 7
# The shortest prompt: the overhead and one word.
MIN_INPUT_TOKENS = OVERHEAD + 1
# 6 digits are 2 tokens; the instruction keeps a real model writing until max_tokens.
_INSTRUCTION = " Write a very long story with these words:"
_NUMBERED_TOKENS = 2 + 9
_WORDS = """
    time year people way day man thing woman life child world school state family student group country problem hand
    part place case week company system program question work government number night point home water room mother
    area money story fact month lot right study book eye job word business issue side kind head house service friend
    father power hour game line end member law car city
""".split()

# Prompts are slices of this: drawing their words one by one would hold up the calls in flight.
_STORY = random.Random(0).choices(_WORDS, k=20_011)

_Z90 = 1.2815515655446004  # the standard normal's 90th percentile


class Prompt(msgspec.Struct, frozen=True):
    """What is asked: `input_tokens` as planned, `max_tokens` the most the answer may be."""

    id: str
    messages: tuple[dict[str, str], ...]
    input_tokens: int
    max_tokens: int


def numbered(number: int, input_tokens: int, max_tokens: int) -> Prompt:
    """Prompt `number` (0 to 999,999) of `input_tokens`, raised to the shortest possible where that is less."""
    size = max(input_tokens, MIN_INPUT_TOKENS)
    content = _content(number, size - OVERHEAD)
    return Prompt(f"{size}-{number}", ({"role": "user", "content": content},), size, max_tokens)


def rebuild(prompt_id: str, max_tokens: int = 1) -> Prompt:
    """The prompt that `numbered` made. Raises `ValueError` where the id is none of ours."""
    size, _, number = prompt_id.partition("-")
    if not (size.isdecimal() and number.isdecimal()):
        raise ValueError(f"not a prompt id: {prompt_id!r}")
    return numbered(int(number), int(size), max_tokens)


def _content(number: int, tokens: int) -> str:
    if tokens <= _NUMBERED_TOKENS:
        return "".join(f" {_WORDS[(number + i) % len(_WORDS)]}" for i in range(tokens))
    wanted = tokens - _NUMBERED_TOKENS
    start = number * 7919 % len(_STORY)
    words = _STORY[start : start + wanted]
    while len(words) < wanted:
        words += _STORY[: wanted - len(words)]
    return f"{number:06d}{_INSTRUCTION} {' '.join(words)}"


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A log-normal number of tokens, given as its median and 90th percentile."""

    median: float
    p90: float

    def __post_init__(self) -> None:
        if not 0 < self.median <= self.p90:
            raise ValueError(f"median {self.median} and p90 {self.p90}: need 0 < median <= p90")

    def draw(self, rng: random.Random) -> int:
        sigma = math.log(self.p90 / self.median) / _Z90
        return max(1, round(self.median * math.exp(sigma * rng.gauss(0.0, 1.0))))


class TrafficClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of call. `stream_share` (0 to 1) wins over the run's where it is given."""

    name: str
    weight: float
    input_tokens: Size
    output_tokens: Size
    stream_share: float | None = None

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"class {self.name!r}: weight must be above 0, not {self.weight}")
        if self.stream_share is not None and not 0 <= self.stream_share <= 1:
            raise ValueError(f"class {self.name!r}: stream_share must be between 0 and 1, not {self.stream_share}")


# Together shaped like the hour of an Azure conversation service published with "Splitwise" (Patel et al., ISCA 2024;
# Azure/AzurePublicDataset): input median 1,020 and p90 2,735 tokens, output 129 and 424.
CONVERSATION: tuple[TrafficClass, ...] = (
    TrafficClass("short", 23.5, Size(237, 420), Size(88, 175)),
    TrafficClass("medium", 23.5, Size(600, 1050), Size(98, 220)),
    TrafficClass("story", 27.5, Size(1085, 1150), Size(400, 455)),
    TrafficClass("long", 17, Size(1436, 2500), Size(130, 410)),
    TrafficClass("document", 8.5, Size(4000, 4300), Size(60, 130)),
)


class Ask(msgspec.Struct, frozen=True):
    """One drawn call: what to send, whether as a stream, and which class of the mix it belongs to."""

    prompt: Prompt
    stream: bool
    traffic: str


class Mix:
    """An endless, seeded sequence of calls. `stream_share` holds for the classes that give none of their own."""

    def __init__(self, classes: Sequence[TrafficClass], stream_share: float, seed: int | str) -> None:
        self._classes = list(classes)
        self._weights = [one.weight for one in classes]
        self._stream_share = stream_share
        self._rng = random.Random(seed)

    def draw(self) -> Ask:
        rng = self._rng
        chosen = rng.choices(self._classes, self._weights)[0]
        share = self._stream_share if chosen.stream_share is None else chosen.stream_share
        prompt = numbered(rng.randrange(1_000_000), chosen.input_tokens.draw(rng), chosen.output_tokens.draw(rng))
        return Ask(prompt, rng.random() < share, chosen.name)


def read_mix(path: Path) -> tuple[TrafficClass, ...]:
    """The `[[class]]` tables of a TOML file. Raises `ValueError` that names the file and what is wrong in it."""
    try:
        tables: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(tables.keys() - {"class"})
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}; a mix is made of [[class]] tables")
        classes = msgspec.convert(tables.get("class", []), tuple[TrafficClass, ...])
    except OSError as error:
        raise ValueError(f"mix {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"mix {path}: {error}") from None
    if not classes:
        raise ValueError(f"mix {path}: no [[class]] table in it")
    return classes
