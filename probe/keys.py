"""Where a key comes from, besides a variable of the environment: a file, or the operating system's keyring."""

import os
import stat
import sys
from pathlib import Path

from probe.errors import SettingsError, without_extra


def key_of_file(where: str, path: Path) -> str:
    """The file's one line. That others on the machine may read it is said, and no more: secrets are mounted so."""
    try:
        text = path.read_text(encoding="utf-8").strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise SettingsError(f"{where}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{where}: {path}: no text; it should hold the key alone, on one line") from None
    if not text or len(text.split()) > 1:
        raise SettingsError(f"{where}: {path}: it should hold the key alone, on one line")
    if os.name == "posix" and mode & stat.S_IROTH:
        print(f"headroom: everybody on this machine can read the key in {path}; chmod 600 it", file=sys.stderr)
    return text


def key_of_keyring(where: str, place: str) -> str:
    service, _, user = place.rpartition("/")
    if not service or not user:
        raise SettingsError(f"{where}: {place!r} is no place in a keyring; give it as SERVICE/USER")
    try:
        # The extra `keyring`, for whoever keeps keys there.
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise without_extra(where, "keyring") from None
    try:
        found = keyring.get_password(service, user)
    except KeyringError as error:
        raise SettingsError(f"{where}: the keyring cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not found:
        raise SettingsError(f"{where}: the keyring has nothing for {place}; put it there: keyring set {service} {user}")
    return found.strip()
