"""Numbered prompts of known size, and the mixes of them that make up a run's traffic.

No prompt text is stored with a run: a prompt is rebuilt from its id, so that a token count can be made afterwards.

Size.   A prompt of n tokens is billed as n: 3 for the message, 1 for its role, 3 for the reply's start, and its text.
        The text is made of words that are one token each, after a space, in cl100k_base and in o200k_base alike.
        (Reasoning models bill one less; that is the counting rules' affair.)
Number. Long prompts begin with their number, so that no two share a prefix that the service could cache.
Prefix. Where that is wanted, prompts begin with a text of a known size instead that all of its number share, and then
        come to their own number. Both are in the id: `1000-7` and `1000-7-600-42`, of which 600 tokens are prefix 42.
"""

import math
import random
import tomllib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import msgspec

# Message, role and the start of the reply.
OVERHEAD = 7
# The shortest prompt: the overhead and one word.
MIN_INPUT_TOKENS = OVERHEAD + 1
# 6 digits are 2 tokens; the instruction keeps a real model writing until max_tokens.
_INSTRUCTION = " Write a very long story with these words:"
_NUMBERED_TOKENS = 2 + 9
# A prompt's own part after a prefix, at least: its number and one word.
_OWN_TOKENS = 2 + 1
_WORDS = """
    time year people way day man thing woman life child world school state family student group country problem hand
    part place case week company system program question work government number night point home water room mother
    area money story fact month lot right study book eye job word business issue side kind head house service friend
    father power hour game line end member law car city
""".split()

# Prompts are slices of this: drawing their words one by one would hold up the calls in flight.
_STORY = random.Random(0).choices(_WORDS, k=20_011)

_Z90 = 1.2815515655446004  # the standard normal's 90th percentile
_NORMAL = NormalDist()
# Multiples of these, less their whole parts, fill a square evenly (Roberts' R2 sequence).
_EVENLY = (0.7548776662466927, 0.5698402909980532)


class Prompt(msgspec.Struct, frozen=True):
    """What is asked: `input_tokens` as planned, `max_tokens` the most the answer may be."""

    id: str
    messages: tuple[dict[str, str], ...]
    input_tokens: int
    max_tokens: int


class Prefix(NamedTuple):
    """What prompts have in common: `tokens` of their text, from its beginning; one `number` is one text."""

    tokens: int
    number: int


def numbered(number: int, input_tokens: int, max_tokens: int, prefix: Prefix | None = None) -> Prompt:
    """Prompt `number` (0 to 999,999) of `input_tokens`, raised to the shortest possible where that is less.

    One too short for a `prefix` and its own number has as much of the prefix as there is room for, or none.
    """
    size = max(input_tokens, MIN_INPUT_TOKENS)
    text = size - OVERHEAD
    shared = min(prefix.tokens, text - _OWN_TOKENS) if prefix is not None else 0
    prompt_id, content = f"{size}-{number}", ""
    if prefix is not None and shared > _NUMBERED_TOKENS:
        prompt_id += f"-{shared}-{prefix.number}"
        content = _content(prefix.number, shared) + _own(number, text - shared)
    else:
        content = _content(number, text)
    return Prompt(prompt_id, ({"role": "user", "content": content},), size, max_tokens)


def rebuild(prompt_id: str, max_tokens: int = 1) -> Prompt:
    """The prompt that `numbered` made. Raises `ValueError` where the id is none of ours."""
    parts = prompt_id.split("-")
    if len(parts) not in (2, 4) or not all(part.isdecimal() for part in parts):
        raise ValueError(f"not a prompt id: {prompt_id!r}")
    size, number, *prefix = map(int, parts)
    return numbered(number, size, max_tokens, Prefix(*prefix) if prefix else None)


def _content(number: int, tokens: int) -> str:
    if tokens <= _NUMBERED_TOKENS:
        return "".join(f" {_WORDS[(number + i) % len(_WORDS)]}" for i in range(tokens))
    return f"{number:06d}{_INSTRUCTION}{_words(number, tokens - _NUMBERED_TOKENS)}"


def _own(number: int, tokens: int) -> str:
    """What follows a prefix; digits right after a word begin a token of their own."""
    return f"{number:06d}{_words(number, tokens - 2)}"


