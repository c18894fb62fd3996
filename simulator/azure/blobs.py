"""A storage account's blobs, as far as logs are read from one and files are put there.

Facts.    Documented: List Containers and List Blobs page by `maxresults` and an opaque `NextMarker`; Get Blob takes
          x-ms-range before Range and answers 206, and 416 behind the end; Put Blob makes a block blob whole, or an
          append blob; Put Block and Put Block List make a block blob of parts, Append Block takes the position that it
          is to be at. `If-None-Match: *` keeps what is there (409), `If-Match` what has changed (412). Errors are XML
          with their code also in x-ms-error-code. A token is for https://storage.azure.com; without a role to read or
          write, 403. The SDK sends tokens over TLS only, and takes https://HOST/ACCOUNT for an address on loopback.
Decided.  A blob is a file below its container's folder. The containers of the diagnostic logs are the folders that the
          logs are written to; others are kept apart from them. A name that cannot be a file's is refused. What kind a
          blob is, and its content type, are known for as long as the simulator runs; a log is an append blob.
Inferred. The texts of the errors.
"""

import base64
import binascii
import re
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable, Iterable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from simulator.azure.identity import Issuer, TokenError, bearer
from simulator.config import Role

AUDIENCE = "https://storage.azure.com"
VERSION = "2026-02-06"
# A block may be larger in Azure; the SDK sends a blob of up to 64 MiB in one piece.
LARGEST_BODY = 100 * 1024 * 1024
_LOGS = "insights-logs-"
_CONTAINER = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}")
_PAGE = 5000

Handler = Callable[[web.Request], Awaitable[web.Response]]


class _BlobError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


class _Kind(NamedTuple):
    """What a file does not say of its blob."""

    blob_type: str = "AppendBlob"
    content_type: str = "application/octet-stream"


