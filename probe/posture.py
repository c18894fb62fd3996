"""The security posture of a target as its refusals show it: what was tried, what came back, what follows. Pure.

Facts.    Observed: a key of a resource that takes none is refused 403 AuthenticationTypeDisabled; a wrong key 401 with
          a top-level `error`; a missing or bad token 401 with a top-level `statusCode`, the shape that is otherwise API
          Management's, told by its sentence; a closed network 403, by its message or `policy-id`. API Management's own
          refusals speak of a subscription key.
Inferred. A resource that takes no keys says so of a wrong one too, so no real key is needed to find out. A service
          looks at the network before the credential: behind a closed network nothing can be told of credentials.
Unknown.  What could not be told is `unknown`, and an expectation of anything else fails on it: a gate that cannot see
          must not open.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from probe.asking import Answer

Meaning = Literal[
    "let in",
    "key refused",
    "keys disabled",
    "key demanded",
    "token refused",
    "no role",
    "network closed",
    "forbidden",
    "throttled",
    "failed",
    "unreachable",
    "unclear",
]
Who = Literal["service", "gateway", "nobody"]
Verdict = Literal["pass", "fail", "unknown", "told"]
Trial = Literal["no credential", "wrong key", "garbage token", "expired token", "token for another", "own credential"]

TOKENS: tuple[Trial, ...] = ("garbage token", "expired token", "token for another")
MADE_UP: tuple[Trial, ...] = ("no credential", "wrong key", *TOKENS)

# What each finding can be; `unknown` besides.
VALUES: Mapping[str, tuple[str, ...]] = {
    "keys": ("accepted", "disabled"),
    "entra": ("accepted", "off"),
    "public": ("open", "closed"),
    "refusals": ("right", "wrong"),
    "gateway_keys": ("demanded", "not-demanded"),
    "gateway_entra": ("accepted", "off", "ignored"),
    "gateway_refusals": ("right", "wrong"),
    "gateway_backend": ("reached", "refused"),
    "gateway_signs_in": ("token", "key"),
    "bypass": ("open", "closed"),
}
UNKNOWN = "unknown"

_REFUSED: set[Meaning] = {"key refused", "keys disabled", "key demanded", "token refused", "no role"}
_PASSED_TO_SERVICE: set[Meaning] = {*_REFUSED, "let in", "network closed", "forbidden"}


class Attempt(NamedTuple):
    """One trial at one target, with what its answer means."""

    target: str
    gateway: bool
    trial: Trial
    answer: Answer
    meaning: Meaning
    who: Who

    @property
    def forwarded(self) -> bool:
        """Whether a gateway passed it on: the answer is that of the service behind it."""
        return self.gateway and self.who == "service" and self.meaning in _PASSED_TO_SERVICE

    @property
    def verdict(self) -> Verdict:
        """Of a made-up credential, whether it was refused as such."""
        if self.trial == "own credential":
            return "told"
        if self.meaning == "let in":
            return "fail"
        return "pass" if self.meaning in _REFUSED else "unknown"

    @property
    def expected(self) -> str:
        return "" if self.trial == "own credential" else "refused"


class Finding(NamedTuple):
    """`expected` is what the user asked for, None where nothing."""

    name: str
    value: str
    because: str
    expected: str | None = None

    @property
    def verdict(self) -> Verdict:
        if self.expected is None:
            return "told"
        return "pass" if self.value == self.expected else "fail"


def attempt(target: str, gateway: bool, trial: Trial, answer: Answer) -> Attempt:
    who = _who(answer)
    return Attempt(target, gateway, trial, answer, _meaning(answer, who, trial), who)


def _who(answer: Answer) -> Who:
    """Which of them answered. A gateway may have taken the service's id away; the shapes of bodies stay."""
    if answer.status is None:
        return "nobody"
    if answer.header("apim-request-id") or "error" in answer.body or _is_token_refusal(answer):
        return "service"
    return "gateway" if "statusCode" in answer.body else "nobody"


def _is_token_refusal(answer: Answer) -> bool:
    return answer.message.startswith("Unauthorized. Access token is missing")