def _words(number: int, wanted: int) -> str:
    start = number * 7919 % len(_STORY)
    words = _STORY[start : start + wanted]
    while len(words) < wanted:
        words += _STORY[: wanted - len(words)]
    return f" {' '.join(words)}"


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A log-normal number of tokens, given as its median and 90th percentile."""

    median: float
    p90: float

    def __post_init__(self) -> None:
        if not 0 < self.median <= self.p90:
            raise ValueError(f"median {self.median} and p90 {self.p90}: need 0 < median <= p90")

    def draw(self, rng: random.Random) -> int:
        return self._at(rng.gauss(0.0, 1.0))

    def quantile(self, share: float) -> int:
        return self._at(_NORMAL.inv_cdf(min(max(share, 1e-4), 1 - 1e-4)))

    def _at(self, deviations: float) -> int:
        sigma = math.log(self.p90 / self.median) / _Z90
        return max(1, round(self.median * math.exp(sigma * deviations)))


class TrafficClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of call. `stream_share` (0 to 1) wins over the run's where it is given.

    `common_prefix` is the share (0 to 1) of the median prompt that all prompts of the class begin with.
    """

    name: str
    weight: float
    input_tokens: Size
    output_tokens: Size
    stream_share: float | None = None
    common_prefix: float = 0.0

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"class {self.name!r}: weight must be above 0, not {self.weight}")
        if self.stream_share is not None and not 0 <= self.stream_share <= 1:
            raise ValueError(f"class {self.name!r}: stream_share must be between 0 and 1, not {self.stream_share}")
        if not 0 <= self.common_prefix <= 1:
            raise ValueError(f"class {self.name!r}: common_prefix must be between 0 and 1, not {self.common_prefix}")

    @property
    def prefix(self) -> Prefix:
        """The same in every run, whichever other classes there are."""
        return Prefix(round(self.common_prefix * self.input_tokens.median), zlib.crc32(self.name.encode()) % 1_000_000)


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
    """One drawn call: what to send, whether as a stream, and which class of the mix it belongs to. `round` is the
    record's."""

    prompt: Prompt
    stream: bool
    traffic: str
    round: int | None = None


class Mix:
    """An endless, seeded sequence of calls. `stream_share` holds for the classes that give none of their own."""

    def __init__(self, classes: Sequence[TrafficClass], stream_share: float, seed: int | str) -> None:
        self._classes = list(classes)
        self._weights = [one.weight for one in classes]
        self._stream_share = stream_share
        self._rng = random.Random(seed)

    def draw(self) -> Ask:
        return self.draw_alike(1)[0]

    def draw_alike(self, count: int) -> list[Ask]:
        """So many calls of one class, sizes and way of asking, each with a text of its own."""
        rng = self._rng
        chosen = rng.choices(self._classes, self._weights)[0]
        share = self._stream_share if chosen.stream_share is None else chosen.stream_share
        number, size, answer = rng.randrange(1_000_000), chosen.input_tokens.draw(rng), chosen.output_tokens.draw(rng)
        stream = rng.random() < share
        numbers = ((number + further) % 1_000_000 for further in range(count))
        return [Ask(numbered(one, size, answer, chosen.prefix), stream, chosen.name) for one in numbers]


class EvenMix(Mix):
    """The same mix, and every stretch of it as like the whole as can be: what a few dozen of its calls cost together
    is close to what they do on average, where the drawn mix's would vary by a tenth.

    Classes take turns by weight, streams by their share, and sizes come from all parts of their distribution in turn.
    """

    def __init__(self, classes: Sequence[TrafficClass], stream_share: float, seed: int | str) -> None:
        super().__init__(classes, stream_share, seed)
        total = sum(self._weights)
        self._shares = [weight / total for weight in self._weights]
        self._owed = [self._rng.random() * share for share in self._shares]
        self._streams_owed = [self._rng.random() for _ in classes]
        self._at = [(self._rng.random(), self._rng.random()) for _ in classes]

    def draw(self) -> Ask:
        for number, share in enumerate(self._shares):
            self._owed[number] += share
        turn = self._owed.index(max(self._owed))
        self._owed[turn] -= 1
        chosen = self._classes[turn]
        share = self._stream_share if chosen.stream_share is None else chosen.stream_share
        self._streams_owed[turn] += share
        stream = self._streams_owed[turn] >= 1
        self._streams_owed[turn] -= stream
        size, answer = self._at[turn]
        self._at[turn] = (size + _EVENLY[0]) % 1, (answer + _EVENLY[1]) % 1
        return self._asked(chosen, chosen.input_tokens.quantile(size), chosen.output_tokens.quantile(answer), stream)

    def again(self, ask: Ask) -> Ask:
        """A call of the same class and size, with a text of its own: nothing that the service may have cached."""
        chosen = next(one for one in self._classes if one.name == ask.traffic)
        return self._asked(chosen, ask.prompt.input_tokens, ask.prompt.max_tokens, ask.stream)

    def _asked(self, chosen: TrafficClass, size: int, answer: int, stream: bool) -> Ask:
        return Ask(numbered(self._rng.randrange(1_000_000), size, answer, chosen.prefix), stream, chosen.name)


def streaming(classes: Sequence[TrafficClass], stream_share: float) -> float:
    """The share of a mix's calls that stream, 0 to 1."""
    streams = sum(one.weight * (stream_share if one.stream_share is None else one.stream_share) for one in classes)
    return streams / sum(one.weight for one in classes)


def mean_sizes(classes: Sequence[TrafficClass]) -> tuple[float, float]:
    """Tokens of a call's prompt, and the most of its answer, on average over a mix as `EvenMix` draws it."""
    total, shares = sum(one.weight for one in classes), [(at + 0.5) / 500 for at in range(500)]
    inputs, outputs = (
        sum(one.weight * sum(max(least, size.quantile(share)) for share in shares) for one, size in sizes) / total / 500
        for least, sizes in (
            (MIN_INPUT_TOKENS, [(one, one.input_tokens) for one in classes]),
            (1, [(one, one.output_tokens) for one in classes]),
        )
    )
    return inputs, outputs


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
