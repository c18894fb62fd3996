"""Dated tables: what changes with time and has a source, such as prices, as `[[table]]`s of a TOML file.

A model is named in them with its version (`gpt-4o-2024-08-06`) or without; a version is its model, unless it has an
entry of its own.
"""

import re
import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TypeVar

import msgspec

from probe.target import SettingsError

# A version is dated in full or by month and day; Llama says what it was tuned for.
_VERSION = re.compile(r"(-\d{4}-\d{2}-\d{2}|-\d{4}|(?<=\db)-instruct)$")


class Dated(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    as_of: date
    source: str


Table = TypeVar("Table", bound=Dated)


def model_names(model: str) -> tuple[str, ...]:
    """Under which a model may stand in the tables: with its version, then without."""
    name = model.strip().lower().replace("gpt-3.5", "gpt-35")
    return tuple(dict.fromkeys((name, _VERSION.sub("", name))))


def read_tables(path: Path, kind: type[Table], what: str, lowered: Callable[[Table], Table]) -> tuple[Table, ...]:
    """Newest first, each as `lowered` gives it: with its models' names in lower case.

    Raises `SettingsError` that says `what` the file holds, names it, and says what is wrong in it.
    """
    try:
        parsed = tomllib.loads(path.read_text(encoding="utf-8"))
        tables = msgspec.convert(parsed, dict[str, tuple[kind, ...]])  # type: ignore[valid-type]
    except OSError as error:
        raise SettingsError(f"{what} {path}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{what} {path}: {error}") from None
    if set(tables) != {"table"}:
        keys = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
        raise SettingsError(f"{what} {path}: it is made of [[table]]s, with {keys}")
    return tuple(sorted(map(lowered, tables["table"]), key=lambda table: table.as_of, reverse=True))
