"""Microsoft Entra tokens, from an endpoint that azure-identity takes for an App Service's managed identity."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.commands import run, settings_of
from tests.test_client import GOOD, WHOLE
from tests.wire import reply, sends, serving

TOKEN = "made-up.entra.token"


class IdentityEndpoint(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = {"access_token": TOKEN, "expires_on": str(int(time.time()) + 3600), "token_type": "Bearer"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def identity() -> Iterator[tuple[dict[str, str], list[str]]]:
    IdentityEndpoint.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), IdentityEndpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = {
            "HEADROOM_AUTH": "entra",
            "IDENTITY_ENDPOINT": f"http://127.0.0.1:{server.server_port}/msi/token",
            "IDENTITY_HEADER": "made-up",
        }
        yield settings, IdentityEndpoint.asked
        server.shutdown()


def test_without_a_key_calls_carry_one_token_of_the_machines_identity(
    identity: tuple[dict[str, str], list[str]],
) -> None:
    settings, asked = identity
    with serving(sends(GOOD), sends(reply(WHOLE))) as server:
        done = run("probe", "-o", "json", settings={**settings_of(server.url), **settings})
        heads = [request.partition(b"\r\n\r\n")[0] for request in server.requests]
    assert done.returncode == 0, done.stderr
    assert len(heads) == 2
    assert all(f"Authorization: Bearer {TOKEN}".encode() in head and b"made-up-key" not in head for head in heads)
    assert len(asked) == 1 and "cognitiveservices.azure.com" in asked[0]
    assert TOKEN not in done.stdout + done.stderr


def test_no_identity_at_all_ends_in_one_line() -> None:
    settings = settings_of("http://127.0.0.1:1", HEADROOM_AUTH="entra", AZURE_TOKEN_CREDENTIALS="EnvironmentCredential")
    done = run("probe", settings=settings)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "no Microsoft Entra token" in done.stderr
