"""Where logs are: folders and files, blobs of a storage account, a workspace; as files that can be read.

What `--logs` takes, and `analysis ptu` for its source:

    a folder            of files in any shape that `analysis.logs` reads, or
    a file              .json, .jsonl, .csv, .avro, and .gz of them
    https://ACCOUNT.blob.core.windows.net/CONTAINER      blobs of the run's time, or of that asked for
    workspace:ID        a Log Analytics workspace, by the same time

Facts.   A blob of a storage account's logs has its hour in its name (y=/m=/d=/h=); a record belongs to the hour of its
         request. Other blobs, such as captures, have the time of their last change.
Decided. What comes from Azure is in a temporary folder for as long as it is read. Logs of no hour that is asked for are
         not fetched, and where nothing is left that is an error: an empty result would look like a run without logs.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from analysis.log_shapes import SUFFIXES
from analysis.logs import LogsError
from analysis.runs import Span, read_about, time_of
from probe.blobs import container, is_url
from probe.errors import SettingsError
from probe.escaping import printable
from probe.secrecy import shown_url
from probe.workspace import ENDPOINT, as_json, asking, is_id, logs_between

WORKSPACE = "workspace:"
_HOUR = re.compile(r"/y=(\d{4})/m=(\d\d)/d=(\d\d)/h=(\d\d)/")
# Two clocks may differ so much, and a gateway's record can be of a call that ends long after it began.
_SLACK = timedelta(minutes=10)


@contextmanager
def log_files(sources: Sequence[str], run: Path) -> Iterator[list[Path]]:
    """The files and folders that `sources` of the logs of `run`, its folder, stand for; without sources, those that
    the run itself names, such as the simulator's, as far as they are still there. Raises `LogsError` and `RunError`."""
    if not sources:
        yield [folder for name in read_about(run).logs if (folder := run / name).is_dir()]
        return
    with TemporaryDirectory(prefix="headroom-logs-") as fetched:
        yield _all_here(sources, lambda: time_of(run), Path(fetched))


@contextmanager
def log_files_of(sources: Sequence[str], time: Span) -> Iterator[list[Path]]:
    """The same without a run: of what is in Azure, what it has of that time. Raises `LogsError`."""
    with TemporaryDirectory(prefix="headroom-logs-") as fetched:
        yield _all_here(sources, lambda: time, Path(fetched))


def is_remote(source: str) -> bool:
    return is_url(source) or source.startswith(WORKSPACE)


def _all_here(sources: Sequence[str], time: Callable[[], Span | None], into: Path) -> list[Path]:
    return [_here(source, time, into / str(number)) for number, source in enumerate(sources)]


def _here(source: str, time: Callable[[], Span | None], into: Path) -> Path:
    if not is_remote(source):
        if not Path(source).exists():
            raise LogsError(f"--logs {printable(source)}: no such folder or file; or a container's URL, {WORKSPACE}ID")
        return Path(source)
    when = time()
    if when is None:
        raise LogsError(f"--logs {shown_url(source)}: the run has no calls, and so no time to look for logs of")
    remote = _fetch_blobs if is_url(source) else _fetch_rows
    into.mkdir()
    try:
        remote(source, into, when)
    except SettingsError as error:
        raise LogsError(str(error)) from None
    return into


def _fetch_blobs(url: str, into: Path, span: Span) -> None:
    with container(url) as client:
        found = [blob for blob in client.list_blobs() if PurePosixPath(blob.name).suffix.lower() in SUFFIXES]
        if not found:
            raise LogsError(f"{shown_url(url)}: there are no logs in it (*{', *'.join(SUFFIXES)})")
        wanted = [blob for blob in found if _may_have(blob, span)]
        if not wanted:
            raise LogsError(f"{shown_url(url)}: none of its {len(found):,} logs is of the time {span}")
        size = sum(blob.size for blob in wanted) / 1e6
        print(f"analysis: fetching {len(wanted):,} of {len(found):,} logs, {size:,.1f} MB", file=sys.stderr)
        for blob in wanted:
            path = _below(into, blob.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                client.download_blob(blob.name).readinto(file)


def _may_have(blob: Any, span: Span) -> bool:
    """Whether it may have records of the span."""
    named = _HOUR.search(f"/{blob.name}")
    if named is None:
        return bool(blob.last_modified >= span.first - _SLACK)
    try:
        hour = datetime(*(int(part) for part in named.groups()), tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError:
        return True
    return span.first - _SLACK < hour + timedelta(hours=1) and hour < span.last + _SLACK


def _below(folder: Path, name: str) -> Path:
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
    return folder.joinpath(*parts)


def _fetch_rows(source: str, into: Path, span: Span) -> None:
    workspace = source.removeprefix(WORKSPACE)
    if not is_id(workspace):
        raise LogsError(f"{printable(source)}: a workspace is {WORKSPACE} and its id, a GUID")
    number = 0
    with asking(workspace, os.environ.get(ENDPOINT) or None) as ask:
        for number, rows in enumerate(_with_rows(logs_between(ask, *span)), 1):
            (into / f"{number}.json").write_bytes(as_json(rows))
    if not number:
        raise LogsError(f"the workspace {workspace} has no logs of the time {span}; they come minutes late")


def _with_rows(answers: Iterable[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    return (rows for rows in answers if rows)
