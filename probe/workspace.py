"""A Log Analytics workspace, asked with Microsoft Entra.

Facts.  A reply holds 500,000 rows, or 64 MB, at most; what is over is cut off, and the status says so. Logs are found
        by when they were written, which is after the call.
Kusto.  Queries are made of constants and of literals: an id has only letters, digits and a few marks, or there is no
        query; a time is a datetime() of our own making.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from probe.errors import SettingsError, without_extra
from probe.escaping import printable
from probe.identity import credential_of, transport
from probe.target import signing_in

# The address of another cloud's API; the public one's is the SDK's.
ENDPOINT = "HEADROOM_WORKSPACE_ENDPOINT"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{7,99}")
_BEFORE, _AFTER = timedelta(minutes=10), timedelta(hours=3)


class Answer(NamedTuple):
    rows: list[dict[str, Any]]
    # Whether there were more than the service sends.
    cut: bool


Ask = Callable[[str], Answer]


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def literal(text: str) -> str:
    """A string of Kusto's. Raises `ValueError` for what is no id, whatever could be done by escaping it."""
    if not is_id(text):
        raise ValueError(f"{text[:60]!r} is no correlation id")
    return f'"{text}"'


def around(first_ns: int, last_ns: int) -> tuple[datetime, datetime]:
    """When the logs of calls between two times, Unix nanoseconds, were written; in whole seconds."""
    began, ended = (datetime.fromtimestamp(each // 10**9, UTC) for each in (first_ns, last_ns))
    return began - _BEFORE, ended + _AFTER


def moment(time: datetime) -> str:
    """A time of Kusto's."""
    return f"datetime({time:%Y-%m-%dT%H:%M:%SZ})"


@contextmanager
def asking(workspace: str, endpoint: str | None, environ: Mapping[str, str] | None = None) -> Iterator[Ask]:
    """A function that asks the workspace, signed in as HEADROOM_CREDENTIAL says.

    Raises `SettingsError` for a missing extra; what it gives does where the workspace refuses.
    """
    try:
        from azure.monitor.query import LogsQueryClient
    except ImportError:
        raise without_extra("a workspace", "logs") from None
    from azure.core.exceptions import AzureError

    # What it would log of a failed sign-in is said below, in one line.
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    identity, bundle = signing_in(os.environ if environ is None else environ)
    options: dict[str, Any] = {} if endpoint is None else {"endpoint": endpoint}
    credential: Any = credential_of(identity, bundle)

    def ask(query: str) -> Answer:
        try:
            result: Any = client.query_workspace(workspace, query, timespan=None)
        except (AzureError, ValueError) as error:
            raise SettingsError(f"the workspace was not to be asked: {_reason(error)}") from None
        whole = getattr(result, "tables", None)
        tables = result.partial_data if whole is None else whole
        rows = [dict(zip(table.columns, row, strict=True)) for table in tables for row in table.rows]
        return Answer(rows, whole is None)

    try:
        with LogsQueryClient(credential, transport=transport(bundle), **options) as client:
            yield ask
    finally:
        credential.close()


_MENDS = {
    "InsufficientAccessError": "the role is missing; reading needs Log Analytics Reader",
    "WorkspaceNotFoundError": "there is no such workspace",
}


def _reason(error: Any) -> str:
    code = str(getattr(getattr(error, "error", None), "code", None) or "")
    said = str(getattr(error, "message", None) or error).strip().partition("\n")[0]
    return _MENDS.get(code, printable(said))


# By table, what of it is of Azure OpenAI or of a gateway in front of it.
_LOGS = (
    'AzureDiagnostics\n| where Category in ("RequestResponse", "AzureOpenAIRequestUsage", "Audit")',
    "ApiManagementGatewayLogs",
    "ApiManagementGatewayLlmLog",
)


def logs_between(ask: Ask, first_ns: int, last_ns: int) -> Iterator[list[dict[str, Any]]]:
    """Every log of calls between two times, in as many queries as that takes."""
    for query in _LOGS:
        yield from whole(ask, query, *around(first_ns, last_ns))


def whole(ask: Ask, query: str, first: datetime, last: datetime) -> Iterator[list[dict[str, Any]]]:
    """All rows from `first` to before `last`: where a reply is cut off, each half of the time is asked for."""
    answer = ask(f"{query}\n| where TimeGenerated >= {moment(first)} and TimeGenerated < {moment(last)}")
    middle = first + timedelta(seconds=int((last - first).total_seconds()) // 2)
    if not answer.cut:
        yield answer.rows
    elif middle > first:
        yield from whole(ask, query, first, middle)
        yield from whole(ask, query, middle, last)
    else:
        raise SettingsError(f"the workspace has more rows of the second {first:%H:%M:%S} than it gives out")


def as_json(rows: list[dict[str, Any]]) -> bytes:
    """As the Azure CLI prints a query's result."""
    return msgspec.json.encode(rows, enc_hook=str)
