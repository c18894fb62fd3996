"""`analysis ptu` from every kind of source, by the command as users give it, with counts worked out by hand."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from analysis.cli import analysis
from probe.prompts import mean_sizes, read_mix
from tests.commands import ROOT, run
from tests.test_analysis import call, write_run
from tests.test_logs import TICKS, jsonl, request, usage

BEGAN = datetime(2024, 5, 17, 13, 18, 1, 539415, tzinfo=UTC)
MIX = ROOT / "locustfiles" / "traffic.toml"
Record = dict[str, Any]


def invoked(*arguments: object) -> Any:
    return CliRunner().invoke(analysis, ["ptu", *map(str, arguments)])


def sized(*arguments: object) -> dict[str, Any]:
    done = invoked(*arguments, "-o", "json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def requests(calls: int = 1_200, **changes: Any) -> Iterable[Record]:
    """Two a second, of 700 tokens of which 200 were cached, and 125 generated: of gpt-4o a call is 1,000 tokens."""
    for number in range(calls):
        about = request(number, **changes)
        properties = json.loads(about["properties"]) | {"requestTime": TICKS + number * 5_000_000}
        yield {**about, "properties": json.dumps(properties)}


def usages(calls: int = 1_200) -> Iterable[Record]:
    for number in range(calls):
        about = usage(number, prompt=(700,), generated=(125,))
        yield {**about, "properties": json.dumps(json.loads(about["properties"]) | {"cachedTokens": [200]})}


def gateway_logs(calls: int = 1_200, refused: int = 60) -> Iterable[Record]:
    """One a second of 500 tokens and 125: of gpt-4o a call is 1,000 tokens; then as many that were refused."""
    for number in range(calls + refused):
        at = BEGAN + timedelta(seconds=number)
        answered = number < calls
        about = {
            "method": "POST",
            "url": "https://gate/openai/deployments/chat/chat/completions?api-version=2024-10-21",
        }
        yield {
            "category": "GatewayLogs",
            "correlationId": f"gate-{number}",
            "time": f"{at:%Y-%m-%dT%H:%M:%S.%f}Z",
            "durationMs": 900,
            "properties": json.dumps({**about, "responseCode": 200 if answered else 429}),
        }
        if answered:
            tokens = {"promptTokens": "500", "completionTokens": "125", "totalTokens": "625"}
            about = {"deploymentName": "chat", "modelName": "gpt-4o", "requestId": f"chatcmpl-{number}", **tokens}
            yield {
                "category": "GatewayLlmLog",
                "correlationId": f"gate-{number}",
                "time": f"{at:%Y-%m-%dT%H:%M:%S.%f}Z",
                "properties": json.dumps(about),
            }


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a storage account has them: a file for each category."""
    folder = tmp_path_factory.mktemp("logs")
    jsonl(folder / "requests.json", requests())
    jsonl(folder / "usage.json", usages())
    return folder


def test_diagnostic_logs_are_sized_by_what_was_billed(logs: Path) -> None:
    # 120 calls of 1,000 tokens a minute over 2,500 is 48 units.
    found = sized(logs)
    average = found["average"]
    assert (found["model"], found["calls"], found["ptu"]) == ("gpt-4o", 1_200, 50)
    assert average["rpm"] == pytest.approx(120) and average["units"] == pytest.approx(48)
    assert (average["input_tokens"], average["output_tokens"]) == (700, 125)
    assert average["cached_share"] == pytest.approx(2 / 7)
    assert sized(logs / "requests.json", logs / "usage.json")["average"] == average
    done = run("analysis", "ptu", str(logs), "--offer", "regional", "-o", "json")
    assert json.loads(done.stdout)["ptu"] == 50, done.stderr


def test_of_logs_a_time_can_be_asked_for(logs: Path) -> None:
    found = sized(logs, "--since", "2024-05-17T07:06:41.539415", "--until", "2024-05-17T09:08:41.539414+02:00")
    assert (found["calls"], found["average"]["rpm"]) == (240, pytest.approx(120))
    none = invoked(logs, "--since", "2024-05-18")
    assert "no request of Azure OpenAI or a gateway of the time 2024-05-18 00:00 to 2024-05-19 00:00 UTC" in none.stderr
    assert "they are of 2024-05-17 07:04 to 07:14 UTC" in none.stderr


def test_logs_of_which_requests_were_refused_say_that_more_was_asked_for(tmp_path: Path) -> None:
    late = ({**one, "resultSignature": "429"} for one in list(requests(1_300))[1_200:])
    found = sized(jsonl(tmp_path / "logs.json", [*requests(), *usages(), *late]))
    assert found["calls"] == 1_200
    assert any("100 requests without usage, 100 of them refused (429)" in note for note in found["notes"])


def test_a_gateways_logs_are_sized_by_what_its_llm_log_counted(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "gateway.json", gateway_logs())
    found = sized(file)
    # 60 calls of 1,000 tokens a minute over 2,500 is 24 units; with 60 % of the input cached a call is 700: 16.8.
    assert (found["model"], found["calls"], found["ptu"]) == ("gpt-4o", 1_200, 25)
    assert any("60 requests without usage, 60 of them refused (429)" in note for note in found["notes"])
    assert any("Nothing says how many tokens were cached" in note for note in found["notes"])
    assert sized(file, "--cached-share", "0.6")["average"]["units"] == pytest.approx(16.8)


