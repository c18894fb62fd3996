"""Runs copied to a container of blobs while they are on; Azure Load Testing's folder and the image for Kubernetes."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from analysis.destinations import connect
from analysis.sending import Sender, Sent
from analysis.verify import verify
from locustfiles._options import OPTIONS
from tests.commands import BIN, ROOT, environment, run, settings_of
from tests.runs import only_run, openai_shaped, results_in
from tests.simulators import Simulated, awaited, simulating
from tests.test_analysis import call, write_run
from tests.test_blobs import CONFIG
from tests.test_house import PACKAGES
from tests.wire import answers, serving

CALLS = [call(n) for n in range(30)]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("blobs"), CONFIG) as running:
        yield running


@pytest.fixture
def account(simulated: Simulated) -> dict[str, str]:
    """What an engine's environment says of its managed identity, and where to copy to."""
    return {
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": simulated.ready["identity"]["AZURE_POD_IDENTITY_AUTHORITY_HOST"],
        "HEADROOM_CA_BUNDLE": simulated.ready["ca"],
        "HEADROOM_CREDENTIAL": "managed",
        "HEADROOM_SEND_BLOBS": simulated.ready["storage"]["container"] + "/one/two",
    }


def kept(simulated: Simulated, run: Path, prefix: str = "one/two") -> Path:
    """Where the simulated account has a run's blobs."""
    return simulated.logs.parent / "blobs" / "results" / prefix / run.name


def contents(folder: Path) -> dict[str, bytes]:
    names = [*folder.glob("*.jsonl"), folder / "run.json"]
    return {path.name: path.read_bytes() for path in names}


