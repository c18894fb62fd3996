"""The simulator as its clients see it: over HTTP, through the official SDK, and in the logs it leaves."""

import asyncio
import json
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from probe.simulated import Simulator
from probe.target import Target
from tests.commands import BIN, ROOT, environment, run
from tests.simulators import awaited, line_of

FIXTURES = ROOT.parent / "shared" / "fixtures"
recorded = pytest.mark.skipif(not FIXTURES.exists(), reason="the recorded replies are not beside this checkout")
MODEL = "gpt-4.1-mini"
HELLO: Any = [{"role": "user", "content": "Hello there"}]
ALL = ("eastus2", "swedencentral", "apim")
SCARCE = {
    "HEADROOM_SIMULATOR_RPM": "2",
    "HEADROOM_SIMULATOR_TIME_TO_FIRST_TOKEN": "0",
    "HEADROOM_SIMULATOR_TIME_BETWEEN_TOKENS": "0",
}


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    running = Simulator(tmp_path_factory.mktemp("simulator"))
    yield running
    running.stop()


@pytest.fixture
def scarce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """Two requests a minute, answered at once."""
    for name, value in SCARCE.items():
        monkeypatch.setenv(name, value)
    running = Simulator(tmp_path)
    yield running
    running.stop()


def sdk(target: Target, **changes: Any) -> openai.AzureOpenAI:
    settings = {
        "azure_endpoint": target.endpoint,
        "api_key": target.api_key,
        "api_version": target.api_version,
        "max_retries": 0,
    }
    return openai.AzureOpenAI(**{**settings, **changes})


def raw(
    target: Target, path: str, *fields: str, body: bytes = b"", method: str = "POST"
) -> tuple[str, list[str], bytes]:
    """Status line, header lines and body of one request, exactly as they came."""
    head = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}", *fields]
    with socket.create_connection((target.host, target.port)) as connection:
        connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    start, _, rest = received.partition(b"\r\n\r\n")
    status, *headers = start.decode().split("\r\n")
    return status, headers, rest


def logged(simulator: Simulator, category: str, request_id: str) -> dict[str, Any]:
    """The record of one request, as soon as it is there."""

    def find() -> dict[str, Any] | None:
        paths = simulator.logs.glob(f"insights-logs-{category}/**/PT1H.json")
        records = (json.loads(line) for path in paths for line in path.read_text().splitlines())
        return next((record for record in records if record["correlationId"] == request_id), None)

    return awaited(find)


@pytest.mark.parametrize("name", ALL)
def test_the_sdk_gets_an_answer_of_as_many_tokens_as_it_asked_for(simulator: Simulator, name: str) -> None:
    reply = sdk(simulator.targets[name]).chat.completions.create(model=MODEL, messages=HELLO, max_tokens=7)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None and reply.usage.completion_tokens == 7
    # 3 for the message, 1 for "user", 2 for "Hello there", 3 for the reply's start.
    assert reply.usage.prompt_tokens == 9
    assert len((reply.choices[0].message.content or "").split()) == 7


@pytest.mark.parametrize("name", ALL)
def test_the_sdk_reads_a_stream_with_its_usage(simulator: Simulator, name: str) -> None:
    client = sdk(simulator.targets[name])
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=7, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(text) == 7
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 7
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_says_what_it_used_only_when_asked(simulator: Simulator) -> None:
    client = sdk(simulator.targets["eastus2"])
    chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=3, stream=True))
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_the_plain_client_works_on_the_v1_path_and_the_asynchronous_one_too(simulator: Simulator) -> None:
    target = simulator.targets["eastus2"]
    plain = openai.OpenAI(base_url=f"{target.endpoint}/openai/v1/", api_key=target.api_key, max_retries=0)
    assert plain.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=3).model == "gpt-4.1-mini-2025-04-14"

    async def ask() -> int:
        client = openai.AsyncAzureOpenAI(
            azure_endpoint=target.endpoint, api_key=target.api_key, api_version=target.api_version, max_retries=0
        )
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=3, stream=True)
        return len([chunk async for chunk in stream])

    # The filter's results, the role, three tokens and the end.
    assert asyncio.run(ask()) == 6


