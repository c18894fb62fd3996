"""What the user has to mend, and what can end an exchange early, by the part of the way where it did."""

from typing import Literal

ErrorKind = Literal[
    "dns",
    "connect",
    "descriptors",
    "stale",
    "tls",
    "proxy",
    "timeout_connect",
    "timeout_first_byte",
    "timeout_idle",
    "timeout_total",
    "closed",
    "reset",
    "protocol",
    "too_large",
    "content_encoding",
    "cancelled",
]


class TransportError(Exception):
    """What ended an exchange early. `status` is that of a proxy which would not let it through."""

    def __init__(self, kind: ErrorKind, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.status = status


class SettingsError(ValueError):
    """A setting that the user has to mend; the message is one line and says how."""


def without_extra(what: str, extra: str) -> SettingsError:
    """`what` needs packages that are installed with an extra of ours only."""
    return SettingsError(f"{what} needs the extra `{extra}`: pip install 'aoai-headroom[{extra}]'")
