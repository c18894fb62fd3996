"""The `analysis` command. Data goes to standard output, talk to standard error."""

import gc
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from probe.advice import EXIT_DISK, EXIT_EXPECTATION, EXIT_INTERRUPTED, EXIT_OK, EXIT_SETTINGS, EXIT_UNREAD, EXIT_UNSENT
from probe.journal import JournalError

if TYPE_CHECKING:
    from analysis.findings import Findings
    from analysis.join import Joined, Said
    from analysis.logs import Logs
    from analysis.output import Output, Result
    from analysis.runs import Run

OUTPUTS = ("table", "json", "md")
_LOGS = click.option(
    "--logs",
    multiple=True,
    metavar="WHERE",
    help="diagnostic logs: a folder, file, https://ACCOUNT.blob.core.windows.net/CONTAINER or workspace:ID; repeatable",
)


_FORM = click.option(
    "-o",
    "--output",
    type=click.Choice(OUTPUTS),
    help="say what was written so, in place of its paths alone; the folder is --into",
)


class _Within(click.FloatRange):
    """NaN is in every range, or in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        return self.fail(f"{value!r} is no number", param, ctx) if math.isnan(number) else number


class _Group(click.Group):
    """Ends by Ctrl-C, or where nobody reads its output any more, with the codes that a shell gives for them."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
            return done
        except KeyboardInterrupt:
            _fail("stopped", EXIT_INTERRUPTED)
        except BrokenPipeError:
            # Or Python would try to write the rest when it ends, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_UNREAD)


@click.group(cls=_Group, context_settings={"auto_envvar_prefix": "HEADROOM_ANALYSIS"})
def analysis() -> None:
    """Find out what a run's calls mean."""


def main() -> None:
    # Records come by the million and none is in a cycle: to look for those takes a fifth of the time.
    gc.set_threshold(100_000)
    analysis()


@analysis.command()
@click.argument("runs", metavar="RUN...", nargs=-1, type=click.Path(path_type=Path))
@_LOGS
@click.option("--into", type=click.Path(path_type=Path), help="folder to write to, else RUN, or that of several")
@click.option("-o", "--output", type=click.Choice(["text", *OUTPUTS]), default="text", show_default=True)
def report(runs: tuple[Path, ...], logs: tuple[str, ...], into: Path | None, output: str) -> None:
    """Report on each RUN (by default the newest): a summary here, and one page that opens offline.

    \b
    report.html       in RUN's folder; of several runs one page, in the folder that they are in
    summary.json      its figures (docs/summary.schema.json)
    report-data/      what each figure draws, and up to 20,000 calls, as CSV and Parquet

    A run against the simulator knows where its logs are.
    """
    # Imported here, because they take seconds: --help needs none of them, and a wrong RUN not the last.
    from analysis.logs import LogsError
    from analysis.runs import RunError

    try:
        given = _given(runs)
        from analysis.report import sections, write

        made = sections([_found(run, logs) for run in given])
    except (RunError, LogsError) as error:
        _fail(str(error), EXIT_SETTINGS)
    try:
        path = write(made, into or (given[0] if len(given) == 1 else given[0].resolve().parent))
    except (RunError, JournalError, OSError) as error:
        _fail(str(error), EXIT_DISK)
    click.echo(_told([section.findings for section in made], _from_here(path), output))


def _found(run: Path, logs: tuple[str, ...]) -> "Findings":
    from analysis.findings import analyse
    from analysis.log_sources import log_files

    with log_files(logs, run) as files:
        return analyse(run, files)


def _told(found: "Sequence[Findings]", path: str, output: str) -> str:
    from analysis.summary import as_json
    from analysis.told import as_markdown, text

    if output == "json":
        whole = [as_json(one, path) for one in found]
        return json.dumps(whole[0] if len(whole) == 1 else whole, indent=2)
    if output == "md":
        return "\n\n".join(as_markdown(one, path) for one in found)
    if len(found) == 1:
        return text(found[0], path)
    return "\n\n".join(f"{one.run.name}\n{text(one, path)}" for one in found)


