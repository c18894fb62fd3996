"""`probe access`: tries made-up credentials at a target and says what its refusals give away of its configuration.

A real credential goes only where the target's own calls go: the gateway's key to the gateway, the resource's to the
resource. Everything else that is sent is made up on the spot.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from probe.advice import EXIT_EXPECTATION, EXIT_OK, EXIT_UNREACHABLE
from probe.asking import NOTHING, Credential, ask, configured, made_up_key, made_up_token
from probe.calling import choose, complete, say, targets
from probe.identity import token_provider
from probe.options import trusting
from probe.posture import Attempt, Finding, Trial, attempt, findings, held_against, read_expectation
from probe.spending import ask_to_send, is_remote
from probe.target import SettingsError, Target

_AUDIENCE = "https://cognitiveservices.azure.com"
_ELSEWHERE = "https://management.azure.com"
_EPILOG = """\b
NAME=VALUE can be: keys=accepted|disabled, entra=accepted|off, public=open|closed, refusals=right|wrong;
of a gateway gateway_keys=demanded|not-demanded, gateway_entra=accepted|off|ignored, gateway_refusals=right|wrong,
gateway_backend=reached|refused; of both gateway_signs_in=token|key, bypass=open|closed. What cannot be told is
unknown, and fails whatever else was expected.
\b
Exit codes: 0 as expected, 2 a setting is wrong, 3 nothing could be reached, 7 an expectation failed or a made-up
credential was let in, 130 interrupted."""


@click.command(epilog=_EPILOG, context_settings={"auto_envvar_prefix": "HEADROOM_PROBE_ACCESS", "show_default": True})
@click.argument("target", required=False, shell_complete=complete)
@click.option(
    "--via", metavar="GATEWAY", shell_complete=complete, help="the target that is the gateway in front of TARGET"
)
@click.option(
    "--direct", metavar="RESOURCE", shell_complete=complete, help="the target that is the resource behind TARGET"
)
@click.option("--expect", "expected", metavar="NAME=VALUE|FILE", multiple=True, help="what has to be so; repeatable")
@click.option("-o", "--output", type=click.Choice(["text", "json", "none"]), default="text", help="json: one object")
@click.option("--timeout", default=20.0, type=click.FloatRange(0.1, 600), help="seconds for each request")
@click.option("--yes", is_flag=True, envvar="HEADROOM_YES", help="send to a real endpoint without asking")
@trusting
def access(
    target: str | None,
    via: str | None,
    direct: str | None,
    expected: tuple[str, ...],
    output: str,
    timeout: float,
    yes: bool,
) -> NoReturn:
    """Say how TARGET is protected, from its refusals: nothing is generated, nothing is billed.

    \b
    probe access east                             keys, Microsoft Entra, the network
    probe access east --via apim                  and the gateway in front, and the way round it
    probe access east --expect keys=disabled --expect public=closed
    probe access apim --direct east --expect posture.txt
    """
    wanted = dict(_expectations(expected))
    with ExitStack() as stack:
        subjects = _subjects(targets(stack), target, via, direct)
        say(f"{6 * len(subjects)} requests without a prompt; they count as requests and are not billed")
        if is_remote(subjects):
            ask_to_send(yes)
        attempts = [one for subject in subjects for one in try_at(subject, timeout)]
    found = held_against(findings(attempts), wanted)
    {"text": _show, "json": _write, "none": lambda *_: None}[output](attempts, found)
    sys.exit(_exit_code(attempts, found))


def _expectations(given: Iterable[str]) -> Iterator[tuple[str, str]]:
    for one in given:
        for line in [one] if "=" in one else _lines(Path(one)):
            try:
                yield read_expectation(line)
            except ValueError as error:
                raise SettingsError(f"--expect {one}: {error}") from None


def _lines(path: Path) -> list[str]:
    """One expectation a line; # begins a comment."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(f"--expect {path}: no NAME=VALUE, and no file that can be read: {reason}") from None
    return [line for each in text.splitlines() if (line := each.partition("#")[0].strip())]


def _subjects(found: dict[str, Target], name: str | None, via: str | None, direct: str | None) -> list[Target]:
    first = choose(found, name)
    gateways = [choose(found, via)] if via is not None else []
    resources = [choose(found, direct)] if direct is not None else []
    (gateways if first.gateway == "apim" and via is None else resources).insert(0, first)
    if len(gateways) > 1 or len(resources) > 1:
        raise SettingsError(
            "one gateway and one resource at most: --via names the gateway before a resource, --direct "
            "the resource behind a gateway"
        )
    for one in gateways:
        if one.gateway != "apim":
            raise SettingsError(f'{one.name} is no gateway by its settings; give it gateway = "apim"')
    return [*resources, *gateways]


def try_at(subject: Target, timeout: float) -> Iterator[Attempt]:
    for trial, credential in _credentials(subject).items():
        yield attempt(subject.name, subject.gateway == "apim", trial, ask(subject, credential, timeout))


def _credentials(subject: Target) -> dict[Trial, Credential]:
    token = None if subject.api_key is not None else token_provider(subject.identity, subject.trust)()
    return {
        "no credential": NOTHING,
        "wrong key": {subject.key_header: made_up_key()},
        "garbage token": _bearer(made_up_key()),
        "expired token": _bearer(made_up_token(_AUDIENCE, -3600)),
        "token for another": _bearer(made_up_token(_ELSEWHERE, 3600)),
        "own credential": configured(subject, token),
    }


def _bearer(token: str) -> Credential:
    return {"Authorization": f"Bearer {token}"}


def _exit_code(attempts: list[Attempt], found: list[Finding]) -> int:
    if "fail" in [one.verdict for one in attempts] + [one.verdict for one in found]:
        return EXIT_EXPECTATION
    return EXIT_UNREACHABLE if all(one.meaning == "unreachable" for one in attempts) else EXIT_OK


def _show(attempts: list[Attempt], found: list[Finding]) -> None:
    from rich.console import Console

    from probe.listing import show

    console = Console()
    rows = [(one.verdict, one.target, one.trial, one.who, _came_back(one), one.expected) for one in attempts]
    show(console, ("", "target", "tried", "answered by", "came back", "expected"), rows)
    console.print()
    said = [(one.verdict, one.name, one.value, one.expected or "", one.because) for one in found]
    show(console, ("", "finding", "is", "expected", "because"), said)


def _came_back(one: Attempt) -> str:
    answer = one.answer
    if answer.status is None:
        return f"{answer.error}: {answer.error_message}"
    code = "" if answer.code in ("", str(answer.status)) else f", {answer.code}"
    return f"{answer.status} {one.meaning}{code}"


def _write(attempts: list[Attempt], found: list[Finding]) -> None:
    told = {"attempts": [_attempt(one) for one in attempts], "findings": [_finding(one) for one in found]}
    click.echo(msgspec.json.encode(told))


def _attempt(one: Attempt) -> dict[str, Any]:
    answer = one.answer
    said = {
        "target": one.target,
        "tried": one.trial,
        "status": answer.status,
        "code": answer.code or None,
        "message": answer.message or None,
        "error": answer.error,
        "answered_by": None if one.who == "nobody" else one.who,
        "meaning": one.meaning,
        "expected": one.expected,
        "verdict": one.verdict,
    }
    return {name: value for name, value in said.items() if value is not None}


def _finding(one: Finding) -> dict[str, Any]:
    said = {"name": one.name, "value": one.value, "because": one.because, "verdict": one.verdict}
    return said if one.expected is None else {**said, "expected": one.expected}
