"""The tables behind the report's figures: small however long the run was, and written beside the page.

A figure draws its table and nothing else. Times are seconds, shares 0 to 1; `n` is how many calls a row's group rests
on. An empty table means that there is nothing to draw, and the panel says why.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from analysis.figures.times import SHORTEST_GAP
from analysis.findings import Findings, Sized
from analysis.outcomes import over_time
from analysis.stats import mean_estimate
from analysis.throttling import waits
from probe.record import LatencyCheckpoint, ObservedCall
from probe.shares import first_token_shares

# A curve of more points than this looks no different, nor a line over time.
_POINTS = 400
_STRETCHES = 150
# A sawtooth has a tooth a minute: of a longer run its worst minutes are shown, and of targets those that moved most.
_WINDOW = 600.0
_MOST_TARGETS = 4
# Remaining tokens that rise by this share of the limit from one reply to the next, to nearly all of it, were reset.
_RESET, _NEARLY_ALL = 0.2, 0.7
_FARTHEST_TOKENS = 20
_SLOWEST = 0.95


def outcomes(calls: pd.DataFrame) -> pd.DataFrame:
    """A row a stretch of the run: `at` its middle, then how many calls came to each outcome."""
    if calls.empty:
        return pd.DataFrame(columns=["at"])
    return over_time(calls).rename_axis(columns=None).rename_axis("at").reset_index()


def distribution(calls: pd.DataFrame, column: str, by: Sequence[str]) -> pd.DataFrame:
    """name, n, share, seconds: in so many seconds so large a share of the calls was done."""
    found = []
    known = calls[[*by, column]].dropna(subset=[column])
    for key, part in known.groupby(list(by), sort=True):
        values = np.sort(part[column].to_numpy(dtype="float64"))
        many = len(values) > _POINTS
        share = np.linspace(0, 1, _POINTS + 1) if many else np.arange(len(values) + 1) / len(values)
        seconds = np.quantile(values, share) if many else np.concatenate([values[:1], values])
        name = " ".join(str(one) for one in key)
        found.append(pd.DataFrame({"name": name, "n": len(values), "share": share, "seconds": seconds}))
    return _joined(found, ["name", "n", "share", "seconds"])


def boxes(calls: pd.DataFrame) -> pd.DataFrame:
    """region, gateway, n, and quantiles of the time to first token of answered streams."""
    is_shown = (calls["group"] == "answered") & calls["region"].notna() & calls["time_to_first_token"].notna()
    shown = calls.loc[is_shown, ["region", "gateway", "time_to_first_token"]]
    rows = [
        {
            "region": region,
            "gateway": gateway,
            "n": len(part),
            **{f"p{at}": float(part["time_to_first_token"].quantile(at / 100)) for at in (5, 25, 50, 75, 95)},
        }
        for (region, gateway), part in shown.groupby(["region", "gateway"], sort=True)
    ]
    return pd.DataFrame(rows, columns=["region", "gateway", "n", "p5", "p25", "p50", "p75", "p95"])


def utilisation(calls: pd.DataFrame) -> pd.DataFrame:
    """A row a stretch: `at` its middle, calls offered and refused a second, and a column a target that said how full
    its limit was: the highest it said, 1 is full (NA where no reply came)."""
    if calls.empty:
        return pd.DataFrame(columns=["at", "offered_per_second", "refused_per_second"])
    due = calls["at"] if calls["scheduled"].isna().all() else calls["scheduled"].fillna(calls["at"])
    due = (due - min(0.0, float(due.min()))).clip(lower=0)
    ended = calls["at"] + calls["duration"].fillna(0.0)
    width = max(1.0, float(max(due.max(), ended.max())) / _STRETCHES)
    rows = int(max(due.max(), ended.max()) // width) + 1
    number = (ended // width).astype(int)
    refused = number[calls["group"] == "throttled"]
    found = {
        "at": (np.arange(rows) + 0.5) * width,
        "offered_per_second": np.bincount((due // width).astype(int), minlength=rows) / width,
        "refused_per_second": np.bincount(refused, minlength=rows) / width,
    }
    for name, used in _used(calls):
        found[name] = used.groupby(number[used.index]).max().reindex(range(rows)).to_numpy()
    return pd.DataFrame(found)


def _used(calls: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """By target: of the limit's one that its replies told."""
    said = pd.to_numeric(calls["azure-openai-deployment-utilization"].str.rstrip("% "), errors="coerce") / 100
    limit = pd.to_numeric(calls["x-ratelimit-limit-tokens"], errors="coerce")
    left = pd.to_numeric(calls["x-ratelimit-remaining-tokens"], errors="coerce")
    tokens = (1 - left / limit).where(limit > 0)
    for what, used in (("utilisation", said), ("tokens", tokens)):
        known = used.dropna()
        groups = known.groupby(calls["target"][known.index], sort=True)
        for target, part in list(groups)[:_MOST_TARGETS]:
            yield f"{target}: {what}", part