@analysis.command()
@click.argument("runs", metavar="RUN...", nargs=-1, type=click.Path(path_type=Path))
@_LOGS
@click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", show_default=True)
def throttling(runs: tuple[Path, ...], logs: tuple[str, ...], output: "Output") -> None:
    """What refused calls of each RUN (by default the newest), and which limiter was behind it.

    Refusals by cause, target and minute; whether waiting as long as they asked was enough; and from the replies'
    headers the limiter itself: its model, window, charge and limit. With the diagnostic logs also the refusals that a
    gateway tried again after, which no client sees.
    """
    from analysis.application import read_view
    from analysis.signals import CALL_COLUMNS, LIMIT_HEADERS
    from analysis.throttling import LOG_COLUMNS, analyse, as_result

    def result(run: "Run") -> "Result":
        joined, _, told = _joined(run, logs, LOG_COLUMNS)
        return as_result(analyse(run.calls, joined, read_view(run.folder)), told)

    _each(runs, output, result, LIMIT_HEADERS, (*CALL_COLUMNS, "service_request_id", "time_to_headers"))


@analysis.command()
@click.argument("runs", metavar="RUN...", nargs=-1, type=click.Path(path_type=Path))
@_LOGS
@click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", show_default=True)
def regions(runs: tuple[Path, ...], logs: tuple[str, ...], output: "Output") -> None:
    """Which region answered each RUN (by default the newest) how fast, and whether that is luck.

    Where several targets were called directly: their differences with intervals, and weights for a load balancer. With
    the diagnostic logs also the service's own durations.
    """
    from analysis.regions import CALL_COLUMNS, LOG_COLUMNS, REGION_HEADERS, analyse, as_result

    def result(run: "Run") -> "Result":
        joined, _, told = _joined(run, logs, LOG_COLUMNS)
        return as_result(analyse(joined.calls), told)

    _each(runs, output, result, REGION_HEADERS, CALL_COLUMNS)


@analysis.command()
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@click.option("--model", help="what is bought; of a run or a log, by default the model that answered")
@click.option("--offer", type=click.Choice(["global", "datazone", "regional"]), default="global", show_default=True)
@click.option("--rpm", type=_Within(0, 1e7, min_open=True), help="requests a minute; SOURCE is brought to it")
@click.option("--input-tokens", type=_Within(0, 1e7), help="of one request; SOURCE's mean is brought to it")
@click.option("--output-tokens", type=_Within(0, 1e7), help="of one request; SOURCE's mean is brought to it")
@click.option("--cached-share", type=_Within(0, 1), help="of the input, where SOURCE does not say")
@click.option("--since", metavar="TIME", help="of logs: from then on (2026-09-01T08:00, UTC)")
@click.option(
    "--until", metavar="TIME", help="of logs: until then; of a container or workspace by default the last day"
)
@click.option("--deployment", help="whose calls, where the run or the log has several")
@click.option("--throttled", type=_Within(0, 1), default=0.01, show_default=True, help="share allowed")
@click.option("--growth", type=_Within(0.01, 1000), default=1.0, show_default=True, help="times the load")
@click.option("--retries", type=click.IntRange(0, 20), default=0, show_default=True, help="of the client, after a 429")
@click.option("--spillover", is_flag=True, help="what is refused goes to pay-as-you-go, and costs")
@click.option("--bucket-seconds", type=_Within(1, 3600), default=60.0, show_default=True, help="a full bucket")
@click.option("--bought", type=click.IntRange(1), help="units behind the run: what one really takes is said")
@click.option("--calibrate", type=click.Path(path_type=Path), help="run of knee.py: size with what its units took")
@click.option("--models", type=click.Path(path_type=Path), help="file with what units of other models are worth")
@click.option("--prices", type=click.Path(path_type=Path), help="file with your prices")
@click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", show_default=True)
def ptu(sources: tuple[str, ...], output: "Output", **given: Any) -> None:
    """How many provisioned units SOURCE needs: a run; diagnostic or gateway logs (folders, files, containers' URLs or
    workspace:ID; several); a trace (.csv); or a mix (.toml) at --rpm.

    Every call of it goes through the units' bucket, so that bursts count. Without SOURCE, by arithmetic for an even
    load of --rpm requests a minute with --input-tokens and --output-tokens each.

    \b
    analysis ptu --model gpt-5.1 --rpm 200 --input-tokens 2000 --output-tokens 400 --cached-share 0.5
    analysis ptu results/RUN --growth 3 --throttled 0.005
    analysis ptu workspace:ID --since 2026-09-01 --deployment chat
    analysis ptu trace.csv --model gpt-4.1 --retries 2
    analysis ptu locustfiles/traffic.toml --model gpt-4.1 --rpm 600
    """
    from analysis.logs import LogsError
    from analysis.output import render
    from analysis.runs import RunError
    from analysis.sizing import Given, average, replayed
    from probe.target import SettingsError

    try:
        asked = Given(**given)
        result = replayed(sources, asked) if sources else average(asked)
    except (SettingsError, RunError, LogsError) as error:
        _fail(str(error), EXIT_SETTINGS)
    click.echo(render(result, output))


