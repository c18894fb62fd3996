"""The bytes of one call, as they go onto the wire.

The deployment is named in a dated chat or embeddings path; everywhere else the body names it, as `model`. Whatever a
target gives of body fields and headers wins over ours, and a body field of null takes ours away.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from probe.prompts import Prompt
from probe.target import Target

USER_AGENT = "aoai-headroom/0.1"

# Gives the bearer token for a target without a key.
TokenProvider = Callable[[Target], str]


def streams(target: Target, stream: bool) -> bool:
    """Whether a call that is asked to stream does: embeddings never do."""
    return stream and target.surface != "embeddings"


def build_request(target: Target, prompt: Prompt, *, stream: bool, bearer: str | None = None) -> bytes:
    content = msgspec.json.encode(_body(target, prompt, stream))
    fields = {"Accept": "text/event-stream" if stream else "application/json", **_credential(target, bearer)}
    return framed(target, fields, content, target.extra_headers)


def framed(target: Target, fields: Mapping[str, str], content: bytes, given: Mapping[str, str]) -> bytes:
    """A request with these header fields and those that each one has; `given` wins over all of them."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    default_port = 443 if target.tls else 80
    ours = {
        "Host": host if target.port == default_port else f"{host}:{target.port}",
        **fields,
        "User-Agent": USER_AGENT,
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
    }
    names = {name.lower() for name in given}
    sent = {name: value for name, value in ours.items() if name.lower() not in names} | dict(given)
    head = [f"POST {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + content


def _body(target: Target, prompt: Prompt, stream: bool) -> dict[str, Any]:
    named = {"model": target.deployment} if target.names_model else {}
    body = named | asked(target, prompt, stream) | target.extra_body
    return {name: value for name, value in body.items() if value is not None}


def asked(target: Target, prompt: Prompt, stream: bool) -> dict[str, Any]:
    """The body's fields that are ours, without the model."""
    if target.surface == "embeddings":
        return {"input": "\n".join(message["content"] for message in prompt.messages)}
    if target.surface == "responses":
        return {"input": prompt.messages, "max_output_tokens": prompt.max_tokens, "stream": stream}
    body = {"messages": prompt.messages, target.max_tokens_field: prompt.max_tokens, "stream": stream}
    # Without it a stream says nothing about tokens.
    return body | {"stream_options": {"include_usage": True}} if stream else body


def _credential(target: Target, bearer: str | None) -> dict[str, str]:
    if target.api_key is not None:
        return {target.key_header: target.api_key}
    if bearer is None:
        raise ValueError(f"target {target.name} has no key, and no token provider was given")
    return {"Authorization": f"Bearer {bearer}"}