@pytest.mark.parametrize("name", ALL)
def test_the_sdks_raw_response_shows_the_services_headers(simulator: Simulator, name: str) -> None:
    response = sdk(simulator.targets[name]).chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, max_tokens=3, extra_headers={"x-ms-client-request-id": "mine"}
    )
    assert response.headers["x-ms-region"] in ("East US 2", "Sweden Central")
    assert response.headers["x-ms-client-request-id"] == "mine"
    assert logged(simulator, "requestresponse", response.headers["apim-request-id"])["resultSignature"] == "200"
    assert "server" not in response.headers


@pytest.mark.parametrize("name", ALL)
def test_the_sdk_names_a_wrong_key_a_missing_deployment_and_a_bad_request(simulator: Simulator, name: str) -> None:
    target = simulator.targets[name]
    with pytest.raises(openai.AuthenticationError, match="invalid subscription key"):
        sdk(target, api_key="wrong").chat.completions.create(model=MODEL, messages=HELLO)
    with pytest.raises(openai.NotFoundError, match="deployment for this resource does not exist"):
        sdk(target).chat.completions.create(model="gone", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        sdk(target).chat.completions.create(model=MODEL, messages=HELLO, max_tokens=0)
    with pytest.raises(openai.BadRequestError, match="messages"):
        sdk(target).chat.completions.create(model=MODEL, messages=[])


def test_the_sdk_sees_throttling_and_when_to_come_back(scarce: Simulator) -> None:
    client = sdk(scarce.targets["eastus2"])
    for _ in range(2):
        client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
    with pytest.raises(openai.RateLimitError, match="have exceeded the call rate limit") as refusal:
        client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
    headers = refusal.value.response.headers
    # Two a minute refill in 30 s each, and a moment has passed.
    assert int(headers["retry-after"]) == 30
    assert 29_000 < int(headers["retry-after-ms"]) <= 30_000
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["policy-id"] == "DeploymentRatelimit-Call"


def test_the_gateway_takes_its_own_key_under_each_of_its_names_and_no_back_ends(simulator: Simulator) -> None:
    gateway, backend = simulator.targets["apim"], simulator.targets["eastus2"]
    body = json.dumps({"messages": HELLO, "max_tokens": 1}).encode()
    path = gateway.path
    for field in (f"api-key: {gateway.api_key}", f"Ocp-Apim-Subscription-Key: {gateway.api_key}"):
        assert raw(gateway, path, field, body=body)[0] == "HTTP/1.1 200 OK"
    assert raw(gateway, f"{path}&subscription-key={gateway.api_key}", body=body)[0] == "HTTP/1.1 200 OK"
    assert raw(gateway, path, f"api-key: {backend.api_key}", body=body)[0] == "HTTP/1.1 401 Access Denied"


def test_the_gateway_takes_its_back_ends_in_turn(simulator: Simulator) -> None:
    client = sdk(simulator.targets["apim"])
    regions = Counter(
        client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=1).headers[
            "x-ms-region"
        ]
        for _ in range(4)
    )
    assert regions == {"East US 2": 2, "Sweden Central": 2}


def test_every_request_is_in_the_log_of_its_resource_under_the_replys_id(simulator: Simulator) -> None:
    target = simulator.targets["swedencentral"]
    reply = sdk(target).chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=4)
    request_id, usage = reply.headers["apim-request-id"], reply.parse().usage
    record = logged(simulator, "requestresponse", request_id)
    properties = json.loads(record["properties"])
    assert record["resultSignature"] == "200" and record["resourceId"].endswith("/ACCOUNTS/SWEDENCENTRAL")
    assert properties["modelName"] == "gpt-4.1-mini" and properties["modelVersion"] == "2025-04-14"
    # .NET ticks are 100 ns; the difference of the two is the duration.
    assert (properties["responseTime"] - properties["requestTime"]) // 10_000 == record["durationMs"]
    said = json.loads(logged(simulator, "azureopenairequestusage", request_id)["properties"])
    assert usage is not None
    assert (said["promptTokens"], said["generatedTokens"]) == ([usage.prompt_tokens], [usage.completion_tokens])


