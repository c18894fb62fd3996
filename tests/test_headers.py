import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.headers import GROUPS, Value, contents, describe, grouped, retry_after

FIXTURES = Path(__file__).parents[1].parent / "shared" / "fixtures"

SESSION = (
    "NTIuMTM4LjQ1LjU2OjQ0Mw==;MTAwLjY0LjE3Mi4xNDY6MTAwMDE=;MTI3LjAuMC4xOjQ5OTk=;d079-20251118092207;"
    "DR:canadacentral;aoai-sp-o1-2024-12-17-lm-cac-p;aoai-balanced"
)
CLUSTERS = (
    '{"upstream_stats_map":{"aoai-sp-txt-em-lrg-1-use2-prod-aoai-standard-online-eastus2":{"active_requests":"1"},'
    '"aoai-sp-txt-em-large-1-use-prod-aoai-standard-online-eastus":{"active_requests":"0"}}}'
)


@pytest.mark.parametrize(
    ("name", "value", "group", "parsed", "unit"),
    [
        ("x-ratelimit-limit-tokens", "120000", "limits", 120000, "tokens/min"),
        ("x-ratelimit-remaining-tokens", "-1", "limits", None, "tokens"),
        ("x-ratelimit-remaining-requests", "", "limits", None, "requests"),
        ("X-RateLimit-Remaining-Requests", "119", "limits", 119, "requests"),
        ("x-ratelimit-reset-requests", "500", "limits", 500, "s or ms"),
        ("x-ratelimit-reset-requests", "6ms", "limits", None, "s or ms"),
        ("x-rate-limit-reset-tokens", "55", "limits", 55, "s"),
        ("x-ratelimit-abusepenalty-active", "False", "limits", False, None),
        ("retry-after-ms", "43.5", "limits", 43.5, "ms"),
        ("Retry-After", "1", "limits", 1.0, "s"),
        ("retry-after", "-1", "limits", None, "s"),
        ("retry-after", "soon", "limits", None, "s"),
        (
            "retry-after",
            "Fri, 28 Nov 2025 23:42:42 GMT",
            "limits",
            datetime(2025, 11, 28, 23, 42, 42, 0, UTC),
            "s",
        ),
        ("retry-after", "Fri, 99 Nov 2025 23:42:42 GMT", "limits", None, "s"),
        ("azure-openai-deployment-utilization", "88.4%", "provisioned", 88.4, "%"),
        ("azure-openai-deployment-utilization", " 101 % ", "provisioned", 101.0, "%"),
        ("azure-openai-deployment-utilization", "0.884", "provisioned", None, "%"),
        ("azure-openai-deployment-utilization", "", "provisioned", None, "%"),
        ("x-ms-is-spilled-over", "true", "provisioned", True, None),
        ("x-ms-spillover-from-my-ptu", "my-ptu", "provisioned", "my-ptu", None),
        ("x-ms-region", "East US 2", "routing and region", "East US 2", "region"),
        ("azureai-model-sessionid", SESSION, "routing and region", "canadacentral", "serving region"),
        ("azureml-served-by-cluster", "hyena-eastus2-02", "routing and region", "eastus2", "serving region"),
        (
            "x-ms-oai-backend-host",
            "https://aoai-sp-4om-0718-vlm-usw3-prod.westus3.inference.ml.azure.com",
            "routing and region",
            "westus3",
            "serving region",
        ),
        (
            "x-ms-azureml-cluster-local-active-requests",
            CLUSTERS,
            "routing and region",
            "eastus2, eastus",
            "candidate regions",
        ),
        ("x-ms-client-request-id", "Not-Set", "ids", None, None),
        ("CF-RAY", "8f1c-ARN", "ids", "8f1c-ARN", None),
        ("ErrorSource", "rate-limit", "gateway", "rate-limit", None),
        ("consumed-tokens", "31", "gateway", 31, "tokens"),
        ("openai-processing-ms", "488.6886", "timing", 488.6886, "ms"),
        ("x-ms-rai-invoked", "true", "security", True, None),
        ("content-length", "2775", "transport", 2775, "bytes"),
        ("sampling-token-len", "0", "model", 0, "tokens"),
        ("x-novel", "5", "unknown", None, None),
    ],
)
def test_a_header_is_read_for_what_it_says(name: str, value: str, group: str, parsed: Value, unit: str | None) -> None:
    reading = describe(name, value)
    assert (reading.name, reading.value) == (name, value)
    assert (reading.group, reading.parsed, reading.unit) == (group, parsed, unit)
    assert type(reading.parsed) is type(parsed)


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        (
            "azureai-model-sessionid",
            SESSION,
            [
                ("front end", "52.138.45.56:443"),
                ("instance", "100.64.172.146:10001"),
                ("on its own host", "127.0.0.1:4999"),
                ("build", "d079-20251118092207"),
                ("serving region", "canadacentral"),
                ("back-end pool", "aoai-sp-o1-2024-12-17-lm-cac-p"),
                ("routing", "aoai-balanced"),
            ],
        ),
        ("AzureAI-Model-SessionId", "not base64;;;;DR:westus", [("serving region", "westus")]),
        (
            "x-ms-azureml-cluster-local-active-requests",
            CLUSTERS,
            [
                ("aoai-sp-txt-em-lrg-1-use2-prod-aoai-standard-online-eastus2", "active requests 1"),
                ("aoai-sp-txt-em-large-1-use-prod-aoai-standard-online-eastus", "active requests 0"),
            ],
        ),
        ("x-ms-azureml-cluster-local-active-requests", '{"upstream_stats_map": [', []),
        (
            "traceparent",
            "00-9f262576327f410045e1020bbafb2ed0-6098349c00033efe-01",
            [
                ("trace id", "9f262576327f410045e1020bbafb2ed0"),
                ("parent id", "6098349c00033efe"),
                ("sampled", "yes"),
            ],
        ),
        ("traceparent", "none", []),
        ("x-ms-region", "DR:westus", []),
    ],
)
def test_what_is_packed_into_a_value_is_unpacked(name: str, value: str, parts: list[tuple[str, str]]) -> None:
    assert list(contents(name, value)) == parts


