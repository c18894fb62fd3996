"""`probe doctor`: the way to a target step by step, one line each, with the remedy for what fails.

Nothing is generated and nothing is billed (`probe.asking`). A certificate that is not trusted is looked at over a
second connection on which nothing is sent.
"""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, NoReturn

import click
import msgspec

from probe.advice import EXIT_OK, EXIT_REFUSED, EXIT_UNREACHABLE
from probe.asking import Answer, Credential, ask, configured
from probe.calling import choose, complete, targets
from probe.channel import SecureChannel
from probe.dialing import Dialed, Proxy, dial, proxy_for, tls_context
from probe.errors import TransportError
from probe.escaping import json_printable
from probe.headers import describe
from probe.hosts import is_loopback
from probe.identity import token_provider
from probe.options import trusting
from probe.posture import attempt, is_private
from probe.target import V1, SettingsError, Target, Trust
from probe.waiting import OneAtATime

_EPILOG = """\b
Exit codes: 0 nothing fails, 2 a setting is wrong, 3 the target cannot be reached, 4 it refuses (credential,
version, deployment) or its answer is no answer, 130 interrupted."""
# The newest dated version that is no preview; what came after it is the v1 API.
_NEWEST_DATED = "2024-10-21"
# Microsoft Entra's tokens and the service's logs put up with so much.
_SKEW_SEEN, _SKEW_TOO_MUCH = 5.0, 300.0
_SOON_DAYS = 14

State = Literal["ok", "warn", "fail", "skipped"]


class Check(NamedTuple):
    name: str
    state: State
    said: str
    remedy: str = ""
    code: int = EXIT_OK


class _StoppedError(Exception):
    """What comes after this check cannot be looked at."""


@click.command(epilog=_EPILOG, context_settings={"auto_envvar_prefix": "HEADROOM_PROBE_DOCTOR", "show_default": True})
@click.argument("target", required=False, shell_complete=complete)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: one object a check")
@click.option("--timeout", default=20.0, type=click.FloatRange(0.1, 600), help="seconds for each step")
@trusting
def doctor(target: str | None, output: str, timeout: float) -> NoReturn:
    """Look at everything on the way to TARGET: name, proxy, TCP, TLS, clock, credential, version, deployment.

    \b
    probe doctor                  the configured target, or the simulator
    probe doctor west -o json     for a script
    """
    with ExitStack() as stack:
        chosen = choose(targets(stack), target)
        checks = list(_shown(_examined(chosen, timeout), output))
    sys.exit(next((one.code for one in checks if one.state == "fail"), EXIT_OK))


_STEPS = ("target", "dns", "proxy", "tcp", "tls", "http", "clock", "credential", "api-version", "deployment", "entra")


def _examined(target: Target, timeout: float) -> Iterator[Check]:
    """Every step: those after one that stops it are skipped."""
    done: list[Check] = []
    try:
        for check in _steps(target, timeout):
            done.append(check)
            yield check
    except _StoppedError:
        names = {check.name for check in done}
        for name in _STEPS:
            if name not in names:
                yield Check(name, "skipped", f"not looked at, because of {done[-1].name}")


def _steps(target: Target, timeout: float) -> Iterator[Check]:
    key = f"a key, as {target.key_header}" if target.api_key is not None else "Microsoft Entra"
    yield Check("target", "ok", f"{target.name}: {target.endpoint}, {target.deployment}, {target.api_version}, {key}")
    proxy, proxied = _proxy(target)
    named = _dns(target, proxy is not None)
    yield named
    yield proxied
    if "fail" in (named.state, proxied.state):
        raise _StoppedError
    yield from _connection(target, timeout)
    credential, problem = _credential(target)
    if problem is not None:
        yield problem
        raise _StoppedError
    answer = ask(target, credential, timeout)
    yield from _http(answer)
    yield _clock(answer)
    yield from _answered(target, answer, credential, timeout)
    yield _entra(target, timeout)


def _proxy(target: Target) -> tuple[Proxy | None, Check]:
    if not target.tls:
        return None, Check("proxy", "ok", "none: plain HTTP, to this machine only")
    try:
        proxy = proxy_for(target.host)
    except TransportError as error:
        return None, Check("proxy", "fail", str(error), "mend HTTPS_PROXY, or unset it", EXIT_UNREACHABLE)
    if proxy is None:
        return None, Check("proxy", "ok", "none: HTTPS_PROXY is not set, or NO_PROXY names the host")
    user = "***@" if proxy.authorization else ""
    return proxy, Check("proxy", "ok", f"through http://{user}{proxy.host}:{proxy.port} (HTTPS_PROXY)")


