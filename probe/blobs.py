"""A container of Azure Blob Storage, asked with Microsoft Entra and by no key.

Facts.   A container is https://ACCOUNT.blob.core.windows.net/CONTAINER, or https://HOST/ACCOUNT/CONTAINER on loopback.
         The SDK sends a token over TLS only. Reading needs the role Storage Blob Data Reader, writing Contributor.
Decided. A shared access signature in the URL is refused: every process on the machine could read it, and it would stay
         in a shell's history.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from probe.errors import SettingsError, without_extra
from probe.escaping import printable
from probe.hosts import check_endpoint, is_loopback
from probe.identity import token_provider, transport
from probe.secrecy import shown_url
from probe.target import Trust, signing_in

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken
    from azure.storage.blob import ContainerClient

# In the public cloud and in the sovereign ones.
_HOSTS = (".blob.core.windows.net", ".blob.core.usgovcloudapi.net", ".blob.core.chinacloudapi.cn")
_SCOPE = "https://storage.azure.com/.default"
_FORM = "a container is https://ACCOUNT.blob.core.windows.net/CONTAINER"


def is_url(text: str) -> bool:
    return text.startswith(("https://", "http://"))


@contextmanager
def container(url: str, environ: Mapping[str, str] | None = None) -> Iterator["ContainerClient"]:
    """A client for the container, signed in as HEADROOM_CREDENTIAL says.

    Raises `SettingsError` for a URL that is none, a missing extra, a failed sign-in, and in the place of whatever error
    of Azure's the block under it raises.
    """
    account, name = _parts(url)
    try:
        from azure.storage.blob import ContainerClient, ExponentialRetry
    except ImportError:
        raise without_extra("a blob container", "logs") from None
    from azure.core.exceptions import AzureError

    # What it would log of a failure is said in the one line below.
    logging.getLogger("azure.core").setLevel(logging.CRITICAL)
    identity, bundle = signing_in(os.environ if environ is None else environ)
    token = token_provider(msgspec.structs.replace(identity, scope=_SCOPE), Trust(ca_bundle=bundle))
    # Its own policy would keep trying for a minute and a half.
    retries = ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=3)
    options: dict[str, Any] = {"transport": transport(bundle), "retry_policy": retries}
    try:
        with ContainerClient(account, name, credential=_Credential(token), **options) as client:
            yield client
    except AzureError as error:
        raise SettingsError(f"{shown_url(url)}: {reason(error)}") from None


class _Credential:
    """The provider's token in azure-core's shape. It is always fresh: it is asked for each request."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def get_token(self, *_: str, **__: Any) -> "AccessToken":
        from azure.core.credentials import AccessToken

        return AccessToken(self._token(), int(time.time()))


def _parts(url: str) -> tuple[str, str]:
    """The account's address and the container's name."""
    if "?" in url or "#" in url:
        raise SettingsError(
            f"{shown_url(url)}: leave the shared access signature out; Microsoft Entra signs in. {_FORM}"
        )
    check_endpoint("blobs", url)
    parts = urlsplit(url)
    host = parts.hostname or ""
    names = [part for part in parts.path.split("/") if part]
    if parts.scheme != "https" or not (host.endswith(_HOSTS) or is_loopback(host)):
        raise SettingsError(f"{shown_url(url)}: no blob container of Azure; {_FORM}")
    if len(names) != (2 if is_loopback(host) else 1):
        raise SettingsError(f"{shown_url(url)}: the container is not named; {_FORM}")
    return "/".join((f"https://{parts.netloc}", *names[:-1])), names[-1]


_MENDS = {
    "ContainerNotFound": "there is no such container",
    "AuthorizationPermissionMismatch": "the role is missing; reading needs Storage Blob Data Reader, writing Storage"
    " Blob Data Contributor",
    "AuthorizationFailure": "its network rules, or a missing role, keep this machine out",
    "PublicAccessNotPermitted": "it takes no calls without a token",
}


def reason(error: Any) -> str:
    code = str(getattr(error, "error_code", None) or "")
    said = str(getattr(error, "message", None) or error).strip().partition("\n")[0]
    return _MENDS.get(code, f"{printable(said)}{f' ({code})' if code and code not in said else ''}")
