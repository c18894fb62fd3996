"""`analysis gateway` on the simulator: what it says is what the ledger and the raw lines of the logs say."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from click.testing import CliRunner

from analysis.cli import analysis
from analysis.gateway import CALL_COLUMNS, ID_HEADERS, LOG_COLUMNS, Gateway, analyse
from analysis.join import Joined, join, overlap
from analysis.logs import Logs, read_logs
from analysis.lost import paid_and_lost
from analysis.runs import header_shares, read_run
from probe.client import Client
from probe.journal import Journal, end_run, start_run
from probe.prices import read_prices
from probe.prompts import Prompt, numbered
from probe.record import ObservedCall
from probe.target import Target
from probe.transport import Timeouts
from tests.simulators import AT_ONCE, Simulated, simulating
from tests.test_analysis import call, write_run
from tests.wire import serving, withholds

CONFIG = f"""
[logs]
delay = [0.0, 0.3]
duplicates = 0.1
missing = 0.03
properties = "string"
[resources.one]
region = "East US 2"
{AT_ONCE}
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
tokens_per_minute = 100000000
requests_per_minute = 1000000
[gateways.gate]
backends = [{{ resource = "one" }}]
log_bodies = true
strip_headers = ["x-ms-region"]
log_headers = ["apim-request-id"]
[gateways.retrying]
backends = [{{ resource = "one" }}]
[gateways.retrying.retry]
count = 3
interval = 0
[[faults]]
name = "stream_truncated"
share = 0.3
resource = "one"
[[faults]]
name = "server_error"
share = 0.1
resource = "one"
[[faults]]
name = "high_demand"
share = 0.1
resource = "one"
"""


WAYS = ("direct", "apim")


class Made(NamedTuple):
    folder: Path
    logs: Path
    ledger: list[dict[str, Any]]

    def lines(self, category: str) -> list[dict[str, Any]]:
        paths = self.logs.glob(f"insights-logs-{category}/**/PT1H.json")
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]

    def ids(self, category: str, **having: str) -> set[str]:
        return {line["correlationId"] for line in self.lines(category) if having.items() <= line.items()}

    def of(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.ledger if line["resource"] == name]


Observe = Callable[..., ObservedCall]


@contextmanager
def running(folder: Path, simulated: Simulated, timeouts: Timeouts | None = None) -> Iterator[tuple[Path, Observe]]:
    """The folder of a run, and what makes a call of it: of a target, a prompt, and whether to stream."""
    run = start_run(folder / "results", "mixed", {"arrivals": "closed", "logs": [str(simulated.logs)]})
    journal, client = Journal(run), Client(timeouts=timeouts)

    def observe(target: Target, prompt: Prompt, *, stream: bool) -> ObservedCall:
        call = client.observe(target, prompt, stream=stream)
        journal.append(call)
        return call

    yield Path(run.folder), observe
    client.close()
    journal.close()
    end_run(run, "completed", dict(journal.counts))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("gateway")
    with simulating(folder, CONFIG) as simulated, running(folder, simulated) as (run, observe):
        for number in range(120):
            for name in ("one", "gate", "retrying"):
                observe(simulated.target(name), numbered(number % 7, 30, 8), stream=number % 2 == 0)
    # What is on its way arrives when the simulator stops.
    return Made(run, simulated.logs, simulated.ledger())


@pytest.fixture(scope="module")
def logs(made: Made) -> Logs:
    return read_logs([made.logs], LOG_COLUMNS)


@pytest.fixture(scope="module")
def joined(made: Made, logs: Logs) -> Joined:
    return join(read_run(made.folder, ID_HEADERS, CALL_COLUMNS).calls, logs)


@pytest.fixture(scope="module")
def found(made: Made, logs: Logs, joined: Joined) -> Gateway:
    return analyse(joined, logs, header_shares(made.folder))


def test_what_was_paid_and_lost_is_the_ledgers_to_the_token(made: Made, joined: Joined) -> None:
    got = set(joined.calls.loc[joined.calls["group"] == "answered", "service_request_id"].dropna())
    requested, counted = made.ids("requestresponse"), made.ids("azureopenairequestusage")
    worked = {line["request_id"]: line for line in made.of("one") if "completion_tokens" in line}
    lost = {request_id: line for request_id, line in worked.items() if request_id not in got}
    known = [line for request_id, line in lost.items() if request_id in counted]
    found = paid_and_lost(joined, read_prices())
    assert len(known) > 60 and len(lost) > len(known)
    assert int(found.entries["prompt_tokens"].sum()) == sum(line["prompt_tokens"] for line in known)
    assert int(found.entries["generated_tokens"].sum()) == sum(line["completion_tokens"] for line in known)
    # Of the others the request is known, and their tokens are not made up.
    assert set(found.entries["correlation_id"]) == set(lost) & (counted | requested)
    assert found.unexplained.empty
    price = read_prices().price("gpt-4.1-mini-2025-04-14")
    assert price is not None
    cost = sum(
        price.cost(line["prompt_tokens"], line["completion_tokens"], line.get("cached_tokens", 0)) for line in known
    )
    assert float(found.entries["cost"].sum()) == pytest.approx(cost)


def test_lost_calls_are_told_by_how_the_client_saw_them_end(joined: Joined) -> None:
    by = paid_and_lost(joined, read_prices()).by_outcome.set_index(["gateway", "outcome", "known_by"])["calls"]
    assert by["direct", "stream_truncated", "apim-request-id"] > 5
    # One call at a time: whichever was open is the one.
    assert by["apim", "gateway_error", "time, the only call open"] > 20


def test_coverage_is_the_ledgers(made: Made, logs: Logs, joined: Joined) -> None:
    requested, counted = made.ids("requestresponse"), made.ids("azureopenairequestusage")
    sent = {line["request_id"] for line in made.of("one")}
    assert counted <= sent and requested <= sent and 0.9 < len(requested) / len(sent) < 1
    coverage = joined.coverage
    ids = set(joined.calls["service_request_id"].dropna())
    assert coverage.matched == len(ids & (requested | counted))
    assert coverage.only_client == len(joined.calls) - coverage.matched
    assert coverage.only_log == len((requested | counted) - ids)
    assert coverage.without_request == len(counted - requested)
    assert coverage.without_usage == len(made.ids("requestresponse", resultSignature="200") - counted)
    categories = ("requestresponse", "azureopenairequestusage", "gatewaylogs", "gatewayllmlog")
    assert coverage.duplicates == sum(len(made.lines(name)) - len(made.ids(name)) for name in categories) > 20


def test_the_clocks_difference_lies_in_its_interval(joined: Joined) -> None:
    # Both are this machine's.
    skew = joined.coverage.skew
    assert skew is not None and skew.steady and skew.low <= 0.0005 and skew.high >= 0


def test_the_interval_follows_a_clock_that_is_an_hour_off(made: Made, logs: Logs) -> None:
    calls = read_run(made.folder).calls
    late = calls.assign(start_time_unix_nano=calls["start_time_unix_nano"] - 3600 * 10**9)
    skew = join(late, logs).coverage.skew
    assert skew is not None and skew.low - 0.001 <= 3600 <= skew.high + 0.001 and skew.high - skew.low < 1


def test_what_the_gateway_does_is_found_with_how_it_is_known(made: Made, logs: Logs, joined: Joined) -> None:
    through_one = joined._replace(calls=joined.calls[joined.calls["target"].isin(["one", "gate"])])
    found = analyse(through_one, logs, header_shares(made.folder))
    by = {row["what"]: row for row in found.behaviour.to_dict("records")}
    # Every stream through it that the back end had answered, and no other.
    passed = [line for line in made.of("gate") if line["backends"] == ["one 200"]]
    assert by["breaks streams"]["calls"] == sum(line["status"] == 500 for line in passed) > 30
    # Only one of the two gateways strips it, which is no more than half of the replies.
    assert not any(what.startswith("strips") for what in by)


def test_how_many_calls_succeed_through_a_gateway_is_held_against_direct_ones(joined: Joined, found: Gateway) -> None:
    rows = {row["target"]: row for row in found.success.to_dict("records")}
    answered = joined.calls["group"] == "answered"
    for target, row in rows.items():
        assert (row["sent"], row["answered"]) == (120, answered[joined.calls["target"] == target].sum())
    # One breaks streams, the other tries again.
    assert rows["gate"]["less_direct_high"] < 0 and math.isnan(rows["one"]["less_direct"])
    assert rows["retrying"]["less_direct"] == pytest.approx(rows["retrying"]["share"] - rows["one"]["share"])
    assert rows["retrying"]["less_direct_low"] > 0


def test_attempts_behind_the_gateway_are_counted_as_the_ledger_has_them(made: Made, found: Gateway) -> None:
    hidden = sum(len(line["backends"]) - 1 for line in made.of("retrying"))
    (row,) = [row for row in found.behaviour.to_dict("records") if row["what"].startswith("calls back ends again")]
    # 3 % of the records are lost, and so is what they say.
    assert 0.8 * hidden <= row["calls"] <= hidden and hidden > 3


def test_refusals_that_a_gateway_tried_again_after_are_those_of_the_log(made: Made) -> None:
    done = CliRunner().invoke(analysis, ["throttling", str(made.folder), "-o", "json"])
    found = json.loads(done.output)
    seen = read_run(made.folder).calls
    named = set(seen.loc[seen["status_code"] == 429, "service_request_id"])
    logged = made.ids("requestresponse", resultSignature="429")
    tries = [back for line in made.of("retrying") for back in line["backends"]]
    (hidden,) = found["hidden_refusals"]
    assert (hidden["behind"], hidden["where"], hidden["deployment"]) == ("gateway", "ONE", "chat")
    assert hidden["refused"] == hidden["least"] == len(logged - named) == found["hidden"]
    # 3 % of the records are lost.
    assert 0.8 * tries.count("one 429") <= hidden["refused"] <= tries.count("one 429") and hidden["refused"] > 3
    assert found["refused"] == len(named) and found["coverage"]["matched"] > 0


def test_units_are_sized_from_the_gateways_logs_by_the_tokens_that_it_counted(made: Made) -> None:
    began = made.ids("gatewaylogs")
    counted: dict[str, dict[str, Any]] = {}
    for line in made.lines("gatewayllmlog"):
        about = line["properties"] if isinstance(line["properties"], dict) else json.loads(line["properties"])
        if about.get("deploymentName") and int(about.get("promptTokens") or 0):
            counted[line["correlationId"]] = about
    folders = [str(made.logs / f"insights-logs-{name}") for name in ("gatewaylogs", "gatewayllmlog")]
    done = CliRunner().invoke(analysis, ["ptu", *folders, "-o", "json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    tokens = [int(about["promptTokens"]) for number, about in counted.items() if number in began]
    lost = len(counted) - len(tokens)
    assert not lost or any(f"{lost:,} rows of the logs do not say when" in note for note in found["notes"])
    assert found["calls"] == len(tokens) > 50
    assert found["average"]["input_tokens"] == pytest.approx(sum(tokens) / len(tokens))


def test_the_gateways_log_is_joined_by_rules_that_are_named(found: Gateway, logs: Logs) -> None:
    rules = found.paths.set_index(["from_to", "rule"])["rows"]
    assert set(rules.groupby("from_to").sum()) == {len(logs.gateway)}
    assert rules["gateway to client", "RequestId of the LLM log"] > 50
    assert rules["gateway to Azure OpenAI", "apim-request-id that the gateway logged"] > 50
    assert rules["gateway to Azure OpenAI", "through the client: the reply's apim-request-id"] > 50


def test_added_time_is_paired_by_prompt(joined: Joined, logs: Logs, made: Made) -> None:
    only = joined._replace(calls=joined.calls[joined.calls["target"] != "gate"])
    found = analyse(only, logs, header_shares(made.folder)).added.to_dict("records")
    (whole,) = [row for row in found if (row["asked_for"], row["mark"]) == ("whole", "headers")]
    assert whole["paired"] and whole["n"] >= 30 and 0 < whole["added_low"] <= whole["added"] <= whole["added_high"]


def test_the_command_prints_it_for_a_person_and_for_a_script(made: Made) -> None:
    said = CliRunner().invoke(analysis, ["gateway", str(made.folder)])
    assert said.exit_code == 0 and "Paid and lost: " in said.output
    # Of the one gateway that reads bodies, and not of the other.
    (breaks,) = [line for line in said.output.splitlines() if "breaks streams" in line]
    assert breaks.split()[0] == "gate"
    found = json.loads(CliRunner().invoke(analysis, ["gateway", str(made.folder), "-o", "json"]).output)
    assert found["paid_and_lost"]["calls"] == sum(row["calls"] for row in found["lost"]) > 60


def test_logs_of_another_time_or_resource_are_said_to_be_that(made: Made, logs: Logs) -> None:
    calls = read_run(made.folder).calls
    strangers = calls.assign(service_request_id=[f"id-{n}" for n in range(len(calls))])
    other = join(strangers, logs)
    assert "another resource's (ONE)" in (overlap(other, logs) or "")
    earlier = strangers.assign(start_time_unix_nano=calls["start_time_unix_nano"] - 10**15)
    assert "of another time" in (overlap(join(earlier, logs), logs) or "")
    nameless = calls.assign(service_request_id=None)
    assert "apim-request-id" in (overlap(join(nameless, logs), logs) or "")


def test_of_few_calls_it_is_said_that_they_are_too_few(tmp_path: Path) -> None:
    calls = [call(float(n), gateway=way, target=way, time_to_first_token=0.1) for n in range(3) for way in WAYS]
    found = CliRunner().invoke(analysis, ["gateway", str(write_run(tmp_path, calls))])
    assert found.output.startswith("streams through apim: first token: too few to tell, +0.0 ms (95 %: ")


def test_no_run_ends_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(analysis, ["gateway", str(tmp_path / "none")])
    assert done.exit_code == 2 and done.output.startswith("analysis: ") and done.output.count("\n") == 1


ONE_GATEWAY = f"""
[resources.one]
region = "East US 2"
{AT_ONCE}
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
tokens_per_minute = 100000000
requests_per_minute = 1000000
[gateways.gate]
backends = [{{ resource = "one" }}]
strip_headers = ["x-ms-region"]