def _meaning(answer: Answer, who: Who, trial: Trial) -> Meaning:
    status = answer.status
    if status is None:
        return "unreachable"
    if status == 429:
        return "throttled"
    if status >= 500:
        return "failed"
    if status == 401:
        return _unauthorized(answer, who, trial)
    if status == 403:
        return _forbidden(answer)
    # Let in, and only then told what is wrong with the request. From a gateway it would have to be the service's word.
    return "let in" if who == "service" and (status < 300 or status in (400, 404, 422)) else "unclear"


def _unauthorized(answer: Answer, who: Who, trial: Trial) -> Meaning:
    message = answer.message.lower()
    if who == "gateway":
        if "missing subscription key" in message:
            return "key demanded"
        return "key refused" if "subscription key" in message or trial not in TOKENS else "token refused"
    if answer.code == "PermissionDenied" or "data action" in message:
        return "no role"
    if _is_token_refusal(answer) or "token" in message:
        return "token refused"
    return "key refused"


def _forbidden(answer: Answer) -> Meaning:
    message = answer.message.lower()
    if answer.code == "AuthenticationTypeDisabled":
        return "keys disabled"
    closed = "public access is disabled" in message or "virtual network/firewall" in message
    if closed or answer.header("policy-id") == "ThrowExceptionDueToTrafficDenied":
        return "network closed"
    return "forbidden"


def findings(attempts: Iterable[Attempt]) -> list[Finding]:
    """What follows from the trials at a service, at a gateway, and at both."""
    direct = {one.trial: one for one in attempts if not one.gateway}
    gateway = {one.trial: one for one in attempts if one.gateway}
    found = []
    if direct:
        found += [_keys(direct), _entra(direct), _public(direct), _refusals("refusals", direct)]
    if gateway:
        found += [_gateway_keys(gateway), _gateway_entra(gateway), _refusals("gateway_refusals", gateway)]
        found.append(_backend(gateway))
    if direct and gateway:
        found += [_signs_in(found), _bypass(direct, _named(found, "public"))]
    return found


Trials = Mapping[Trial, Attempt]


def _keys(trials: Trials) -> Finding:
    own, wrong = trials.get("own credential"), trials["wrong key"]
    if wrong.meaning == "keys disabled" or (own is not None and own.meaning == "keys disabled"):
        return Finding("keys", "disabled", "a key is refused as AuthenticationTypeDisabled")
    if wrong.meaning == "key refused":
        return Finding("keys", "accepted", "a made-up key is refused as wrong, not as disabled")
    return Finding("keys", UNKNOWN, f"a made-up key: {wrong.meaning}")


def _entra(trials: Trials) -> Finding:
    meanings = [trials[trial].meaning for trial in TOKENS]
    if "token refused" in meanings or "no role" in meanings:
        return Finding("entra", "accepted", "a made-up token is refused as a bad token")
    if {*meanings} == {"key refused"}:
        return Finding("entra", "off", "a token is refused like a missing key")
    if {*meanings} == {"keys disabled"}:
        return Finding("entra", "off", "a token is taken for a key")
    return Finding("entra", UNKNOWN, f"made-up tokens: {meanings[0]}")


def _public(trials: Trials) -> Finding:
    answers = list(trials.values())
    if any(one.meaning == "network closed" for one in answers):
        return Finding("public", "closed", "refused from here by the network's rules")
    reached = next((one for one in answers if one.who == "service"), None)
    if reached is None:
        return Finding("public", UNKNOWN, "no reply of the service: a closed network and an outage look the same")
    if is_private(reached.answer.peer):
        return Finding("public", UNKNOWN, f"reached at the private address {reached.answer.peer}")
    return Finding("public", "open", "reached from here, with no network's rule in the way")


