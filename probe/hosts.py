"""Where a credential may go: over TLS or to loopback, and to a host that is Azure's, or that the user has named.

Facts.   A name under azure.com can only be given out by Microsoft; a resource of Azure OpenAI or API Management has one
         unless it was given a domain of its own. 169.254.169.254 hands out credentials to whoever asks; 168.63.129.16
         is Azure's own host as its machines see it. Systems resolve 0x7f.1 and 2130706433 as addresses too.
Decided. What is checked is the text of the name, before there is a socket, and what it resolves to (in `dialing`). No
         setting takes a link's or a metadata service's address.
"""

import ipaddress
import os
import re
import sys
from collections.abc import Iterable
from urllib.parse import urlsplit

from probe.errors import SettingsError
from probe.secrecy import shown_url

NO_KEY = (
    "a key is never an argument, which every process on this machine could read; set AZURE_OPENAI_API_KEY, "
    "AZURE_OPENAI_API_KEY_FILE or HEADROOM_API_KEY_KEYRING, or sign in with HEADROOM_AUTH=entra"
)
UNVERIFIED = (
    "CERTIFICATES ARE NOT VERIFIED (--insecure-skip-verify): whoever is in between can take the key and change replies"
)

# In the public cloud and in the sovereign ones.
_AZURE = tuple(
    f".{service}.{cloud}"
    for service, clouds in {
        "openai": ("azure.com", "azure.us", "azure.cn"),
        "cognitiveservices": ("azure.com", "azure.us", "azure.cn"),
        "services.ai": ("azure.com", "azure.us", "azure.cn"),
        "azure-api": ("net", "us", "cn"),
    }.items()
    for cloud in clouds
)

_NAME = re.compile(r"[a-z0-9._-]+")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_endpoint(where: str, endpoint: str) -> None:
    hint = "give it as https://NAME.openai.azure.com or, for a gateway, https://NAME.azure-api.net/PATH"
    shown = shown_url(endpoint)
    try:
        parts = urlsplit(endpoint)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        raise SettingsError(f"{where}: {shown!r} is no URL; {hint}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
        raise SettingsError(f"{where}: {shown!r} is no http(s) URL; {hint}")
    if parts.username is not None or parts.query or parts.fragment or not is_plain(endpoint):
        raise SettingsError(f"{where}: the endpoint must be scheme, host, port and path alone; {hint}")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise SettingsError(f"{where}: a key is only sent over https; use https://{parts.netloc}{parts.path}")
    _check_address(where, parts.hostname)


def _check_address(where: str, host: str) -> None:
    """Addresses that no service has, however they are written."""
    if is_forbidden(host):
        raise SettingsError(f"{where}: {host} is an address of this machine's own network, which no service has")
    if host.endswith("."):
        raise SettingsError(f"{where}: leave the dot at the end of {host} out: no certificate has one")
    if not _NAME.fullmatch(host) and not _is_address(host):
        raise SettingsError(f"{where}: {host!r} is no host's name")
    last = host.rpartition(".")[2]
    if (last.isdecimal() or last.startswith("0x")) and not _is_address(host):
        raise SettingsError(f"{where}: {host} is another way to write an address; give its name, or four numbers")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_forbidden(host: str) -> bool:
    """Whether it is the address of a link (fe80::, 169.254.0.0/16 with the machine's metadata) or of Azure's own host.

    What is listening there hands out credentials or takes none; a name that leads there is a trick or a mistake.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified or str(mapped) in _METADATA


# Azure's platform, and where Amazon's machines have their metadata besides.
_METADATA = {"168.63.129.16", "fd00:ec2::254"}


def address_class(host: str) -> str:
    """Whose an address is: `loopback`, `private` (a virtual network's) or `public`."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return "loopback" if mapped.is_loopback else "private" if mapped.is_private else "public"


def check_host(where: str, host: str, allowed: Iterable[str]) -> None:
    """Whether a credential may go there. `allowed` are names, with those under a name as `*.NAME`.

    Raises `SettingsError`.
    """
    known = is_loopback(host) or host.endswith(_AZURE)
    if not known and not any(_covers(name.strip().lower(), host) for name in allowed):
        raise SettingsError(
            f"{where}: {host} is no host of Azure OpenAI or API Management, and would get the key; if it is yours, "
            f"say so: --allow-host {host} (HEADROOM_ALLOW_HOST)"
        )


def _covers(name: str, host: str) -> bool:
    return host == name or (name.startswith("*.") and name.count(".") > 1 and host.endswith(name[1:]))


def is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def red(text: str) -> str:
    """For standard error."""
    return f"\x1b[1;31m{text}\x1b[0m" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else text
