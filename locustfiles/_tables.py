"""Locust's tables: a row a target and kind of call, and a row a kind of error.

Rows are keys that Locust keeps for as long as it runs, and a failing service can give every error a text of its own. So
what would be different each time is left out of an error's text, and after `MOST_ERRORS` kinds the rest are one row.
The tables end up on a terminal, in a page and in CSV files, so nothing in them acts on any of these.
"""

import re
from typing import Any

from probe.escaping import csv_safe, printable

MOST_ERRORS = 200
OTHER = "other"
_LONGEST = 80
_GUID = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
# Request ids and keys: long runs of letters and digits with both among them.
_ID = re.compile(r"\b(?=[A-Za-z_-]*[0-9])(?=[0-9_-]*[A-Za-z])[A-Za-z0-9_-]{16,}\b")
_HEX = re.compile(r"\b(?:0x[0-9a-fA-F]+|(?=[0-9]*[a-fA-F])(?=[a-fA-F]*[0-9])[0-9a-fA-F]{8,})\b")
_NUMBER = re.compile(r"[0-9]+(?:[.,:][0-9]+)*")


def normalised(text: str) -> str:
    """`text` with what tells one error of a kind from another left out: ids and numbers."""
    for pattern, placeholder in ((_GUID, "{guid}"), (_ID, "{id}"), (_HEX, "{id}"), (_NUMBER, "{n}")):
        text = pattern.sub(placeholder, text)
    return " ".join(text.split())[:_LONGEST]


class ErrorTexts:
    """A process's kinds of error, as their rows are called."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def text(self, outcome: str, *details: str | None) -> str:
        """`outcome` and `details` are of sets that are closed; what is not has been through `normalised`."""
        text = csv_safe(printable(" ".join(part for part in (outcome, *details) if part)))
        if text not in self._known and len(self._known) >= MOST_ERRORS:
            return OTHER
        self._known.add(text)
        return text


def fold(errors: dict[str, Any]) -> None:
    """Of a master, whose workers have `MOST_ERRORS` kinds each: what is beyond as many goes into a row a target."""
    for key in list(errors)[MOST_ERRORS:]:
        row = errors[key]
        into = f"{OTHER} {row.method} {row.name}"
        if key != into:
            other = errors.setdefault(into, type(row)(row.method, row.name, OTHER, 0, row.first_seen, row.last_seen))
            other.occurrences += errors.pop(key).occurrences
            other.last_seen = row.last_seen


def row_name(target: str, stream: bool) -> str:
    return csv_safe(printable(f"{target} {'stream' if stream else 'whole'}"))
