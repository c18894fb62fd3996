"""What to do about a call that did not come to an answer: one line for a person, and an exit code for a script."""

from probe.escaping import printable
from probe.explaining import explained
from probe.record import ObservedCall
from probe.target import V1, Target

EXIT_OK = 0
EXIT_SETTINGS = 2
EXIT_UNREACHABLE = 3
EXIT_REFUSED = 4
EXIT_BROKEN = 5
EXIT_THROTTLED = 6
# What a pipeline asked to be so is not.
EXIT_EXPECTATION = 7
EXIT_CAPPED = 8
EXIT_FAILING = 9
# A process of the run died, or met a bug of ours.
EXIT_LOST = 70
EXIT_DISK = 74
# The record is whole here, and was not sent whole.
EXIT_UNSENT = 75
EXIT_HUNG_UP = 129
EXIT_INTERRUPTED = 130
# Nobody reads its output any more, as after `| head`.
EXIT_UNREAD = 141
EXIT_TERMINATED = 143

_ANSWERED = {"ok", "ok_length", "filtered_output", "filtered_prompt"}
_UNREACHABLE = {"dns", "connect", "tls", "proxy", "timeout_connect", "timeout_first_byte"}
_REFUSED = {"auth", "forbidden", "not_found", "bad_request", "redirect_refused"}


def exit_code(call: ObservedCall) -> int:
    outcome = call.outcome
    if outcome in _ANSWERED:
        return EXIT_OK
    if outcome in _UNREACHABLE:
        return EXIT_UNREACHABLE
    if outcome in _REFUSED:
        return EXIT_REFUSED
    if outcome == "cancelled_user":
        return EXIT_INTERRUPTED
    return EXIT_THROTTLED if outcome == "throttled" else EXIT_BROKEN


def advice(call: ObservedCall, target: Target) -> str | None:
    """What is wrong and how to mend it, in one line; None where the call was answered."""
    code = exit_code(call)
    if code == EXIT_OK:
        return None
    what = f"{target.name}: {_what(call)}"
    return f"{what}; {_mend(call, target)}"


def _what(call: ObservedCall) -> str:
    parts = [call.outcome.replace("_", " ")]
    if call.status_code is not None:
        parts.append(f"(HTTP {call.status_code})")
    if call.error_message:
        parts.append(f"- {_one_line(call.error_message)}")
    return " ".join(parts)


def _one_line(message: str) -> str:
    """A server's words, with what could act on a terminal as escapes."""
    short = printable(" ".join(message.split())).rstrip(".")
    return short if len(short) <= 200 else short[:197] + "..."


def _mend(call: ObservedCall, target: Target) -> str:
    outcome = call.outcome
    if (said := explained(call)) is not None:
        return said
    if outcome == "auth":
        return _mend_auth(target)
    if outcome == "not_found":
        return _mend_not_found(call, target)
    if outcome == "connect" and call.connect is not None:
        return f"something at {target.endpoint} took the connection and hung up; is that the right port and scheme?"
    if outcome == "bad_request" and "max_tokens" in (call.error_message or ""):
        return "this model takes max_completion_tokens: set HEADROOM_MAX_TOKENS_FIELD=max_completion_tokens"
    if outcome == "gateway_error" and (call.status_code or 0) >= 500 and target.api_version == V1:
        return (
            f"is {target.endpoint} an Azure OpenAI endpoint? Where it knows no v1 path, set OPENAI_API_VERSION, such as"
            " 2024-10-21"
        )
    return {
        "dns": f"check the name {target.host} in AZURE_OPENAI_ENDPOINT",
        "connect": f"is anything listening at {target.endpoint}? Check AZURE_OPENAI_ENDPOINT",
        "tls": "its certificate is not trusted here; --ca-bundle (HEADROOM_CA_BUNDLE) takes a company's own authority",
        "timeout_connect": f"{target.host} does not answer; check the network and AZURE_OPENAI_ENDPOINT",
        "timeout_first_byte": "it took the call and sent nothing back; give it longer, or look at the gateway",
        "forbidden": "the key or identity may not call this resource, or its network rules keep you out",
        "bad_request": "check OPENAI_API_VERSION and what the model takes",
        "redirect_refused": "redirects are not followed, because the key would go along; use the final address",
        "proxy": "check HTTPS_PROXY, or name the host in NO_PROXY to go round the proxy",
        "stream_stalled": "Azure's load balancers cut a connection silent for 4 min; look at what is in between",
        "cancelled_user": "stopped before it ended",
    }.get(outcome, f"is {target.endpoint} an Azure OpenAI endpoint?")


def _mend_auth(target: Target) -> str:
    if target.api_key is None:
        return "the identity needs a data-plane role such as Cognitive Services OpenAI User on the resource"
    other = "Ocp-Apim-Subscription-Key" if target.key_header == "api-key" else "api-key"
    mend = f"check the key (AZURE_OPENAI_API_KEY), sent as {target.key_header}"
    return f"{mend}; HEADROOM_KEY_HEADER={other} sends it by the other name" if target.gateway == "apim" else mend


def _mend_not_found(call: ObservedCall, target: Target) -> str:
    if call.error_type == "DeploymentNotFound":
        return f"there is no deployment {target.deployment!r}; check AZURE_OPENAI_DEPLOYMENT"
    version = "unset OPENAI_API_VERSION to use the v1 path" if target.api_version != V1 else "set OPENAI_API_VERSION"
    return f"no such path {target.path!r}; check AZURE_OPENAI_ENDPOINT, or {version}"
