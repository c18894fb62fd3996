"""`analysis ptu`: from what was given to a load, a model, and the result of sizing the one for the other.

Forecast.  `--rpm`, `--input-tokens` and `--output-tokens` are what the load is brought to on average: as many times the
           calls, with their bursts, and as many times the tokens of each.
Azure.     Logs of a container or a workspace are of a day, the last one, or of `--since` and `--until`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from analysis import loads, ptu
from analysis.calibrating import at_the_knee, by_utilization, calibrated, knee_said
from analysis.costs import money, rates
from analysis.log_sources import is_remote, log_files_of
from analysis.logs import read_logs
from analysis.output import Result
from analysis.ptu_models import Model, Offer, by_average, find_model
from analysis.runs import Run, Span, read_run
from analysis.signals import LIMIT_HEADERS
from analysis.sizing_told import average_result, sizing_result
from probe.escaping import printable
from probe.journal import RUN_FILE
from probe.prompts import read_mix
from probe.target import SettingsError
from probe.traces import is_trace, read_trace

_DAY = timedelta(days=1)
_MOST_GROWTH = 1000.0
# Of a replay's memory: 3 GB for ten million.
_MOST_CALLS = 20_000_000


class Given(NamedTuple):
    """The command's options; `throttled` and `cached_share` are 0 to 1, `since` and `until` ISO times."""

    model: str | None
    offer: Offer
    rpm: float | None
    input_tokens: float | None
    output_tokens: float | None
    cached_share: float | None
    since: str | None
    until: str | None
    deployment: str | None
    throttled: float
    growth: float
    retries: int
    spillover: bool
    bucket_seconds: float
    bought: int | None
    calibrate: Path | None
    models: Path | None
    prices: Path | None

    @property
    def asked(self) -> ptu.Asked:
        return ptu.Asked(self.throttled, self.growth, self.retries, self.spillover, self.bucket_seconds)


def average(given: Given) -> Result:
    """Raises `SettingsError`."""
    needed = {
        "--model": given.model,
        "--rpm": given.rpm,
        "--input-tokens": given.input_tokens,
        "--output-tokens": given.output_tokens,
    }
    missing = [flag for flag, value in needed.items() if value is None]
    of_calls = {
        "--spillover": given.spillover,
        "--retries": given.retries,
        "--deployment": given.deployment,
        "--since": given.since,
        "--until": given.until,
        "--bought": given.bought,
        "--calibrate": given.calibrate,
    }
    if useless := [flag for flag, value in of_calls.items() if value]:
        raise SettingsError(f"{useless[0]} needs a SOURCE: an even load has no calls to replay")
    if missing:
        raise SettingsError(f"without a SOURCE, {', '.join(needed)} are needed; {missing[0]} is missing")
    assert given.model and given.rpm and given.input_tokens is not None and given.output_tokens is not None
    model = find_model(given.model, given.offer, given.models)
    rpm, cached_share = given.rpm * given.growth, given.cached_share or 0.0
    found = by_average(model, rpm, given.input_tokens, given.output_tokens, cached_share)
    at = rates(model.name, given.prices)
    return average_result(found, model, money(found, found.ptu, model, at), at, given.asked)


def replayed(sources: Sequence[str], given: Given) -> Result:
    """Of one source, or of several that are logs. Raises `SettingsError`, `RunError`, `LogsError`."""
    first = sources[0]
    if given.spillover and given.offer == "regional":
        raise SettingsError("--spillover: regional deployments do not spill over, global and datazone ones do")
    run = read_run(Path(first), LIMIT_HEADERS) if (Path(first) / RUN_FILE).is_file() else None
    load = _load(sources, run, given)
    if load.calls.empty:
        raise SettingsError(f"{printable(first)}: there is no call in it to size for")
    load = _as_forecast(_with_cached(load, given), given)
    if _is_mix(first):
        # It was drawn at that rate.
        given = given._replace(growth=1.0)
    else:
        load = _at_rate(load, given.rpm)
    if len(load.calls) * given.growth > _MOST_CALLS:
        raise SettingsError(f"{len(load.calls):,} calls {given.growth:g} times over are more than {_MOST_CALLS:,}")
    table = find_model(_model_name(load.models, given), given.offer, given.models)
    at = rates(table.name, given.prices)
    model, notes = _calibrated(table, load, run, given)
    found = ptu.size(load.calls, model, given.asked, at)
    notes = [*load.notes, *notes, *([] if run is None else run.gaps)]
    return sizing_result(found, model, given.asked, money(found.average, found.ptu, model, at), at, notes)


def _calibrated(table: Model, load: loads.Load, run: Run | None, given: Given) -> tuple[Model, list[str]]:
    """What to size with, and what was measured of it."""
    measured_by = run if given.calibrate is None else read_run(given.calibrate, LIMIT_HEADERS)
    capacity = None if measured_by is None else at_the_knee(measured_by, table, given.deployment)
    notes = [] if capacity is None else [knee_said(capacity, table, given.bought)]
    if run is not None:
        notes.extend(by_utilization(run, table, given.bought))
    if given.calibrate is None:
        return table, notes
    model = calibrated(table, capacity, given.bought, given.calibrate)
    by_the_table = ptu.size(load.calls, table, given.asked, rates(table.name, given.prices))
    return model, [*notes, f"By the table it would be {by_the_table.ptu:,} PTU."]


