"""A call on its way through a gateway: what was asked, and what the gateway learns."""

import json
import re
from typing import Any

import msgspec
from aiohttp import web

from simulator.call import Call
from simulator.service.limits import text_of
from simulator.wire import Header, new_id

_USAGE = re.compile(rb'"usage":\s*(?=\{)')
_DECODER = json.JSONDecoder()


class Visit:
    """`asked` is the request's body, `body` the back end's reply as far as it has come. Times are monotonic seconds."""

    def __init__(self, request: web.BaseRequest, call: Call, asked: bytes) -> None:
        self.request = request
        self.call = call
        self.asked = asked
        self.fields = _object(asked)
        self.correlation_id = new_id()
        self.cached = False
        self.estimated_tokens = 0
        self.backend_url: str | None = None
        self.backend_called: float | None = None
        self.backend_ended: float | None = None
        self.backend_status: int | None = None
        self.backend_headers: list[Header] = []
        self.body = bytearray()

    @property
    def stream(self) -> bool:
        return self.fields.get("stream") is True

    @property
    def deployment(self) -> str:
        found = re.search(r"/deployments/([^/]+)/", self.request.path)
        return found[1] if found else str(self.fields.get("model") or "")

    def prompt(self) -> str:
        messages = self.fields.get("messages")
        if isinstance(messages, list):
            return "\n".join(text_of(one.get("content")) for one in messages if isinstance(one, dict))
        return str(self.fields.get("input") or self.fields.get("prompt") or "")

    def likeness(self) -> str:
        """Equal for two calls that the semantic cache takes for alike."""
        return f"{self.request.path}\n{' '.join(self.prompt().lower().split())}"

    def usage(self) -> dict[str, Any]:
        """The reply's usage, by the names of its surface; empty where it says none."""
        for found in reversed(list(_USAGE.finditer(self.body))):
            try:
                usage, _ = _DECODER.raw_decode(self.body[found.end() :].decode("utf-8", "replace"))
            except ValueError:
                continue
            return dict(usage)
        return {}

    def tokens(self) -> tuple[int | None, int | None, int | None]:
        """What the reply says it used: of the prompt, of the answer and together."""
        used = self.usage()
        return (
            used.get("prompt_tokens", used.get("input_tokens")),
            used.get("completion_tokens", used.get("output_tokens")),
            used.get("total_tokens"),
        )

    def completion_id(self) -> str | None:
        return self._last(rb'"id":\s*"((?:chatcmpl|cmpl|resp)[^"]+)"')

    def model(self) -> str | None:
        return self._last(rb'"model":\s*"([^"]+)"')

    def _last(self, pattern: bytes) -> str | None:
        found = re.findall(pattern, self.body)
        return found[-1].decode() if found else None


def _object(body: bytes) -> dict[str, Any]:
    """Empty where it is none: the back end will say what is wrong with it."""
    try:
        fields = msgspec.json.decode(body) if body else {}
    except msgspec.DecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}
