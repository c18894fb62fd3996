"""`probe correlate`: one call as the client, the gateway's log and the service's log tell it.

Logs come minutes after their calls. They are a folder of files (any shape that `analysis.logs` reads) or a Log
Analytics workspace, whose rows go through the same reader.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, NoReturn

import click
import msgspec

from probe.advice import EXIT_EXPECTATION, EXIT_OK
from probe.calling import say
from probe.escaping import json_printable, printable
from probe.opening import read
from probe.options import given, trusting
from probe.record import ObservedCall
from probe.story import (
    Told,
    differences,
    of_client,
    of_gateway,
    of_service,
    queries,
    query_for_tokens,
    query_for_tokens_of,
)
from probe.target import SettingsError
from probe.workspace import as_json, asking, is_id

_EPILOG = """\b
Exit codes: 0 found, 2 a setting is wrong, 7 the logs do not have the call (yet: --wait), 130 interrupted."""
_FIRST_LOOKS = (0.5, 1.0, 2.0, 5.0)
_NEXT_LOOKS = 15.0


class Sought(NamedTuple):
    """The call that is looked for: by its id, and with what the client knows of it, where that is at hand."""

    id: str
    call: ObservedCall | None

    @property
    def began_ns(self) -> int | None:
        return None if self.call is None else self.call.start_time_unix_nano

    @property
    def gateways_id(self) -> str | None:
        """Some policies give the gateway's own id to the client."""
        found = () if self.call is None else self.call.header("Microsoft-Azure-Api-Management-Correlation-Id")
        return found[-1] if found and is_id(found[-1]) else None


Find = Callable[[Sought], list[Told]]


@click.command(
    epilog=_EPILOG, context_settings={"auto_envvar_prefix": "HEADROOM_PROBE_CORRELATE", "show_default": True}
)
@click.argument("which", metavar="[ID|FILE]", required=False)
@click.option("--last", is_flag=True, help="the last call of the newest run in HEADROOM_RESULTS")
@click.option("--entry", type=click.IntRange(1), help="which call of FILE, from 1")
@click.option("--logs", type=click.Path(path_type=Path), multiple=True, help="a folder or file of logs; repeatable")
@click.option("--workspace", metavar="ID", help="a Log Analytics workspace to ask, with Microsoft Entra")
@click.option("--workspace-endpoint", metavar="URL", help="its address, where it is not the public cloud's")
@click.option("--wait", default=0.0, type=click.FloatRange(0, 86_400), help="seconds to wait for it to be logged")
@click.option("--kql", is_flag=True, help="print the queries instead of asking")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@trusting
def correlate(
    which: str | None,
    last: bool,
    entry: int | None,
    logs: tuple[Path, ...],
    workspace: str | None,
    workspace_endpoint: str | None,
    wait: float,
    kql: bool,
    output: str,
) -> NoReturn:
    """Show what the diagnostic logs have of one call, beside what the client saw.

    \b
    probe correlate 01e06cdc-0418-47c9-9864-c914979e9766 --workspace ID --wait 900
    probe correlate results/RUN/calls-HOST-1.jsonl --entry 3 --logs logs
    probe correlate --last --kql                  the queries, to be pasted

    The call is named by the reply's apim-request-id, by a capture or a journal (as `probe open` reads them), or --last.
    """
    sought = _sought(which, last, entry)
    if kql:
        service, gateway = queries(sought.id, sought.began_ns, sought.gateways_id)
        click.echo("\n\n".join((service, gateway, query_for_tokens_of(gateway))))
        sys.exit(EXIT_OK)
    with ExitStack() as stack:
        find = _finder(logs, workspace, workspace_endpoint, stack)
        found = _waited(find, sought, wait)
    told = [*([] if sought.call is None else [of_client(sought.call)]), *found]
    (_write if output == "json" else _show)(sought, told)
    if not any(one.by == "service" for one in found):
        say(_missing(sought, found, wait))
        sys.exit(EXIT_EXPECTATION)
    sys.exit(EXIT_OK)


def _sought(which: str | None, last: bool, entry: int | None) -> Sought:
    if last == (which is not None):
        raise SettingsError("name a call by its apim-request-id, by a file, or by --last; one of them")
    if which is not None and not Path(which).exists() and which != "-":
        if is_id(which):
            return Sought(which, None)
        raise SettingsError(f"{printable(which)}: no such file, and no apim-request-id")
    call = _last_call() if which is None else read(Path(which), entry).call
    if call.service_request_id is None or not is_id(call.service_request_id):
        raise SettingsError(
            "the call has no apim-request-id that logs could be asked for: the reply did not come from Azure OpenAI, "
            "or a gateway took the header away"
        )
    return Sought(call.service_request_id, call)


def _last_call() -> ObservedCall:
    from analysis.runs import RunError, newest_run
    from probe.journal import read_calls

    try:
        folder = newest_run(Path(os.environ.get("HEADROOM_RESULTS") or "results"))
    except RunError as error:
        raise SettingsError(str(error)) from None
    calls = [call for call in read_calls(folder).calls if call.service_request_id is not None]
    if not calls:
        raise SettingsError(f"no call of {folder} has an apim-request-id")
    return max(calls, key=lambda call: call.start_time_unix_nano)


