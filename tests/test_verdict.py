"""The last line of a run: what it came to, and which command is next."""

import json
import shlex
from pathlib import Path

import pytest

from locustfiles._live import Process, Seen, Standing
from locustfiles._slo import read_objectives
from locustfiles._verdict import Ran, Verdict, verdict
from locustfiles._words import seconds, share
from tests.commands import run
from tests.runs import ended, load_of, only_run, openai_shaped, results_in
from tests.test_render import a_call
from tests.test_slo import NOT_SENT, THROTTLED
from tests.wire import answers, serving

FIRST: dict[str, object] = {"request_stream": True, "time_to_first_token": 0.8437, "duration": 1.0}
FAILED: dict[str, object] = {"outcome": "server_error", "error_type": "500", "status_code": 500}


def standing(*calls: dict[str, object]) -> Standing:
    seen, made = Seen(), Standing()
    for call in calls:
        seen.take(a_call(**{"target": "eastus2", **call}))
    made.take("one", seen.report(Process()))
    return made


def judged(
    of: Standing, slo: str = "", how: str = "completed", why: str | None = None, late: bool = False, lost: int = 0
) -> Verdict:
    ran = Ran(how, why, "results/a run", late, lost)
    return verdict(ran, of, list(of.all().values.judge(read_objectives(slo), not late)))


@pytest.mark.parametrize(
    ("made", "text", "following"),
    [
        (judged(standing(FIRST)), "held: 1 call; p95 first token 844 ms; 0 % throttled", "report"),
        (judged(standing(FIRST), "ttft_p95<1s"), "held: ", "report"),
        (judged(standing(FIRST), "ttft_p95<500ms"), "broke: ttft_p95<500ms was 843.7 ms, of 1 calls", "knee.py"),
        (judged(standing(FIRST, THROTTLED), "throttled<1%"), "broke: throttled<1% was 50.00%", "throttling"),
        (judged(standing(FIRST, THROTTLED)), "50.0 % throttled by rate tokens at eastus2", "throttling"),
        (judged(standing(FIRST, FAILED)), "50.0 % failed, mostly as server error at eastus2", "report"),
        (judged(standing(FIRST, {"outcome": "cancelled_user"})), "held: 1 call; p95 first token 844 ms", "report"),
        (judged(standing(FIRST, {"outcome": "cancelled_user"})), "; 1 cut off at the end", "report"),
        (judged(standing(FIRST, NOT_SENT)), "no verdict: 50.0 % of the calls due were not sent", "--processes"),
        (judged(standing(FIRST), "ttft_p95<1s", late=True), "no verdict: too many first tokens", "--processes"),
        (judged(standing(FIRST, THROTTLED), late=True), "broke: 2 calls", "throttling"),
        (judged(standing({}), "ttft_p95<1s"), "no verdict: ttft_p95<1s cannot be said: nothing was", "report"),
        (judged(standing(FIRST), lost=1), "no verdict: a worker was lost", "verify"),
        (judged(standing(FIRST), how="interrupted"), "ended early: interrupted; 1 call", "report"),
        (judged(standing(FIRST), how="failed", why="no space"), "ended early: no space; 1 call", "verify"),
        (judged(standing(), how="stopped", why="the key is refused"), "ended early: the key is refused", "doctor"),
        (judged(standing()), "nothing was sent", "doctor"),
    ],
)
def test_a_verdict_says_what_became_of_the_run_and_what_to_look_at_next(
    made: Verdict, text: str, following: str
) -> None:
    assert text in made.text and "\n" not in made.text
    assert following in made.next
    if made.next.startswith("analysis"):
        assert shlex.split(made.next)[2] == "results/a run"


OWN = Verdict("found: apim adds +3.0 ms", "analysis gateway results/a")


@pytest.mark.parametrize(
    ("calls", "slo", "text", "following"),
    [
        ([FIRST], "", "found: apim adds +3.0 ms", OWN.next),
        ([FIRST], "ttft_p95<1s", "found: apim adds +3.0 ms", OWN.next),
        ([FIRST, FAILED], "", "at eastus2; found: apim adds +3.0 ms", "analysis report 'results/a run'"),
        ([FIRST], "ttft_p95<500ms", "broke: ttft_p95<500ms was 843.7 ms", "locustfiles/knee.py"),
        ([FIRST, NOT_SENT], "", "no verdict: 50.0 % of the calls due were not sent", "--processes -1"),
    ],
)
def test_what_a_scenario_found_is_its_verdict_unless_something_stands_against_it(
    calls: list[dict[str, object]], slo: str, text: str, following: str
) -> None:
    of = standing(*calls)
    judged = list(of.all().values.judge(read_objectives(slo), True))
    said = verdict(Ran("completed", None, "results/a run", False), of, judged, OWN)
    assert text in said.text and following in said.next


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.84371, "844 ms"),
        (0.99961, "1.00 s"),
        (0.99949, "999 ms"),
        (12.345, "12.3 s"),
        (600, "600 s"),
        (2e-5, "0.0200 ms"),
    ],
)
def test_times_have_three_digits(value: float, said: str) -> None:
    assert seconds(value) == said


def test_shares_have_three_digits() -> None:
    assert [share(value) for value in (0, 0.00312, 0.0312, 0.312, 1)] == ["0 %", "0.312 %", "3.12 %", "31.2 %", "100 %"]


def test_the_command_that_a_run_names_runs_and_its_verdict_is_in_its_record(tmp_path: Path) -> None:
    with serving(answers(openai_shaped(refuse_every=5))) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_RATE="40", HEADROOM_MAX_TAINTED="1")
        done = run("locust", "--headless", "-t", "2s", "-u", "1", settings=settings)
    said = dict(ended(tmp_path))["verdict"]
    assert isinstance(said, dict)
    refused = sum(call.outcome == "throttled" for call in load_of(tmp_path)) / len(load_of(tmp_path))
    assert said["text"].startswith("broke: ") and f"{share(refused)} throttled" in said["text"]
    lines = [line for line in done.stderr.splitlines() if line.startswith("headroom: ")]
    assert lines[-3] == f"headroom: {said['text']}" and lines[-1] == f"headroom: next: {said['next']}"
    following = run(*shlex.split(said["next"]), settings={"HEADROOM_RESULTS": str(tmp_path)})
    assert following.returncode == 0 and said["next"].startswith("analysis throttling "), following.stderr
    assert json.loads((only_run(tmp_path) / "run.json").read_text())["ended"]["verdict"] == said
