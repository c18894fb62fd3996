"""Token counts held against each other: our estimate, the reply's `usage`, and the diagnostic log.

The estimate is made here from the prompt that the record's id names, never during a run. It is under a name of its own
and fills in for nothing.
"""

import pandas as pd

from probe.counting import Count, RanksUnavailableError, input_tokens
from probe.prompts import rebuild


def estimates(calls: pd.DataFrame) -> pd.DataFrame:
    """For each call (same index): `estimated_tokens`, NA with the `reason` where it cannot be known."""
    counted: dict[tuple[str, str], Count] = {}
    tokens: list[int | None] = []
    reasons: list[str | None] = []
    try:
        for prompt_id, model in zip(calls["prompt_id"], calls["response_model"], strict=True):
            count = _count(counted, prompt_id, model)
            tokens.append(count.tokens)
            reasons.append(count.reason)
    except RanksUnavailableError as error:
        tokens, reasons = [None] * len(calls), [str(error)] * len(calls)
    frame = {"estimated_tokens": pd.array(tokens, dtype="Int64"), "reason": pd.array(reasons, dtype="string")}
    return pd.DataFrame(frame, index=calls.index)


def _count(counted: dict[tuple[str, str], Count], prompt_id: object, model: object) -> Count:
    if not isinstance(prompt_id, str) or not isinstance(model, str):
        return Count(None, "the reply named no model" if isinstance(prompt_id, str) else "the prompt has no number")
    if (prompt_id, model) not in counted:
        try:
            messages = list(rebuild(prompt_id).messages)
            counted[prompt_id, model] = input_tokens({"model": model, "messages": messages})
        except ValueError as error:
            counted[prompt_id, model] = Count(None, str(error))
    return counted[prompt_id, model]


def differences(joined: pd.DataFrame) -> pd.DataFrame:
    """One row a comparison: n, same (how many of them agree), exact (their share, 0 to 1), mean and largest difference
    in tokens (left minus right)."""
    pairs = (
        ("estimated input", "estimated_tokens", "usage", "input_tokens"),
        ("input in usage", "input_tokens", "diagnostic log", "prompt_tokens"),
        ("output in usage", "output_tokens", "diagnostic log", "generated_tokens"),
        ("estimated input", "estimated_tokens", "diagnostic log", "prompt_tokens"),
    )
    rows = []
    for left, one, right, other in pairs:
        difference = (joined[one].astype("Int64") - joined[other].astype("Int64")).dropna().astype(int)
        known = len(difference) > 0
        rows.append(
            {
                "of": left,
                "against": right,
                "n": len(difference),
                "same": int((difference == 0).sum()),
                "exact": float((difference == 0).mean()) if known else None,
                "mean": float(difference.mean()) if known else None,
                "largest": int(difference.abs().max()) if known else None,
            }
        )
    return pd.DataFrame(rows).astype({"largest": "Int64"})
