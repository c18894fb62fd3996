"""What is shown of a run while it goes on, in words: the same on the web UI's tab and in the terminal."""

from collections import Counter
from operator import itemgetter
from typing import Any

import gevent

from locustfiles._live import Line, Row, Standing
from locustfiles._words import amount, seconds, share, span
from probe.escaping import printable
from probe.headroom import free
from probe.spending import dollars

CLASSES = ("target", "class", "sent", "answered", "429", "failed", "first token p50", "p95", "p99", "gap p50", "p95")
# More rows or lines would be read by nobody, and cost.
MOST = 40
SPENT = "spent, with open calls' most"


def board(standing: Standing, most: int = MOST) -> dict[str, Any]:
    """Tables are lists of rows of texts, `limits` have lines of (second of the run, value). Where there are more than
    `most` targets and classes, classes are of all targets, and of too many of those the `left_out` are the seldomest.
    Other greenlets run meanwhile."""
    rows = list(standing.rows.items())
    if len(rows) > most:
        rows = [(("all targets", traffic), row) for traffic, row in standing.classes.items()]
    busiest = sorted(rows, key=lambda row: -row[1].values.counts["sent"])[:most]
    classes: list[tuple[str, ...]] = [CLASSES]
    for (target, traffic), row in sorted(busiest, key=itemgetter(0)):
        classes.append((printable(target), printable(traffic), *_class(row)))
        gevent.sleep(0)
    return {
        "state": _state(standing),
        "classes": classes,
        "left_out": len(rows) - len(busiest),
        "refusals": [("429 by", "target", "calls"), *_causes(standing, "refusals")],
        "failures": [("came to nothing as", "target", "calls"), *_causes(standing, "failures")],
        "generator": [("process", "CPU", "late now", "late at worst", "open calls"), *_processes(standing)],
        "sums": _sums(standing),
        "limits": [_limit(target, name, line) for (target, name), line in sorted(standing.lines.items())[:MOST]],
    }


def _state(standing: Standing) -> str:
    if not standing.run:
        return "No run yet."
    return f"Run {standing.run}" + (f": {printable(standing.last_word)}" if standing.last_word else ", so far")


def _class(row: Row) -> list[str]:
    counts, ttft = row.values.counts, row.values.times["ttft"]
    answered = counts["sent"] - counts["throttled"] - counts["failed"]
    numbers = (counts["sent"], answered, counts["throttled"], counts["failed"])
    none: list[None] = [None] * 3
    times = [*(ttft.quantiles(0.5, 0.95, 0.99) or none), *(row.gap.quantiles(0.5, 0.95) or none[:2])]
    return [*(f"{number:,}" for number in numbers), *(seconds(time) for time in times)]


def _causes(standing: Standing, kind: str) -> list[list[str]]:
    met = Counter[tuple[str, str]]()
    for (target, _), row in standing.rows.items():
        for cause, times in getattr(row, kind).items():
            met[cause, target] += times
    return [
        [printable(cause.replace("_", " ")), printable(target), f"{times:,}"]
        for (cause, target), times in met.most_common(MOST)
    ]


def _processes(standing: Standing) -> list[list[str]]:
    return [
        [
            printable(name),
            "-" if one.cpu is None else share(one.cpu),
            seconds(one.lag),
            seconds(standing.lags[name]),
            f"{one.open_calls:,}",
        ]
        for name, one in sorted(standing.processes.items())[:MOST]
    ]


def _sums(standing: Standing) -> list[list[str]]:
    """Without the times of all rows, which would take long to add up."""
    rows, processes = standing.classes.values(), standing.processes.values()
    rates, late = standing.rates, standing.late.quantiles(0.95, 1.0)
    first_tokens, tainted = sum(row.first_tokens for row in rows), sum(row.tainted for row in rows)
    spent = sum(one.tokens for one in processes), sum(one.dollars for one in processes)
    cpu = [one.cpu for one in processes if one.cpu is not None]
    left = None if standing.lasts is None else standing.lasts - standing.at
    return [
        ["time so far", span(standing.at)],
        ["time left", "-" if left is None else span(left)],
        ["calls a second", "-" if rates is None else amount(rates[0])],
        ["tokens a minute", "-" if rates is None else amount(rates[1])],
        ["open calls", f"{sum(one.open_calls for one in processes):,}"],
        [SPENT, dollars(spent[1])],
        ["that is tokens", f"{spent[0]:,}"],
        ["late at worst", seconds(max(standing.lags.values(), default=None))],
        ["CPU", share(max(cpu)) if cpu else "-"],
        ["sent late, p95", "-" if late is None else seconds(late[0])],
        ["sent late, at most", "-" if late is None else seconds(late[1])],
        ["first tokens stamped late", share(tainted / first_tokens) if first_tokens else "-"],
        ["dropped", f"{sum(row.values.counts['dropped'] for row in rows):,}"],
    ]


def _limit(target: str, name: str, line: Line) -> dict[str, Any]:
    last, used = line.last, line.last.used is not None
    now = share(last.used) if last.used is not None else amount(last.left or 0)
    return {
        "target": printable(target),
        "what": f"{name} used" if used else f"{name} left",
        "now": now,
        "of": "" if used or last.limit is None else amount(last.limit),
        "free": free(last.used, last.left, last.limit),
        "top": max([1.0 if used else last.limit or 0.0, *(value for _, value in line.drawn())]),
        "line": line.drawn(),
    }
