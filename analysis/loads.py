"""A load to size for, from a run, logs, a published trace, or a mix of traffic: the columns of `ptu.LOAD_COLUMNS`.

Run.   Of a call that was refused or lost nobody knows what it would have generated. It is part of the load all the
       same, with its prompt as planned and the share of `max_tokens` that answered calls used; the notes say how many
       calls that is.
Logs.  Azure OpenAI's requests with their usage, or where there are none the gateway's with what its LLM log counted. Of
       a refused one nothing is known but that it came; it is not in the load, and the notes say how many were refused.
Mix.   Calls at random times, drawn as a run of that mix draws them. Of prefixes that calls share, what the service can
       cache (1,024 tokens and more, in steps of 128) is taken to be cached.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.logs import Logs, left_out
from analysis.ptu import LOAD_COLUMNS, random_times
from analysis.runs import Span
from analysis.signals import planned_tokens
from probe.prompts import MIN_INPUT_TOKENS, TrafficClass
from probe.target import SettingsError
from probe.traces import Row

LOG_COLUMNS = (
    *("status", "began_ns", "duration_ms", "deployment", "model", "url"),
    *("prompt_tokens", "cached_tokens", "generated_tokens", "llm_prompt_tokens", "llm_completion_tokens"),
)
# Beyond so many calls the busiest stretch of a run is sized for: it needs the most, and a replay of all takes long.
MOST_SIZED = 50_000
# Of one call.
_MOST_TOKENS = 10**7
_LEAST_CACHED, _CACHED_STEP = 1024, 128
_AS_GENERATED = "each call is taken to have asked for what it generated."


class Load(NamedTuple):
    """`models` are those that the source names."""

    calls: pd.DataFrame
    models: list[str]
    notes: list[str]


def of_trace(rows: Sequence[Row]) -> Load:
    calls = pd.DataFrame(rows, columns=Row._fields)
    return Load(_complete(calls), [], [f"A trace does not have max_tokens: {_AS_GENERATED}"])


def of_mix(classes: Sequence[TrafficClass], rpm: float) -> Load:
    rng = np.random.default_rng(0)
    at = random_times(rpm, rng)
    weights = np.array([one.weight for one in classes])
    drawn = rng.choice(len(classes), len(at), p=weights / weights.sum())
    shares = rng.random((len(at), 2)).tolist()
    sizes = [
        (max(MIN_INPUT_TOKENS, one.input_tokens.quantile(share)), one.output_tokens.quantile(other), one.prefix.tokens)
        for one, (share, other) in zip((classes[number] for number in drawn), shares, strict=True)
    ]
    calls = pd.DataFrame(sizes, columns=["input_tokens", "output_tokens", "prefix"])
    shared = calls[["input_tokens", "prefix"]].min(axis=1) // _CACHED_STEP * _CACHED_STEP
    cached = shared.where(shared >= _LEAST_CACHED, 0)
    notes = [
        f"{len(at):,} calls at random times, drawn from the mix; {_AS_GENERATED}",
        f"{cached.sum() / calls['input_tokens'].sum():.0%} of the input is taken to be cached: prefixes of"
        f" {_LEAST_CACHED:,} tokens and more.",
    ]
    return Load(_complete(calls.assign(at=at, cached_tokens=cached)), [], notes)


_OF_CALLS = (
    *("at", "scheduled", "duration", "request_model", "request_max_tokens", "response_model", "prompt_id"),
    *("input_tokens", "cached_tokens", "output_tokens"),
)


def of_run(calls: pd.DataFrame, deployment: str | None) -> Load:
    """Of one deployment, where the run called several. Raises `SettingsError` where it has to be named."""
    sent = calls.loc[calls["group"] != "cancelled", list(_OF_CALLS)]
    sent = sent[sent["request_model"] == _chosen(sent["request_model"], deployment)]
    answered = sent[sent["output_tokens"].notna()]
    if answered.empty:
        raise SettingsError("no call of the run says how many tokens it used: there is nothing to size for")
    share = float((answered["output_tokens"] / answered["request_max_tokens"]).astype("float64").mean())
    load = pd.DataFrame(
        {
            # When a call was due is the load's doing, when it was issued partly the service's.
            "at": sent["scheduled"].fillna(sent["at"]),
            "input_tokens": sent["input_tokens"].astype("Float64").fillna(planned_tokens(sent)),
            "cached_tokens": sent["cached_tokens"],
            "output_tokens": sent["output_tokens"].astype("Float64").fillna(sent["request_max_tokens"] * share),
            "max_tokens": sent["request_max_tokens"],
            "duration": sent["duration"],
        }
    )
    known = _are_known(load)
    return Load(_complete(load[known]), _models(answered["response_model"]), _run_notes(sent, known))


def _run_notes(sent: pd.DataFrame, known: pd.Series) -> list[str]:
    estimated = int((sent["output_tokens"].isna() & known).sum())
    notes = []
    if estimated:
        notes.append(f"{estimated:,} calls that were not answered are in it with tokens as estimated.")
    if not known.all():
        without = f"{int((~known).sum()):,} calls say nothing of their tokens, or nothing possible"
        notes.append(f"{without}, and are not in it.")
    if sent["scheduled"].isna().all():
        notes.append("The run was of the closed model: a slow service was asked less than real users would ask.")
    return notes


def of_logs(logs: Logs, deployment: str | None, time: Span | None = None) -> Load:
    """Logs with `LOG_COLUMNS`; of the requests that began at that time. Raises `SettingsError` where there are none, or
    the deployment has to be named."""
    came, gateways = _came(logs, time)
    requests = came[came["deployment"] == _chosen(came["deployment"], deployment)]
    counted = ("llm_prompt_tokens", "llm_completion_tokens") if gateways else ("prompt_tokens", "generated_tokens")
    load = pd.DataFrame(
        {
            "at": (requests["began_ns"].astype("int64") - int(requests["began_ns"].min())) / 1e9,
            "input_tokens": requests[counted[0]],
            # A gateway's LLM log does not have them.
            "cached_tokens": requests["cached_tokens"],
            "output_tokens": requests[counted[1]],
            "duration": requests["duration_ms"] / 1000,
        }
    )
    known = _are_known(load)
    if not known.any():
        category = "GatewayLlmLog" if gateways else "AzureOpenAIRequestUsage"
        raise SettingsError(f"no request of the logs has its usage ({category}): there is nothing to size for")
    notes = [f"Logs do not have max_tokens: {_AS_GENERATED}", *left_out(logs), *_without_usage(requests[~known])]
    rows = logs.gateway if gateways else logs.requests
    if untimed := int((rows["began_ns"].isna() & rows[counted[0]].notna()).sum()):
        notes.append(f"{untimed:,} rows of the logs do not say when their request came, and are not in it.")
    if gateways and (unnamed := int(came["deployment"].isna().sum())):
        notes.append(f"{unnamed:,} of the gateway's requests name no deployment and are not in it.")
    return Load(_complete(load[known]), _models(requests["model"]), notes)


def _came(logs: Logs, time: Span | None) -> tuple[pd.DataFrame, bool]:
    """The requests, and whether they are a gateway's."""
    began = logs.table["began_ns"].dropna()
    for requests, gateways in ((logs.requests, False), (logs.gateway, True)):
        timed = requests[requests["began_ns"].notna()]
        if time is not None:
            timed = timed[timed["began_ns"].between(time.first_ns, time.last_ns)]
        if gateways:
            # Of a call that was refused there is no row of the LLM log.
            asked = timed["url"].str.extract(r"/deployments/([^/?]+)", expand=False)
            timed = timed.assign(deployment=timed["deployment"].fillna(asked))
        if len(timed):
            return timed, gateways
    when = "with its time" if time is None else f"of the time {time}"
    why = next(iter(left_out(logs)), "there is nothing to size for")
    if time is not None and len(began):
        why = f"they are of {Span(int(began.min()), int(began.max()))}"
    raise SettingsError(f"the logs have no request of Azure OpenAI or a gateway {when}: {why}")