@analysis.command()
@click.argument("runs", metavar="RUN...", nargs=-1, type=click.Path(path_type=Path))
@_LOGS
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="the gateway's token metric, rows of customMetrics or AppMetrics as JSON or CSV; repeatable",
)
@click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", show_default=True)
def tokens(runs: tuple[Path, ...], logs: tuple[str, ...], metrics: tuple[Path, ...], output: "Output") -> None:
    """How far estimates of each RUN's tokens (by default the newest) are off, and what that does to a chargeback.

    Held against each other: the estimate, the replies' usage, with logs RequestUsage and the gateway's LLM log, and
    with --metric what the gateway's policy (llm-emit-token-metric) counted.
    """
    from analysis.log_sources import log_files
    from analysis.logs import read_logs
    from analysis.token_metric import read_metric
    from analysis.tokens import CALL_COLUMNS, LOG_COLUMNS, analyse, as_result

    def result(run: "Run") -> "Result":
        with log_files(logs, run.folder) as files:
            found = read_logs(files, LOG_COLUMNS) if files else None
        metric = read_metric(metrics) if metrics else None
        return as_result(analyse(run.calls, found, run.seconds, _others(run), metric=metric))

    _each(runs, output, result, (), CALL_COLUMNS)


@analysis.command()
@click.argument("runs", metavar="RUN...", nargs=-1, type=click.Path(path_type=Path))
@_LOGS
@click.option("--prices", type=click.Path(path_type=Path), help="prices of your own (TOML), before the list prices")
@click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", show_default=True)
def gateway(runs: tuple[Path, ...], logs: tuple[str, ...], prices: Path | None, output: "Output") -> None:
    """What a gateway added to each RUN (by default the newest), did to it, and lost of it.

    Calls through it are held against those made directly; with the diagnostic logs also the calls that the model
    completed and the client never got, with their tokens and what they cost.
    """
    from analysis.gateway import CALL_COLUMNS, ID_HEADERS, LOG_COLUMNS, analyse, as_result
    from analysis.lost import paid_and_lost
    from analysis.runs import header_shares
    from probe.prices import read_prices
    from probe.target import SettingsError

    try:
        known_prices = read_prices(prices)
    except SettingsError as error:
        _fail(str(error), EXIT_SETTINGS)

    def result(run: "Run") -> "Result":
        joined, found, told = _joined(run, logs, LOG_COLUMNS)
        return as_result(analyse(joined, found, header_shares(run.folder)), paid_and_lost(joined, known_prices), told)

    _each(runs, output, result, ID_HEADERS, CALL_COLUMNS)


