"""What `analysis ptu` predicts of a load, held against the simulator's provisioned deployments under that load.

Deployments of the size that was found, and of a fifth less, are sent the load over real sockets. What is refused has to
be within the interval predicted, and to be, call by call, what the bucket refuses at the times at which calls came by
the simulator's ledger. Where this machine was late the interval is wider by what that alone changes.
Time is compressed: a full bucket is less than a second here instead of a minute, and what is sized knows that.
"""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from heapq import merge
from itertools import product
from pathlib import Path
from threading import Lock, local
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import pytest

from analysis.costs import rates
from analysis.loads import of_run, of_trace
from analysis.ptu import Asked, Sizing, size
from analysis.ptu_models import Model, find_model
from analysis.replay import charges, replay
from analysis.runs import read_run
from probe.client import Client
from probe.prompts import numbered
from probe.record import ObservedCall
from probe.traces import Row, read_trace
from tests.commands import ROOT
from tests.simulators import AT_ONCE, Simulated, awaited, simulating
from tests.test_analysis import write_run

TRACE = ROOT.parent / "shared" / "fixtures" / "traces" / "AzureLLMInferenceTrace_conv.csv"
THREADS = 24
Ledger = dict[str, dict[str, Any]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


class Kind(NamedTuple):
    """`burstiness` is how many times the usual rate a burst has; a fifth of the time is one."""

    model: str
    burstiness: float
    output: int


class Span(NamedTuple):
    """Seconds: enough of the first for eight blocks of twice the second, which an interval needs."""

    seconds: float
    bucket: float


SHORT, LONG = Span(6.7, 0.36), Span(180, 10.0)
# Of function calls, which are sent twice, one load after the other.
SHORTER, MEDIUM = Span(2.8, 0.16), Span(30, 1.8)


class Cell(NamedTuple):
    """`load` is what was sized of `rows`, row by row."""

    name: str
    model: Model
    rows: list[Row]
    load: pd.DataFrame
    found: Sizing
    ptu: int

    @property
    def predicted(self) -> dict[str, float]:
        rows = self.found.counts.to_dict("records")
        return next({str(name): value for name, value in row.items()} for row in rows if row["ptu"] == self.ptu)


def bursty(kind: Kind, seconds: float, rate: float) -> list[Row]:
    """Calls whose rate changes every half second or so; their mean rate is `rate` whatever the burstiness."""
    rng = random.Random(str(kind))
    usual = rate / (0.8 + 0.2 * kind.burstiness)
    rows: list[Row] = []
    at, until, now = 0.0, 0.0, usual
    while True:
        at += rng.expovariate(now)
        if at >= seconds:
            return rows
        if at >= until:
            until, now = at + rng.expovariate(2.0), usual * (kind.burstiness if rng.random() < 0.2 else 1.0)
        rows.append(Row(at, round(rng.lognormvariate(5.5, 0.5)), 1 + round(rng.expovariate(1 / kind.output))))


def recorded(seconds: float, speed: float) -> list[Row]:
    return [row._replace(at=row.at / speed) for row in read_trace(TRACE, seconds * speed)]


def sized(load: pd.DataFrame, model: Model, bucket: float) -> Sizing:
    asked = Asked(throttled=0.05, bucket_seconds=bucket)
    return size(load, model, asked, rates(model.name))


def cells(name: str, model: Model, rows: list[Row], bucket: float) -> Iterator[Cell]:
    load = of_trace(rows).calls
    found = sized(load, model, bucket)
    counts = list(found.counts["ptu"])
    tight = min(counts, key=lambda count: abs(count - 0.8 * found.ptu))
    for ptu in dict.fromkeys((found.ptu, tight)):
        yield Cell(f"{name}-{ptu}", model, rows, load, found, ptu)


def config(deployments: dict[str, tuple[str, int]], bucket: float, settings: str) -> str:
    """`deployments` are models and their units, by name."""
    tables = [
        f'[resources.one.deployments."{name}"]\nmodel = "{model}"\nptu = {ptu}\nbucket_seconds = {bucket}\n'
        for name, (model, ptu) in deployments.items()
    ]
    return "\n".join(['[resources.one]\nregion = "Sweden Central"\n', *tables, settings])


def send(simulator: Simulated, loads: dict[str, list[Row]], **about: Any) -> dict[str, list[ObservedCall]]:
    """Each deployment's load at its own times; the calls in the order in which they were due."""
    queue = merge(*([(row.at, name, number, row) for number, row in enumerate(rows)] for name, rows in loads.items()))
    taking, mine, began = Lock(), local(), time.perf_counter_ns() + 500_000_000
    about = {"max_tokens_field": "max_completion_tokens", **about}
    targets = {name: msgspec.structs.replace(simulator.target("one", name), **about) for name in loads}

    def sender() -> list[tuple[str, int, ObservedCall]]:
        mine.client = Client(run_began=began)
        sent: list[tuple[str, int, ObservedCall]] = []
        while True:
            with taking:
                taken = next(queue, None)
            if taken is None:
                mine.client.close()
                return sent
            due, name, number, row = taken
            prompt = numbered(number, row.input_tokens, row.output_tokens)
            time.sleep(max(0.0, due - (time.perf_counter_ns() - began) / 1e9))
            sent.append((name, number, mine.client.observe(targets[name], prompt, stream=False, scheduled=due)))

    with ThreadPoolExecutor(THREADS) as threads:
        futures = [threads.submit(sender) for _ in range(THREADS)]
        sent = sorted((one for future in futures for one in future.result()), key=lambda one: one[:2])
    return {name: [call for to, _, call in sent if to == name] for name in loads}


def refused(calls: list[ObservedCall]) -> Flags:
    assert {call.outcome for call in calls} <= {"ok", "ok_length", "throttled"}
    assert {call.throttle_kind for call in calls} <= {None, "ptu"}
    return np.array([call.outcome == "throttled" for call in calls])


def replayed(load: pd.DataFrame, cell: Cell, bucket: float) -> Flags:
    """What the bucket refuses, in the order of the load's rows."""
    order = load["at"].argsort(kind="stable")
    found = np.empty(len(load), bool)
    found[order] = replay(charges(load, cell.model), cell.model, cell.ptu, bucket_seconds=bucket).refused
    return found


def as_arrived(cell: Cell, calls: list[ObservedCall], ledger: Ledger) -> pd.DataFrame:
    """The load at the times, and of the tokens, of the simulator's own ledger; a refused call has no tokens there."""
    lines = [ledger[str(call.service_request_id)] for call in calls]
    load = cell.load.copy()
    load["at"] = [line["arrived"] / 1e9 for line in lines]
    for name, theirs in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")):
        known = pd.Series([line.get(theirs) for line in lines], dtype="Float64")
        load[name] = known.fillna(load[name])
    load["duration"] = [(line.get("last_at", line["arrived"]) - line["arrived"]) / 1e9 for line in lines]
    return load


def by_id(simulator: Simulated) -> Ledger:
    return {line["request_id"]: line for line in simulator.ledger()}


def proven(cells: list[Cell], folder: Path, bucket: float, settings: str = AT_ONCE, **about: Any) -> None:
    deployments = {cell.name: (cell.model.name, cell.ptu) for cell in cells}
    with simulating(folder, config(deployments, bucket, settings)) as simulator:
        sent = send(simulator, {cell.name: cell.rows for cell in cells}, **about)
        ids = {call.service_request_id for calls in sent.values() for call in calls}
        # A call's line is written when its reply has been sent.
        ledger = awaited(lambda: found if ids <= (found := by_id(simulator)).keys() else None)
    for cell in cells:
        arrived = as_arrived(cell, sent[cell.name], ledger)
        compared(cell, refused(sent[cell.name]), replayed(arrived, cell, bucket))


def compared(cell: Cell, really: Flags, as_it_came: Flags) -> None:
    said = cell.predicted
    low, high = said["refused_share_low"], said["refused_share_high"]
    share, alike = float(really.mean()), float((really == as_it_came).mean())
    # Calls that this machine sent too late are another load than the one that was sized.
    late = float(as_it_came.mean()) - said["refused_share"]
    print(
        f"{cell.name:<28}{len(really):>6,} calls, predicted {said['refused_share']:6.2%} ({low:6.2%} to {high:6.2%}),"
        f" refused {share:6.2%}; of what came, when it came, {late:+.2%}, {alike:.1%} of the calls alike"
    )
    # Two that came within the same fraction of a millisecond may be taken in the other order.
    assert alike >= 0.9 and abs(share - as_it_came.mean()) <= 0.02
    assert low + min(late, 0.0) <= share <= high + max(late, 0.0)


def grid(kinds: list[Kind], span: Span, rate: float) -> Iterator[Cell]:
    for kind in kinds:
        name = f"{kind.model}-{kind.burstiness:g}x-{kind.output}"
        yield from cells(name, find_model(kind.model, "global"), bursty(kind, span.seconds, rate), span.bucket)


def test_what_is_predicted_comes_on_the_simulator(tmp_path: Path) -> None:
    kinds = [Kind("gpt-4.1", 1, 40), Kind("gpt-5", 6, 5), Kind("gpt-4o", 6, 40)]
    found = list(grid(kinds, SHORT, 20))
    if TRACE.exists():
        found += cells("recorded", find_model("gpt-4.1", "global"), recorded(SHORT.seconds, 6), SHORT.bucket)
    proven(found, tmp_path, SHORT.bucket)


@pytest.mark.soak
def test_what_is_predicted_comes_on_the_simulator_over_a_grid(tmp_path: Path) -> None:
    kinds = [Kind(*one) for one in product(("gpt-4.1", "gpt-5", "gpt-4o"), (1, 4, 12), (5, 60))]
    found = list(grid(kinds, LONG, 6))
    if TRACE.exists():
        for model in ("gpt-4.1", "gpt-5", "gpt-4o"):
            found += cells(f"{model}-recorded", find_model(model, "global"), recorded(LONG.seconds, 1), LONG.bucket)
    proven(found, tmp_path, LONG.bucket)


TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"key": {"type": "string"}}}},
}


