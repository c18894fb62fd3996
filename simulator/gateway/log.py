"""API Management's own logs: GatewayLogs, and GatewayLlmLog with its messages in numbered pieces.

Facts.    Field names of the raw export are lower camel case; `correlationId` is the gateway's, not Azure OpenAI's. The
          LLM log counts tokens as the reply's usage does, so a stream without usage has none. Messages are split into
          pieces of 32 kB; the row that has a deployment's name is the call's, the others carry the rest of its
          messages.
"""

from typing import Any

from simulator.azure.logs import GATEWAY, GATEWAY_LLM, Records, resource_id, timestamp
from simulator.call import Call

_PIECE = 32 * 1024
_LOCATION = "East US 2"


class GatewayLog:
    def __init__(self, records: Records, name: str, mask_addresses: bool) -> None:
        self._records = records
        self._name = name
        self._resource_id = resource_id("MICROSOFT.APIMANAGEMENT/SERVICE", name)
        self._address = "127.0.0.***" if mask_addresses else "127.0.0.1"

    def request(self, call: Call, correlation_id: str, properties: dict[str, Any]) -> None:
        status = 499 if call.status is None or call.outcome == "cut" else call.status
        record = {
            "DeploymentVersion": "0.46.0",
            "Level": 4,
            "Sku": "StandardV2",
            "callerIpAddress": self._address,
            "category": GATEWAY,
            "correlationId": correlation_id,
            "durationMs": (call.ended_wall() - call.arrived_wall) // 10**6,
            "isRequestSuccess": status < 400,
            "location": _LOCATION,
            "operationName": "Microsoft.ApiManagement/GatewayLogs",
            "properties": {
                "apiId": "azure-openai",
                "clientProtocol": "HTTP/1.1",
                "method": call.method,
                "operationId": call.operation,
                "requestSize": call.request_bytes,
                "responseCode": status,
                "responseSize": call.response_bytes,
                "url": call.path,
                **properties,
            },
            "resourceId": self._resource_id,
            "resultType": "Succeeded" if status < 400 else "Failed",
            "time": timestamp(call.arrived_wall),
            "truncated": 0,
        }
        self._records.add(GATEWAY, call.arrived_wall, record)

    def llm(self, call: Call, correlation_id: str, about: dict[str, Any], asked: str, answered: str) -> None:
        """`about` is the call's row; the messages follow it, a piece a row."""
        pieces = max(len(asked), len(answered), 1)
        for number, start in enumerate(range(0, pieces, _PIECE)):
            messages = {
                "requestMessages": asked[start : start + _PIECE],
                "responseMessages": answered[start : start + _PIECE],
            }
            record = {
                "category": GATEWAY_LLM,
                "correlationId": correlation_id,
                "location": _LOCATION,
                "operationName": "Microsoft.ApiManagement/GatewayLlmLogs",
                "properties": {
                    **(about if number == 0 else {"deploymentName": ""}),
                    "sequenceNumber": number,
                    **{name: text for name, text in messages.items() if text},
                },
                "resourceId": self._resource_id,
                "time": timestamp(call.ended_wall()),
            }
            self._records.add(GATEWAY_LLM, call.arrived_wall, record)