@pytest.mark.skipif(not FIXTURES.exists(), reason="the recorded headers are not on this machine")
def test_every_header_ever_recorded_is_known() -> None:
    names = {entry["name"] for entry in json.loads((FIXTURES / "header_catalog.json").read_text())}
    for line in (FIXTURES / "real_headers.jsonl").read_text().splitlines():
        names.update(json.loads(line)["headers"])
    assert {name for name in names if describe(name, "").group == "unknown"} == set()


def test_headers_come_by_group_with_unknown_ones_last_and_repeats_in_order() -> None:
    headers = [
        ("x-novel-b", "1"),
        ("date", "today"),
        ("X-MS-Region", "East US"),
        ("x-ratelimit-remaining-tokens", "5"),
        ("x-novel-a", "2"),
        ("x-ms-region", "West US"),
        ("retry-after", "1"),
    ]
    assert [(group, [(one.name, one.value) for one in members]) for group, members in grouped(headers).items()] == [
        ("limits", [("retry-after", "1"), ("x-ratelimit-remaining-tokens", "5")]),
        ("routing and region", [("X-MS-Region", "East US"), ("x-ms-region", "West US")]),
        ("transport", [("date", "today")]),
        ("unknown", [("x-novel-b", "1"), ("x-novel-a", "2")]),
    ]


DATE = ("date", "Fri, 28 Nov 2025 23:42:42 GMT")


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ([], None),
        ([("Retry-After", "45")], 45.0),
        ([("retry-after", "0.5")], 0.5),
        ([("retry-after", "2"), ("retry-after-ms", "1500")], 1.5),
        ([("retry-after", "1"), ("retry-after-ms", "0")], 1.0),
        ([("retry-after", "1"), ("retry-after-ms", "soon")], 1.0),
        ([("retry-after", "-5")], None),
        ([("retry-after", "in a while")], None),
        ([("retry-after", "1"), ("Retry-After", "7")], 7.0),
        ([("retry-after", "Fri, 28 Nov 2025 23:43:42 GMT"), DATE], 60.0),
        ([("retry-after", "Fri, 28 Nov 2025 23:41:42 GMT"), DATE], 0.0),
        ([("retry-after", "Fri, 28 Nov 2025 23:43:42 GMT")], None),
    ],
)
def test_the_wait_is_what_the_sdk_would_take(headers: list[tuple[str, str]], wait: float | None) -> None:
    assert retry_after(headers) == wait


KNOWN = ["x-ratelimit-remaining-tokens", "retry-after", "retry-after-ms", "date", "azure-openai-deployment-utilization"]
KNOWN += ["azureai-model-sessionid", "x-ms-azureml-cluster-local-active-requests", "x-ms-rai-invoked"]
names = st.sampled_from(KNOWN) | st.text()
numbers = st.from_regex(r"[-+]?[0-9]*[.,]?[0-9]*%?", fullmatch=True)
dates = st.from_regex(r"[A-Z][a-z]{2}, \d\d (Jan|Feb|Xyz) \d{4} \d\d:\d\d:\d\d GMT", fullmatch=True)
values = st.text() | numbers | dates


@given(st.lists(st.tuples(names, values)))
def test_no_text_is_too_strange_to_read(headers: list[tuple[str, str]]) -> None:
    members = [reading for group in grouped(headers).values() for reading in group]
    assert sorted((one.name, one.value) for one in members) == sorted(headers)
    assert all(one.group in GROUPS for one in members)
    wait = retry_after(headers)
    assert wait is None or wait >= 0
    assert all(text for name, value in headers for _part, text in contents(name, value))
