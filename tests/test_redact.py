"""`analysis redact`: nothing of whose run it was is in the copy, and everything that was measured is."""

import json
import re
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from analysis.redact import redact
from analysis.verify import verify
from probe.journal import Journal, end_run, read_calls, start_run
from probe.record import Headers, ObservedCall
from tests.commands import run
from tests.test_analysis import report

# What must not be in a copy, by itself or inside anything.
ORIGINALS = (
    "contoso",
    "fabrikam",
    "payroll-bot",
    "9f1c2d3e-4b5a-4c6d-8e7f-001122334455",
    "3b1e0a52-7777-4abc-9def-aabbccddeeff",
    "203.0.113.77",
    "2a01:111:f100:2000::a83e:3019",
    "jane.doe",
    "loadgen-042",
    "8f14e45fceea167a",
    "AbCdEf0123456789XyZ-FRA",
    "rg-finance",
)
HEADERS: Headers = (
    ("x-ms-region", "East US 2"),
    ("apim-request-id", "9f1c2d3e-4b5a-4c6d-8e7f-001122334455"),
    ("cf-ray", "8f14e45fceea167a-FRA"),
    ("x-ratelimit-remaining-tokens", "1234"),
    ("x-ms-spillover-from-payroll-bot", "true"),
    ("x-ms-oai-backend-host", "pool7.eastus2.inference.ml.azure.com"),
    ("x-ms-served-model", "gpt-4o-2024-08-06"),
    ("X-Contoso-Node", "node-7.fabrikam.internal for jane.doe@fabrikam.example via 203.0.113.77"),
    ("x-unheard-of", "AbCdEf0123456789XyZ-FRA-0123"),
    ("x-resource", "/subscriptions/3b1e0a52-7777-4abc-9def-aabbccddeeff/resourceGroups/rg-finance/x"),
)
ABOUT = {
    "host": "loadgen-042",
    "arrivals": "closed",
    "options": {"targets": ["contoso-east"], "trace": "/home/jane.doe/contoso.csv", "max_tainted": 0.01},
    "targets": [
        {
            "name": "contoso-east",
            "endpoint": "https://contoso-east.openai.azure.com",
            "deployment": "payroll-bot",
            "api_version": "2024-10-21",
            "gateway": "direct",
        },
        {
            "name": "gate",
            "endpoint": "https://apim.fabrikam.internal/contoso/ai",
            "deployment": "gpt-4o",
            "api_version": "v1",
            "gateway": "apim",
        },
    ],
}


def a_call(number: int) -> ObservedCall:
    direct = number % 2 == 0
    failed = number % 5 == 0
    return ObservedCall(
        target="contoso-east" if direct else "gate",
        gateway="direct" if direct else "apim",
        server_address="contoso-east.openai.azure.com" if direct else "apim.fabrikam.internal",
        server_port=443,
        start_time_unix_nano=1_700_000_000_000_000_000 + number * 10**8,
        issued=number / 10,
        operation="chat",
        request_model="payroll-bot" if direct else "gpt-4o",
        request_stream=False,
        prompt_id=f"100-{number}",
        traffic="short",
        outcome="not_found" if failed else "ok",
        status_code=404 if failed else 200,
        error_type="DeploymentNotFound" if failed else None,
        error_message=(
            "The deployment payroll-bot of Contoso-East at 203.0.113.77 and [2a01:111:f100:2000::a83e:3019] is gone, "
            r"says C:\Users\jane.doe\x on loadgen-042"
            if failed
            else None
        ),
        headers=HEADERS,
        duration=0.5 + number / 100,
        peer_address="203.0.113.77",
        input_tokens=100,
        output_tokens=number,
        response_id="chatcmpl-AbCdEf0123456789XyZ",
        response_model="gpt-4o-2024-08-06",
        service_request_id="9f1c2d3e-4b5a-4c6d-8e7f-001122334455",
    )


def made(results: Path) -> Path:
    started = start_run(results, "mixed", ABOUT)
    journal = Journal(started)
    for number in range(20):
        journal.append(a_call(number))
    journal.close()
    end_run(started, "completed", {"calls": 20, "sent": 20, "dropped": 0})
    return Path(started.folder)