def copied(folder: Path, account: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Sent:
    for name, value in account.items():
        monkeypatch.setenv(name, value)
    ended = threading.Event()
    ended.set()
    return Sender(folder, connect({"blobs": account["HEADROOM_SEND_BLOBS"]}, folder), ended, 0.0).run()


def test_a_runs_files_are_in_the_container_as_they_are_and_what_is_there_is_not_sent_again(
    tmp_path: Path, simulated: Simulated, account: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path, CALLS)
    done = copied(folder, account, monkeypatch)
    assert done.is_whole and done.lines == 61, done
    assert contents(kept(simulated, folder)) == contents(folder)
    # A copy that was cut off in the middle of a line is gone on with, and a torn last line is copied as it is.
    (calls,) = kept(simulated, folder).glob("calls-*.jsonl")
    calls.write_bytes(calls.read_bytes()[:777])
    with next(folder.glob("calls-*.jsonl")).open("ab") as file:
        file.write(b'{"torn')
    assert copied(folder, account, monkeypatch).is_whole
    assert contents(kept(simulated, folder)) == contents(folder)


def test_a_blob_that_is_not_the_files_begin_is_no_whole_copy(
    tmp_path: Path, simulated: Simulated, account: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path, CALLS)
    assert copied(folder, account, monkeypatch).is_whole
    (calls,) = kept(simulated, folder).glob("calls-*.jsonl")
    calls.write_bytes(calls.read_bytes() + b"more")
    done = copied(folder, account, monkeypatch)
    assert not done.is_whole and "bytes" in str(done.why)


def test_an_engine_that_is_killed_has_what_it_recorded_in_the_container(
    tmp_path: Path, simulated: Simulated, account: dict[str, str]
) -> None:
    with serving(answers(openai_shaped())) as server:
        settings = results_in(tmp_path, server.url, HEADROOM_RATE="20", **account)
        process = subprocess.Popen(
            [str(BIN / "locust"), "--headless"], env=environment(settings), stderr=subprocess.PIPE
        )
        here = awaited(lambda: next(tmp_path.glob("*/run.json"), None)).parent
        there = kept(simulated, here)
        awaited(lambda: next((one for one in there.glob("calls-*.jsonl") if one.stat().st_size > 3000), None))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    awaited(lambda: True if contents(there) == contents(only_run(tmp_path)) else None)
    assert verify(there).adds_up and verify(there).processes[0].ended is False


def test_a_container_that_is_not_there_is_said_in_one_line(
    tmp_path: Path, simulated: Simulated, account: dict[str, str]
) -> None:
    where = simulated.ready["storage"]["account"] + "/nowhere"
    done = run(
        "analysis", "send", str(write_run(tmp_path, CALLS)), "--blobs", where, "--give-up", "0", settings=account
    )
    assert done.returncode == 75 and "there is no such container" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


DOCS = ROOT / "docs"
# https://learn.microsoft.com/azure/load-testing/reference-test-config-yaml
KEYS = {
    *("version", "testId", "displayName", "description", "testType", "testPlan", "engineInstances", "failureCriteria"),
    *("configurationFiles", "autoStop", "properties", "zipArtifacts", "splitAllCSVs", "env", "secrets", "certificates"),
    *("keyVaultReferenceIdentity", "subnetId", "referenceIdentities", "regionalLoadTestConfig"),
}


@pytest.fixture(scope="module")
def alt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alt") / "folder"
    made = ["make", "--old-file", ".venv/.run", "alt", f"ALT={folder}", f"BIN={BIN}"]
    subprocess.run(made, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_folder_for_azure_load_testing_is_flat_and_names_only_what_is_in_it(alt: Path) -> None:
    files = {path.name for path in alt.iterdir()}
    assert all(path.is_file() for path in alt.iterdir())
    test = yaml.safe_load((alt / "test.yaml").read_text())
    named = {test["testPlan"], *test["configurationFiles"], test["properties"]["userPropertyFile"]}
    assert named == files - {"test.yaml"} and set(test) <= KEYS
    assert (test["version"], test["testType"], test["autoStop"]) == ("v0.1", "Locust", "disable")
    env = {one["name"]: one["value"] for one in test["env"]}
    assert int(env["HEADROOM_ENGINES"]) == test["engineInstances"] and env["HEADROOM_MIX"] in files
    known = {variable for _, variable, *_ in OPTIONS} | set(re.findall(r"`(\w+)`", (DOCS / "commands.md").read_text()))
    assert {name for name in env if not name.startswith("LOCUST_")} <= known
    texts = [path.read_text() for path in alt.iterdir() if path.suffix != ".whl"]
    assert not any(str(Path.home()) in text or str(ROOT) in text for text in texts)


def test_its_wheel_has_what_the_scenarios_and_commands_need(alt: Path) -> None:
    (wheel,) = alt.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(listed.stdout.split()) <= names


@pytest.mark.soak
def test_it_runs_from_an_empty_folder_with_only_its_own_requirements(
    tmp_path: Path, alt: Path, simulated: Simulated, account: dict[str, str]
) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(alt, engine)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", "requirements.txt"], cwd=engine, check=True)
    target = simulated.target("one")
    settings = {
        **account,
        **settings_of(target.endpoint, AZURE_OPENAI_API_KEY=target.api_key or "", HEADROOM_MIX="traffic.toml"),
        **{"HEADROOM_ENGINES": "2", "HEADROOM_RATE": "20", "LOCUST_USERS": "2", "LOCUST_RUN_TIME": "5"},
    }
    own = {name: value for name, value in environment(settings).items() if name != "PYTHONPATH"}
    command = [str(tmp_path / "venv" / "bin" / "locust"), "-f", "mixed.py", "--headless", "--config", "headroom.conf"]
    done = subprocess.run(command, cwd=engine, env=own, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    here = only_run(engine / "results")
    assert verify(here).adds_up and verify(here).total.sent > 20
    assert contents(kept(simulated, here)) == contents(here)


def test_the_manifest_for_kubernetes_is_of_the_operators_shape_and_its_command_is_ours() -> None:
    account, test = yaml.safe_load_all((DOCS / "kubernetes" / "locusttest.yaml").read_text())
    # The operator's definition: charts/locust-operator/crds/locusttest.yaml of locustio/k8s-operator.
    assert (test["apiVersion"], test["kind"]) == ("locust.cloud/v1", "LocustTest")
    assert set(test["spec"]) <= {"image", "workers", "args", "env", "labels", "annotations", "locustfile", "master"}
    assert account["metadata"]["namespace"] == test["metadata"]["namespace"]
    known = {variable for _, variable, *_ in OPTIONS} | set(re.findall(r"`(\w+)`", (DOCS / "commands.md").read_text()))
    assert {one["name"] for one in test["spec"]["env"]} <= known
    arguments = shlex.split(test["spec"]["args"])
    assert arguments[arguments.index("--expect-workers") + 1] == str(test["spec"]["workers"])


def test_the_images_command_runs_what_the_manifest_gives_it(tmp_path: Path) -> None:
    _, test = yaml.safe_load_all((DOCS / "kubernetes" / "locusttest.yaml").read_text())
    made = (DOCS / "kubernetes" / "Containerfile").read_text()
    (command,) = json.loads(re.findall(r"ENTRYPOINT (.*)", made)[0])
    (tmp_path / "locustfile.py").write_text(test["spec"]["locustfile"]["content"])
    options = shlex.split(test["spec"]["args"].replace("--expect-workers 2 ", ""))
    settings = {"HEADROOM_RESULTS": str(tmp_path), "HEADROOM_PLAN": "only"}
    done = run(command, "-f", str(tmp_path / "locustfile.py"), *options, settings=settings)
    assert done.returncode == 0 and "nothing was sent" in done.stderr, done.stderr