@analysis.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--fail-on", type=click.Choice(["worse"]), help="exit with 7 if a figure of B is, or none can be judged")
@click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", show_default=True)
def compare(a: Path, b: Path, fail_on: str | None, output: "Output") -> None:
    """What is different in run B from run A, and what of it is no more than chance.

    Times, refusals and failures, tokens, rates and what headers say, each with its difference, an interval of 95 % and
    a verdict; what makes them incomparable is said.
    """
    from analysis.compare import compare as compare_runs
    from analysis.compare import is_judged, is_worse
    from analysis.compare_figures import CALL_COLUMNS, HEADERS, SAMPLED
    from analysis.compare_told import as_result
    from analysis.output import render, with_gaps
    from analysis.runs import RunError, read_run

    try:
        runs = [read_run(folder, HEADERS, CALL_COLUMNS, SAMPLED) for folder in (a, b)]
        found = compare_runs(*runs)
    except RunError as error:
        _fail(str(error), EXIT_SETTINGS)
    gaps = [f"{run.name}: {gap}" for run in runs for gap in run.gaps]
    click.echo(render(with_gaps(as_result(found, (runs[0].name, runs[1].name)), gaps), output))
    sys.exit(EXIT_EXPECTATION if fail_on and (is_worse(found) or not is_judged(found)) else EXIT_OK)


def _joined(run: "Run", sources: tuple[str, ...], columns: Sequence[str]) -> "tuple[Joined, Logs, Said | None]":
    """The run's calls with what the logs say of them, and what is to be known of that; None where there are none."""
    from analysis.join import join, said
    from analysis.log_sources import log_files
    from analysis.logs import read_logs

    with log_files(sources, run.folder) as files:
        logs = read_logs(files, columns)
    joined = join(run.calls, logs, _others(run))
    return joined, logs, said(joined, logs) if files else None


def _others(run: "Run") -> list[str]:
    """What is in the logs too: the checks before the load, and what came through the SDK."""
    from analysis.application import read_view

    view = read_view(run.folder)
    return [*run.preflight["service_request_id"].dropna(), *(view.service_request_ids if view else ())]


def _each(
    runs: tuple[Path, ...],
    output: "Output",
    analyse: Callable[["Run"], "Result"],
    headers: Iterable[str],
    columns: Iterable[str],
) -> None:
    """Prints the result of each run, as JSON one object, or a list of them for several."""
    from analysis.logs import LogsError
    from analysis.output import render_runs, with_gaps
    from analysis.runs import RunError, read_run

    try:
        found = (read_run(folder, headers, columns) for folder in _given(runs))
        results = [(run.name, with_gaps(analyse(run), run.gaps)) for run in found]
    except (RunError, LogsError) as error:
        _fail(str(error), EXIT_SETTINGS)
    click.echo(render_runs(results, output))


