"""What is written down of what a server sent: everything, but for secrets.

Facts.   Gateways and proxies set cookies, hand out tokens and signed addresses in headers, and echo the key that they
         refuse ("Incorrect API key provided: ..."), plain or encoded. A header named after tokens mostly counts them:
         `x-ratelimit-remaining-tokens`, or what the author of a gateway's policy called it.
Promise. Where a record is made, the value of a header that lets its holder act is replaced by `sha256:` and twelve
         digits, which still tells equal values from different ones; and a secret that this process knows is replaced by
         `[secret]` wherever it comes back, plain, as URL, HTML, JSON or base64. So nothing later has to think of it.
Decided. Secrets shorter than eight characters are not looked for: they would be found in ordinary words.
"""

import base64
import hashlib
import html
import json
import logging
import re
import sys
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Any
from urllib.parse import quote

Pairs = tuple[tuple[str, str], ...]

SECRET = "[secret]"  # noqa: S105 - it stands in the place of one
_LEAST = 8
_FEW_TOKENS = 8

_LETS_ACT = (
    *("cookie", "authorization", "token", "secret", "password", "credential"),
    *("api-key", "apikey", "access-key", "subscription-key"),
)
# Counts, durations and flags, which is what most headers with "token" in their names hold.
_COUNTS = re.compile(r"(?i:true|false)|-?[0-9]{0,15}([.:][0-9]{0,9})?(ms|[hms%])?([0-9.]{0,9}(ms|[hms]))*")
_CHALLENGE = re.compile(r'([A-Za-z][\w-]*)=("(?:[^"\\]|\\.)*"|[^\s,"=][^\s,"]*)|[^\s,]+')
_SCHEMES = {"basic", "bearer", "digest", "negotiate", "ntlm", "pop", "key"}
_SAID_OPENLY = {"realm", "authorization", "authorization_uri", "resource", "resource_id", "scope", "error", "algorithm"}
_USER_INFO = re.compile(r"(?<=://)[^/@\s?#]+(?=@)")
_SIGNED = re.compile(
    r"([?&;](?:sig|signature|code|[\w-]*(?:key|token|secret|password))=)([^&#;\s\"'<>]+)", re.IGNORECASE
)


def mark(value: str) -> str:
    """What stands in the place of a value that must not be kept."""
    return f"sha256:{hashlib.sha256(value.encode('latin-1', 'replace')).hexdigest()[:12]}"


def lets_act(name: str) -> bool:
    """Whether a header or a body's field of this name holds what lets its holder act, as far as the name tells."""
    lowered = name.lower()
    return any(word in lowered for word in _LETS_ACT)


def kept(headers: Pairs) -> Pairs:
    """Headers of a reply as they may be written down."""
    shown = []
    for pair in headers:
        name, value = pair
        rule = _rule(name)
        shown.append(pair if rule is None and "=" not in value and "@" not in value else (name, _kept(rule, value)))
    if _echoes("\n".join(chain.from_iterable(shown))):
        return tuple((scrubbed(name), scrubbed(value)) for name, value in shown)
    return tuple(shown)


def kept_text(text: str) -> str:
    """A head that could not be read, or part of one, as it may be written down: line by line, as `kept` has it."""
    return "".join(map(_kept_line, text.splitlines(keepends=True)))


def _kept_line(line: str) -> str:
    name, colon, value = line.partition(":")
    if not colon:
        return scrubbed(line)
    ((shown, cleaned),) = kept(((name, value.strip()),))
    return f"{shown}: {cleaned}{line[len(line.rstrip()) :]}" if cleaned != value.strip() else scrubbed(line)


def _kept(rule: str | None, value: str) -> str:
    if rule == "cookie" or (rule == "hide" and not _COUNTS.fullmatch(value)):
        return mark(value)
    if rule == "challenge":
        return _CHALLENGE.sub(_of_challenge, value)
    return shown_url(value)


@lru_cache(4096)
def _rule(name: str) -> str | None:
    lowered = name.lower()
    if lowered in ("www-authenticate", "proxy-authenticate"):
        return "challenge"
    if "cookie" in lowered:
        return "cookie"
    return "hide" if lets_act(lowered) else None