def _dns(target: Target, proxied: bool) -> Check:
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
    except (OSError, UnicodeError) as error:
        said = f"{target.host}: {getattr(error, 'strerror', None) or error}"
        if proxied:
            return Check("dns", "warn", f"{said}; the proxy may know it")
        remedy = (
            "check the name; of a private endpoint, link its DNS zone (privatelink.openai.azure.com) or use the VPN"
        )
        return Check("dns", "fail", said, remedy, EXIT_UNREACHABLE)
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    shown = ", ".join(addresses[:3]) + (", ..." if len(addresses) > 3 else "")
    canonical = next((one[3] for one in found if one[3]), "")
    alias = f", alias {canonical}" if canonical and canonical.lower() != target.host.lower() else ""
    return Check("dns", "ok", f"{_kind(addresses, canonical)}: {shown}{alias}")


def _kind(addresses: list[str], canonical: str) -> str:
    if all(is_private(one) for one in addresses):
        return "private endpoint" if "privatelink" in canonical else "private address"
    return "this machine" if all(is_loopback(one) for one in addresses) else "public endpoint"


def _connection(target: Target, timeout: float) -> Iterator[Check]:
    """TCP and TLS, through the proxy where there is one."""
    dialed = Dialed()
    context = tls_context(target.trust) if target.tls else None
    try:
        channel = _dial(target, context, timeout, dialed)
    except TransportError as error:
        yield from _no_connection(target, error, dialed, timeout)
        raise _StoppedError from None
    yield _tcp(dialed)
    if isinstance(channel, SecureChannel):
        yield _tls(target, *channel.certificate())
    else:
        yield Check("tls", "ok", "none: plain HTTP, to this machine only")
    channel.close()


def _dial(target: Target, context: Any, timeout: float, dialed: Dialed) -> Any:
    return dial(
        target.host, target.port, tls=context, stamps=False, seconds=timeout, waiting=OneAtATime(), dialed=dialed
    )


def _tcp(dialed: Dialed) -> Check:
    return Check("tcp", "ok", f"connected to {dialed.peer} in {(dialed.connect or 0.0) * 1000:,.1f} ms")


def _no_connection(target: Target, error: TransportError, dialed: Dialed, timeout: float) -> Iterator[Check]:
    if error.kind == "tls":
        yield _tcp(dialed)
        said = f"{error}; {_whose(target, timeout)}"
        remedy = "where a company's own authority signed it, give its certificate: HEADROOM_CA_BUNDLE or SSL_CERT_FILE"
        yield Check("tls", "fail", said, remedy, EXIT_UNREACHABLE)
        return
    name = "proxy" if error.kind == "proxy" else "tcp"
    remedy = {
        "proxy": "check HTTPS_PROXY and its password, or name the host in NO_PROXY",
        "dns": "check the name in AZURE_OPENAI_ENDPOINT",
    }.get(error.kind, "a firewall in between, the wrong port, or a network that does not lead there")
    yield Check(name, "fail", str(error), remedy, EXIT_UNREACHABLE)


def _whose(target: Target, timeout: float) -> str:
    """Of a certificate that is not trusted: who it says it is, and who signed it. Nothing is sent."""
    try:
        channel = _dial(target, tls_context(Trust(verified=False)), timeout, Dialed())
    except TransportError as error:
        return f"the certificate could not be looked at: {error}"
    subject, issuer, ends = _read_certificate(channel.certificate()[0])
    channel.close()
    return f"it is of {subject}, signed by {issuer}, valid until {ends:%Y-%m-%d}"


def _tls(target: Target, certificate: bytes, version: str) -> Check:
    if not target.trust.verified:
        return Check("tls", "warn", f"{version}, not verified", "leave out --insecure-skip-verify")
    subject, issuer, ends = _read_certificate(certificate)
    days = (ends - datetime.now(UTC)).days
    bundle = "" if target.trust.ca_bundle is None else f", with {target.trust.ca_bundle}"
    said = f"{version}, {subject}, signed by {issuer}, {days:,} days left{bundle}"
    return (
        Check("tls", "ok", said) if days > _SOON_DAYS else Check("tls", "warn", said, "it ends soon; have it renewed")
    )


def _read_certificate(der: bytes) -> tuple[str, str, datetime]:
    # It comes with azure-identity.
    from cryptography import x509

    found = x509.load_der_x509_certificate(der)
    return found.subject.rfc4514_string() or "nobody", found.issuer.rfc4514_string(), found.not_valid_after_utc


def _credential(target: Target) -> tuple[Credential, Check | None]:
    if target.api_key is not None:
        return configured(target, None), None
    try:
        return configured(target, token_provider(target.identity, target.trust)()), None
    except SettingsError as error:
        said, _, remedy = str(error).rpartition("; ")
        return {}, Check("credential", "fail", said, remedy, EXIT_REFUSED)


def _http(answer: Answer) -> Iterator[Check]:
    if answer.status is None:
        said = f"{answer.error}: {answer.error_message}"
        remedy = "what listens there is no Azure OpenAI; check port and path"
        if str(answer.error).startswith("timeout"):
            remedy = "it took the call and is slow, or no Azure OpenAI; --timeout gives it longer"
        yield Check("http", "fail", said, remedy, EXIT_UNREACHABLE)
        raise _StoppedError
    yield Check("http", "ok", f"answered {answer.status}")