"""


def test_a_policy_against_streams_and_a_stripped_header_are_found(tmp_path: Path) -> None:
    config = f"{ONE_GATEWAY}\nblock_streaming = true\n"
    with simulating(tmp_path, config) as simulated, running(tmp_path, simulated) as (run, observe):
        for number in range(24):
            for name in ("one", "gate"):
                observe(simulated.target(name), numbered(number, 30, 40), stream=number % 2 == 0)
    done = CliRunner().invoke(analysis, ["gateway", str(run), "-o", "json"])
    found = json.loads(done.output)
    calls = read_run(run, (), CALL_COLUMNS).calls
    streams = calls[(calls["target"] == "gate") & calls["request_stream"]]
    assert set(streams["outcome"]) == {"not_found"}
    by = {row["what"]: (row["calls"], row["of"]) for row in found["behaviour"]}
    assert by["blocks streaming"] == (12, 12)
    assert any(name.startswith("strips headers: ") and "x-ms-region" in name for name in by)
    assert not any(name in by for name in ("buffers streams", "breaks streams"))


# Three tokens come at once, a hundred take two seconds.
SLOW = """
[resources.one]
region = "East US 2"
[resources.one.latency]
prompt_filter = { median = 0.0 }
queue = { median = 0.0 }
engine = { median = 0.0 }
between_tokens = { median = 0.02, spread = 0.0 }
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
tokens_per_minute = 100000000
requests_per_minute = 1000000
[gateways.gate]
backends = [{ resource = "one" }]
"""


def test_what_the_service_completed_and_the_client_gave_up_waiting_for_is_the_ledgers_to_the_token(
    tmp_path: Path,
) -> None:
    with (
        simulating(tmp_path, SLOW) as simulated,
        running(tmp_path, simulated, Timeouts(total=0.5)) as (run, observe),
        ExitStack() as stack,
    ):
        for name, has_head in (("one", True), ("gate", False)):
            target = simulated.target(name)
            port = int(target.endpoint.rpartition(":")[2])
            between = stack.enter_context(serving(withholds(port, head=has_head)))
            for number in range(2):
                held_up = msgspec.structs.replace(target, name=f"{name} held up", endpoint=between.url)
                observe(held_up, numbered(number, 30, 3), stream=False)
        observe(simulated.target("one"), numbered(9, 30, 100), stream=True)
    logs = read_logs([simulated.logs], LOG_COLUMNS)
    found = paid_and_lost(join(read_run(run).calls, logs), read_prices())
    assert set(found.entries["outcome"]) == {"timeout_total"} and found.unexplained.empty
    billed = {line["request_id"]: line for line in simulated.ledger() if line["resource"] == "one"}
    tokens = {
        row["correlation_id"]: (row["log_status"], row["prompt_tokens"], row["generated_tokens"])
        for row in found.entries.to_dict("records")
    }
    # The log has the stream, which was cut in the middle, as 499; of it what had been generated is billed.
    assert tokens == {
        request_id: (200 if line["outcome"] == "ok" else 499, line["prompt_tokens"], line["completion_tokens"])
        for request_id, line in billed.items()
    }
    assert sorted(status for status, _, _ in tokens.values()) == [200] * 4 + [499]
    assert all(generated > 0 for _, _, generated in tokens.values())
    # Of those through the gateway no head had come, and no id with it.
    by = found.by_outcome.set_index(["gateway", "known_by"])["calls"].to_dict()
    assert by == {("apim", "time, the only call open"): 2, ("direct", "apim-request-id"): 3}
