"""The simulator's Log Analytics workspace, queried by azure-monitor-query as it is, over TLS and with a real token."""

import json
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from azure.core.exceptions import HttpResponseError
from azure.identity import ManagedIdentityCredential
from azure.monitor.query import (
    LogsBatchQuery,
    LogsQueryClient,
    LogsQueryError,
    LogsQueryResult,
    LogsTable,
)

from simulator.azure.certificates import Certificates
from simulator.azure.identity import Issuer, ManagedIdentities
from simulator.azure.workspace import AUDIENCE, Workspace
from tests.test_simulator_identity import HEADER, MACHINE, serving, virtual_machine

WORKSPACE = "00000000-0000-4000-8000-0000000000e1"
NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
ACCOUNT = "/SUBSCRIPTIONS/0F/RESOURCEGROUPS/RG/PROVIDERS/MICROSOFT.COGNITIVESERVICES/ACCOUNTS/EASTUS2"
APIM = "/SUBSCRIPTIONS/0F/RESOURCEGROUPS/RG/PROVIDERS/MICROSOFT.APIMANAGEMENT/SERVICE/GATEWAY"
USAGE = {"promptTokens": [12], "generatedTokens": [34], "modelDeploymentName": "chat"}


def call(number: int, status: str, time: str) -> dict[str, Any]:
    return {
        "Tenant": "eastus2",
        "callerIpAddress": "127.0.0.***",
        "category": "RequestResponse",
        "correlationId": f"call-{number}",
        "durationMs": 100 * number,
        "event": "ShoeboxCallResult",
        "location": "eastus2",
        "operationName": "ChatCompletions_Create",
        "properties": json.dumps({"requestTime": 638515262815394150 + number, "modelName": "gpt-4.1-mini"}),
        "resourceId": ACCOUNT,
        "resultSignature": status,
        "time": time,
    }


RECORDS: dict[str, list[dict[str, Any]]] = {
    "RequestResponse": [
        call(1, "200", "2026-09-01T09:30:00.1234567Z"),
        call(2, "429", "2026-09-01T11:00:00.0000000Z"),
        call(3, "200", "2026-09-01T11:30:00.5000000Z"),
    ],
    "AzureOpenAIRequestUsage": [
        {
            "category": "AzureOpenAIRequestUsage",
            "correlationId": "call-3",
            "EnqueueTime": "2026-09-01T11:31:00.0000000",
            "resourceId": ACCOUNT,
            "properties": json.dumps(USAGE),
        }
    ],
    "GatewayLogs": [
        {
            "category": "GatewayLogs",
            "correlationId": "through-1",
            "durationMs": 812,
            "isRequestSuccess": False,
            "callerIpAddress": "127.0.0.1",
            "location": "East US 2",
            "operationName": "Microsoft.ApiManagement/GatewayLogs",
            "resourceId": APIM,
            "time": "2026-09-01T11:00:00.0000000Z",
            "properties": {
                "method": "POST",
                "url": "http://127.0.0.1/openai",
                "responseCode": 500,
                "backendTime": 800,
                "lastError": {"reason": "BackendConnectionFailure", "elapsed": 811},
                "responseHeaders": {"apim-request-id": "call-3"},
            },
        }
    ],
    "GatewayLlmLog": [
        {
            "category": "GatewayLlmLog",
            "resourceId": APIM,
            "time": "2026-09-01T11:00:00.0000000Z",
            "properties": {
                "correlationId": "through-1",
                "deploymentName": "chat",
                "promptTokens": 12,
                "totalTokens": 46,
                "isStreamCompletion": True,
                "sequenceNumber": 0,
            },
        }
    ],
}


class Clock:
    """Both parties' idea of now; each may be set apart."""

    issuer = NOW.timestamp()
    workspace = NOW.timestamp()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def issuer(clock: Clock) -> Issuer:
    return Issuer(lambda: clock.issuer, lifetime=90)


