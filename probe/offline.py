"""A call that is not made: the exact request as text, and the same as a curl command. No secret is in either.

For curl a secret is a shell variable: the key `$AZURE_OPENAI_API_KEY`, an Entra token `$AZURE_OPENAI_AD_TOKEN`, and a
header of the user's own that lets its holder act one that is named after it. Everything else is quoted for a POSIX
shell.
"""

import shlex

from probe.escaping import printable
from probe.prompts import Prompt
from probe.request import build_request, streams
from probe.secrecy import SECRET, lets_act, scrubbed, scrubbed_bytes
from probe.target import Target

# curl sends these itself.
_CURLS_OWN = {"host", "content-length"}


def request_text(target: Target, prompt: Prompt, *, stream: bool) -> str:
    """The request line by line as it would go onto the wire, with [secret] for each secret."""
    head, body = _request(target, prompt, stream)
    fields = [f"{name}: {SECRET if _is_secret(target, name) else value}" for name, value in head[1:]]
    lines = [head[0][1], *fields, "", *body.split("\n")]
    return "\n".join(printable(line) for line in lines)


def curl(target: Target, prompt: Prompt, *, stream: bool) -> str:
    """A command for a POSIX shell that sends the same request and shows the reply's headers."""
    head, body = _request(target, prompt, stream)
    scheme = "https" if target.tls else "http"
    host = next(value for name, value in head if name.lower() == "host")
    url = shlex.quote(f"{scheme}://{host}{target.path}")
    # -N: a stream is shown as it comes.
    parts = [f"curl -i{'N' if streams(target, stream) else ''} {url}"]
    for name, value in head[1:]:
        if name.lower() not in _CURLS_OWN:
            parts.append(f"-H {_header(target, name, value)}")
    return " \\\n  ".join([*parts, f"--data-binary {shlex.quote(body)}"])


def _request(target: Target, prompt: Prompt, stream: bool) -> tuple[list[tuple[str, str]], str]:
    """The request line (under the name "") and the headers as they are, and the body without secrets."""
    raw, _, content = build_request(target, prompt, stream=stream, bearer=SECRET).partition(b"\r\n\r\n")
    line, *fields = raw.decode("latin-1").split("\r\n")
    named = [(name, value) for name, _, value in (field.partition(": ") for field in fields)]
    return [("", line), *named], scrubbed_bytes(content).decode("utf-8", "replace")


def _is_secret(target: Target, name: str) -> bool:
    return name.lower() in (target.key_header.lower(), "authorization") or lets_act(name)


def _header(target: Target, name: str, value: str) -> str:
    if name.lower() == "authorization":
        return f'"{name}: Bearer $AZURE_OPENAI_AD_TOKEN"'
    if name.lower() == target.key_header.lower():
        return f'"{name}: $AZURE_OPENAI_API_KEY"'
    if lets_act(name):
        return f'"{name}: ${name.upper().replace("-", "_")}"'
    return shlex.quote(f"{name}: {scrubbed(value)}")