def _load(sources: Sequence[str], run: Run | None, given: Given) -> loads.Load:
    path, time = Path(sources[0]), _time(given)
    for source in sources:
        if not is_remote(source) and not Path(source).exists():
            raise SettingsError(
                f"{printable(source)}: no such run, log, trace or mix; or a container's URL, or workspace:ID"
            )
    if run is None and not is_trace(path) and not _is_mix(sources[0]):
        return _of_logs(sources, time, given)
    if len(sources) > 1 or time is not None:
        raise SettingsError(f"{printable(sources[0])} is no log: several sources, --since and --until are of logs")
    if run is not None:
        return loads.of_run(run.calls, given.deployment)
    return loads.of_trace(read_trace(path)) if is_trace(path) else _of_mix(path, given)


def _of_logs(sources: Sequence[str], time: Span | None, given: Given) -> loads.Load:
    """Of what is in Azure the last day, where no time was asked for."""
    now = datetime.now(UTC)
    last_day = Span(_ns(now - _DAY), _ns(now))
    with log_files_of(sources, time or last_day) as files:
        logs = read_logs(files, loads.LOG_COLUMNS)
    return loads.of_logs(logs, given.deployment, last_day if time is None and any(map(is_remote, sources)) else time)


def _is_mix(source: str) -> bool:
    return Path(source).suffix.lower() == ".toml"


def _of_mix(path: Path, given: Given) -> loads.Load:
    if given.rpm is None:
        raise SettingsError(f"{path}: a mix does not say how many calls there are: --rpm N does, a minute")
    try:
        return loads.of_mix(read_mix(path), given.rpm * given.growth)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _time(given: Given) -> Span | None:
    """What was asked for; with one end only, a day of it."""
    since, until = _moment("--since", given.since), _moment("--until", given.until)
    if since is None and until is None:
        return None
    first = since or (until or datetime.now(UTC)) - _DAY
    last = until or first + _DAY
    if first >= last:
        raise SettingsError(f"--since {given.since} is not before --until {given.until}")
    return Span(_ns(first), _ns(last))


def _moment(flag: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{flag} {printable(text)}: give a time as 2026-09-01T08:00, in UTC or with its zone"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _ns(time: datetime) -> int:
    return round(time.timestamp() * 1e9)


def _with_cached(load: loads.Load, given: Given) -> loads.Load:
    if load.calls["cached_tokens"].notna().any():
        if given.cached_share is not None:
            raise SettingsError("--cached-share: how much of this load's input was cached is known")
        return load
    if given.cached_share is None:
        note = "Nothing says how many tokens were cached, and none are taken to be: --cached-share S says how many."
        return load._replace(notes=[*load.notes, note])
    calls = load.calls.assign(cached_tokens=given.cached_share * load.calls["input_tokens"])
    return load._replace(
        calls=calls, notes=[*load.notes, f"{given.cached_share:.0%} of the input is taken to be cached, as asked for."]
    )


def _as_forecast(load: loads.Load, given: Given) -> loads.Load:
    calls, notes = load.calls, []
    wanted = {"input_tokens": given.input_tokens, "output_tokens": given.output_tokens}
    along = {"input_tokens": "cached_tokens", "output_tokens": "max_tokens"}
    for name, mean in wanted.items():
        if mean is not None:
            said = name.replace("_", " ")
            if not (had := float(calls[name].mean())):
                raise SettingsError(f"the source has no {said}: they cannot be brought to {mean:g}")
            factor = mean / had
            calls = calls.assign(**{one: calls[one] * factor for one in (name, along[name])})
            notes.append(f"{said.capitalize()} are {factor:.3g} times those of the source.")
    return load._replace(calls=calls, notes=[*load.notes, *notes])


def _at_rate(load: loads.Load, rpm: float | None) -> loads.Load:
    if rpm is None:
        return load
    factor = rpm * ptu.span(load.calls) / 60 / len(load.calls)
    if factor > _MOST_GROWTH or factor * len(load.calls) > _MOST_CALLS:
        raise SettingsError(f"--rpm {rpm:g} is {factor:,.0f} times the source's calls, which is too many to replay")
    note = f"Calls are {factor:.3g} times those of the source, in the same time and with its bursts."
    return load._replace(calls=ptu.grown(load.calls, factor), notes=[*load.notes, note])


def _model_name(named: list[str], given: Given) -> str:
    if given.model is not None:
        return given.model
    if len(named) != 1:
        several = f" ({', '.join(named)})" if named else ""
        raise SettingsError(f"which model is to be bought? Several or none answered{several}: give --model")
    return named[0]