def _of_challenge(found: re.Match[str]) -> str:
    name, value = found[1], found[2]
    if name is None:
        return found[0] if found[0].lower() in _SCHEMES else mark(found[0])
    return found[0] if name.lower() in _SAID_OPENLY else f"{name}={mark(value.strip(chr(34)))}"


def shown_url(text: str) -> str:
    """Text without the user's name and password, and without the signatures and keys, of addresses in it."""
    without = _USER_INFO.sub(lambda found: mark(found[0]), text)
    return _SIGNED.sub(lambda found: found[1] + mark(found[2]), without)


class _Known:
    """The secrets of this process, in every form in which one may come back."""

    def __init__(self) -> None:
        self.forms: tuple[str, ...] = ()
        self._lasting: dict[str, tuple[str, ...]] = {}
        # Tokens come and go; an old one can still be in a reply that is under way.
        self._passing: deque[str] = deque(maxlen=_FEW_TOKENS)

    def add(self, secret: str, passing: bool) -> None:
        if len(secret) < _LEAST or secret in self._lasting or secret in self._passing:
            return
        if passing:
            self._passing.append(secret)
        else:
            self._lasting[secret] = tuple(_forms(secret))
        forms = [form for each in self._lasting.values() for form in each]
        forms += [form for token in self._passing for form in _forms(token)]
        # The longest first: one can be a part of another.
        self.forms = tuple(sorted(set(forms), key=len, reverse=True))


_known = _Known()


def remember(secret: str, passing: bool = False) -> None:
    """From now on `secret` is replaced wherever it comes back; a `passing` one until some others have followed it."""
    _known.add(secret, passing)


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield html.escape(secret)
    yield json.dumps(secret)[1:-1]
    raw = secret.encode()
    # In the middle of other text it is encoded from any of three offsets on; what the neighbours share is left out.
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
        whole = encoded if (offset + len(raw)) % 3 == 0 else encoded[:-1]
        within = whole[(0, 2, 3)[offset] :]
        yield within
        yield within.replace("+", "-").replace("/", "_")


def _echoes(text: str) -> bool:
    return any(form in text for form in _known.forms)


def scrubbed(text: str) -> str:
    """Text without the secrets that this process knows. To be called before it is cut, or half of one would stay."""
    for form in _known.forms:
        if form in text:
            text = text.replace(form, SECRET)
    return text


def scrubbed_bytes(data: bytes) -> bytes:
    # Every byte is a character of this encoding, so nothing else changes.
    text = data.decode("latin-1")
    return scrubbed(text).encode("latin-1") if _echoes(text) else data


def masked(value: Any, name: str = "") -> Any:
    """Of a body's fields or headers that a user gave: numbers, and words of which their names say that they are none.

    Any other text could be a secret, or a prompt.
    """
    if isinstance(value, Mapping):
        return {key: masked(one, str(key)) for key, one in value.items()}
    if isinstance(value, list):
        return [masked(one, name) for one in value]
    return "***" if isinstance(value, str) and name.lower() not in _OPEN_FIELDS else value


_OPEN_FIELDS = {
    "type",
    "effort",
    "reasoning_effort",
    "verbosity",
    "service_tier",
    "truncation",
    "tool_choice",
    "summary",
}


def guard() -> None:
    """Keeps the secrets that this process knows out of logs and tracebacks, whoever writes them."""
    make = logging.getLogRecordFactory()

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        try:
            text = made.getMessage()
        except (TypeError, ValueError):
            # A wrong format, which whoever handles the record complains of.
            return made
        if _echoes(text):
            made.msg, made.args = scrubbed(text), ()
        if made.exc_info and made.exc_info[0] is not None:
            made.exc_text = scrubbed("".join(traceback.format_exception(*made.exc_info)).rstrip())
        return made

    logging.setLogRecordFactory(record)
    sys.excepthook = lambda kind, error, frames: sys.stderr.write(
        scrubbed("".join(traceback.format_exception(kind, error, frames)))
    )
    quiet_libraries()


def quiet_libraries() -> None:
    """With a debug level these write down prompts and headers. `openai` sets its own level when it is imported."""
    for name in ("azure", "httpcore2", "httpx2", "msal", "openai", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