def _clock(answer: Answer) -> Check:
    date = describe("date", answer.header("date") or "").parsed
    if not isinstance(date, datetime):
        return Check("clock", "skipped", "the reply has no date")
    # It has whole seconds only: half of one on average is missing.
    skew = date.timestamp() + 0.5 - answer.wall
    said = f"this machine is {abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} the server, give or take 1 s"
    if abs(skew) <= _SKEW_SEEN:
        return Check("clock", "ok", said)
    state: State = "fail" if abs(skew) > _SKEW_TOO_MUCH else "warn"
    return Check("clock", state, said, "set it by NTP: tokens are refused and logs are not found", EXIT_REFUSED)


_LET_IN_REMEDY = {
    "key refused": "check the key, and that it is this resource's: AZURE_OPENAI_API_KEY",
    "key demanded": "the gateway wants a subscription key: HEADROOM_KEY_HEADER=Ocp-Apim-Subscription-Key sends it so",
    "keys disabled": "the resource takes no keys: HEADROOM_AUTH=entra signs in with Microsoft Entra",
    "token refused": "the token is for another audience, or has expired; run `az login`",
    "no role": "give the identity the role Cognitive Services OpenAI User on the resource",
    "network closed": "the resource's network keeps this machine out: use its private endpoint, or allow this address",
}


def _answered(target: Target, answer: Answer, credential: Credential, timeout: float) -> Iterator[Check]:
    meaning = attempt(target.name, target.gateway == "apim", "own credential", answer).meaning
    told = f"{answer.status} {answer.message}".strip()[:200]
    no_path = answer.status == 404 and answer.code != "DeploymentNotFound"
    if meaning != "let in" and not no_path:
        state: State = "warn" if meaning == "throttled" else "fail"
        remedy = _LET_IN_REMEDY.get(meaning, "what answers there does not answer as Azure OpenAI does")
        yield Check("credential", state, f"{meaning}: {told}", remedy, EXIT_REFUSED)
        raise _StoppedError
    yield Check("credential", "ok", f"{'the key' if target.api_key is not None else 'the token'} is accepted")
    if no_path:
        remedy = "there is no such version or path: unset OPENAI_API_VERSION for the v1 API, and check the endpoint"
        yield Check("api-version", "fail", f"{target.api_version}: {told}", remedy, EXIT_REFUSED)
        raise _StoppedError
    yield _version(target, credential, timeout)
    yield _deployment(target, answer)


def _version(target: Target, credential: Credential, timeout: float) -> Check:
    version = target.api_version
    if version == V1:
        return Check("api-version", "ok", "the v1 API, which has none")
    v1 = ask(target, credential, timeout, api_version=V1)
    too = attempt(target.name, target.gateway == "apim", "own credential", v1).meaning == "let in" and v1.status != 404
    newer = "; the v1 API, which needs none, answers here too" if too else ""
    if version < _NEWEST_DATED:
        remedy = f"older than {_NEWEST_DATED}, and to be withdrawn: unset OPENAI_API_VERSION or name a newer one"
        return Check("api-version", "warn", f"{version} is accepted{newer}", remedy)
    return Check("api-version", "ok", f"{version} is accepted{newer}")


def _deployment(target: Target, answer: Answer) -> Check:
    if answer.code == "DeploymentNotFound":
        remedy = "check AZURE_OPENAI_DEPLOYMENT: it is the deployment's name, not the model's"
        return Check("deployment", "fail", f"there is no {target.deployment}", remedy, EXIT_REFUSED)
    return Check("deployment", "ok", f"{target.deployment} is there")


def _entra(target: Target, timeout: float) -> Check:
    if target.api_key is None:
        return Check("entra", "ok", "it is what the calls carry")
    if target.gateway == "apim":
        return Check("entra", "skipped", "a token of yours is not sent to a gateway that is called with a key")
    try:
        token = token_provider(target.identity, target.trust)()
    except SettingsError as error:
        return Check("entra", "skipped", str(error).partition(";")[0])
    bearer = {"Authorization": f"Bearer {token}"}
    meaning = attempt(target.name, False, "own credential", ask(target, bearer, timeout)).meaning
    if meaning == "let in":
        return Check("entra", "ok", "a token is accepted as well")
    return Check("entra", "warn", f"a token is not: {meaning}", _LET_IN_REMEDY.get(meaning, ""))


def _shown(checks: Iterator[Check], output: str) -> Iterator[Check]:
    """Each as soon as it is known."""
    from rich.console import Console

    from probe.listing import show

    console = Console()
    for check in checks:
        if output == "json":
            told = {name: value for name, value in check._asdict().items() if value not in ("", EXIT_OK)}
            click.echo(json_printable(msgspec.json.encode(told).decode()))
        else:
            said = f"{check.said}; {check.remedy}" if check.remedy else check.said
            show(console, (), [(f"{check.state:<7}", f"{check.name:<11}", said)])
        yield check
