"""From a host's name to a channel that is ready for requests: name, TCP, a proxy's tunnel, TLS, each timed apart.

Names are resolved at most every half minute in a process, and once for all who ask at the same time: a thousand users
that begin together would otherwise wait for a thousand answers. Half a minute, because names move when a region fails
over. An address that cannot be reached is forgotten.

A proxy is what HTTPS_PROXY and NO_PROXY say, as every client on the machine reads them; only TLS goes through it, in a
CONNECT tunnel, since nothing else may leave the machine. Only proxies that are spoken to in plain HTTP are supported.

A name that resolves to an address no service has (`hosts.is_forbidden`) gets no connection, and neither does one that
led into a virtual network, to the internet or to loopback before and now leads to another of these: somebody else may
be answering for it.

Trust is the operating system's: on Linux what OpenSSL was told, `SSL_CERT_FILE` included; elsewhere the system's store
through truststore, but not under gevent, where that recurses without end (gevent #2178): there Windows' store is read
once, and macOS gets certifi's list. A `ca_bundle` comes on top of any of these.
"""

import base64
import errno
import os
import socket
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from functools import cache
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import httptools
import msgspec

from probe.channel import Address, Channel, SecureChannel, Socket, begin_connect
from probe.descriptors import none_left
from probe.errors import TransportError
from probe.hosts import address_class, is_forbidden
from probe.secrecy import remember
from probe.stamps import Stamp
from probe.target import Trust
from probe.waiting import Waiting

NAME_LIFETIME_SECONDS = 30.0


class Dialed(msgspec.Struct):
    """Seconds each part took; None for a part that was not needed, or that was not come to."""

    peer: str | None = None
    dns: float | None = None
    connect: float | None = None
    tls: float | None = None


class Proxy(NamedTuple):
    host: str
    port: int
    authorization: str | None


def dial(
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None,
    stamps: bool,
    seconds: float,
    waiting: Waiting,
    dialed: Dialed,
) -> Channel:
    """Fills `dialed` as far as it comes. Raises `TransportError`."""
    limit = time.perf_counter_ns() + int(seconds * 1e9)
    try:
        connection = _way_to(host, port, tls is not None, stamps, limit, waiting, dialed)
        if tls is None:
            return Channel(connection, stamps)
        return _secure(connection, host, tls, stamps, limit, waiting, dialed)
    except TimeoutError:
        raise TransportError("timeout_connect", f"no connection in {seconds:g} s") from None
    except OSError as error:
        reason = none_left(error)
        if reason is None:
            raise
        raise TransportError("descriptors", reason) from None


def _way_to(host: str, port: int, tls: bool, stamps: bool, limit: Stamp, waiting: Waiting, dialed: Dialed) -> Socket:
    """A connection whose other end is the host's, through a proxy where there is one."""
    proxy = proxy_for(host) if tls else None
    if proxy is None:
        return _connect(host, port, stamps, limit, waiting, dialed)
    try:
        connection = _connect(proxy.host, proxy.port, stamps, limit, waiting, dialed)
    except TransportError as error:
        raise TransportError("proxy", f"the proxy {proxy.host}:{proxy.port}: {error}") from None
    try:
        _tunnel(connection, f"{host}:{port}", proxy, limit, waiting)
    except BaseException:
        connection.close()
        raise
    return connection


def _secure(
    connection: Socket, host: str, tls: ssl.SSLContext, stamps: bool, limit: Stamp, waiting: Waiting, dialed: Dialed
) -> SecureChannel:
    began = time.perf_counter_ns()
    try:
        channel = SecureChannel(connection, stamps, tls, host)
        _handshake(channel, limit, waiting)
    except BaseException:
        connection.close()
        raise
    dialed.tls = (time.perf_counter_ns() - began) / 1e9
    return channel


@cache
def tls_context(trust: Trust) -> ssl.SSLContext:
    """The process's one TLS context of this trust: making one costs 20 ms, too much to do once a user."""
    context = new_context(trust)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def new_context(trust: Trust) -> ssl.SSLContext:
    if not trust.verified:
        unsafe = ssl.create_default_context()
        unsafe.check_hostname = False
        unsafe.verify_mode = ssl.CERT_NONE
        return unsafe
    context = _system_context()
    if trust.ca_bundle is not None:
        is_folder = os.path.isdir(trust.ca_bundle)
        context.load_verify_locations(**{"capath" if is_folder else "cafile": trust.ca_bundle})
    return context


def _system_context() -> ssl.SSLContext:
    under_gevent = ssl.SSLContext.__module__.startswith("gevent")
    if sys.platform not in ("darwin", "win32"):
        return ssl.create_default_context()
    if not under_gevent:
        import truststore

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.platform == "win32":
        return ssl.create_default_context()
    import certifi

    return ssl.create_default_context(cafile=certifi.where())


def proxy_for(host: str) -> Proxy | None:
    """The proxy on the way to `host`. Raises `TransportError` where what is set is no address."""
    url = urllib.request.getproxies().get("https")
    if not url or urllib.request.proxy_bypass(host):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise TransportError("proxy", "HTTPS_PROXY must be http://HOST:PORT")
    return Proxy(parts.hostname, parts.port or 80, _authorization(parts.username, parts.password))


def _authorization(user: str | None, password: str | None) -> str | None:
    if not user:
        return None
    remember(unquote(password or ""))
    return base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()


