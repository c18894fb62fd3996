"""The query API of a Log Analytics workspace, over the diagnostic logs that the simulator has written.

Facts.   Documented: POST /v1/workspaces/<id>/query with `query` and `timespan` (ISO 8601: a duration that ends now, or
         an interval); POST /v1/$batch with several, each answered with its own status. The columns of the API
         Management tables. A string column without a value is "", any other is null; a dynamic is JSON text.
         Azure OpenAI's logs are in AzureDiagnostics, in which a record's own fields get the suffix of their type:
         `properties` is `properties_s`. Resource ids are upper case there, and lower case in _ResourceId. 403 refuses
         a bad token. The SDK asks for a token for the endpoint it was given, when no audience is named.
         Observed: the errors of the query language, which are inner errors of BadArgumentError.
Decided. Both ends of an interval belong to it. TimeGenerated is a record's `time`, or the EnqueueTime it has instead.
         TotalTime is the raw record's `durationMs`. The API's own address is accepted as an audience. `Prefer` is not
         looked at. What is written can be queried at once, where a real workspace lags by minutes.
         Inferred: the code of a 401, that of a 403's inner error, and the 404 for another workspace.
"""

import json
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from aiohttp import web

from simulator.azure.identity import ExpiredTokenError, Issuer, TokenError, WrongAudienceError, bearer
from simulator.azure.kql import Column, KqlError, Row, Table, run, ticks

AUDIENCE = "https://api.loganalytics.io"
# By category: the objects of the lines of its PT1H.json files.
Records = Callable[[str], Iterable[Mapping[str, Any]]]

GATEWAY = "GatewayLogs"
GATEWAY_LLM = "GatewayLlmLog"
_DIAGNOSTIC_CATEGORIES = ("RequestResponse", "AzureOpenAIRequestUsage")

_DIAGNOSTICS = """
    TenantId:string TimeGenerated:datetime ResourceId:string Category:string ResourceGroup:string SubscriptionId:string
    ResourceProvider:string Resource:string ResourceType:string OperationName:string ResultSignature:string
    DurationMs:long CallerIPAddress:string CorrelationId:string event_s:string location_s:string properties_s:string
    Tenant_s:string SourceSystem:string Type:string _ResourceId:string
"""
_GATEWAY_LOGS = """
    TenantId:string TimeGenerated:datetime OperationName:string Category:string CorrelationId:string Region:string
    IsRequestSuccess:bool TotalTime:long CallerIpAddress:string Method:string Url:string ClientProtocol:string
    ClientTlsVersion:string ResponseCode:int RequestSize:int ResponseSize:int Cache:string CacheTime:long
    BackendMethod:string BackendUrl:string BackendProtocol:string BackendId:string BackendResponseCode:int
    BackendTime:long ClientTime:long ApiId:string ApiRevision:string OperationId:string ProductId:string UserId:string
    ApimSubscriptionId:string RequestHeaders:dynamic ResponseHeaders:dynamic BackendRequestHeaders:dynamic
    BackendResponseHeaders:dynamic RequestBody:string ResponseBody:string BackendRequestBody:string
    BackendResponseBody:string LastErrorElapsed:long LastErrorSource:string LastErrorScope:string
    LastErrorSection:string LastErrorReason:string LastErrorMessage:string TraceRecords:dynamic Errors:dynamic
    SourceSystem:string Type:string _ResourceId:string
"""
_GATEWAY_LLM_LOG = """
    TenantId:string TimeGenerated:datetime OperationName:string CorrelationId:string Region:string RequestId:string
    DeploymentName:string ModelName:string ApiVersion:string PromptTokens:int CompletionTokens:int TotalTokens:int
    IsStreamCompletion:bool SequenceNumber:int RequestMessages:dynamic ResponseMessages:dynamic SourceSystem:string
    Type:string _ResourceId:string
"""

_RESOURCE_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourcegroups/(?P<group>[^/]+)"
    r"/providers/(?P<provider>[^/]+)/(?P<type>[^/]+)/(?P<name>[^/]+)",
    re.IGNORECASE,
)
_DURATION = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>[\d.]+)D)?"
    r"(?:T(?:(?P<hours>[\d.]+)H)?(?:(?P<minutes>[\d.]+)M)?(?:(?P<seconds>[\d.]+)S)?)?"
)