@analysis.command()
@click.argument("runs", metavar="RUN...", nargs=-1, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", show_default=True)
def verify(runs: tuple[Path, ...], output: "Output") -> None:
    """Whether the record of each RUN (by default the newest) is whole; exit code 7 where it does not add up.

    Everything scheduled was sent or dropped, everything sent has ended or was in flight when its process was killed,
    and no line is changed, missing, doubled or out of its place.
    """
    from analysis.output import render_runs
    from analysis.runs import RunError
    from analysis.verify import as_result
    from analysis.verify import verify as verify_run

    try:
        verdicts = [verify_run(run) for run in _given(runs)]
    except RunError as error:
        _fail(str(error), EXIT_SETTINGS)
    click.echo(render_runs([(verdict.run, as_result(verdict)) for verdict in verdicts], output))
    sys.exit(EXIT_OK if all(verdict.adds_up for verdict in verdicts) else EXIT_EXPECTATION)


@analysis.command()
@click.argument("runs", metavar="RUN...", nargs=-1, type=click.Path(path_type=Path))
@_LOGS
@click.option("--into", type=click.Path(path_type=Path), help="the folder to write to, else RUN/export")
@_FORM
def export(runs: tuple[Path, ...], logs: tuple[str, ...], into: Path | None, output: "Output | None") -> None:
    """Write each RUN (by default the newest) as Parquet and CSV, for Power BI, pandas, DuckDB and spreadsheets.

    \b
    calls.parquet, calls.csv      a row a call: every key of the record, a column for each known header that came
    logs.parquet, logs.csv        with logs: a row for each correlation id
    columns.json, columns.md      what each column is: type, unit, meaning

    With several runs each has a folder of its own name in the folder that --into names.
    """
    from analysis.export import as_result
    from analysis.export import export as export_run
    from analysis.log_sources import log_files
    from analysis.logs import LogsError
    from analysis.runs import RunError

    try:
        given, results = _given(runs), []
        for run in given:
            name = run.resolve().name
            folder = run / "export" if into is None else into / name if len(given) > 1 else into
            with log_files(logs, run) as files:
                done = export_run(run, folder, files)
            results.append((name, as_result(done)))
            if output is None:
                _say_written(name, results[-1][1].lines, done.files)
        if output is not None:
            _show(results, output)
    except (RunError, LogsError) as error:
        _fail(str(error), EXIT_SETTINGS)
    except OSError as error:
        _fail(f"cannot be exported: {error.strerror or error}", EXIT_DISK)


@analysis.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--into", type=click.Path(path_type=Path), help="the copy's folder, else RUN-redacted")
@_FORM
def redact(run: Path | None, into: Path | None, output: "Output | None") -> None:
    """Make a copy of RUN (by default the newest) that can be given away.

    Hosts, names of targets and deployments, addresses, GUIDs, ids and users become pseudonyms, each original the same
    one throughout; what analyses read is kept. Reports and logs are not copied. Look at it before you give it away.
    """
    from analysis.redact import as_result
    from analysis.redact import redact as redact_run
    from analysis.runs import RunError

    try:
        (folder,) = _given((run,) if run else ())
        whole = folder.resolve()
        made = redact_run(folder, into or whole.with_name(f"{whole.name}-redacted"))
    except RunError as error:
        _fail(str(error), EXIT_SETTINGS)
    except OSError as error:
        _fail(str(error), EXIT_DISK)
    result = as_result(made)
    if output is None:
        _say_written(whole.name, result.lines, [made.folder])
    else:
        _show([(whole.name, result)], output)


@analysis.command()
@click.argument("sources", metavar="FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--into", type=click.Path(path_type=Path), help="the folder of the whole run")
@_FORM
def gather(sources: tuple[Path, ...], into: Path | None, output: "Output | None") -> None:
    """Make one run of what several machines kept of it: FOLDERs of its files, or folders of those.

    What workers kept goes into their master's folder. Runs of engines that knew nothing of each other become one in a
    folder beside the first.
    """
    from analysis.gather import as_result
    from analysis.gather import gather as gather_parts
    from analysis.runs import RunError

    try:
        made = gather_parts(sources, into)
    except RunError as error:
        _fail(str(error), EXIT_SETTINGS)
    except OSError as error:
        _fail(f"cannot be gathered: {error.filename}: {error.strerror or error}", EXIT_DISK)
    result = as_result(made)
    if output is None:
        _say_written(made.folder.name, result.lines, [made.folder])
    else:
        _show([(made.folder.name, result)], output)


@analysis.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--otlp", metavar="URL", help="an OpenTelemetry collector, as http://127.0.0.1:4318")
@click.option("--eventhubs", metavar="NAMESPACE/HUB", help="an event hub, as contoso.servicebus.windows.net/calls")
@click.option("--blobs", metavar="URL", help="a container, as https://contoso.blob.core.windows.net/runs")
@click.option("--follow", is_flag=True, help="go on while the run is on")
@click.option("--give-up", type=click.FloatRange(0), default=60.0, show_default=True, help="seconds, after its end")
@click.option("--process", default="*", hidden=True)
@click.option("--exit-with-stdin", is_flag=True, hidden=True)
@click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", show_default=True)
def send(
    run: Path | None,
    follow: bool,
    give_up: float,
    process: str,
    exit_with_stdin: bool,
    output: "Output",
    **where: str | None,
) -> None:
    """Send the record of RUN (by default the newest) to where others are collected; exit code 75 where not all arrived.

    To a collector: a span a call, and histograms. To an event hub: an event a call. To a container: the files as they
    are. All of a run is sent, also where it was before: each call has its id, by which doubles can be left out.
    """
    from analysis.destinations import as_result, connect, end_of, lines
    from analysis.sending import Sender, say
    from probe.target import SettingsError

    try:
        folder = run or _newest()
        if exit_with_stdin and hasattr(os, "nice"):
            # The run that it is beside comes first.
            os.nice(10)
        destination = connect(where, folder, process)
        sent = Sender(folder, destination, end_of(folder, follow, exit_with_stdin), give_up).run()
    except SettingsError as error:
        _fail(str(error), EXIT_SETTINGS)
    except OSError as error:
        _fail(f"the run cannot be read: {error.strerror or error}", EXIT_DISK)
    except KeyboardInterrupt:
        _fail("stopped; not everything was sent", EXIT_INTERRUPTED)
    if exit_with_stdin:
        # Beside a run: without what reads and prints tables, which is most of the memory that it would take.
        for line in lines(sent):
            say(line)
    else:
        from analysis.output import render

        click.echo(render(as_result(sent), output))
    sys.exit(EXIT_OK if sent.is_whole else EXIT_UNSENT)


def _newest() -> Path:
    from analysis.runs import RunError

    try:
        (folder,) = _given(())
    except RunError as error:
        _fail(str(error), EXIT_SETTINGS)
    return folder


def _given(runs: tuple[Path, ...]) -> tuple[Path, ...]:
    """Or the newest. Raises `RunError`."""
    from analysis.runs import newest_run

    return runs or (newest_run(Path(os.environ.get("HEADROOM_RESULTS") or "results")),)


@analysis.command("count-tokens")
@click.argument("file")
@click.option(
    "--model-map",
    "models",
    metavar="NAME=MODEL",
    multiple=True,
    callback=lambda _context, _option, pairs: dict(map(_name_and_model, pairs)),
    help="the model that a deployment of another name serves (repeatable)",
)
def count_tokens(file: str, models: dict[str, str]) -> None:
    """Predict the input tokens of the request bodies in FILE (- for standard input), one JSON object a line.

    The same lines come out, each with input_tokens: a number, or null and a reason where it cannot be known.
    """
    from analysis.counted import count_lines
    from probe.counting import RanksUnavailableError

    counted = uncounted = tokens = 0
    try:
        with sys.stdin.buffer if file == "-" else open(file, "rb") as bodies:
            for line, count in count_lines(bodies, models):
                sys.stdout.buffer.write(line + b"\n")
                counted += count.tokens is not None
                uncounted += count.tokens is None
                tokens += count.tokens or 0
        sys.stdout.buffer.flush()
    except RanksUnavailableError as error:
        _fail(str(error), EXIT_SETTINGS)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        _fail(f"{file}: {error.strerror or error}", EXIT_SETTINGS)
    print(f"analysis: {counted:,} counted, {tokens:,} tokens in all; {uncounted:,} with a reason", file=sys.stderr)


def _name_and_model(pair: str) -> tuple[str, str]:
    name, equals, model = pair.partition("=")
    if not (name and equals and model):
        raise click.BadParameter(f"{pair!r} is not NAME=MODEL, such as chat=gpt-4o")
    return name, model


def _say_written(name: str, lines: list[str], paths: list[Path]) -> None:
    for line in lines:
        print(f"analysis: {name}: {line}", file=sys.stderr)
    click.echo("\n".join(map(_from_here, paths)))


def _show(results: "Sequence[tuple[str, Result]]", output: "Output") -> None:
    from analysis.output import render_runs

    click.echo(render_runs(results, output))


def _from_here(path: Path) -> str:
    """Relative where that is below the current folder."""
    whole, here = path.resolve(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else path)


def _fail(message: str, code: int) -> NoReturn:
    print(f"analysis: {message}", file=sys.stderr)
    sys.exit(code)