@pytest.fixture
def url(issuer: Issuer, clock: Clock, authority: Certificates, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the API, with the machine's identity in the environment."""

    def records(category: str) -> list[dict[str, Any]]:
        return RECORDS[category]

    workspace = Workspace(WORKSPACE, issuer, records, lambda: clock.workspace)
    with (
        serving(ManagedIdentities(issuer, (MACHINE,), HEADER).routes()) as identities,
        serving(workspace.routes(), authority.server_context()) as url,
    ):
        virtual_machine(identities, monkeypatch)
        yield url


@contextmanager
def asking(url: str, authority: Certificates, **options: Any) -> Iterator[LogsQueryClient]:
    with (
        ManagedIdentityCredential() as credential,
        LogsQueryClient(credential, endpoint=url, connection_verify=str(authority.file), **options) as client,
    ):
        yield client


@pytest.fixture
def client(url: str, authority: Certificates) -> Iterator[LogsQueryClient]:
    with asking(url, authority) as client:
        yield client


Timespan = timedelta | tuple[datetime, datetime] | tuple[datetime, timedelta] | None


def table(client: LogsQueryClient, query: str, timespan: Timespan = None) -> LogsTable:
    result = client.query_workspace(WORKSPACE, query, timespan=timespan)
    assert isinstance(result, LogsQueryResult)
    [only] = result.tables
    return only


def values(client: LogsQueryClient, query: str, timespan: Timespan = None) -> list[list[Any]]:
    return [list(row) for row in table(client, query, timespan).rows]


def test_a_call_is_in_azure_diagnostics_with_its_columns_and_their_types(client: LogsQueryClient) -> None:
    found = table(
        client,
        "AzureDiagnostics | where CorrelationId == 'call-1' | project TimeGenerated, Category, OperationName, "
        "DurationMs, ResultSignature, CorrelationId, CallerIPAddress, location_s, properties_s, _ResourceId, Resource",
    )
    assert found.name == "PrimaryResult"
    assert dict(zip(found.columns, found.columns_types, strict=True)) == {
        "TimeGenerated": "datetime",
        "Category": "string",
        "OperationName": "string",
        "DurationMs": "long",
        "ResultSignature": "string",
        "CorrelationId": "string",
        "CallerIPAddress": "string",
        "location_s": "string",
        "properties_s": "string",
        "_ResourceId": "string",
        "Resource": "string",
    }
    [row] = found.rows
    assert row["TimeGenerated"] == datetime(2026, 9, 1, 9, 30, 0, 123456, UTC)
    assert list(row)[1:8] == [
        "RequestResponse",
        "ChatCompletions_Create",
        100,
        "200",
        "call-1",
        "127.0.0.***",
        "eastus2",
    ]
    assert json.loads(row["properties_s"])["requestTime"] == 638515262815394151
    assert (row["_ResourceId"], row["Resource"]) == (ACCOUNT.lower(), "EASTUS2")


def test_usage_is_beside_the_calls_with_the_time_it_was_queued_at(client: LogsQueryClient) -> None:
    query = "AzureDiagnostics | where Category == 'AzureOpenAIRequestUsage'"
    [row] = table(client, query).rows
    assert row["TimeGenerated"] == datetime(2026, 9, 1, 11, 31, tzinfo=UTC)
    assert json.loads(row["properties_s"]) == USAGE
    assert (row["CorrelationId"], row["DurationMs"], row["ResultSignature"]) == ("call-3", None, "")


def test_properties_may_be_an_object(client: LogsQueryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORDS["AzureOpenAIRequestUsage"][0], "properties", USAGE)
    [[text]] = values(client, "AzureDiagnostics | where properties_s has 'promptTokens' | project properties_s")
    assert json.loads(text) == USAGE


def test_the_gateways_logs_have_a_table_each(client: LogsQueryClient) -> None:
    [row] = table(client, "ApiManagementGatewayLogs | where ResponseCode == 500 and IsRequestSuccess == false").rows
    assert (row["TotalTime"], row["BackendTime"], row["ClientTime"]) == (812, 800, None)
    assert (row["Region"], row["LastErrorReason"], row["LastErrorElapsed"]) == (
        "East US 2",
        "BackendConnectionFailure",
        811,
    )
    assert json.loads(row["ResponseHeaders"]) == {"apim-request-id": "call-3"}
    assert row["CorrelationId"] == "through-1"
    assert values(
        client,
        "ApiManagementGatewayLlmLog | where DeploymentName != '' "
        "| project CorrelationId, PromptTokens, TotalTokens, CompletionTokens, IsStreamCompletion",
    ) == [["through-1", 12, 46, None, True]]


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 9, 1, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("timespan", "expected"),
    [
        (None, ["call-1", "call-2", "call-3"]),
        (timedelta(hours=1), ["call-2", "call-3"]),
        (timedelta(minutes=30), ["call-3"]),
        ((at(9), at(11)), ["call-1", "call-2"]),
        ((at(9), timedelta(hours=1)), ["call-1"]),
        ((at(13), at(14)), []),
    ],
)
def test_a_timespan_leaves_only_what_was_generated_in_it(
    client: LogsQueryClient, timespan: Timespan, expected: list[str]
) -> None:
    query = (
        "AzureDiagnostics | where Category == 'RequestResponse' | project CorrelationId | order by CorrelationId asc"
    )
    assert [row[0] for row in values(client, query, timespan)] == expected


def test_ago_counts_from_the_workspaces_clock(client: LogsQueryClient) -> None:
    assert values(client, "AzureDiagnostics | where TimeGenerated > ago(1h) | count") == [[2]]


def test_a_wrong_query_is_told_what_is_wrong_where(client: LogsQueryClient) -> None:
    with pytest.raises(HttpResponseError) as raised:
        table(client, "AzureDiagnostics\n| where ResultSignature = 429")
    assert raised.value.status_code == 400
    assert "BadArgumentError" in str(raised.value)
    assert "Query could not be parsed at '=' on line [2,24]" in str(raised.value)
    with pytest.raises(HttpResponseError, match="Cannot compare values of types string and long"):
        table(client, "AzureDiagnostics | where ResultSignature == 429")


