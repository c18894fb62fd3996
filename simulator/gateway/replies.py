"""API Management's own replies. Pure.

Observed: a top-level `statusCode` and a space inside the braces. Inferred: the wording of a token quota's refusal, and
the body of a 500. The headers named Error... are the documented `on-error` pattern.
"""

import math
from email.utils import formatdate

from simulator.gateway.quota import Exceeded
from simulator.wire import Header, Reply, new_id

_MISSING_KEY = (
    "Access denied due to missing subscription key. "
    "Make sure to include subscription key when making requests to an API."
)
_INVALID_KEY = (
    "Access denied due to invalid subscription key. Make sure to provide a valid key for an active subscription."
)
_REASONS = {
    401: "Access Denied",
    403: "Forbidden",
    404: "Resource Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def _own(
    status: int,
    message: str,
    reason: str,
    section: str,
    *headers: Header,
    explained: bool,
    activity_id: str | None = None,
) -> Reply:
    """`reason` and `section` are what LastError says of it; `explained` puts them into headers."""
    identified = "" if activity_id is None else f', "activityId": "{activity_id}"'
    body = f'{{ "statusCode": {status}, "message": "{message}"{identified} }}'.encode()
    error_headers = [
        ("ErrorSource", "configuration" if section == "backend" else "authorization"),
        ("ErrorReason", reason),
        ("ErrorMessage", message),
        ("ErrorScope", "global"),
        ("ErrorSection", section),
        ("ErrorStatusCode", str(status)),
    ]
    return Reply(
        status,
        _REASONS[status],
        [
            ("content-length", str(len(body))),
            ("content-type", "application/json"),
            ("date", formatdate(usegmt=True)),
            *headers,
            *(error_headers if explained else []),
        ],
        body,
    )


def no_access(given: str | None, explained: bool) -> Reply:
    challenge = ("www-authenticate", 'AzureApiManagementKey realm="http://127.0.0.1/",name="api-key",type="header"')
    if given is None:
        return _own(401, _MISSING_KEY, "SubscriptionKeyNotFound", "inbound", challenge, explained=explained)
    return _own(401, _INVALID_KEY, "SubscriptionKeyInvalid", "inbound", challenge, explained=explained)


def bad_token(explained: bool) -> Reply:
    return _own(401, "Invalid Entra token.", "TokenInvalid", "inbound", explained=explained)


def no_operation(explained: bool) -> Reply:
    return _own(404, "Resource not found", "OperationNotFound", "backend", explained=explained)


def streaming_blocked(correlation_id: str) -> Reply:
    body = b"Streaming chat completions are not allowed by this organization."
    headers = [
        ("content-length", str(len(body))),
        ("content-type", "text/plain"),
        ("date", formatdate(usegmt=True)),
        ("Microsoft-Azure-Api-Management-Correlation-Id", correlation_id),
    ]
    return Reply(404, "BlockStreaming", headers, body)


def too_many_tokens(exceeded: Exceeded, header: str, explained: bool) -> Reply:
    seconds = math.ceil(exceeded.wait)
    status, what = (403, "quota") if exceeded.quota else (429, "limit")
    message = f"Token {what} is exceeded. Try again in {seconds} seconds."
    told = (header, str(seconds))
    reason = "TokenQuotaExceeded" if exceeded.quota else "TokenLimitExceeded"
    return _own(status, message, reason, "inbound", told, explained=explained)


def pool_exhausted(name: str, explained: bool) -> Reply:
    message = f"Backend pool '{name}' is temporarily unavailable."
    return _own(503, message, "BackendPoolUnavailable", "backend", explained=explained)


def failed(explained: bool, reason: str = "BackendConnectionFailure") -> Reply:
    """A back end that could not be reached, or a policy that failed."""
    section = "backend" if reason == "BackendConnectionFailure" else "outbound"
    return _own(500, "Internal server error", reason, section, explained=explained, activity_id=new_id())