def test_a_client_that_hangs_up_is_logged_as_such_and_billed_for_what_was_generated(simulator: Simulator) -> None:
    target = simulator.targets["eastus2"]
    client = sdk(target)
    stream = client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=HELLO, max_tokens=30_000, stream=True
    )
    with stream as response:
        request_id = response.headers["apim-request-id"]
        next(line for line in response.iter_lines() if '"content":" ' in line)
    client.close()
    assert logged(simulator, "requestresponse", request_id)["resultSignature"] == "499"
    (usage,) = json.loads(logged(simulator, "azureopenairequestusage", request_id)["properties"])["generatedTokens"]
    assert 0 < usage < 30_000


def test_the_ledger_holds_what_was_drawn_and_when_it_was_sent(simulator: Simulator) -> None:
    target = simulator.targets["eastus2"]
    reply = sdk(target).chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, max_tokens=4, stream=True
    )
    list(reply.parse())
    ledger = simulator.logs.parent / "ledger.jsonl"
    line = awaited(lambda: line_of(ledger, reply.headers["apim-request-id"]))
    first, last = ((line[mark] - line["arrived"]) / 1e9 for mark in ("first_content_at", "last_at"))
    drawn = line["drawn"]
    due = [at / 1e6 for at in drawn["due_us"]]
    assert (line["outcome"], line["charged"], line["completion_tokens"]) == ("ok", 7, 4)
    assert len(due) == 4 and due == sorted(due)
    assert due[0] == pytest.approx(drawn["prompt_filter"] + drawn["queue"] + drawn["engine"], abs=1e-5)
    assert due[0] <= first and due[3] <= last


@recorded
def test_error_bodies_are_those_recorded_byte_for_byte(simulator: Simulator) -> None:
    bodies = {one["where"]: one for one in json.loads((FIXTURES / "error_bodies.json").read_text())}

    def compact(where: str) -> bytes:
        return json.dumps(bodies[where]["body"], separators=(",", ":")).encode()

    target, gateway = simulator.targets["eastus2"], simulator.targets["apim"]
    key, gateway_key = f"api-key: {target.api_key}", f"api-key: {gateway.api_key}"
    status, headers, body = raw(target, target.path, "api-key: wrong")
    assert (status, body) == ("HTTP/1.1 401 PermissionDenied", compact("AOAI data plane (direct)"))
    assert [line.partition(":")[0] for line in headers] == ["content-length", "content-type", "date", "apim-request-id"]
    status, headers, body = raw(target, "/openai/nothing", key, body=b"{}")
    assert (status, body) == ("HTTP/1.1 404 Resource Not Found", bodies["AOAI, unknown path"]["raw"].encode())
    status, headers, body = raw(target, target.path.replace(MODEL, "gone"), key, body=b"{}")
    indented = json.dumps(bodies["AOAI, deployment missing"]["body"], indent=2).encode()
    assert status == "HTTP/1.1 404 Not Found" and indented in body
    assert not any(line.startswith("content-type") for line in headers)
    for where, field, path in (
        ("APIM, no subscription key", "x: y", gateway.path),
        ("APIM, bad subscription key", "api-key: wrong", gateway.path),
        ("APIM, no operation matches", gateway_key, "/elsewhere"),
    ):
        assert raw(gateway, path, field)[2] == bodies[where]["raw"].encode()


def test_the_command_says_in_one_line_what_is_wrong_with_an_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("simulator", "--data", str(tmp_path / "file" / "folder"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "choose a --data" in done.stderr
    done = run("simulator", "--tpm", "many")
    assert done.returncode == 2 and "'many' is not a valid float" in done.stderr and "Traceback" not in done.stderr


def test_it_stops_quietly_when_told_to_and_when_its_parents_pipe_closes(tmp_path: Path) -> None:
    stops: list[Callable[[subprocess.Popen[bytes]], object]] = [
        lambda process: process.terminate(),
        lambda process: process.stdin and process.stdin.close(),
    ]
    for stop in stops:
        process = subprocess.Popen(
            [str(BIN / "simulator"), "--exit-with-stdin", "--data", str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None and process.stderr is not None
        assert set(json.loads(process.stdout.readline())["targets"]) == set(ALL)
        stop(process)
        assert (process.wait(20), process.stderr.read()) == (0, b"")
        process.stdout.close()
