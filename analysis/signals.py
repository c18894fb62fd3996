"""What a run's replies said of limits, in the form that `limiter.infer` takes: one table a deployment."""

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from probe.prompts import rebuild
from probe.record import NOT_SENT

# What the limiter is told from; `read_run` makes columns of them.
LIMIT_HEADERS = (
    *(
        f"x-ratelimit-{what}-{limit}"
        for what in ("limit", "remaining", "renewalperiod")
        for limit in ("requests", "tokens")
    ),
    "x-rate-limit-reset-tokens",
    "azure-openai-deployment-utilization",
    "x-ms-served-model",
    "azureai-fe-offer-type",
    "x-ms-is-spilled-over",
)
CALL_COLUMNS = (
    "target", "gateway", "request_model", "request_max_tokens", "prompt_id", "status_code", "throttle_kind",
    "error_message", "input_tokens", "output_tokens", "cached_tokens", "region", "retry_after", "server_address",
    "server_port",
)  # fmt: skip
# The first so many calls of a deployment tell its limiter.
MOST_CALLS = 5_000
_RETRY_TEXT = re.compile(r"retry after (\d+) second", re.IGNORECASE)


def refused_by(calls: pd.DataFrame) -> pd.Series:
    """What refused each call: the throttle's kind, or `pool` for a gateway's 503 where no back end of its pool would
    take the call; NA where it was not refused."""
    pool = (calls["outcome"] == "gateway_error") & (calls["gateway"] == "apim") & (calls["status_code"] == 503)
    kinds: pd.Series = calls["throttle_kind"].where(calls["group"] == "throttled")
    return kinds.mask(pool, "pool")


def admitted(calls: pd.DataFrame) -> pd.Series:
    return (calls["status_code"] == 200).fillna(False).astype(bool)


def planned_tokens(calls: pd.DataFrame) -> pd.Series:
    """Of the prompt, as its id has it; NA where it is none of ours."""
    prompts = calls["prompt_id"]
    different = pd.Series(prompts.dropna().unique(), dtype="str")
    sizes = different.str.extract(r"^(\d+)-\d+(?:-\d+-\d+)?$", expand=False)
    tokens: pd.Series = prompts.map(dict(zip(different, pd.to_numeric(sizes, errors="coerce"), strict=True)))
    return tokens.astype("float64")


def promised(calls: pd.DataFrame) -> pd.Series:
    """Seconds that a refusal asked to wait: `retry-after-ms` or `retry-after`, else as it was said before 2025, in
    `x-rate-limit-reset-tokens` or in the message."""
    header = _numbers(calls["x-rate-limit-reset-tokens"])
    said = _numbers(calls["error_message"].str.extract(_RETRY_TEXT, expand=False))
    told = calls["retry_after"].astype("float64").fillna(header).fillna(said)
    return told.where(refused_by(calls).notna())


def signals(calls: pd.DataFrame) -> Iterator[tuple[str, str | None, dict[str, pd.DataFrame]]]:
    """By deployment's name, region and resource: what `infer` takes, by target. The region is that of the reply; NA
    where replies name none. Targets that lead to one deployment, such as a gateway and what is behind it, share its
    limiter."""
    # Of the whole table only what says which calls those are: a copy of it would be most of the memory.
    sent = calls.loc[~calls["outcome"].isin(NOT_SENT), [*_PLACE, "target", "at"]]
    sent = sent.assign(region=sent["region"].fillna(""), resource=_resources(sent))
    deployments = ["request_model", "region", "resource"]
    of_each = sent.sort_values("at", kind="stable").groupby([*deployments, "target"], observed=True, sort=False)
    for (deployment, region, _), part in of_each.head(MOST_CALLS).groupby(deployments, observed=True):
        by_target = {str(name): _signals(calls.loc[one.index]) for name, one in part.groupby("target")}
        yield str(deployment), str(region) or None, by_target


_PLACE = ["request_model", "region", "gateway", "server_address", "server_port"]


