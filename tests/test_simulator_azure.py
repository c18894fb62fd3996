"""What stands around the resources: who may call them, over what connection, and where their logs go."""

import json
import ssl
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from azure.identity import ManagedIdentityCredential, get_bearer_token_provider
from azure.monitor.query import LogsQueryClient, LogsQueryResult

from tests.simulators import AT_ONCE, Simulated, simulating

HELLO: Any = [{"role": "user", "content": "Hello there"}]
SCOPE = "https://cognitiveservices.azure.com/.default"
RESOURCE = f"""
[resources.one]
region = "East US 2"
# settings
{AT_ONCE}
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
"""


def resource(settings: str) -> str:
    return RESOURCE.replace("# settings", settings)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Turns this process into a machine with the simulator's managed identity."""

    def become(simulated: Simulated, *names: str) -> ManagedIdentityCredential:
        for name in names or ("AZURE_POD_IDENTITY_AUTHORITY_HOST",):
            monkeypatch.setenv(name, simulated.ready["identity"][name])
        return ManagedIdentityCredential()

    yield become


def with_token(simulated: Simulated, credential: ManagedIdentityCredential) -> openai.AzureOpenAI:
    target = simulated.target("one")
    return openai.AzureOpenAI(
        azure_endpoint=target.endpoint,
        api_version=target.api_version,
        azure_ad_token_provider=get_bearer_token_provider(credential, SCOPE),
        max_retries=0,
    )


def with_key(simulated: Simulated, **settings: Any) -> openai.AzureOpenAI:
    target = simulated.target("one")
    usual = {"api_key": target.api_key, "max_retries": 0}
    return openai.AzureOpenAI(azure_endpoint=target.endpoint, api_version=target.api_version, **{**usual, **settings})


@pytest.mark.parametrize("names", [(), ("IDENTITY_ENDPOINT", "IDENTITY_HEADER")])
def test_a_managed_identity_calls_where_keys_are_disabled_and_is_in_the_log(
    tmp_path: Path, machine: Any, names: tuple[str, ...]
) -> None:
    with simulating(tmp_path, resource("api_keys = false")) as simulated:
        client = with_token(simulated, machine(simulated, *names))
        assert client.chat.completions.create(model="chat", messages=HELLO, max_tokens=1).usage is not None
        with pytest.raises(openai.PermissionDeniedError, match="Key based authentication is disabled"):
            with_key(simulated).chat.completions.create(model="chat", messages=HELLO)
    objects = [json.loads(record["properties"])["objectId"] for record in simulated.logged("RequestResponse")]
    assert sorted(objects) == sorted(["", simulated.ready["identity"]["object_id"]])


def test_an_identity_without_a_role_an_expired_token_and_no_entra_at_all_are_refused(
    tmp_path: Path, machine: Any
) -> None:
    with simulating(tmp_path, RESOURCE + '[identity]\nprincipals = ["somebody-else"]\n') as simulated:
        client = with_token(simulated, machine(simulated))
        with pytest.raises(openai.AuthenticationError, match="lacks the required data action"):
            client.chat.completions.create(model="chat", messages=HELLO)
    with simulating(tmp_path, RESOURCE + "[identity]\ntoken_lifetime = 1\n") as simulated:
        token = machine(simulated).get_token(SCOPE).token
        target = simulated.target("one")
        stale = openai.AzureOpenAI(
            azure_endpoint=target.endpoint, api_version=target.api_version, azure_ad_token=token, max_retries=0
        )
        # The token is good until its second is over.
        with pytest.raises(openai.AuthenticationError, match="expired"):
            while True:
                stale.chat.completions.create(model="chat", messages=HELLO, max_tokens=1)
    with simulating(tmp_path, resource("entra = false")) as simulated:
        client = with_token(simulated, machine(simulated))
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model="chat", messages=HELLO)


def test_a_gateway_takes_a_token_in_the_place_of_a_key_where_entra_is_on(tmp_path: Path, machine: Any) -> None:
    gateway = '[gateways.one]\nentra = true\nbackends = [{ resource = "behind" }]\n'
    with simulating(tmp_path, RESOURCE.replace("resources.one", "resources.behind") + gateway) as simulated:
        client = with_token(simulated, machine(simulated))
        assert client.chat.completions.create(model="chat", messages=HELLO, max_tokens=1).usage is not None
        with pytest.raises(openai.AuthenticationError, match="invalid subscription key"):
            with_key(simulated, api_key="made-up").chat.completions.create(model="chat", messages=HELLO)


