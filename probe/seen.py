"""What is new since the last probe of a target: a small file in the user's own folder for state.

Kept are the names of the headers that came, and the values of those few that describe the deployment and hold no
secret. Targets are kept by a digest of what names them. Whatever cannot be read or written is as if it were not there:
a look at a target does not fail because of its memory.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from probe.headers import describe
from probe.hosts import is_loopback
from probe.record import ObservedCall

# What stays the same from call to call, so that a change means something.
_STABLE = frozenset(
    """
    azureai-fe-offer-type azureai-processed-tier azureai-requested-tier azureml-model-session content-type openai-model
    server via x-backend-region x-ms-aoai-configured-data-retention-days x-ms-deployment-name x-ms-region
    x-ms-served-model x-ratelimit-limit-requests x-ratelimit-limit-tokens x-ratelimit-renewalperiod-requests
    x-ratelimit-renewalperiod-tokens
    """.split()
)
_MOST_TARGETS = 200


class Seen(msgspec.Struct, frozen=True):
    """The headers of one call: lower-case names, and the values of the stable ones."""

    at: float
    names: tuple[str, ...]
    values: dict[str, str]


class News(msgspec.Struct, frozen=True):
    """What differs from a look `age` seconds ago. `changed` is name, value then, value now."""

    age: float
    new: tuple[str, ...]
    gone: tuple[str, ...]
    changed: tuple[tuple[str, str, str], ...]


def seen(call: ObservedCall, at: float) -> Seen:
    names = tuple(dict.fromkeys(name.lower() for name, _ in call.headers))
    return Seen(at, names, dict(_stable(call.headers)))


def _stable(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    for name, value in headers:
        reading = describe(name, value)
        if name.lower() in _STABLE:
            yield name.lower(), value
        elif reading.unit == "serving region" and isinstance(reading.parsed, str):
            yield f"{name.lower()} (serving region)", reading.parsed


def compare(before: Seen, now: Seen) -> News:
    return News(
        age=now.at - before.at,
        new=tuple(name for name in now.names if name not in before.names),
        gone=tuple(name for name in before.names if name not in now.names),
        changed=tuple(
            (name, before.values[name], value)
            for name, value in now.values.items()
            if name in before.values and before.values[name] != value
        ),
    )


def remember(call: ObservedCall, file: Path | None = None) -> News | None:
    """Keeps what came, and says what is new; None for the first look, and for a call that brought no answer.

    A refusal has other headers than an answer, and says nothing about what the deployment's are.
    """
    if call.status_code != 200:
        return None
    path = file or state_file()
    kept = _read(path)
    key, now = _key(call), seen(call, time.time())
    before = kept.pop(key, None)
    newest = dict(sorted(kept.items(), key=lambda item: item[1].at)[-_MOST_TARGETS + 1 :])
    _write(path, {**newest, key: now})
    return compare(before, now) if before else None


def _key(call: ObservedCall) -> str:
    # A simulator has another port each time.
    port = "" if is_loopback(call.server_address) else call.server_port
    parts = (call.target, call.server_address, port, call.request_model, call.surface, call.request_stream)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def state_folder() -> Path:
    """The user's folder for state: `XDG_STATE_HOME`, on Windows `LOCALAPPDATA`, else `~/.local/state`."""
    base = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/.local/state")
    return Path(base, "headroom")


def state_file() -> Path:
    return state_folder() / "seen.json"


def _read(path: Path) -> dict[str, Seen]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Seen])
    except (OSError, msgspec.DecodeError):
        return {}


def _write(path: Path, kept: dict[str, Seen]) -> None:
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(kept))
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