def test_a_mix_is_sized_at_a_rate(tmp_path: Path) -> None:
    mix = tmp_path / "even.toml"
    mix.write_text(
        '[[class]]\nname = "even"\nweight = 1\ncommon_prefix = 0.64\n'
        "input_tokens = { median = 2000, p90 = 2000 }\noutput_tokens = { median = 100, p90 = 100 }\n"
    )
    found = sized(mix, "--model", "gpt-4.1", "--rpm", "300")
    # The prefix has 1,280 tokens, ten times 128: a call is 720 + 4 x 100, and 300 of them over 3,000 are 112 units.
    assert (found["average"]["normalised_tpm"], found["calls"]) == (pytest.approx(336_000, rel=1e-3), 18_000)
    assert 110 <= found["ptu"] <= 115
    whole = sized(MIX, "--model", "gpt-4.1", "--rpm", "60", "--growth", "2")
    assert whole["average"]["rpm"] == pytest.approx(120, rel=0.01)
    means = whole["average"]["input_tokens"], whole["average"]["output_tokens"]
    assert means == pytest.approx(mean_sizes(read_mix(MIX)), rel=0.05)


def test_a_measured_run_is_brought_to_a_forecast(tmp_path: Path) -> None:
    calls = [call(float(at), response_model="gpt-4.1-2025-04-14", request_max_tokens=20) for at in range(1_000)]
    folder = write_run(tmp_path, calls)
    found = sized(folder, "--rpm", "1500", "--input-tokens", "400", "--output-tokens", "50")
    average = found["average"]
    assert average["rpm"] == pytest.approx(1_500, rel=1e-3)
    assert (average["input_tokens"], average["output_tokens"]) == (pytest.approx(400), pytest.approx(50))
    # 1,500 calls of 400 + 4 x 50 tokens over 3,000.
    assert average["units"] == pytest.approx(300, rel=1e-3)
    assert any("Calls are 25 times those of the source" in note for note in found["notes"])


def test_a_trace_may_be_given_what_was_cached(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = (f"2024-05-10 00:{at // 60:02}:{at % 60:02}.0000000,1000,50" for at in range(600))
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    whole, half = sized(trace, "--model", "gpt-4.1"), sized(trace, "--model", "gpt-4.1", "--cached-share", "0.5")
    assert whole["average"]["normalised_tpm"] == pytest.approx(72_000)
    assert half["average"]["normalised_tpm"] == pytest.approx(42_000)


def emptied(folder: Path) -> Path:
    (folder / "empty.json").write_text("")
    return folder / "empty.json"


def mixed_up(folder: Path) -> Path:
    (folder / "mix.toml").write_text("[[class]]\nname = 1\n")
    return folder / "mix.toml"


def no_rows(folder: Path) -> Path:
    (folder / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    return folder / "trace.csv"


def only_requests(folder: Path) -> Path:
    return jsonl(folder / "requests.json", requests(5))


def two_deployments(folder: Path) -> Path:
    other = [
        {**one, "properties": one["properties"].replace('"chat"', '"other"'), "correlationId": f"o-{number}"}
        for number, one in enumerate(requests(5))
    ]
    return jsonl(folder / "both.json", [*requests(5), *usages(5), *other])


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (emptied, [], "the logs have no request of Azure OpenAI or a gateway with its time"),
        (lambda folder: folder, [], "the logs have no request of Azure OpenAI or a gateway with its time"),
        (only_requests, [], "no request of the logs has its usage (AzureOpenAIRequestUsage)"),
        (two_deployments, [], "calls of several deployments (chat, other): name one with --deployment"),
        (no_rows, ["--model", "gpt-4o"], "no rows in it"),
        (mixed_up, ["--model", "gpt-4o", "--rpm", "5"], "mix.toml"),
        (lambda folder: MIX, ["--model", "gpt-4o"], "--rpm N does"),
        (lambda folder: MIX, ["--model", "gpt-4o", "--rpm", "5", "--cached-share", "0.5"], "--cached-share: how much"),
        (lambda folder: MIX, ["--rpm", "5", "--since", "2024-05-17"], "is no log: several sources, --since"),
        (two_deployments, ["--since", "yesterday"], "--since yesterday: give a time as 2026-09-01T08:00"),
        (two_deployments, ["--since", "2024-05-18", "--until", "2024-05-17"], "is not before --until"),
        (lambda folder: "nowhere.toml", ["--rpm", "5"], "nowhere.toml: no such run, log, trace or mix"),
        (two_deployments, ["--deployment", "chat", "--rpm", "1e7"], "which is too many to replay"),
        (lambda folder: "workspace:!", [], "a workspace is workspace: and its id"),
    ],
)
def test_sources_that_are_wrong_or_empty_end_in_one_line(
    tmp_path: Path, make: Any, options: list[str], says: str
) -> None:
    done = invoked(make(tmp_path), *options)
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.output
    assert says in done.stderr


@pytest.mark.parametrize("number", ["nan", "inf", "1e300", "-1", "many"])
@pytest.mark.parametrize("option", ["--rpm", "--input-tokens", "--growth", "--throttled"])
def test_numbers_that_are_none_are_refused(option: str, number: str) -> None:
    done = invoked(MIX, "--model", "gpt-4.1", "--rpm", "5", option, number)
    assert done.exit_code == 2 and f"Invalid value for '{option}'" in done.stderr