def _without_usage(requests: pd.DataFrame) -> list[str]:
    if requests.empty:
        return []
    refused = int((requests["status"] == 429).sum())
    more = " More was asked for than is sized here: --growth makes up for it." if refused else ""
    return [f"{len(requests):,} requests without usage, {refused:,} of them refused (429), are not in it.{more}"]


def busiest(load: pd.DataFrame, most: int = MOST_SIZED) -> pd.DataFrame:
    """All of it, or the `most` calls in a row that came in the shortest time."""
    if len(load) <= most:
        return load
    ordered = load.sort_values("at", kind="stable", ignore_index=True)
    at = ordered["at"].to_numpy(dtype="float64")
    first = int(np.argmin(at[most - 1 :] - at[: len(at) - most + 1]))
    return ordered.iloc[first : first + most]


def _chosen(deployments: pd.Series, wanted: str | None) -> str:
    found = sorted(deployments.dropna().unique())
    if not found:
        raise SettingsError("there is no call in it: there is nothing to size for")
    if wanted is not None and wanted not in found:
        raise SettingsError(f"no call of deployment {wanted!r}; there are: {', '.join(found)}")
    if wanted is None and len(found) != 1:
        raise SettingsError(f"calls of several deployments ({', '.join(found)}): name one with --deployment")
    return wanted or str(found[0])


def _models(names: pd.Series) -> list[str]:
    return sorted(names.dropna().unique())


def _are_known(load: pd.DataFrame) -> pd.Series:
    """What no model takes somebody made up, and it could not be sized for."""
    told = load[["input_tokens", "output_tokens"]].astype("float64")
    return ((told >= 0) & (told <= _MOST_TOKENS)).all(axis=1)


def _complete(load: pd.DataFrame) -> pd.DataFrame:
    filled = load.reindex(columns=LOAD_COLUMNS).astype({name: "float64" for name in LOAD_COLUMNS if name in load})
    return filled.assign(duration=filled["duration"].astype("float64").fillna(0.0)).replace({np.inf: np.nan})
