"""The prose: every command in the README is run, every option and every key of the record is described."""

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import msgspec
import pytest

from locustfiles._options import OPTIONS
from locustfiles._slo import SHARES, TIMES
from probe import advice
from probe.assertions import NAMES
from probe.cli import look
from probe.meanings import MEANINGS
from probe.record import OUTCOMES, ObservedCall
from probe.simulated import Simulator
from simulator.call import Call
from simulator.config import Generation
from tests.commands import BIN, ROOT, environment, run
from tests.runs import short_calls
from tests.test_compare import calls, written

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
RECORD = (ROOT / "docs" / "record.md").read_text(encoding="utf-8")


def block(begins_with: str) -> str:
    """The README's code block of this first line."""
    blocks = re.findall(r"```\w+\n(.*?)```", README, re.DOTALL)
    return str(next(text for text in blocks if text.startswith(begins_with)))


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """What a user has after cloning and setting up: the tracked files, and a virtual environment in `.venv`."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (tmp_path / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    for stamp in (".run", ".test"):
        (tmp_path / ".venv" / stamp).touch()
    yield tmp_path


def shell(script: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**environment(settings), "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_make_demo_shows_progress_and_ends_with_the_path_of_its_report(checkout: Path) -> None:
    assert "make demo\n" in block("make demo")
    # A demonstration stays on the simulator, also for someone who has an endpoint configured.
    about = {"AZURE_OPENAI_ENDPOINT": "https://contoso.openai.azure.com", "HEADROOM_MIX": short_calls(checkout)}
    done = shell("make demo", checkout, DEMO_TIME="6s", **about)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("calls ended") >= 2
    path = checkout / done.stdout.splitlines()[-1]
    assert path.name == "report.html" and path.is_file()


def test_make_test_runs_the_checks_and_the_tests(checkout: Path) -> None:
    assert "make test\n" in block("make demo")
    planned = shell("make --dry-run test", checkout).stdout
    for step in ("ruff format --check", "ruff check", "mypy", "pytest"):
        assert step in planned


def test_the_commands_against_an_endpoint_work_with_the_four_variables_set(checkout: Path) -> None:
    simulator = Simulator(checkout / "simulator-data")
    target = simulator.targets["eastus2"]
    values = {
        "AZURE_OPENAI_ENDPOINT": target.endpoint,
        "AZURE_OPENAI_API_KEY": target.api_key or "",
        "AZURE_OPENAI_DEPLOYMENT": target.deployment,
    }
    script = block("export")
    assert script.count("export ") == 4
    for name, value in values.items():
        script = re.sub(rf"(?m)^export {name}=.*$", f"export {name}={value}", script)
    done = shell(script.replace("--run-time 1m", "--run-time 2s"), checkout, HEADROOM_MIX=short_calls(checkout))
    simulator.stop()
    assert done.returncode == 0, done.stderr
    assert "starting the simulator" not in done.stderr
    assert "x-ms-region" in done.stdout and done.stdout.splitlines()[-1].endswith("report.html")


def test_the_set_up_with_uv_installs_what_the_lock_file_holds(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    # UV_SYSTEM_CERTS: behind a company's own authority the index is trusted by the system, if at all.
    done = shell(re.sub(r"(?m)^uv ", f"{BIN}/uv ", block("uv venv")), checkout, UV_SYSTEM_CERTS="1")
    if "Failed to fetch" in done.stderr:
        pytest.skip("the package index cannot be reached from here")
    assert done.returncode == 0, done.stderr
    assert run_in(checkout, "probe", "--help").returncode == 0


def test_the_set_up_on_windows_is_the_makefiles_with_that_systems_names(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    planned = [line.strip() for line in shell("make --dry-run demo", checkout).stdout.splitlines()]
    script = block("py -m venv").replace("py -m venv", "python3 -m venv").replace(".venv\\Scripts\\", ".venv/bin/")
    for line in script.splitlines():
        assert any(set(line.split()) <= set(step.split()) for step in planned), line


def run_in(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return shell(shlex.join([".venv/bin/" + command[0], *command[1:]]), checkout)


def test_the_readmes_picture_and_links_are_there() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README + COMMANDS):
        assert (ROOT / link).exists() or (ROOT / "docs" / link).exists(), link


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: str(option[0]))
def test_every_option_of_a_run_is_described_with_its_variable_and_default(option: tuple[str, str, str, str]) -> None:
    flag, variable, default, meaning = option
    shown = f"`{default}`" if default else ""
    assert f"| `{flag}` | `{variable}` | {shown} | {meaning} |" in COMMANDS


def test_every_option_of_the_simulator_is_described() -> None:
    flags = set(re.findall(r"--[a-z-]+", run("simulator", "--help").stdout)) - {"--help", "--exit-with-stdin"}
    assert flags == set(re.findall(r"\| `(--[a-z-]+)` \| `HEADROOM_SIMULATOR_", COMMANDS))


def test_every_option_of_the_probe_is_described() -> None:
    options = [one for one in look.params if isinstance(one, click.Option) and not one.hidden]
    rows = COMMANDS.partition("## probe")[2].partition("## locust")[0]
    for option in options:
        assert f"| `{', '.join(option.opts + option.secondary_opts)}` |" in rows and f"| {option.help} |" in rows


def test_every_name_of_an_assertion_is_described() -> None:
    text = (ROOT / "docs" / "probe.md").read_text(encoding="utf-8")
    for name, (meaning, _) in NAMES.items():
        assert f"| `{name}` | {meaning} |" in text


def test_every_metric_of_an_objective_is_described() -> None:
    text = (ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8")
    for name, (meaning, _) in (*TIMES.items(), *SHARES.items()):
        assert re.search(rf"\| `{name}` \| .* \| {re.escape(meaning)} \|", text)


def test_every_exit_code_is_described() -> None:
    codes = {value for name, value in vars(advice).items() if name.startswith("EXIT_")}
    described = re.findall(r"(?m)^\| ([\d, ]+) \|", COMMANDS)
    assert {int(code) for line in described for code in line.split(",")} == codes


def test_every_key_and_every_outcome_of_the_record_is_described() -> None:
    assert list(MEANINGS) == [field.encode_name for field in msgspec.structs.fields(ObservedCall)]
    assert re.findall(r"(?m)^\| `([\w.]+)` \| (.*) \|$", RECORD.partition("## Outcomes")[0]) == [
        (name, meaning.text) for name, meaning in MEANINGS.items()
    ]
    assert set(OUTCOMES) <= set(re.findall(r"`(\w+)`", RECORD.partition("## Outcomes")[2]))


def test_the_generations_and_the_ledgers_keys_that_are_described_are_those_there_are() -> None:
    text = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    table, ledger = (text.partition(mark)[2].partition("\n\n")[0] for mark in ("| limiter |\n", "| meaning |\n"))
    assert re.findall(r"`(\d{4}(?:-\d\d)?)`", table) == list(get_args(Generation))
    keys = [key for line in ledger.splitlines() for key in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert set(keys) <= {field.name for field in dataclasses.fields(Call)} and len(keys) > 10


def example(begins_with: str) -> tuple[list[str], list[str]]:
    """Of docs/analysis.md: a command, and the lines that it is said to print."""
    text = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
    command, *printed = text.partition(f"    $ {begins_with}")[2].partition("\n\n")[0].splitlines()
    return shlex.split(begins_with + command), [line.strip() for line in printed]


@pytest.mark.parametrize("begins_with", ["analysis ptu --model", "analysis ptu locustfiles/traffic.toml"])
def test_the_examples_of_sizing_print_what_is_said(begins_with: str) -> None:
    command, printed = example(begins_with)
    done = run(*command)
    assert done.returncode == 0 and len(printed) > 3, done.stderr
    assert done.stdout.splitlines()[: len(printed)] == printed


def test_the_example_of_a_comparison_prints_what_is_said(tmp_path: Path) -> None:
    for name, made in (("before", calls(1)), ("after", calls(2, slower=1.6))):
        written(tmp_path / "results", made).rename(tmp_path / name)
    command, printed = example("analysis compare")
    done = run(*command, folder=tmp_path)
    assert done.returncode == 0 and len(printed) > 3, done.stderr
    # It shows some of them.
    lines = iter(done.stdout.splitlines())
    assert all(line in lines for line in printed)
