"""What a refusal means and what to do about it: a sentence for each kind of throttling and each reason of a gateway.

Reasons are those of `context.LastError.Reason` in API Management, by Microsoft's page on errors in its policies; a
policy has to put them into the header.
"""

from collections.abc import Mapping

from probe.record import ObservedCall, ThrottleKind

THROTTLED: Mapping[ThrottleKind, str] = {
    "tokens": "the deployment's tokens a minute are used up, counted from prompt and max_tokens before the answer: "
    "wait, ask for a lower max_tokens, or raise its TPM",
    "requests": "more requests than the deployment takes in its period, which can be 1 or 10 s: spread them evenly, or "
    "raise its limit",
    "ptu": "the provisioned units are over 100 % used: wait as retry-after-ms says, spill over, or size them anew",
    "apim": "a limit of the gateway itself, which the service never saw: wait, or look at its rate and token limits",
    "pool": "every back end of the gateway's pool is resting after failures: wait, or look at its circuit breakers",
    "quota_day": "a quota of hours or a day, not a limit of a minute: ask for quota, or use another deployment",
    "high_demand": "the platform is busy, whatever your own limit has left: wait, or use another region or PTU",
    "unknown": "the reply does not say which limit: see what remains of requests and tokens; wait, or lower the rate",
}
_REASONS = {
    "operationnotfound": "no operation of the API has this path and method",
    "subscriptionkeynotfound": "the call has no subscription key",
    "subscriptionkeyinvalid": "the subscription key is wrong, or not for this API",
    "clientconnectionfailure": "the client hung up before the answer",
    "backendconnectionfailure": "the back end could not be reached, or hung up",
    "expressionvalueevaluationfailure": "an expression in a policy failed",
    "timeout": "the back end did not answer in the time that forward-request gives it",
    "ratelimitexceeded": "a limit of calls was reached",
    "quotaexceeded": "a quota is used up",
}


def reason(code: str) -> str | None:
    """Of the header ErrorReason."""
    return _REASONS.get(code.strip().lower())


def explained(call: ObservedCall) -> str | None:
    """Of a call that was throttled, or that a gateway says why it failed; else None."""
    if call.throttle_kind is not None:
        return THROTTLED[call.throttle_kind]
    return next((said for code in call.header("ErrorReason") if (said := reason(code))), None)