def test_no_original_is_in_a_copy_by_name_or_content(tmp_path: Path) -> None:
    original = made(tmp_path / "results")
    (original / "report.html").write_text("contoso")
    done = run("analysis", "redact", str(original), "--into", str(tmp_path / "copy"))
    assert done.returncode == 0, done.stderr
    assert "left out: 1 other files" in done.stderr
    files = list((tmp_path / "copy").iterdir())
    everything = "".join(path.name + path.read_text() for path in files).lower()
    assert len(files) == 3
    for one in ORIGINALS:
        assert (
            one.lower() in "".join(path.name + path.read_text() for path in original.iterdir()).lower() or "\\" in one
        )
        assert one.lower() not in everything, one


def test_a_copy_verifies_and_reports_the_same_figures(tmp_path: Path) -> None:
    original = made(tmp_path / "results")
    copy = redact(original, tmp_path / "copy").folder
    assert verify(copy).adds_up, verify(copy).problems
    reports = [report(run_) for run_ in (original, copy)]
    # The others name targets and deployments.
    same = ("verdict", "counts", "seconds", "tokens_per_minute", "from_due", "traffic", "tokens", "hours", "slo")
    figures = [{key: one[key] for key in same} for one in reports]
    assert figures[0] == figures[1]
    for table in ("targets", "regions"):
        measured = [
            sorted(json.dumps({key: value for key, value in row.items() if key != "target"}) for row in one[table])
            for one in reports
        ]
        assert measured[0] == measured[1]


def test_an_original_has_one_pseudonym_in_all_of_a_copy_and_another_in_another(tmp_path: Path) -> None:
    original = made(tmp_path / "results")
    copies = [redact(original, tmp_path / name).folder for name in ("one", "two")]
    first, second = (read_calls(copy).calls for copy in copies)
    about = json.loads((copies[0] / "run.json").read_text())
    assert {call.target for call in first} == {target["name"] for target in about["targets"]}
    assert first[0].request_model == about["targets"][0]["deployment"] in (first[0].error_message or "")
    assert first[0].server_address == about["targets"][0]["endpoint"].removeprefix("https://")
    assert first[0].server_address.endswith(".openai.azure.com")
    assert first[0].service_request_id == first[0].header("apim-request-id")[0] != second[0].service_request_id
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first[0].service_request_id or "")
    assert first[0].target != second[0].target


def test_what_says_nothing_of_whose_it_is_is_kept(tmp_path: Path) -> None:
    copy = read_calls(redact(made(tmp_path / "results"), tmp_path / "copy").folder).calls
    assert copy[1].request_model == "gpt-4o" and copy[1].response_model == "gpt-4o-2024-08-06"
    assert copy[0].header("x-ms-region") == ("East US 2",)
    assert copy[0].header("x-ms-served-model") == ("gpt-4o-2024-08-06",)
    assert ".eastus2.inference.ml.azure.com" in copy[0].header("x-ms-oai-backend-host")[0]
    assert copy[0].header("x-ratelimit-remaining-tokens") == ("1234",)
    assert [name.lower() for name, _ in copy[0].headers[:4]] == [name for name, _ in HEADERS[:4]]
    assert (copy[0].outcome, copy[0].error_type) == ("not_found", "DeploymentNotFound")


def test_a_folder_that_is_there_is_not_written_into(tmp_path: Path) -> None:
    original = made(tmp_path / "results")
    done = run("analysis", "redact", str(original), "--into", str(tmp_path))
    assert done.returncode == 2 and "there already" in done.stderr and done.stderr.count("\n") == 1
    assert run("analysis", "redact", str(tmp_path)).returncode == 2


@given(st.uuids(), st.ip_addresses(v=4), st.text("abcdef0123456789", min_size=16, max_size=40))
def test_ids_and_addresses_are_replaced_wherever_they_stand(guid: object, address: object, token: str) -> None:
    from analysis.redact import _Pseudonyms

    text = f"id={guid};from {address}, trace {token}x1"
    shown = _Pseudonyms().text(text)
    assert str(guid) not in shown
    assert str(address) not in shown or str(address).startswith(("127.", "0.0.0.0"))
    assert msgspec.json.decode(msgspec.json.encode(shown)) == shown