class _QueryError(Exception):
    """A reply that is an error, in the service's shape."""

    def __init__(self, status: int, code: str, message: str, inner: dict[str, Any] | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.body: dict[str, Any] = {
            "error": {"message": message, "code": code, "correlationId": str(uuid.uuid4())}
            | ({"innererror": inner} if inner else {})
        }


class _Scope(NamedTuple):
    """The ticks between which records were generated."""

    begin: int
    end: int


class Workspace:
    """`clock` returns Unix seconds."""

    def __init__(
        self, workspace_id: str, issuer: Issuer, records: Records, clock: Callable[[], float], may_read: bool = True
    ) -> None:
        self.id = workspace_id
        self._issuer = issuer
        self._records = records
        self._clock = clock
        self._may_read = may_read

    def routes(self) -> Iterable[web.RouteDef]:
        return [web.post("/v1/workspaces/{workspace}/query", self.query), web.post("/v1/$batch", self.batch)]

    async def query(self, request: web.Request) -> web.Response:
        return await _replied(self._query(request))

    async def batch(self, request: web.Request) -> web.Response:
        return await _replied(self._batch(request))

    async def _query(self, request: web.Request) -> dict[str, Any]:
        self._authorize(request)
        return self._answer(request.match_info["workspace"], await _object(request))

    async def _batch(self, request: web.Request) -> dict[str, Any]:
        self._authorize(request)
        requests = (await _object(request)).get("requests")
        if not isinstance(requests, list) or not all(isinstance(each, dict) and "id" in each for each in requests):
            raise _unusable("InvalidBatch", "requests has to be a list of objects with an id each")
        if len({str(each["id"]) for each in requests}) < len(requests):
            raise _unusable("InvalidBatch", "an id may be there only once")
        return {"responses": [self._part(each) for each in requests]}

    def _part(self, part: dict[str, Any]) -> dict[str, Any]:
        try:
            if (part.get("method"), part.get("path")) != ("POST", "/query"):
                raise _QueryError(404, "PathNotFoundError", "The requested path does not exist")
            return {"id": part["id"], "status": 200, "body": self._answer(part.get("workspace"), part.get("body"))}
        except _QueryError as refused:
            return {"id": part["id"], "status": refused.status, "body": refused.body}

    def _authorize(self, request: web.Request) -> None:
        token = bearer(request)
        if token is None:
            raise _QueryError(401, "AuthorizationRequiredError", "Valid authentication was not provided")
        try:
            self._issuer.check(token, self._clock(), {AUDIENCE, f"{request.scheme}://{request.host}"})
        except TokenError as error:
            inner = {"code": _reason(error), "message": "Could not validate the request"}
            message = "The provided authentication is not valid for this resource"
            raise _QueryError(403, "InvalidTokenError", message, inner) from None
        if not self._may_read:
            message = "The provided credentials have insufficient access to perform the requested operation"
            raise _QueryError(403, "InsufficientAccessError", message)

    def _answer(self, workspace: Any, body: Any) -> dict[str, Any]:
        if workspace != self.id:
            raise _QueryError(404, "WorkspaceNotFoundError", "The workspace could not be found")
        query, timespan = (body.get("query"), body.get("timespan")) if isinstance(body, dict) else (None, None)
        if not isinstance(query, str):
            raise _unusable("InvalidJsonBody", "query has to be a string")
        if not isinstance(timespan, str | None):
            raise _unusable("InvalidTimespan", "timespan has to be a string")
        now = datetime.fromtimestamp(self._clock(), UTC)
        try:
            columns, rows = run(query, self._tables(_scope(timespan, now)), now)
        except KqlError as error:
            raise _QueryError(400, "BadArgumentError", _BAD_ARGUMENT, _inner(error)) from None
        named = [column._asdict() for column in columns]
        return {"tables": [{"name": "PrimaryResult", "columns": named, "rows": rows}]}

    def _tables(self, scope: _Scope | None) -> dict[str, Table]:
        return {name: Table(source.columns, self._rows(name, source, scope)) for name, source in _SOURCES.items()}

    def _rows(self, table: str, source: "_Source", scope: _Scope | None) -> Iterator[Row]:
        """Reads no record before the first row is asked for."""
        common = {"TenantId": self.id, "SourceSystem": "Azure", "Type": table}
        for category in source.categories:
            for record in self._records(category):
                time = _generated(record)
                if scope is None or scope.begin <= ticks(time) <= scope.end:
                    yield {**source.read(record), **common, "TimeGenerated": time}


def _diagnostic(record: Mapping[str, Any]) -> dict[str, Any]:
    resource_id = record.get("resourceId", "")
    parts = _RESOURCE_ID.match(resource_id)
    properties = record.get("properties")
    return {
        **({} if parts is None else _located(parts)),
        "ResourceId": resource_id.upper(),
        "_ResourceId": resource_id.lower(),
        "Category": record.get("category"),
        "OperationName": record.get("operationName"),
        "ResultSignature": record.get("resultSignature"),
        "DurationMs": record.get("durationMs"),
        "CallerIPAddress": record.get("callerIpAddress"),
        "CorrelationId": record.get("correlationId"),
        "event_s": record.get("event"),
        "location_s": record.get("location"),
        "properties_s": properties if isinstance(properties, str | None) else json.dumps(properties),
        "Tenant_s": record.get("Tenant"),
    }


def _located(parts: re.Match[str]) -> dict[str, str]:
    return {
        "SubscriptionId": parts["subscription"].lower(),
        "ResourceGroup": parts["group"].upper(),
        "ResourceProvider": parts["provider"].upper(),
        "ResourceType": parts["type"].upper(),
        "Resource": parts["name"].upper(),
    }


def _gateway(record: Mapping[str, Any]) -> dict[str, Any]:
    """The properties, and the record's own fields, under their names with a capital."""
    properties = record.get("properties") or {}
    if isinstance(properties, str):
        properties = json.loads(properties)
    error = properties.get("lastError") or {}
    return {
        "Region": record.get("location"),
        "TotalTime": record.get("durationMs"),
        **{_capital(name): value for name, value in {**record, **properties}.items()},
        **{f"LastError{_capital(name)}": value for name, value in error.items()},
        "_ResourceId": record.get("resourceId", "").lower(),
    }


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def _generated(record: Mapping[str, Any]) -> str:
    time: str = record["time"] if "time" in record else record["EnqueueTime"]
    return time


class _Source(NamedTuple):
    """What a table is made of."""

    columns: tuple[Column, ...]
    categories: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], dict[str, Any]]


