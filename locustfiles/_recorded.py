"""What has been recorded, to be sent again: when each call came, its sizes, and whether it streamed.

From three kinds of record, told apart by what they are: a run's folder, a published trace (`probe.traces`), and
diagnostic logs, a file or all below a folder. Targets and words are those of the run that replays.

Run.    A call counts from when it was due, or issued where nothing was due (closed model), with its sizes as they were
        planned; so a replay of a replay is the same again. Calls that were dropped came too.
Logs.   Azure OpenAI's requests, or where there are none the gateway's, with the tokens that were used; `max_tokens` is
        not in them. A request without usage, a refused one among them, has no size and is left out.
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from probe.journal import RUN_FILE
from probe.target import SettingsError
from probe.traces import Row, is_trace, read_trace

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("prompt_id", "request_max_tokens", "request_stream", "input_tokens")
_LOG_COLUMNS = ("began_ns", "stream", "prompt_tokens", "generated_tokens", "llm_prompt_tokens", "llm_completion_tokens")


class Recorded(NamedTuple):
    """`rows` in order of arrival; of `left_out` calls it is not known how large they were, or when they came."""

    rows: list[Row]
    left_out: int = 0

    def streaming(self, otherwise: float) -> float:
        """The share that streams, where calls of which it is not known stream at a share of `otherwise`."""
        return sum(otherwise if row.stream is None else row.stream for row in self.rows) / max(1, len(self.rows))


# It is asked for before a run and again when it begins.
@lru_cache(maxsize=1)
def read_recorded(source: Path, seconds: float | None = None) -> Recorded:
    """With `seconds`, only that much from the first call on. Raises `SettingsError`."""
    if is_trace(source):
        return Recorded(read_trace(source, seconds))
    found = _of_run(source) if (source / RUN_FILE).is_file() else _of_logs(source)
    if not found.rows:
        raise SettingsError(f"{source}: there is no call in it to replay")
    return found._replace(rows=[row for row in found.rows if seconds is None or row.at < seconds])


def _of_run(folder: Path) -> Recorded:
    # pandas and DuckDB take a second to import.
    from analysis.runs import RunError, read_run
    from analysis.signals import planned_tokens

    try:
        run = read_run(folder, (), _COLUMNS)
    except RunError as error:
        raise SettingsError(str(error)) from None
    # Calls that were due at once are in the order of their prompts' numbers, which in a replay is that of the record.
    number = run.calls["prompt_id"].str.extract(r"^\d+-(\d+)", expand=False).astype("float64")
    calls = run.calls.assign(came=run.calls["scheduled"].fillna(run.calls["issued"]), number=number)
    calls = calls.sort_values(["came", "number"], kind="stable")
    came = calls["came"]
    sizes = planned_tokens(calls).fillna(calls["input_tokens"].astype("float64"))
    # Embeddings have no answer to bound.
    rows = _rows(came, sizes, calls["request_max_tokens"].fillna(1), calls["request_stream"])
    return Recorded(rows, len(calls) - len(rows) + run.in_flight)


def _of_logs(source: Path) -> Recorded:
    from analysis.logs import LogsError, read_logs

    try:
        logs = read_logs([source], _LOG_COLUMNS)
    except LogsError as error:
        raise SettingsError(str(error)) from None
    came = logs.requests if len(logs.requests) else logs.gateway
    tokens = ("prompt_tokens", "generated_tokens")
    if not len(logs.requests):
        tokens = ("llm_prompt_tokens", "llm_completion_tokens")
    rows = _rows(came["began_ns"].astype("Float64") / 1e9, came[tokens[0]], came[tokens[1]], came["stream"])
    return Recorded(rows, len(came) - len(rows))


def _rows(came: "pd.Series", sizes: "pd.Series", most: "pd.Series", streams: "pd.Series") -> list[Row]:
    """Of the calls of which everything but perhaps the last is known, in order, from 0 seconds on."""
    known = came.notna() & sizes.notna() & most.notna()
    ordered = came[known].astype("float64").sort_values(kind="stable")
    first = float(ordered.iloc[0]) if len(ordered) else 0.0
    flags = (
        None if flag is None else bool(flag)
        for flag in streams[ordered.index].astype(object).where(streams.notna(), None)
    )
    columns = (ordered - first, sizes[ordered.index], most[ordered.index], flags)
    return [Row(float(at), int(size), int(tokens), flag) for at, size, tokens, flag in zip(*columns, strict=True)]