class Account:
    """`logs` holds the containers of diagnostic logs, `others` all others; `clock` returns Unix seconds."""

    def __init__(
        self, name: str, logs: Path, others: Path, role: Role, issuer: Issuer, clock: Callable[[], float]
    ) -> None:
        self._name = name
        self._logs = logs
        self._others = others
        self._role = role
        self._issuer = issuer
        self._clock = clock
        self._kinds: dict[Path, _Kind] = {}
        self._blocks: dict[Path, dict[str, bytes]] = {}

    def create(self, container: str) -> None:
        self._folder(container).mkdir(parents=True, exist_ok=True)

    def routes(self) -> Iterable[web.RouteDef]:
        one, two = f"/{self._name}/{{container}}", f"/{self._name}/{{container}}/{{blob:.+}}"
        return [
            web.get(f"/{self._name}", self._replied(self._account)),
            web.get(f"/{self._name}/", self._replied(self._account)),
            web.get(one, self._replied(self._read_container)),
            web.put(one, self._replied(self._make_container)),
            web.get(two, self._replied(self._read)),
            web.put(two, self._replied(self._write)),
            web.delete(two, self._replied(self._delete)),
        ]

    def _replied(self, answer: Handler) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            try:
                self._authorize(request)
                reply = await answer(request)
            except _BlobError as refused:
                reply = _refusal(request, refused)
            reply.headers["x-ms-version"] = VERSION
            return reply

        return handle

    def _authorize(self, request: web.Request) -> None:
        token = bearer(request)
        if token is None:
            raise _BlobError(401, "NoAuthenticationInformation", "Server failed to authenticate the request.")
        try:
            self._issuer.check(token, self._clock(), {AUDIENCE})
        except TokenError as error:
            raise _BlobError(401, "InvalidAuthenticationInfo", f"Authentication failed: {error}") from None
        if self._role == "none" or (self._role == "reader" and request.method not in ("GET", "HEAD")):
            message = "This request is not authorized to perform this operation using this permission."
            raise _BlobError(403, "AuthorizationPermissionMismatch", message)

    async def _account(self, request: web.Request) -> web.Response:
        if request.query.get("comp") != "list":
            raise _unsupported(request)
        page, following = _paged(sorted(self._containers()), request)
        root = ET.Element("EnumerationResults")
        listed = ET.SubElement(root, "Containers")
        for name in page:
            one = ET.SubElement(listed, "Container")
            ET.SubElement(one, "Name").text = name
            _fill(ET.SubElement(one, "Properties"), _stated(self._folder(name)))
        ET.SubElement(root, "NextMarker").text = following
        return _xml(root)

    def _containers(self) -> Iterator[str]:
        """Folders that have a container's name."""
        for root in (self._logs, self._others):
            for folder in root.iterdir() if root.is_dir() else ():
                if _CONTAINER.fullmatch(folder.name) and self._folder(folder.name) == folder:
                    yield folder.name

    async def _read_container(self, request: web.Request) -> web.Response:
        folder = self._existing(request)
        if request.query.get("comp") == "list":
            return self._listed(folder, request)
        if request.query.get("restype") != "container":
            raise _unsupported(request)
        return web.Response(headers=_stated(folder))

    async def _make_container(self, request: web.Request) -> web.Response:
        if request.query.get("restype") != "container":
            raise _unsupported(request)
        folder = self._folder(request.match_info["container"])
        if folder.is_dir():
            raise _BlobError(409, "ContainerAlreadyExists", "The specified container already exists.")
        folder.mkdir(parents=True)
        return web.Response(status=201, headers=_stated(folder))

    def _listed(self, folder: Path, request: web.Request) -> web.Response:
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        names = {_up_to(name, prefix, delimiter) for name in _names(folder) if name.startswith(prefix)}
        page, following = _paged(sorted(names), request)
        root = ET.Element("EnumerationResults", ContainerName=request.match_info["container"])
        ET.SubElement(root, "Prefix").text = prefix
        listed = ET.SubElement(root, "Blobs")
        for name in page:
            if delimiter and name.endswith(delimiter):
                ET.SubElement(ET.SubElement(listed, "BlobPrefix"), "Name").text = name
            else:
                one = ET.SubElement(listed, "Blob")
                ET.SubElement(one, "Name").text = name
                _fill(ET.SubElement(one, "Properties"), self._properties(folder / name))
        ET.SubElement(root, "NextMarker").text = following
        return _xml(root)

    async def _read(self, request: web.Request) -> web.Response:
        path = self._path(request)
        if not path.is_file():
            raise _BlobError(404, "BlobNotFound", "The specified blob does not exist.")
        self._check_conditions(request, path)
        headers = self._properties(path)
        size = int(headers.pop("Content-Length"))
        asked = request.headers.get("x-ms-range") or request.headers.get("Range")
        first, last = _range(asked, size) if asked else (0, size - 1)
        headers["Accept-Ranges"] = "bytes"
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(size)})
        with path.open("rb") as file:
            file.seek(first)
            body = file.read(last - first + 1)
        if asked:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return web.Response(body=body, status=206 if asked else 200, headers=headers)

    async def _write(self, request: web.Request) -> web.Response:
        path = self._path(request)
        body = await request.read()
        part = request.query.get("comp")
        if part == "appendblock":
            return self._append(request, path, body)
        if part == "block":
            self._blocks.setdefault(path, {})[request.query.get("blockid", "")] = body
            return web.Response(status=201)
        self._check_conditions(request, path)
        if part == "blocklist":
            return self._put(path, self._assembled(path, body), "BlockBlob", request)
        if part is not None or (kind := request.headers.get("x-ms-blob-type")) not in ("BlockBlob", "AppendBlob"):
            raise _unsupported(request)
        return self._put(path, body, kind, request)

    def _put(self, path: Path, body: bytes, blob_type: str, request: web.Request) -> web.Response:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        except OSError as error:
            raise _unnamable(error) from None
        content_type = request.headers.get("x-ms-blob-content-type", _Kind().content_type)
        self._kinds[path] = _Kind(blob_type, content_type)
        self._blocks.pop(path, None)
        return self._made(path)

    def _append(self, request: web.Request, path: Path, body: bytes) -> web.Response:
        if not path.is_file():
            raise _BlobError(404, "BlobNotFound", "The specified blob does not exist.")
        if self._kind(path).blob_type != "AppendBlob":
            raise _BlobError(409, "InvalidBlobType", "The blob type is invalid for this operation.")
        self._check_conditions(request, path)
        at = path.stat().st_size
        if int(request.headers.get("x-ms-blob-condition-appendpos", at)) != at:
            message = "The append position condition specified was not met."
            raise _BlobError(412, "AppendPositionConditionNotMet", message)
        with path.open("ab") as file:
            file.write(body)
        reply = self._made(path)
        reply.headers["x-ms-blob-append-offset"] = str(at)
        return reply

    def _assembled(self, path: Path, listed: bytes) -> bytes:
        blocks = self._blocks.get(path, {})
        try:
            return b"".join(blocks[name] for name in re.findall(r">([\w+/=-]+)</", listed.decode()))
        except (KeyError, UnicodeDecodeError):
            raise _BlobError(400, "InvalidBlockList", "The specified block list is invalid.") from None

    async def _delete(self, request: web.Request) -> web.Response:
        path = self._path(request)
        if not path.is_file():
            raise _BlobError(404, "BlobNotFound", "The specified blob does not exist.")
        self._check_conditions(request, path)
        path.unlink()
        return web.Response(status=202)

    def _made(self, path: Path) -> web.Response:
        stated = self._properties(path)
        return web.Response(status=201, headers={name: stated[name] for name in ("ETag", "Last-Modified")})

    def _check_conditions(self, request: web.Request, path: Path) -> None:
        there = path.is_file()
        if request.headers.get("If-None-Match") == "*" and there:
            raise _BlobError(409, "BlobAlreadyExists", "The specified blob already exists.")
        wanted = request.headers.get("If-Match")
        if wanted is not None and (not there or wanted not in ("*", _stated(path)["ETag"])):
            message = "The condition specified using HTTP conditional header(s) is not met."
            raise _BlobError(412, "ConditionNotMet", message)

    def _kind(self, path: Path) -> _Kind:
        return self._kinds.get(path, _Kind())

    def _properties(self, path: Path) -> dict[str, str]:
        kind = self._kind(path)
        return {
            **_stated(path),
            "Content-Length": str(path.stat().st_size),
            "Content-Type": kind.content_type,
            "x-ms-blob-type": kind.blob_type,
        }

    def _folder(self, container: str) -> Path:
        return (self._logs if container.startswith(_LOGS) else self._others) / container

    def _existing(self, request: web.Request) -> Path:
        container = request.match_info["container"]
        folder = self._folder(container)
        if not _CONTAINER.fullmatch(container) or not folder.is_dir():
            raise _BlobError(404, "ContainerNotFound", "The specified container does not exist.")
        return folder

    def _path(self, request: web.Request) -> Path:
        folder, name = self._existing(request), request.match_info["blob"]
        parts = name.split("/")
        if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts) or {"\0", "\\"} & set(name):
            raise _BlobError(400, "InvalidUri", "The requested URI does not represent any resource on the server.")
        return folder / name