def _resources(calls: pd.DataFrame) -> pd.Series:
    """Whose limit a call counts against: of a direct one the address. What is behind a gateway is what is called
    directly too, if there is only one of that region and deployment; else it is told by the gateway's address."""
    number = calls.groupby(_PLACE, dropna=False, observed=True, sort=False).ngroup().rename("number")
    known = calls[_PLACE].join(number)[~number.duplicated()]
    is_direct = known["gateway"] == "direct"
    direct = known[is_direct].groupby(["request_model", "region"], dropna=False, observed=True)["number"]
    only = direct.first()[direct.size() == 1].rename("only").reset_index()
    known["resource"] = known.merge(only, how="left", on=["request_model", "region"])["only"].to_numpy()
    resource = known["number"].where(is_direct, known["resource"].fillna(known["number"]))
    return number.map(dict(zip(known["number"], resource, strict=True)))


def stale_shares(calls: pd.DataFrame) -> dict[str, float]:
    """By target: of answered calls with usage, the share whose remaining tokens were those of the call before."""
    headers = ["x-ratelimit-remaining-tokens", "x-ratelimit-limit-tokens"]
    is_told = (calls["group"] == "answered") & calls["x-ratelimit-remaining-tokens"].notna()
    told = calls.loc[is_told, ["target", "at", "duration", *headers]]
    told = told.assign(ended=told["at"] + told["duration"]).sort_values("ended", kind="stable")
    same = told["x-ratelimit-remaining-tokens"] == told.groupby("target")["x-ratelimit-remaining-tokens"].shift()
    # At its ends nothing can be told: what is full or empty stays so.
    at_an_end = told["x-ratelimit-remaining-tokens"].isin(["0"]) | (
        told["x-ratelimit-remaining-tokens"] == told["x-ratelimit-limit-tokens"]
    )
    return {str(target): float(share) for target, share in (same & ~at_an_end).groupby(told["target"]).mean().items()}


def _signals(calls: pd.DataFrame) -> pd.DataFrame:
    """Of calls in the order in which they were issued."""
    prompts = [_prompt(text) for text in calls["prompt_id"]]
    planned = pd.Series([size for size, _ in prompts], index=calls.index, dtype="Float64")
    spilled = calls["x-ms-is-spilled-over"].str.lower() == "true"
    utilization = calls["azure-openai-deployment-utilization"].str.rstrip("% ")
    found = pd.DataFrame(
        {
            "issued": calls["at"],
            "ended": calls["at"] + calls["duration"].fillna(0.0),
            "admitted": admitted(calls),
            "kind": refused_by(calls),
            "wait": promised(calls),
            "characters": pd.array([length for _, length in prompts], "Float64"),
            "max_tokens": calls["request_max_tokens"],
            "input_tokens": calls["input_tokens"].astype("Float64").fillna(planned),
            "cached_tokens": calls["cached_tokens"],
            "output_tokens": calls["output_tokens"],
            "utilization": _numbers(utilization) / 100,
            "served_model": calls["x-ms-served-model"].notna(),
            "offer": calls["azureai-fe-offer-type"].notna(),
        },
        index=calls.index,
    )
    for limit in ("requests", "tokens"):
        for name, header in (("limit", "limit"), ("remaining", "remaining"), ("renewal", "renewalperiod")):
            found[f"{name}_{limit}"] = _numbers(calls[f"x-ratelimit-{header}-{limit}"])
    # A spilled call is another deployment's, and so are its numbers; one that failed says nothing of being let in.
    return found[~spilled.fillna(False) & (found["admitted"] | found["kind"].notna())]


def _numbers(sent: pd.Series) -> pd.Series:
    """NA for what is no number, or none that a limit can have."""
    numbers = pd.to_numeric(sent, errors="coerce").astype("float64")
    return numbers.where(np.isfinite(numbers))


def _prompt(prompt_id: object) -> tuple[int | None, int | None]:
    """Planned tokens and characters; Nones where it is none of our prompts."""
    try:
        prompt = rebuild(str(prompt_id))
    except ValueError:
        return None, None
    return prompt.input_tokens, sum(len(message["content"]) for message in prompt.messages)