def remaining(calls: pd.DataFrame) -> pd.DataFrame:
    """target, n, at, remaining, limit, mark and marks: what replies said was left, in order of their headers, the least
    of each stretch; `mark` is `reset` where it jumped up and `stood still` where two replies in a row said the same,
    and `marks` how many of these a row stands for."""
    left = pd.to_numeric(calls["x-ratelimit-remaining-tokens"], errors="coerce")
    told = pd.DataFrame(
        {
            "target": calls["target"],
            # When the reply's headers came, which say it.
            "at": calls["at"] + calls["time_to_headers"].fillna(calls["duration"]).fillna(0.0),
            "remaining": left,
            "limit": pd.to_numeric(calls["x-ratelimit-limit-tokens"], errors="coerce"),
            "refused": calls["group"] == "throttled",
        }
    )[left.notna()]
    columns = ["target", "n", "at", "remaining", "limit", "mark", "marks"]
    if told.empty:
        return pd.DataFrame(columns=columns)
    begin = _worst(told)
    told = told[told["at"].between(begin, begin + _WINDOW)].sort_values("at", kind="stable")
    moved = told.groupby("target")["remaining"].agg(lambda part: part.max() - part.min()).sort_values(ascending=False)
    shown = sorted(moved.index[:_MOST_TARGETS])
    return _joined([_teeth(str(one), told[told["target"] == one]) for one in shown], columns)[columns]


