"""What is simulated is what the file says; what the file gets wrong is said in one line."""

import tomllib
from pathlib import Path

import pytest

from tests.commands import run
from tests.simulators import simulating

ONE = '[resources.one]\nregion = "East US 2"\n'
CHAT = '[resources.one.deployments.chat]\nmodel = "gpt-4.1-mini-2025-04-14"\n'


def test_the_default_is_printed_and_read_back_as_itself(tmp_path: Path) -> None:
    printed = run("simulator", "--print-config").stdout
    assert {"resources", "gateways", "identity", "logs", "seed"} <= tomllib.loads(printed).keys()
    with simulating(tmp_path, printed) as simulated:
        assert list(simulated.ready["targets"]) == ["eastus2", "swedencentral", "apim"]


def test_what_a_comment_of_the_default_offers_can_be_switched_on(tmp_path: Path) -> None:
    """Each commented line of TOML in it is valid where it stands."""
    lines = run("simulator", "--print-config").stdout.splitlines()
    offered = [line[2:] if line.startswith(("# [", "# ")) and _is_toml(line[2:]) else line for line in lines]
    assert offered != lines
    with simulating(tmp_path, "\n".join(offered)) as simulated:
        assert "apim" in simulated.ready["targets"]


def _is_toml(line: str) -> bool:
    return line.startswith("[") or " = " in line


def test_a_file_of_resources_stands_alone(tmp_path: Path) -> None:
    with simulating(tmp_path, ONE + CHAT) as simulated:
        assert {name: one["deployments"] for name, one in simulated.ready["targets"].items()} == {"one": ["chat"]}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("[resources.one]\nregoin = 1\n", "unknown key `regoin` - at `$.resources[...]`; did you mean `region`?"),
        (ONE + CHAT + "tokens_per_minutes = 5\n", "did you mean `tokens_per_minute`?"),
        (ONE + CHAT + 'generation = "2027"\n', "Invalid enum value '2027'"),
        (ONE + CHAT + "tokens_per_minute = 0\n", "resources.one.deployments.chat: limits must be above 0"),
        (ONE + CHAT + 'spillover_to = "gone"\n', "spillover_to names no deployment of one: gone"),
        (ONE + CHAT.replace("gpt-4.1-mini", "gpt-9") + "ptu = 15\n", "gpt-9-2025-04-14 is not among the models"),
        (ONE, "Object missing required field `deployments`"),
        (ONE + "[resources.one.deployments]\n", "one: no deployments"),
        ("[resources\n", "is not TOML"),
        ('[gateways.gate]\nbackends = [{ resource = "gone" }]\n', "gateways.gate.backends: there is no resource gone"),
        (ONE + CHAT + '[gateways.one]\nbackends = [{ resource = "one" }]\n', "a resource and of a gateway"),
        (ONE + CHAT + "[resources.one.latency]\nby_hour = [1, 2]\n", "24 factors or none"),
    ],
)
def test_a_file_that_is_wrong_ends_in_one_line_that_says_where(tmp_path: Path, config: str, says: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(config)
    done = run("simulator", "--config", str(path), "--data", str(tmp_path / "data"))
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_file_that_is_not_there_ends_in_one_line(tmp_path: Path) -> None:
    done = run("simulator", "--config", str(tmp_path / "gone.toml"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "gone.toml: No such file or directory" in done.stderr


def test_a_port_that_is_taken_ends_in_one_line(tmp_path: Path) -> None:
    with simulating(tmp_path, ONE + CHAT) as simulated:
        port = simulated.target("one").port
        path = tmp_path / "taken.toml"
        path.write_text(f"{ONE}port = {port}\n{CHAT}")
        done = run("simulator", "--config", str(path), "--data", str(tmp_path / "other"))
    assert done.returncode == 2
    assert f"port {port} of one is taken" in done.stderr and done.stderr.count("\n") == 1