def _resolve(host: str, port: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise TransportError("dns", f"{host}: {getattr(error, 'strerror', None) or error}") from None
    forbidden = next((sockaddr[0] for *_, sockaddr in found if is_forbidden(str(sockaddr[0]))), None)
    if forbidden is not None:
        raise TransportError("dns", f"{host} leads to {forbidden}, which no service has; nothing was sent")
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


class Names:
    """What names resolved to, and until when that holds. `resolve` gives the addresses of a host and a port."""

    def __init__(self, resolve: Callable[[str, int], list[Address]] = _resolve) -> None:
        self._resolve = resolve
        # By name: the classes of address that it led to first.
        self._classes: dict[str, set[str]] = {}
        self._known: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._asking: dict[tuple[str, int], threading.Lock] = {}

    def addresses(self, host: str, port: int) -> tuple[list[Address], float | None]:
        """And how many seconds it took to find out, None where they were known. Raises `TransportError`."""
        # Under gevent it is a lock of greenlets.
        with self._asking.setdefault((host, port), threading.Lock()):
            until, known = self._known.get((host, port), (0.0, []))
            if time.monotonic() < until:
                return known, None
            began = time.perf_counter_ns()
            found = self._resolve(host, port)
            self._pin(host, found)
            self._known[host, port] = (time.monotonic() + NAME_LIFETIME_SECONDS, found)
            return found, (time.perf_counter_ns() - began) / 1e9

    def _pin(self, host: str, found: list[Address]) -> None:
        classes = {address_class(str(address.sockaddr[0])) for address in found}
        first = self._classes.setdefault(host, classes)
        if not classes <= first:
            led, leads = " and ".join(sorted(first)), " and ".join(sorted(classes - first))
            raise TransportError(
                "dns", f"{host} led to {led} addresses and now leads to {leads} ones; nothing was sent"
            )

    def forget(self, host: str, port: int) -> None:
        self._known.pop((host, port), None)


_names = Names()


def _connect(host: str, port: int, stamps: bool, limit: Stamp, waiting: Waiting, dialed: Dialed) -> Socket:
    """To the first address that takes the connection; each has its share of the time that is left."""
    addresses, dialed.dns = _names.addresses(host, port)
    failure: OSError | None = None
    for number, address in enumerate(addresses):
        began = time.perf_counter_ns()
        share = began + (limit - began) // (len(addresses) - number)
        try:
            connection = _connect_to(address, stamps, share, waiting)
        except OSError as error:
            if none_left(error):
                raise
            failure = error
            continue
        dialed.connect = (time.perf_counter_ns() - began) / 1e9
        dialed.peer = str(address.sockaddr[0])
        return connection
    _names.forget(host, port)
    if isinstance(failure, TimeoutError):
        raise failure
    raise TransportError("connect", failure.strerror or str(failure) if failure else f"{host} has no address")


def _connect_to(address: Address, stamps: bool, limit: Stamp, waiting: Waiting) -> Socket:
    connection, there = begin_connect(address, stamps)
    try:
        if not there:
            _wait(waiting, connection.fileno(), True, limit)
            code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == errno.ETIMEDOUT:
                raise TimeoutError
            if code:
                raise OSError(code, os.strerror(code))
    except BaseException:
        connection.close()
        raise
    return connection


def _wait(waiting: Waiting, fileno: int, write: bool, limit: Stamp) -> None:
    """Raises `TimeoutError`."""
    while not waiting.until(fileno, write, lambda: True, limit):
        if time.perf_counter_ns() >= limit:
            raise TimeoutError


def _handshake(channel: SecureChannel, limit: Stamp, waiting: Waiting) -> None:
    """Raises `TransportError`, `TimeoutError`."""
    try:
        while not channel.handshake():
            _wait(waiting, channel.fileno(), False, limit)
            channel.take()
    except TimeoutError:
        raise
    except OSError as error:
        reason = getattr(error, "verify_message", None) or error.strerror or str(error)
        raise TransportError("tls", reason) from None


class _TunnelReply:
    """The head of a proxy's answer. What follows the head of a 200 is the server's own first bytes: TLS sends none."""

    def __init__(self) -> None:
        self.whole = False
        self.parser = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        self.whole = True


def _tunnel(connection: Socket, authority: str, proxy: Proxy, limit: Stamp, waiting: Waiting) -> None:
    """Raises `TransportError`, `TimeoutError`."""
    request = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    if proxy.authorization is not None:
        request += f"Proxy-Authorization: Basic {proxy.authorization}\r\n"
    reply = _TunnelReply()
    try:
        connection.send(f"{request}\r\n".encode("latin-1"))
        while not reply.whole:
            _wait(waiting, connection.fileno(), False, limit)
            data = connection.recv(4096)
            if not data:
                raise TransportError("proxy", f"the proxy {proxy.host}:{proxy.port} hung up")
            reply.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise TransportError("proxy", f"the proxy {proxy.host}:{proxy.port} does not speak HTTP: {error}") from None
    except TimeoutError:
        raise
    except OSError as error:
        raise TransportError("proxy", f"{proxy.host}:{proxy.port}: {error.strerror or error}") from None
    status = reply.parser.get_status_code()
    if status != 200:
        message = f"the proxy {proxy.host}:{proxy.port} refused the way to {authority}"
        raise TransportError("proxy", message, status)
