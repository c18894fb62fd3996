"""What is shown of a run while it goes on, in words: the same on the web UI's tab and wherever else it is looked at."""

from collections import Counter
from typing import Any

from locustfiles._live import Row, Standing
from locustfiles._words import amount, seconds, share
from probe.escaping import printable
from probe.spending import dollars

CLASSES = ("target", "class", "sent", "answered", "429", "failed", "first token p50", "p95", "p99", "gap p50", "p95")
# More rows or lines would be read by nobody, and cost.
MOST = 40


def board(standing: Standing) -> dict[str, Any]:
    """Tables are lists of rows of texts, `limits` have lines of (second of the run, value)."""
    rows = sorted(standing.rows.items())[:MOST]
    return {
        "run": standing.run,
        "classes": [CLASSES, *([printable(key[0]), printable(key[1]), *_class(row)] for key, row in rows)],
        "refusals": [("429 by", "target", "calls"), *_causes(standing, "refusals")],
        "failures": [("came to nothing as", "target", "calls"), *_causes(standing, "failures")],
        "generator": [("process", "CPU", "worst lag, 3 s", "open calls"), *_processes(standing)],
        "sums": _sums(standing),
        "limits": [_limit(target, name, line) for (target, name), line in sorted(standing.lines.items())[:MOST]],
    }


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
        [printable(name), "-" if one.cpu is None else share(one.cpu), seconds(one.lag), f"{one.open_calls:,}"]
        for name, one in sorted(standing.processes.items())[:MOST]
    ]


def _sums(standing: Standing) -> list[list[str]]:
    row, processes = standing.all(), standing.processes.values()
    rates, late = standing.rates, standing.late.quantiles(0.95, 1.0)
    spent = sum(one.tokens for one in processes), sum(one.dollars for one in processes)
    return [
        ["calls a second", "-" if rates is None else amount(rates[0])],
        ["tokens a minute", "-" if rates is None else amount(rates[1])],
        ["dropped", f"{row.values.counts['dropped']:,}"],
        ["sent late, p95 and most", "-" if late is None else f"{seconds(late[0])}, {seconds(late[1])}"],
        ["first tokens stamped late", share(row.tainted / row.first_tokens) if row.first_tokens else "-"],
        ["spent, with open calls' most", f"{spent[0]:,} tokens, {dollars(spent[1])}"],
    ]


def _limit(target: str, name: str, line: Any) -> dict[str, Any]:
    last, used = line.last, line.last.used is not None
    now = share(last.used) if used else amount(last.left or 0)
    of = "" if used or last.limit is None else f" of {amount(last.limit)}"
    return {
        "title": f"{printable(target)}: {name}" + (" used" if used else " left"),
        "now": now + of,
        "top": max([1.0 if used else last.limit or 0.0, *(value for _, value in line.drawn())]),
        "line": line.drawn(),
    }
