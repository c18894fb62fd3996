"""Units as measured: a knee that the search itself found, in the form that the scenario writes, beside the table."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from analysis.answers import answers
from analysis.cli import analysis
from analysis.findings import analyse
from probe.prompts import CONVERSATION, EvenMix
from simulator.service.provisioned import ProvisionedLimiter
from tests.commands import run, settings_of
from tests.runs import only_run
from tests.simulators import AT_ONCE, simulating
from tests.test_analysis import call, refused, write_run
from tests.test_knee import PTU, Service, searched

TAKES = 25 * PTU.input_tpm_per_ptu


@pytest.fixture(scope="module")
def knee(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 25 units of gpt-4.1-mini: what `knee.py` leaves of them, with calls of the mix that it offered."""
    found = searched(Service(ProvisionedLimiter(PTU, 25)))
    mix = EvenMix(CONVERSATION, 0.7, "1-0")
    calls = []
    for number in range(800):
        ask = mix.draw()
        about = {"prompt_id": ask.prompt.id, "request_max_tokens": ask.prompt.max_tokens}
        tokens = {"input_tokens": ask.prompt.input_tokens, "output_tokens": ask.prompt.max_tokens // 2}
        calls.append(call(number / 4, response_model="gpt-4.1-mini-2025-04-14", **about, **tokens))
    calls.append(refused(200.0, throttle_kind="ptu"))
    folder = write_run(tmp_path_factory.mktemp("knee"), calls)
    return with_knee(folder, {"target": "t", "deployment": calls[0].request_model, **found.about()})


def with_knee(folder: Path, knee: dict[str, Any]) -> Path:
    about = json.loads((folder / "run.json").read_text())
    about["ended"]["knee"] = [knee]
    (folder / "run.json").write_text(json.dumps(about))
    return folder


def ptu(folder: Path, *options: str) -> dict[str, Any]:
    done = CliRunner().invoke(analysis, ["ptu", str(folder), *options, "-o", "json"])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def measured(notes: list[str]) -> str:
    return next(note for note in notes if note.startswith("Measured at the knee: "))


def tokens(note: str) -> float:
    return float(note.removeprefix("Measured at the knee: ").split(" ")[0].replace(",", ""))


def test_a_knee_says_what_units_took_within_3_percent_and_how_far_that_is_from_the_table(knee: Path) -> None:
    said = measured(ptu(knee, "--bought", "25")["notes"])
    assert tokens(said) == pytest.approx(TAKES, rel=0.03)
    off = float(said.partition(" for 25 units, ")[2].partition("%")[0])
    assert abs(off) < 3 and f"of the table's {TAKES:,.0f}" in said and "throttled<1% broke" in said
    # Had 30 been bought, each would have taken a sixth less than the table says, and more of them would be needed.
    table, sized = ptu(knee, "--growth", "4"), ptu(knee, "--growth", "4", "--bought", "30", "--calibrate", str(knee))
    assert sized["input_tpm_per_ptu"] == pytest.approx(PTU.input_tpm_per_ptu * 25 / 30, rel=0.03)
    assert sized["ptu"] > table["ptu"] and f"By the table it would be {table['ptu']} PTU." in sized["notes"]
    assert sized["source"] == f"measured: {knee.name}"


def test_a_measured_knee_is_held_against_the_table_and_can_be_sized_with(tmp_path: Path) -> None:
    calls = [call(at / 10, response_model="gpt-4.1-2025-04-14", request_max_tokens=None) for at in range(600)]
    folder = write_run(tmp_path, calls)
    # A call is 40 + 4 x 10 tokens: 30 units take 90,000 of them by the table, and took 72,000.
    held = {"requests_per_minute": {"value": 900.0, "low": 855.0, "high": 945.0}}
    with_knee(folder, {"target": "t", "deployment": calls[0].request_model, "held": held, "broke_by": "throttled<1%"})
    noted = ptu(folder, "--bought", "30", "--growth", "3")
    said = "72,000 (68,400 to 75,600) tokens a minute as units count them for 30 units, -20.0% (-24.0% to -16.0%)"
    assert any(said in note and "throttled<1% broke" in note for note in noted["notes"])
    sized = ptu(folder, "--bought", "30", "--growth", "3", "--calibrate", str(folder))
    assert sized["input_tpm_per_ptu"] == pytest.approx(2_400) and sized["ptu"] > noted["ptu"]
    assert f"By the table it would be {noted['ptu']} PTU." in sized["notes"]
    done = CliRunner().invoke(analysis, ["ptu", str(folder), "--calibrate", str(folder)])
    assert done.exit_code == 2 and "and --bought N" in done.stderr


def test_the_report_says_what_units_took_at_the_knee(knee: Path) -> None:
    found = analyse(knee, [])
    said = measured([detail for answer in answers(found) for detail in answer.details])
    assert tokens(said) == pytest.approx(TAKES, rel=0.03)
    units = float(said.partition(", what ")[2].split(" ")[0])
    assert units == pytest.approx(25, rel=0.03)


@pytest.mark.parametrize("limited", ["max-rate", "generator"])
def test_a_knee_at_which_nothing_broke_is_a_bound_and_nothing_to_size_with(tmp_path: Path, limited: str) -> None:
    calls = [call(at / 10, response_model="gpt-4.1-2025-04-14") for at in range(600)]
    held = {"held": {"requests_per_minute": {"value": 900.0, "low": 900.0}}, "steps": []}
    knee = {"target": "t", "deployment": calls[0].request_model, "broke_by": None, "limited_by": limited, **held}
    folder = with_knee(write_run(tmp_path, calls), knee)
    # A call is 40 + 4 x 10 tokens.
    assert "at least 72,000 tokens a minute" in measured(ptu(folder)["notes"])
    done = CliRunner().invoke(analysis, ["ptu", str(folder), "--bought", "30", "--calibrate", str(folder)])
    assert done.exit_code == 2 and "nothing of the target's broke there" in done.stderr
    assert len(done.stderr.splitlines()) == 1


CONFIG = f"""
[resources.one]
region = "Sweden Central"
{AT_ONCE}
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
ptu = 25
"""


@pytest.mark.soak
def test_a_knee_of_the_simulators_units_is_what_the_table_says_that_they_take(tmp_path: Path) -> None:
    with simulating(tmp_path, CONFIG) as simulated:
        target = simulated.target("one")
        settings = settings_of(target.endpoint, AZURE_OPENAI_API_KEY=target.api_key or "", HEADROOM_BREAKER="0")
        settings["HEADROOM_RESULTS"] = str(tmp_path / "results")
        done = run("locust", "-f", "locustfiles/knee.py", "--headless", settings=settings, timeout=400)
        assert done.returncode == 0, done.stderr
    said = measured(ptu(only_run(tmp_path / "results"), "--bought", "25")["notes"])
    print(said)
    assert tokens(said) == pytest.approx(TAKES, rel=0.05)