def test_each_query_of_a_batch_is_answered_for_itself(client: LogsQueryClient) -> None:
    queries = [
        LogsBatchQuery(WORKSPACE, "AzureDiagnostics | count", timespan=None),
        LogsBatchQuery(WORKSPACE, "Nothing | count", timespan=None),
        LogsBatchQuery("00000000-0000-4000-8000-0000000000e2", "AzureDiagnostics", timespan=None),
        LogsBatchQuery(WORKSPACE, "AzureDiagnostics | count", timespan=timedelta(minutes=30)),
    ]
    counted, nothing, elsewhere, recent = client.query_batch(queries)
    assert isinstance(counted, LogsQueryResult) and isinstance(recent, LogsQueryResult)
    assert (list(counted.tables[0].rows[0]), list(recent.tables[0].rows[0])) == ([4], [2])
    assert isinstance(nothing, LogsQueryError) and isinstance(elsewhere, LogsQueryError)
    assert "expression named 'Nothing'" in nothing.message
    assert elsewhere.code == "WorkspaceNotFoundError"


def test_an_expired_token_is_refused(client: LogsQueryClient, clock: Clock) -> None:
    assert values(client, "AzureDiagnostics | count") == [[4]]
    clock.workspace += 90
    with pytest.raises(HttpResponseError) as raised:
        table(client, "AzureDiagnostics")
    assert raised.value.status_code == 403
    assert "InvalidTokenError" in str(raised.value) and "TokenExpired" in str(raised.value)
    clock.issuer += 90
    assert values(client, "AzureDiagnostics | count") == [[4]]


@pytest.mark.parametrize(("audience", "good"), [(AUDIENCE, True), ("https://cognitiveservices.azure.com", False)])
def test_a_token_has_to_be_for_log_analytics(url: str, authority: Certificates, audience: str, good: bool) -> None:
    with asking(url, authority, audience=audience) as client:
        if good:
            assert values(client, "AzureDiagnostics | count") == [[4]]
        else:
            with pytest.raises(HttpResponseError, match="InvalidAudience"):
                table(client, "AzureDiagnostics")


def test_another_workspace_is_not_found(client: LogsQueryClient) -> None:
    with pytest.raises(HttpResponseError, match="WorkspaceNotFoundError"):
        client.query_workspace("00000000-0000-4000-8000-0000000000e2", "AzureDiagnostics", timespan=None)


def posted(url: str, authority: Certificates, body: bytes, token: str | None) -> tuple[int, dict[str, Any]]:
    headers = {} if token is None else {"Authorization": token}
    request = urllib.request.Request(url, body, headers, method="POST")
    context = ssl.create_default_context(cafile=str(authority.file))
    try:
        with urllib.request.urlopen(request, context=context) as reply:
            return reply.status, json.loads(reply.read())
    except HTTPError as refusal:
        with refusal:
            return refusal.code, json.loads(refusal.read())["error"]


QUERY = f"/v1/workspaces/{WORKSPACE}/query"


def test_without_a_token_nothing_is_looked_at(url: str, authority: Certificates) -> None:
    for token in (None, "Basic made-up"):
        status, error = posted(url + QUERY, authority, b"not even JSON", token)
        assert (status, error["code"]) == (401, "AuthorizationRequiredError")
    status, error = posted(url + QUERY, authority, b"", "Bearer made-up")
    assert (status, error["innererror"]["code"]) == (403, "SignatureVerificationFailed")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"query": 1}',
        b'{"query": "AzureDiagnostics", "timespan": "yesterday"}',
        b'{"query": "AzureDiagnostics", "timespan": "PT"}',
        b'{"query": "AzureDiagnostics", "timespan": "P99999999999D"}',
        b'{"query": "AzureDiagnostics", "timespan": "2026-09-01/"}x',
    ],
)
def test_a_request_that_has_no_query_is_a_bad_argument(
    url: str, authority: Certificates, issuer: Issuer, body: bytes
) -> None:
    token = f"Bearer {issuer.issue(AUDIENCE, MACHINE).text}"
    status, error = posted(url + QUERY, authority, body, token)
    assert (status, error["code"], error["innererror"]["code"]) == (400, "BadArgumentError", "QueryValidationError")


def test_an_interval_may_be_given_by_its_length_and_its_end(url: str, authority: Certificates, issuer: Issuer) -> None:
    body = {"query": "AzureDiagnostics | project CorrelationId", "timespan": "PT1H/2026-09-01T10:00:00Z"}
    token = f"bearer {issuer.issue(AUDIENCE, MACHINE).text}"
    status, answer = posted(url + QUERY, authority, json.dumps(body).encode(), token)
    assert (status, answer["tables"][0]["rows"]) == (200, [["call-1"]])


def test_a_batch_with_the_same_id_twice_is_refused_whole(url: str, authority: Certificates, issuer: Issuer) -> None:
    body = {"requests": [{"id": "1", "path": "/query", "method": "POST"}, {"id": "1"}]}
    token = f"Bearer {issuer.issue(AUDIENCE, MACHINE).text}"
    status, error = posted(f"{url}/v1/$batch", authority, json.dumps(body).encode(), token)
    assert (status, error["code"]) == (400, "BadArgumentError")
