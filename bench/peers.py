"""The peers, each as its own documentation has it used, in real Locust: `locust -f bench/peers.py SDK`.

Each notes of every call the stamp that the server wrote into the first event, and when that event was in its hands.
"""

import os
import re
import ssl
import time
from collections.abc import Iterable
from functools import cache
from typing import Any

from locust import FastHttpUser, HttpUser, User, constant, task

from bench.noting import Noting, spread

_ENDPOINT = os.environ["AZURE_OPENAI_ENDPOINT"]
_PATH = "/openai/deployments/chat/chat/completions?api-version=2024-10-21"
_HEADERS = {"api-key": os.environ["AZURE_OPENAI_API_KEY"], "content-type": "application/json"}
_BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": os.environ["BENCH_PROMPT"]}],
    "max_tokens": 100,
    "stream": True,
    "stream_options": {"include_usage": True},
}
_STAMP = re.compile(r"\d{19}")

noting = Noting()


def _note(text: str, at: int, ended: bool) -> None:
    found = _STAMP.search(text)
    if found and ended:
        noting.call(at - int(found[0]))


class Lines(User):
    """Reads the lines of a stream, as what stands on top of an HTTP client does."""

    abstract = True
    host = _ENDPOINT
    wait_time = constant(0)

    def on_start(self) -> None:
        spread()

    def read(self, lines: Iterable[str | bytes]) -> None:
        first, at, ended = "", 0, False
        for line in lines:
            text = line if isinstance(line, str) else line.decode()
            if not first and '"content"' in text:
                first, at = text, time.perf_counter_ns()
            ended = ended or text.startswith("data: [DONE]")
        _note(first, at, ended)


class Http(Lines, HttpUser):
    @task
    def stream(self) -> None:
        asked: Any = {"json": _BODY, "headers": _HEADERS, "verify": os.environ.get("SSL_CERT_FILE", True)}
        with self.client.post(_PATH, stream=True, catch_response=True, **asked) as reply:
            self.read(reply.iter_lines())


class FastHttp(Lines, FastHttpUser):
    @task
    def stream(self) -> None:
        self.read(self.client.iter_lines(_PATH, "POST", json=_BODY, headers=_HEADERS))


class SDK(User):
    wait_time = constant(0)

    def on_start(self) -> None:
        import openai

        self.client = openai.AzureOpenAI(
            azure_endpoint=_ENDPOINT,
            api_key=_HEADERS["api-key"],
            api_version="2024-10-21",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(verify=_context()),
        )
        spread()

    @task
    def stream(self) -> None:
        first, at, began = "", 0, time.perf_counter()
        for part in self.client.chat.completions.create(model="chat", **_BODY):
            if not first and part.choices and part.choices[0].delta.content:
                first, at = part.choices[0].delta.content, time.perf_counter_ns()
        _note(first, at, True)
        took = (time.perf_counter() - began) * 1000
        fire = self.environment.events.request.fire
        fire(request_type="chat", name="s", response_time=took, response_length=0, exception=None, context={})


@cache
def _context() -> ssl.SSLContext:
    """One for all: one each would hold up everybody for 20 ms a user."""
    return ssl.create_default_context()
