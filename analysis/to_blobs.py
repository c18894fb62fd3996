"""A run's files to a container of blobs, as they are: an append blob each, under PREFIX/RUN/.

Facts.   Appending can be made to fail unless the blob ends where it is thought to (`appendpos_condition`), so that an
         answer that was lost does no harm. A blob holds 50,000 appends, which at one each two seconds is a day.
Decided. What a blob holds already is not sent again: it is the begin of the file, which only grows. run.json is written
         anew whenever it has changed. At the end each blob has as many bytes as its file, or it is not all sent.
"""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, ResourceNotFoundError

from analysis.following import Chunk
from analysis.sending import NotTakenError, Taken
from probe.blobs import container, reason
from probe.errors import SettingsError
from probe.hosts import is_loopback
from probe.journal import RUN_FILE

# Between two appends to a blob, but at the end.
_SECONDS = 2.0


class Blobs:
    """`url` is the container's, with a prefix behind it. Raises `SettingsError`."""

    def __init__(self, url: str, run: Path, process: str) -> None:
        whole, prefix = _apart(url)
        self.files: tuple[str, ...] = tuple(f"{kind}-{process}.jsonl" for kind in ("sent", "calls", "application"))
        self.name = f"the container {whole}"
        self._run = run
        self._prefix = "/".join([*prefix, run.resolve().name])
        self._open = ExitStack()
        self._container: Any = self._open.enter_context(container(whole))
        # Of each blob its length, as far as that is known for sure.
        self._lengths: dict[str, int] = {}
        self._described = b""

    def take(self, chunk: Chunk) -> Taken:
        try:
            self._append(chunk)
        except (AzureError, SettingsError) as error:
            self._lengths.pop(chunk.file, None)
            raise NotTakenError(_why(error)) from None
        return Taken(chunk.data.count(b"\n") + (not chunk.data.endswith(b"\n")))

    def flush(self, *, at_end: bool) -> None:
        try:
            self._put_description()
            if at_end:
                self._check()
            else:
                time.sleep(_SECONDS)
        except (AzureError, SettingsError) as error:
            raise NotTakenError(_why(error)) from None

    def close(self) -> None:
        self._open.close()

    def _append(self, chunk: Chunk) -> None:
        blob = self._blob(chunk.file)
        if chunk.file not in self._lengths:
            self._lengths[chunk.file] = _length(blob)
        there = self._lengths[chunk.file]
        data = chunk.data[max(0, there - chunk.offset) :]
        if data:
            blob.append_block(data, appendpos_condition=there)
            self._lengths[chunk.file] = there + len(data)

    def _put_description(self) -> None:
        """Where a worker took part from a machine of its own there is none."""
        path = self._run / RUN_FILE
        described = path.read_bytes() if path.exists() else b""
        if described != self._described:
            self._blob(RUN_FILE).upload_blob(described, overwrite=True)
            self._described = described

    def _check(self) -> None:
        for path in sorted(found for pattern in self.files for found in self._run.glob(pattern)):
            size, there = path.stat().st_size, _length(self._blob(path.name))
            if size != there:
                raise NotTakenError(f"its {path.name} has {there:,} bytes, and the run's {size:,}")

    def _blob(self, name: str) -> Any:
        return self._container.get_blob_client(f"{self._prefix}/{name}")


def _apart(url: str) -> tuple[str, list[str]]:
    """The container's address, and the names of the prefix."""
    parts = urlsplit(url)
    names = [name for name in parts.path.split("/") if name]
    of_container = 2 if is_loopback(parts.hostname or "") else 1
    return "/".join([f"{parts.scheme}://{parts.netloc}", *names[:of_container]]), names[of_container:]


def _length(blob: Any) -> int:
    """Makes it where it is not there."""
    try:
        return int(blob.get_blob_properties().size)
    except ResourceNotFoundError as error:
        if getattr(error, "error_code", None) == "ContainerNotFound":
            raise
        blob.create_append_blob()
        return 0


def _why(error: AzureError | SettingsError) -> str:
    return str(error) if isinstance(error, SettingsError) else reason(error)
