"""What a run's replies said of limits, in the form that `limiter.infer` takes: one table a deployment."""

import re
from collections.abc import Iterator

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
    return pd.to_numeric(calls["prompt_id"].str.extract(r"^(\d+)-\d+(?:-\d+-\d+)?$", expand=False), errors="coerce")


def promised(calls: pd.DataFrame) -> pd.Series:
    """Seconds that a refusal asked to wait: `retry-after-ms` or `retry-after`, else as it was said before 2025, in
    `x-rate-limit-reset-tokens` or in the message."""
    header = pd.to_numeric(calls["x-rate-limit-reset-tokens"], errors="coerce")
    said = pd.to_numeric(calls["error_message"].str.extract(_RETRY_TEXT, expand=False), errors="coerce")
    told = calls["retry_after"].astype("float64").fillna(header).fillna(said)
    return told.where(refused_by(calls).notna())


def signals(calls: pd.DataFrame) -> Iterator[tuple[str, str | None, dict[str, pd.DataFrame]]]:
    """By deployment's name, region and resource: what `infer` takes, by target. The region is that of the reply; NA
    where replies name none. Targets that lead to one deployment, such as a gateway and what is behind it, share its
    limiter."""
    sent = calls[~calls["outcome"].isin(NOT_SENT)]
    region = sent["region"].fillna("").astype("str")
    for (deployment, place, _), part in sent.groupby(
        ["request_model", region, _resources(sent, region)], sort=True, observed=True
    ):
        yield str(deployment), str(place) or None, {str(name): _signals(one) for name, one in part.groupby("target")}


def _resources(calls: pd.DataFrame, region: pd.Series) -> pd.Series:
    """Whose limit a call counts against: of a direct one the address. What is behind a gateway is what is called
    directly too, if there is only one of that region and deployment; else it is told by the gateway's address."""
    place = [calls["request_model"], region, calls["gateway"], calls["server_address"], calls["server_port"]]
    number = calls.groupby(place, dropna=False, observed=True, sort=False).ngroup()
    first = ~number.duplicated()
    known = pd.DataFrame({"model": place[0], "region": region, "gateway": place[2], "number": number})[first]
    direct = known[known["gateway"] == "direct"].groupby(["model", "region"], observed=True)["number"]
    only = direct.first()[direct.size() == 1].rename("only").reset_index()
    known = known.merge(only, how="left", on=["model", "region"])
    of_each = known["number"].where(known["gateway"] == "direct", known["only"].fillna(known["number"]))
    return number.map(dict(zip(known["number"], of_each, strict=True)))


def _signals(calls: pd.DataFrame) -> pd.DataFrame:
    calls = calls.sort_values("at", kind="stable").head(MOST_CALLS)
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
            "utilization": pd.to_numeric(utilization, errors="coerce") / 100,
            "served_model": calls["x-ms-served-model"].notna(),
            "offer": calls["azureai-fe-offer-type"].notna(),
        },
        index=calls.index,
    )
    for limit in ("requests", "tokens"):
        for name, header in (("limit", "limit"), ("remaining", "remaining"), ("renewal", "renewalperiod")):
            found[f"{name}_{limit}"] = pd.to_numeric(calls[f"x-ratelimit-{header}-{limit}"], errors="coerce")
    # A spilled call is another deployment's, and so are its numbers; one that failed says nothing of being let in.
    return found[~spilled.fillna(False) & (found["admitted"] | found["kind"].notna())]


def _prompt(prompt_id: object) -> tuple[int | None, int | None]:
    """Planned tokens and characters; Nones where it is none of our prompts."""
    try:
        prompt = rebuild(str(prompt_id))
    except ValueError:
        return None, None
    return prompt.input_tokens, sum(len(message["content"]) for message in prompt.messages)
