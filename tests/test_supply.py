"""What the project is made of, and that it works where there is no network."""

import ast
import json
import re
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from tests.commands import BIN, ROOT, environment
from tests.test_house import PACKAGES

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = sorted(path for package in (*PACKAGES, "bench") for path in (ROOT / package).rglob("*.py"))


def called(path: Path) -> list[str]:
    """The calls in a file, as they are written, with their keywords."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_a_shell_unpickles_or_turns_verification_off_unasked(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    imported = re.findall(r"(?m)^\s*(?:import|from) (pickle|marshal|shelve|dill|yaml)\b", text)
    forbidden = [
        call
        for call in called(path)
        if re.search(r"\b(verify|ssl|check_hostname)=False|shell=True|os\.system|^eval\(|^exec\(|_unverified", call)
        or re.search(r"(^|\.)is_secret\b|is_secret=", call)
    ]
    assert not imported and not forbidden
    # The one place that an explicit flag leads to.
    if path.name != "dialing.py":
        assert "CERT_NONE" not in text


def test_every_direct_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = PROJECT["project"]["optional-dependencies"].values()
    direct = [*PROJECT["project"]["dependencies"], *chain.from_iterable(extras)]
    for dependency in direct:
        assert re.search(rf'(?m)^ *"{re.escape(dependency)}", +# \S', text), dependency


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-test.lock"])
def test_every_package_of_a_lock_is_one_version_with_hashes(lock: str) -> None:
    entries = re.split(r"(?m)^(?=[a-z0-9])", (ROOT / lock).read_text(encoding="utf-8"))[1:]
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+==[^ ]+ ", entry) and "--hash=sha256:" in entry, entry


@pytest.mark.soak
def test_the_bill_of_materials_names_what_the_lock_holds(tmp_path: Path) -> None:
    command = [
        str(BIN / "cyclonedx-py"),
        "requirements",
        "-o",
        str(tmp_path / "sbom.json"),
        str(ROOT / "requirements.lock"),
    ]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    components = json.loads((tmp_path / "sbom.json").read_text())["components"]
    locked = re.findall(r"(?m)^([a-z0-9.-]+)==([^ ]+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert {(one["name"], one["version"]) for one in components} == set(locked)


def alone(*command: str) -> list[str]:
    """A command in a network of its own, where there is nothing but loopback."""
    return ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]


def test_a_run_and_its_report_need_no_network(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(alone("true"), capture_output=True, check=False).returncode:
        pytest.skip("no network namespaces here")
    settings = environment({"HEADROOM_SIMULATE": "1", "HEADROOM_RESULTS": str(tmp_path)})
    locust = alone(str(BIN / "locust"), "--headless", "--users", "1", "--run-time", "1s", "--stop-timeout", "1s")
    done = subprocess.run(locust, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = [str(BIN / "analysis"), "report"]
    made = subprocess.run(alone(*report), env=settings, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0 and made.stdout.splitlines()[-1].endswith("report.html"), made.stderr