def _finder(logs: tuple[Path, ...], workspace: str | None, endpoint: str | None, stack: ExitStack) -> Find:
    if bool(logs) == (workspace is not None):
        raise SettingsError("say where the logs are: --logs FOLDER, or --workspace ID; --kql prints the queries")
    if workspace is None:
        return lambda sought: _found_in(list(logs), sought)
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="headroom-logs-")))
    return _asking(workspace, endpoint, folder, stack)


def _found_in(sources: list[Path], sought: Sought) -> list[Told]:
    """Raises `SettingsError`."""
    from analysis.logs import LogsError, read_logs

    try:
        logs = read_logs(sources)
    except LogsError as error:
        raise SettingsError(str(error)) from None
    requests, gateway = logs.requests, logs.gateway
    mine = requests[requests["correlation_id"] == sought.id]
    through = gateway[(gateway["backend_request_id"] == sought.id) | (gateway["correlation_id"] == sought.gateways_id)]
    found = [of_gateway(row) for row in _rows(through)] + [of_service(row) for row in _rows(mine)]
    return found


def _rows(table: Any) -> Iterator[dict[str, Any]]:
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        yield {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}


def _asking(workspace: str, endpoint: str | None, folder: Path, stack: ExitStack) -> Find:
    """Raises `SettingsError` where the extra is missing; what it returns does where the workspace refuses."""
    if not given().verified:
        raise SettingsError("a workspace is asked with verification only: leave --insecure-skip-verify out")
    ask = stack.enter_context(asking(workspace, endpoint, {**os.environ, **given().environ}))

    def find(sought: Sought) -> list[Told]:
        service, gateway = queries(sought.id, sought.began_ns, sought.gateways_id)
        through = ask(gateway).rows
        ids = {str(row["CorrelationId"]) for row in through if is_id(str(row["CorrelationId"]))}
        counted = [row for one in ids for row in ask(query_for_tokens(one, sought.began_ns)).rows]
        rows = [*ask(service).rows, *through, *counted]
        (folder / "rows.json").write_bytes(as_json(rows))
        return _found_in([folder], sought) if rows else []

    return find


def _waited(find: Find, sought: Sought, wait: float) -> list[Told]:
    """Looks until the service's log has the call, or the time is over."""
    began = time.monotonic()
    terminal = sys.stderr.isatty()
    for pause in chain(_FIRST_LOOKS, repeat(_NEXT_LOOKS)):
        found = find(sought)
        left = began + wait - time.monotonic()
        if any(one.by == "service" for one in found) or left <= 0:
            if terminal and wait:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            return found
        line = f"not logged yet; waited {wait - left:,.0f} of {wait:,.0f} s (logs come minutes late)"
        if terminal:
            print(f"\r\x1b[Kprobe: {line}", end="", file=sys.stderr, flush=True)
        elif pause in (_FIRST_LOOKS[0], _NEXT_LOOKS):
            say(line)
        time.sleep(min(pause, left))
    raise AssertionError("the pauses never end")


def _missing(sought: Sought, found: list[Told], wait: float) -> str:
    only = "only the gateway's log has it; " if found else ""
    hint = "wait longer" if wait else "logs come minutes late: --wait 900"
    return f"{only}no record of {sought.id} in the service's log; {hint}, or see that RequestResponse is switched on"


def _show(sought: Sought, told: list[Told]) -> None:
    if not told:
        return
    from rich.console import Console

    from probe.listing import show

    console = Console()
    console.print(f"call {sought.id}", markup=False, highlight=False)
    console.print()
    rows = [(one.by, _at(one.began_ns), _ms(one), _status(one), _tokens(one), ", ".join(one.said)) for one in told]
    show(console, ("told by", "began, UTC", "ms", "status", "tokens", "says"), rows)
    lines = list(differences(told))
    if lines:
        console.print()
    for line in lines:
        console.print(printable(line), markup=False, highlight=False)


def _at(began_ns: int | None) -> str:
    if began_ns is None:
        return ""
    seconds = time.strftime("%H:%M:%S", time.gmtime(began_ns // 10**9))
    return f"{seconds}.{began_ns % 10**9 // 10**6:03d}"


def _ms(one: Told) -> str:
    whole = "" if one.milliseconds is None else f"{one.milliseconds:,.0f}"
    return whole if one.backend_ms is None else f"{whole} ({one.backend_ms:,.0f} behind it)"


def _status(one: Told) -> str:
    status = "" if one.status is None else str(one.status)
    differs = one.backend_status is not None and one.backend_status != one.status
    return f"{status} ({one.backend_status} behind it)" if differs else status


def _tokens(one: Told) -> str:
    if one.input_tokens is None and one.output_tokens is None:
        return ""
    shown = (str(value) if value is not None else "?" for value in (one.input_tokens, one.output_tokens))
    return " + ".join(shown)


def _write(sought: Sought, told: list[Told]) -> None:
    said = [{name: value for name, value in one._asdict().items() if value not in (None, ())} for one in told]
    whole = {"id": sought.id, "told": said, "differences": list(differences(told))}
    click.echo(json_printable(msgspec.json.encode(whole).decode()))