def _worst(told: pd.DataFrame) -> float:
    """Where the window begins: at the run's start, or where the most was refused, or least was left, in a long one."""
    end = float(told["at"].max())
    if end <= _WINDOW:
        return 0.0
    weight = told["refused"] if told["refused"].any() else -told["remaining"]
    number = (told["at"] // _WINDOW).astype(int)
    return float(str(weight.groupby(number).mean().idxmax())) * _WINDOW


def _teeth(target: str, part: pd.DataFrame) -> pd.DataFrame:
    rise = part["remaining"].diff()
    limit = part["limit"].fillna(part["remaining"].max())
    reset = (rise > _RESET * limit) & (part["remaining"] > _NEARLY_ALL * limit)
    still = (rise == 0) & part["remaining"].between(0, limit, inclusive="neither") & ~part["refused"]
    mark = pd.Series(None, index=part.index, dtype="object").mask(still, "stood still").mask(reset, "reset")
    told = part.assign(target=target, n=len(part), mark=mark, marks=1)
    if len(told) <= 2 * _POINTS:
        return told
    width = (float(told["at"].max()) - float(told["at"].min())) / _POINTS
    told["number"] = (told["at"] // width).astype(int)
    least = told.loc[told.groupby("number")["remaining"].idxmin()]
    marked = told[told["mark"].notna()].groupby(["number", "mark"], as_index=False)
    counted = marked.agg(
        at=("at", "first"), remaining=("remaining", "first"), limit=("limit", "first"), marks=("marks", "sum")
    )
    plain = least.assign(mark=None)
    return pd.concat([plain, counted.assign(target=target, n=len(part))]).sort_values("at", kind="stable")


def kept(calls: pd.DataFrame) -> pd.DataFrame:
    """target, cause, n, promised, enough, refusals: so many refusals asked to wait so long, and so long it was until a
    call was let in again. Both are rounded where there are many."""
    found = waits(calls)
    columns = ["target", "cause", "n", "promised", "enough", "refusals"]
    if found.empty:
        return pd.DataFrame(columns=columns)
    most = float(max(found["promised"].max(), found["high"].max()))
    step = most / 60 if len(found) > _POINTS else 0.0
    rounded = {
        name: (values / step).round() * step if step else values
        for name, values in (("promised", found["promised"]), ("enough", found["high"]))
    }
    cells = found.assign(**rounded).groupby(["target", "cause", "promised", "enough"], as_index=False).size()
    n = found.groupby(["target", "cause"]).size().rename("n").reset_index()
    return cells.rename(columns={"size": "refusals"}).merge(n, on=["target", "cause"])[columns]


def gaps(calls: pd.DataFrame) -> pd.DataFrame:
    """way, n, buffered, p5, p50, p95, gap, share: how large a share of the gaps between events with text were about so
    many seconds, of the `n` answered streams that were looked at, and the share of all streams whose events came all at
    once. Where events came in one read a gap is 0, and shown as the shortest."""
    is_stream = (calls["group"] == "answered") & calls["request_stream"].astype("boolean").fillna(False)
    streams = calls.loc[is_stream, ["gateway", "buffered", "event_times"]]
    found = []
    for way, part in streams.groupby("gateway", sort=False):
        times = [np.diff(np.asarray(one, dtype="float64")) / 1e6 for one in part["event_times"] if _several(one)]
        if not times:
            continue
        values = np.maximum(np.concatenate(times), SHORTEST_GAP)
        edges = np.geomspace(SHORTEST_GAP, max(float(values.max()), 10 * SHORTEST_GAP) * 1.01, 80)
        share = np.histogram(values, edges)[0] / len(values)
        marks = dict(zip(("p5", "p50", "p95"), np.quantile(values, (0.05, 0.5, 0.95)), strict=True))
        about = {"way": str(way), "n": len(times), "buffered": float(part["buffered"].mean()), **marks}
        found.append(pd.DataFrame({**about, "gap": np.sqrt(edges[:-1] * edges[1:]), "share": share}))
    table = _joined(found, ["way", "n", "buffered", "p5", "p50", "p95", "gap", "share"])
    return table.sort_values("way", ascending=False, kind="stable", ignore_index=True)


def _several(times: Any) -> bool:
    return isinstance(times, np.ndarray | list | tuple) and len(times) > 1


def first_token_parts(calls: pd.DataFrame) -> pd.DataFrame:
    """target, of (`all` or `slowest 5 %`), n, part, basis, seconds: the mean of each part of the time to first token,
    of a sample of answered streams whose reply had the service's own timings."""
    streams = calls[(calls["group"] == "answered") & calls["latency_checkpoint"].notna()]
    found: list[pd.DataFrame] = []
    for target, part in streams.groupby("target", sort=True):
        divided = pd.DataFrame(_parts(part))
        if divided.empty:
            continue
        slowest = divided["whole"] >= divided["whole"].quantile(_SLOWEST)
        for of, some in (("all", divided), ("slowest 5 %", divided[slowest])):
            n = some["call"].nunique()
            means = some.groupby(["part", "basis", "order"], as_index=False)["seconds"].sum()
            means["seconds"] /= n
            found.append(means.assign(target=str(target), of=of, n=n))
    table = _joined(found, ["target", "of", "n", "part", "basis", "order", "seconds"])
    return table.sort_values(["target", "of", "order"], kind="stable", ignore_index=True).drop(columns="order")


# In which parts come to pass.
_ORDER = (
    *("network", "network and front end", "network and gateway", "gateway", "unaccounted", "front end and service"),
    *("gateway and service", "service", "filter", "queue", "engine"),
)


def _parts(calls: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(calls.to_dict("records")):
        found = first_token_shares(_as_observed(row))
        for one in found.parts if found else ():
            yield {
                "call": number,
                "whole": found.whole if found else 0.0,
                "part": one.part,
                "basis": one.basis,
                "order": _ORDER.index(one.part) if one.part in _ORDER else len(_ORDER),
                "seconds": one.seconds,
            }


def _as_observed(row: dict[Any, Any]) -> ObservedCall:
    """What `probe.shares` looks at of a call."""
    try:
        told = msgspec.json.decode(row["latency_checkpoint"], type=LatencyCheckpoint)
    except ValueError:
        told = None
    return ObservedCall(
        target=row["target"],
        gateway=row["gateway"],
        server_address="",
        server_port=0,
        start_time_unix_nano=row["start_time_unix_nano"],
        operation="chat",
        request_model="",
        request_stream=bool(row["request_stream"]),
        outcome="ok",
        status_code=200,
        duration=row["duration"],
        reasoning_tokens=None if pd.isna(row["reasoning_tokens"]) else int(row["reasoning_tokens"]),
        latency_checkpoint=told,
        connect=None if pd.isna(row["connect"]) else row["connect"],
        time_to_first_token=None if pd.isna(row["time_to_first_token"]) else row["time_to_first_token"],
    )


def token_errors(joined: pd.DataFrame) -> pd.DataFrame:
    """of, n, mean with its interval, difference, share: so large a share of the calls were off by so many tokens, those
    beyond 20 counted as 20."""
    pairs = (
        ("estimated input less usage", "estimated_tokens", "input_tokens"),
        ("input in usage less log", "input_tokens", "prompt_tokens"),
        ("output in usage less log", "output_tokens", "generated_tokens"),
    )
    found = []
    for name, one, other in pairs:
        difference = (joined[one].astype("Int64") - joined[other].astype("Int64")).dropna().astype(int)
        mean = mean_estimate(difference.astype(float))
        if mean is None:
            continue
        counts = difference.clip(-_FARTHEST_TOKENS, _FARTHEST_TOKENS).value_counts().sort_index()
        about = {"of": name, "n": mean.n, "mean": mean.value, "mean_low": mean.low, "mean_high": mean.high}
        found.append(pd.DataFrame({**about, "difference": counts.index, "share": counts.to_numpy() / mean.n}))
    return _joined(found, ["of", "n", "mean", "mean_low", "mean_high", "difference", "share"])


def break_even(sizings: Iterable[Sized]) -> pd.DataFrame:
    """deployment, n, point, tokens_per_minute, and US dollars a month: payg, hourly, reserved_month, reserved_year.
    `point` is `line`, `this load`, its ends `low` and `high`, or `break-even`. Units are those of the replay, in
    proportion to the load, up to what is sold."""
    rows = [row for one in list(sizings)[:3] if one.money is not None for row in _points(one)]
    columns = ["deployment", "n", "point", "tokens_per_minute", "payg", "hourly", "reserved_month", "reserved_year"]
    return pd.DataFrame(rows, columns=columns)


def _points(one: Sized) -> Iterator[dict[str, Any]]:
    assert one.money is not None and one.sizing is not None and one.model is not None
    money, sizing, model = one.money, one.sizing, one.model
    a_unit = {name: getattr(money, name) / sizing.ptu for name in ("hourly", "reserved_month", "reserved_year")}
    about = {"deployment": one.deployment, "n": sizing.calls}

    def point(name: str, tpm: float, units: int) -> dict[str, Any]:
        payg = money.payg * tpm / money.tpm if money.tpm else 0.0
        return {**about, "point": name, "tokens_per_minute": tpm, "payg": payg} | {
            way: price * units for way, price in a_unit.items()
        }

    far = 1.6 * max(money.tpm, money.break_even_tpm if np.isfinite(money.break_even_tpm) else 0.0)
    for tpm in np.linspace(0, far, 120):
        yield point("line", float(tpm), model.sold(sizing.ptu * float(tpm) / money.tpm) if money.tpm else sizing.ptu)
    yield point("this load", money.tpm, sizing.ptu)
    if sizing.low is not None and sizing.high is not None:
        yield point("low", money.tpm, sizing.low)
        yield point("high", money.tpm, sizing.high)
    if np.isfinite(money.break_even_tpm):
        yield point("break-even", money.break_even_tpm, sizing.ptu)


def knee(found: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """target, n, said, low, high (requests a minute that held), offered_rpm, ttft_p95_s, throttled_share, held; a row a
    step that `knee.py` offered. What is missing in it is left out."""
    rows = []
    for one in found[:3]:
        held = _part(_part(one, "held"), "requests_per_minute")
        about = {
            "target": str(one.get("target")),
            "said": _knee_said(held, one.get("broke_by")),
            "low": held.get("low"),
            "high": held.get("high"),
        }
        rows += [about | _step(step) for step in one.get("steps") or ()]
    columns = ["target", "n", "said", "low", "high", "offered_rpm", "ttft_p95_s", "throttled_share", "held"]
    numbers = dict.fromkeys(("low", "high", "offered_rpm", "ttft_p95_s", "throttled_share"), "float64")
    return pd.DataFrame(rows, columns=columns).astype(numbers).dropna(subset=["offered_rpm"])


def _step(step: dict[str, Any]) -> dict[str, Any]:
    measured = {name: step.get(name) for name in ("offered_rpm", "ttft_p95_s", "throttled_share")}
    return {"n": step.get("sent") or 0, **measured, "held": bool(step.get("held"))}


def _part(one: dict[str, Any], name: str) -> dict[str, Any]:
    found = one.get(name)
    return found if isinstance(found, dict) else {}


def _knee_said(held: dict[str, Any], broke_by: object) -> str:
    value = held.get("value")
    most = "held nothing" if value is None else f"held {value:,.0f} a minute"
    return f"{most}; broke by {broke_by}" if broke_by else f"{most}; never broke"


def _joined(found: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(columns))


def objectives(findings: Findings, metric: str) -> list[tuple[float, float]]:
    """Of a time's quantiles: which share of calls has to be done within how many seconds."""
    ended = findings.run.about.ended
    found = []
    for one in ended.slo if ended else ():
        name, _, limit = one.objective.replace("<=", "<").partition("<")
        of, _, quantile = name.strip().partition("_p")
        unit = 0.001 if limit.strip().endswith("ms") else 1.0
        number = limit.strip().rstrip("ms")
        if of == metric and _is_number(quantile) and _is_number(number):
            found.append((float(quantile) / 100, float(number) * unit))
    return found


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