def _columns(schema: str) -> tuple[Column, ...]:
    return tuple(Column(*each.split(":")) for each in schema.split())


_SOURCES = {
    "AzureDiagnostics": _Source(_columns(_DIAGNOSTICS), _DIAGNOSTIC_CATEGORIES, _diagnostic),
    "ApiManagementGatewayLogs": _Source(_columns(_GATEWAY_LOGS), (GATEWAY,), _gateway),
    "ApiManagementGatewayLlmLog": _Source(_columns(_GATEWAY_LLM_LOG), (GATEWAY_LLM,), _gateway),
}


def _scope(timespan: str | None, now: datetime) -> _Scope | None:
    if not timespan:
        return None
    first, _, second = timespan.partition("/")
    try:
        begin, end = _ends(first, second, now)
        return _Scope(ticks(begin.isoformat()), ticks(end.isoformat()))
    except (ValueError, OverflowError):
        raise _unusable("InvalidTimespan", f"Not an ISO 8601 duration or interval: {timespan}") from None


def _ends(first: str, second: str, now: datetime) -> tuple[datetime, datetime]:
    if not second:
        return now - _duration(first), now
    if first.startswith("P"):
        end = _time(second)
        return end - _duration(first), end
    begin = _time(first)
    return begin, begin + _duration(second) if second.startswith("P") else _time(second)


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    given = {name: float(number) for name, number in match.groupdict().items() if number} if match else {}
    if not given:
        raise ValueError(text)
    return timedelta(**given)


_BAD_ARGUMENT = "The request had some invalid properties"


def _unusable(code: str, message: str) -> _QueryError:
    """A request that does not come as far as its query."""
    details = [{"code": code, "message": message, "target": None}]
    inner = {"code": "QueryValidationError", "message": "Failed parsing the query", "details": details}
    return _QueryError(400, "BadArgumentError", _BAD_ARGUMENT, inner)


def _inner(error: KqlError) -> dict[str, Any]:
    innermost: dict[str, Any] = {"code": error.code, "message": str(error)}
    if not error.code.startswith("SYN"):
        return {"code": "SemanticError", "message": "A semantic error occurred.", "innererror": innermost}
    innermost |= {"line": error.line, "pos": error.position, "token": error.token}
    return {"code": "SyntaxError", "message": "A recognition error occurred in the query.", "innererror": innermost}


def _reason(error: TokenError) -> str:
    if isinstance(error, ExpiredTokenError):
        return "TokenExpired"
    return "InvalidAudience" if isinstance(error, WrongAudienceError) else "SignatureVerificationFailed"


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise _unusable("InvalidJsonBody", str(error)) from None
    if not isinstance(body, dict):
        raise _unusable("InvalidJsonBody", "an object is expected")
    return body


async def _replied(answer: Awaitable[dict[str, Any]]) -> web.Response:
    try:
        return web.json_response(await answer)
    except _QueryError as refused:
        return web.json_response(refused.body, status=refused.status)