def _names(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _up_to(name: str, prefix: str, delimiter: str) -> str:
    """With a delimiter, names that share what comes before it are one."""
    head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
    return f"{prefix}{head}{found}" if found else name


def _paged(names: list[str], request: web.Request) -> tuple[list[str], str]:
    """A page of them, and the marker of the next one."""
    try:
        size = min(_PAGE, int(request.query.get("maxresults", _PAGE)))
        marker = base64.urlsafe_b64decode(request.query.get("marker", "")).decode()
    except (ValueError, binascii.Error):
        raise _BlobError(400, "OutOfRangeInput", "One of the request inputs is out of range.") from None
    left = [name for name in names if name >= marker]
    following = left[size] if len(left) > size else ""
    return left[:size], base64.urlsafe_b64encode(following.encode()).decode()


def _range(asked: str, size: int) -> tuple[int, int]:
    """Both ends belong to it."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
    first = int(match[1]) if match else 0
    if match is None or first >= size:
        raise _BlobError(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
    return first, min(int(match[2]) if match[2] else size - 1, size - 1)


def _stated(path: Path) -> dict[str, str]:
    found = path.stat()
    etag = f'"0x{found.st_mtime_ns:X}{found.st_size:X}"'
    return {"ETag": etag, "Last-Modified": formatdate(found.st_mtime, usegmt=True)}


def _fill(parent: ET.Element, stated: dict[str, str]) -> None:
    """A listing names two of them differently from a header."""
    for name, value in stated.items():
        shown = {"ETag": "Etag", "x-ms-blob-type": "BlobType"}.get(name, name)
        ET.SubElement(parent, shown).text = value


def _xml(root: ET.Element) -> web.Response:
    body = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return web.Response(body=body, content_type="application/xml")


def _refusal(request: web.Request, refused: _BlobError) -> web.Response:
    headers = {"x-ms-error-code": refused.code}
    if refused.status == 401:
        headers["WWW-Authenticate"] = f"Bearer resource_id={AUDIENCE}"
    root = ET.Element("Error")
    ET.SubElement(root, "Code").text = refused.code
    ET.SubElement(root, "Message").text = refused.message
    body = b"" if request.method == "HEAD" else ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return web.Response(body=body, status=refused.status, content_type="application/xml", headers=headers)


def _unsupported(request: web.Request) -> _BlobError:
    asked = request.query.get("comp") or request.query.get("restype") or request.headers.get("x-ms-blob-type")
    return _BlobError(400, "UnsupportedHeader", f"The simulator does not serve {request.method} of {asked}.")


def _unnamable(error: OSError) -> _BlobError:
    return _BlobError(400, "InvalidResourceName", f"The simulator keeps no such blob: {error.strerror}.")
