"""`probe --sdk`: what the SDK gives an application, beside the tries it made."""

import json

from tests.commands import run, settings_of
from tests.test_client import WHOLE
from tests.wire import head, reply, sends, serving

BUSY = b'{"error":{"code":"429","message":"wait"}}'


def test_a_throttled_try_that_the_sdk_hides_is_shown_with_its_wait_and_its_headers() -> None:
    busy = head("429 Too Many", "retry-after-ms: 20", "x-only-refused: 1", f"content-length: {len(BUSY)}") + BUSY
    with serving(sends(busy), sends(reply(WHOLE))) as server:
        done = run("probe", "--sdk", "--no-stream", settings=settings_of(server.url))
        assert len(server.requests) == 2
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    for part in ("result an answer", "1 failed tries (429)", "0.02 s", "x-only-refused", "retries_taken 1 2 sent"):
        assert part in shown


def test_as_json_it_is_what_the_sdk_gives_and_every_try() -> None:
    busy = head("429 Too Many", "retry-after-ms: 20", f"content-length: {len(BUSY)}") + BUSY
    with serving(sends(busy), sends(reply(WHOLE, "200 OK", "x-request-id: abc"))) as server:
        done = run("probe", "--sdk", "--no-stream", "-o", "json", settings=settings_of(server.url))
        refused = run("probe", "--sdk", "-o", "tsv", settings=settings_of(server.url))
    (line,) = map(json.loads, done.stdout.splitlines())
    given, tries = line["with_raw_response"], line["call"]["probe.application.attempts"]
    assert (given["retries_taken"], given["status_code"], given["request_id"]) == (1, 200, "abc")
    assert [one["http.response.status_code"] for one in tries] == [429, 200]
    assert refused.returncode == 2 and "--sdk comes as text" in refused.stderr


def test_what_the_sdk_raises_is_named() -> None:
    with serving(sends(reply(BUSY, "401 PermissionDenied"))) as server:
        done = run("probe", "--sdk", "--no-stream", settings=settings_of(server.url))
    assert done.returncode == 4 and "the exception" in done.stdout and "AuthenticationError" in done.stdout
    assert "nothing: one try" in done.stdout and "Traceback" not in done.stderr