def test_with_public_access_off_every_caller_is_refused(tmp_path: Path) -> None:
    with simulating(tmp_path, resource("public_access = false")) as simulated:
        with pytest.raises(openai.PermissionDeniedError, match="Public access is disabled") as refused:
            with_key(simulated).chat.completions.create(model="chat", messages=HELLO)
        assert refused.value.response.headers["policy-id"] == "ThrowExceptionDueToTrafficDenied"


def test_tls_comes_from_an_authority_that_a_client_can_be_told_to_trust(tmp_path: Path) -> None:
    gateway = '[gateways.gate]\nbackends = [{ resource = "one" }]\n'
    with simulating(tmp_path, f'tls = "good"\n{RESOURCE}{gateway}') as simulated:
        assert simulated.target("one").endpoint.startswith("https://127.0.0.1:")
        trusting = httpx2.Client(verify=ssl.create_default_context(cafile=simulated.ready["ca"]))
        assert with_key(simulated, http_client=trusting).models.list().data
        gate = simulated.target("gate")
        through = openai.AzureOpenAI(
            azure_endpoint=gate.endpoint, api_version=gate.api_version, api_key=gate.api_key, http_client=trusting
        )
        assert through.chat.completions.create(model="chat", messages=HELLO, max_tokens=1).usage is not None
        with pytest.raises(openai.APIConnectionError):
            with_key(simulated).models.list()


@pytest.mark.parametrize("kind", ["expired", "wrong_host"])
def test_a_certificate_can_be_wrong(tmp_path: Path, kind: str) -> None:
    with simulating(tmp_path, f'tls = "{kind}"\n{RESOURCE}') as simulated:
        trusting = httpx2.Client(verify=ssl.create_default_context(cafile=simulated.ready["ca"]))
        with pytest.raises(openai.APIConnectionError):
            with_key(simulated, http_client=trusting).models.list()


def test_the_workspace_answers_queries_for_what_was_called(tmp_path: Path, machine: Any) -> None:
    with simulating(tmp_path, RESOURCE + "[logs]\nlog_analytics = true\n") as simulated:
        client = with_key(simulated)
        for _ in range(3):
            raw = client.chat.completions.with_raw_response.create(model="chat", messages=HELLO, max_tokens=2)
        about = simulated.ready["log_analytics"]
        queries = LogsQueryClient(
            machine(simulated), endpoint=about["endpoint"], connection_verify=simulated.ready["ca"]
        )
        answer = queries.query_workspace(
            about["workspace_id"],
            'AzureDiagnostics | where Category == "RequestResponse" | project CorrelationId, DurationMs, properties_s',
            timespan=timedelta(hours=1),
        )
    assert isinstance(answer, LogsQueryResult)
    rows = {row[0]: row for row in answer.tables[0].rows}
    assert len(rows) == 3 and json.loads(rows[raw.headers["apim-request-id"]][2])["modelDeploymentName"] == "chat"


def test_logs_come_late_twice_or_never_as_configured_and_in_batches_too(tmp_path: Path) -> None:
    logs = """
[logs]
event_hub = true
duplicates = 0.3
missing = 0.3
delay = [0.2, 0.4]
properties = "object"
byte_order_mark = true
mask_addresses = false
"""
    with simulating(tmp_path, RESOURCE + logs) as simulated:
        client = with_key(simulated)
        for _ in range(40):
            client.chat.completions.create(model="chat", messages=HELLO, max_tokens=1)
        late = simulated.ledger()[-1]["request_id"]
        assert late not in [record["correlationId"] for record in simulated.logged("RequestResponse")]
    records = simulated.logged("RequestResponse")
    times = Counter(record["correlationId"] for record in records)
    assert 20 <= len(times) < 40 and set(times.values()) == {1, 2}
    assert {record["callerIpAddress"] for record in records} == {"127.0.0.1"}
    assert isinstance(records[0]["properties"]["requestTime"], int)
    (blob,) = simulated.logs.glob("insights-logs-requestresponse/**/PT1H.json")
    assert blob.read_bytes().startswith(b"\xef\xbb\xbf{")
    batches = [json.loads(path.read_text()) for path in simulated.logs.glob("eventhub/requestresponse/*.json")]
    assert Counter(record["correlationId"] for batch in batches for record in batch["records"]) == times


def test_the_keys_were_listed_in_the_audit_log(tmp_path: Path) -> None:
    with simulating(tmp_path, RESOURCE) as simulated:
        pass
    (record,) = simulated.logged("Audit")
    assert (record["operationName"], record["category"]) == ("ListKey", "Audit")