@pytest.mark.parametrize("span", [SHORTER, pytest.param(MEDIUM, marks=pytest.mark.soak)])
def test_a_run_whose_answers_were_shorter_than_they_might_be_is_sized_as_it_then_behaves(
    tmp_path: Path, span: Span
) -> None:
    """Each call may generate 300 tokens and calls a function with a few: what it does not use comes back at its end."""
    rng = random.Random(11)
    rows = [Row(span.seconds * rng.random(), round(rng.lognormvariate(5, 0.5)), 300) for _ in range(240)]
    rows.sort(key=lambda row: row.at)
    # As slow when it is full as when it is not: a run cannot know by how much it is slower.
    engine = f"engine = {{ median = {span.bucket * 0.4} }}\nunder_load = 0.0"
    slow, about = AT_ONCE.replace("engine = { median = 0.0 }", engine), {"extra_body": {"tools": [TOOL]}}
    folders = [tmp_path / "roomy", tmp_path / "sized"]
    for folder in folders:
        folder.mkdir()
    with simulating(folders[0], config({"chat": ("gpt-4.1", 5_000)}, span.bucket, slow)) as simulator:
        roomy = send(simulator, {"chat": rows}, **about)["chat"]
    assert not refused(roomy).any() and max(call.output_tokens or 0 for call in roomy) < 60

    load = of_run(read_run(write_run(tmp_path / "results", roomy)).calls, None).calls
    load = load.sort_values("at", ignore_index=True)
    assert list(load["at"]) == [row.at for row in rows]
    gpt_41 = find_model("gpt-4.1", "global")
    found = sized(load, gpt_41, span.bucket)
    # By what was generated alone it would be less than half; what calls may generate is held while they last.
    assert found.average.ptu < found.ptu
    proven([Cell("chat", gpt_41, rows, load, found, found.ptu)], folders[1], span.bucket, slow, **about)