def is_private(address: str | None) -> bool:
    """Of a private network. The loopback is where simulators and tunnels are, and is none."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    return found.is_private and not found.is_loopback


def _refusals(name: str, trials: Trials) -> Finding:
    verdicts = {trial: trials[trial].verdict for trial in MADE_UP}
    wrong = [trial for trial, verdict in verdicts.items() if verdict == "fail"]
    if wrong:
        return Finding(name, "wrong", f"let in: {', '.join(wrong)}")
    if set(verdicts.values()) == {"pass"}:
        return Finding(name, "right", "every made-up credential is refused")
    unclear = next(trial for trial, verdict in verdicts.items() if verdict == "unknown")
    return Finding(name, UNKNOWN, f"{unclear}: {trials[unclear].meaning}")


def _gateway_keys(trials: Trials) -> Finding:
    none, wrong = trials["no credential"], trials["wrong key"]
    if none.forwarded or wrong.forwarded:
        which = none if none.forwarded else wrong
        return Finding("gateway_keys", "not-demanded", f"with {which.trial} the call goes on to the service")
    if none.who == "gateway" and none.meaning == "key demanded":
        return Finding("gateway_keys", "demanded", "without one the gateway itself refuses")
    return Finding("gateway_keys", UNKNOWN, f"no credential: {none.meaning}")


def _gateway_entra(trials: Trials) -> Finding:
    tokens = [trials[trial] for trial in TOKENS]
    if any(one.forwarded for one in tokens):
        return Finding("gateway_entra", "ignored", "a call with a made-up token goes on to the service")
    if all(one.who == "gateway" and one.meaning == "token refused" for one in tokens):
        return Finding("gateway_entra", "accepted", "the gateway itself refuses a made-up token as one")
    if all(one.who == "gateway" and one.meaning in ("key refused", "key demanded") for one in tokens):
        return Finding("gateway_entra", "off", "the gateway asks for a key, whatever token is sent")
    return Finding("gateway_entra", UNKNOWN, f"made-up tokens: {tokens[0].meaning}")


def _backend(trials: Trials) -> Finding:
    """What the service says to the gateway's own credential, on any call that goes on to it."""
    name = "gateway_backend"
    own = trials.get("own credential")
    passed = [one for one in (own, *trials.values()) if one is not None and one.forwarded]
    if not passed:
        return Finding(name, UNKNOWN, "no call went on to the service" if own is None else f"own key: {own.meaning}")
    if passed[0].meaning == "let in":
        return Finding(name, "reached", "the service lets the gateway's call in")
    return Finding(name, "refused", f"the service refuses the gateway's call: {passed[0].meaning}")


def _signs_in(found: Iterable[Finding]) -> Finding:
    """With which kind of credential the gateway calls, where the service takes only one."""
    name, kinds = "gateway_signs_in", (_named(found, "keys").value, _named(found, "entra").value)
    if _named(found, "gateway_backend").value == "reached":
        if kinds[0] == "disabled":
            return Finding(name, "token", "the service takes no keys and lets the gateway in")
        if kinds[1] == "off":
            return Finding(name, "key", "the service takes no tokens and lets the gateway in")
    return Finding(name, UNKNOWN, "cannot be told from outside where the service takes both, or refuses")


def _bypass(direct: Trials, public: Finding) -> Finding:
    where = next(iter(direct.values())).target
    if public.value == "open":
        return Finding("bypass", "open", f"{where} answers without the gateway")
    return Finding("bypass", public.value, f"{where}: {public.because}")


def _named(found: Iterable[Finding], name: str) -> Finding:
    return next(one for one in found if one.name == name)


def held_against(found: Iterable[Finding], expected: Mapping[str, str]) -> list[Finding]:
    """The findings with what was expected of each; what was expected of something that was not looked at is unknown."""
    judged = [one._replace(expected=expected.get(one.name)) for one in found]
    missing = expected.keys() - {one.name for one in judged}
    return judged + [
        Finding(name, UNKNOWN, "not looked at: it needs another target", expected[name]) for name in sorted(missing)
    ]


def read_expectation(text: str) -> tuple[str, str]:
    """`NAME=VALUE`. Raises `ValueError` with what there is instead."""
    name, mark, value = (part.strip() for part in text.partition("="))
    if not mark:
        raise ValueError(f"{text!r} is no NAME=VALUE")
    if name not in VALUES:
        raise ValueError(f"there is no {name!r}; there are: {', '.join(VALUES)}")
    if value not in (*VALUES[name], UNKNOWN):
        raise ValueError(f"{name} is never {value!r}; it can be {', '.join((*VALUES[name], UNKNOWN))}")
    return name, value
