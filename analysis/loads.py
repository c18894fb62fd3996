"""A load to size for, from a run, from diagnostic logs, or from a published trace: the columns of `ptu.LOAD_COLUMNS`.

Of a call that was refused or lost nobody knows what it would have generated. It is part of the load all the same, with
its prompt as planned and the share of `max_tokens` that answered calls used; the notes say how many calls that is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.logs import AZURE_OPENAI, Logs, left_out
from analysis.ptu import LOAD_COLUMNS
from analysis.signals import planned_tokens
from probe.target import SettingsError
from probe.traces import Row


class Load(NamedTuple):
    """`models` are those that the source names."""

    calls: pd.DataFrame
    models: list[str]
    notes: list[str]


def of_trace(rows: Sequence[Row]) -> Load:
    calls = pd.DataFrame(rows, columns=Row._fields)
    return Load(_complete(calls), [], ["The trace says nothing of cached tokens, and none are assumed."])


def of_run(calls: pd.DataFrame, deployment: str | None) -> Load:
    """Of one deployment, where the run called several. Raises `SettingsError` where it has to be named."""
    sent = calls[calls["group"] != "cancelled"]
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
    known = load["input_tokens"].notna() & load["output_tokens"].notna()
    return Load(_complete(load[known]), _models(answered["response_model"]), _run_notes(sent, known))


def _run_notes(sent: pd.DataFrame, known: pd.Series) -> list[str]:
    estimated = int((sent["output_tokens"].isna() & known).sum())
    notes = []
    if estimated:
        notes.append(f"{estimated:,} calls that were not answered are in it with tokens as estimated.")
    if not known.all():
        notes.append(f"{int((~known).sum()):,} calls say nothing of their tokens and are not in it.")
    if sent["scheduled"].isna().all():
        notes.append("The run was of the closed model: a slow service was asked less than real users would ask.")
    return notes


def of_logs(logs: Logs, deployment: str | None) -> Load:
    """Of Azure OpenAI's requests. Raises `SettingsError` where there are none, or the deployment has to be named."""
    table = logs.table
    requests = table[(table["service"] == AZURE_OPENAI) & table["began_ns"].notna()]
    if requests.empty:
        why = next(iter(left_out(logs)), "there is nothing to size for")
        raise SettingsError(f"the logs have no request of Azure OpenAI with its time: {why}")
    requests = requests[requests["deployment"] == _chosen(requests["deployment"], deployment)]
    load = pd.DataFrame(
        {
            "at": (requests["began_ns"].astype("int64") - int(requests["began_ns"].min())) / 1e9,
            "input_tokens": requests["prompt_tokens"],
            "cached_tokens": requests["cached_tokens"],
            "output_tokens": requests["generated_tokens"],
            "duration": requests["duration_ms"] / 1000,
        }
    )
    known = load["input_tokens"].notna() & load["output_tokens"].notna()
    notes = ["Logs do not have max_tokens: each call is taken to have asked for what it generated.", *left_out(logs)]
    if not known.all():
        notes.append(f"{int((~known).sum()):,} requests without usage, refused ones among them, are not in it.")
    if not known.any():
        raise SettingsError("no request of the logs has its usage (AzureOpenAIRequestUsage): there is nothing to size")
    return Load(_complete(load[known]), _models(requests["model"]), notes)


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


def _complete(load: pd.DataFrame) -> pd.DataFrame:
    filled = load.reindex(columns=LOAD_COLUMNS).astype({name: "float64" for name in LOAD_COLUMNS if name in load})
    return filled.assign(duration=filled["duration"].astype("float64").fillna(0.0)).replace({np.inf: np.nan})
