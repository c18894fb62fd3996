"""`burst.py` against every limiter that the simulator has, each with a window of ten seconds."""

from pathlib import Path
from typing import Any

import pytest

from tests.commands import run
from tests.runs import ended
from tests.simulators import AT_ONCE, all_targets, simulating

# By generation: how its limiter of tokens works, and what it charges; 2023 states nothing to tell that by.
LIMITERS = {
    "2024": ("fixed window", "max_tokens"),
    "2025": ("fixed window", "characters"),
    "2026-02": ("fixed window", "characters"),
    "2026-03": ("continuous refill", "prompt tokens - 2"),
    "2026-06": ("continuous refill", "prompt tokens - 2"),
    "2026-08": ("continuous refill", "prompt tokens - 2"),
}
SMALL = """
[[class]]
name = "small"
weight = 1
input_tokens = { median = 200, p90 = 500 }
output_tokens = { median = 20, p90 = 40 }
"""


def resource(name: str, deployment: str) -> str:
    latency = AT_ONCE.replace("resources.one", f"resources.{name}")
    return (
        f"""[resources.{name}]\nregion = "East US 2"\n{latency}\n[resources.{name}.deployments.chat]\n"""
        f"""model = "gpt-4.1-mini-2025-04-14"\n{deployment}\n"""
    )


def burst(folder: Path, resources: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What a run says of each: the limits by name."""
    with simulating(folder, "".join(resource(name, deployment) for name, deployment in resources.items())) as simulated:
        (folder / "small.toml").write_text(SMALL)
        settings = {
            **all_targets(simulated, folder),
            "HEADROOM_RESULTS": str(folder / "results"),
            "HEADROOM_MIX": str(folder / "small.toml"),
        }
        command = ("locust", "-f", "locustfiles/burst.py", "--headless", "--window", "10")
        done = run(*command, settings=settings, timeout=400)
    assert done.returncode == 0, done.stderr
    found: Any = ended(folder / "results")["burst"]
    return {about["targets"]: {limit["limit"]: limit for limit in about["limits"]} for about in found}


@pytest.mark.soak
def test_the_limiter_of_every_generation_is_named_with_its_window_and_charge(tmp_path: Path) -> None:
    limits = "tokens_per_minute = 30000\nrequests_per_minute = 6000\ntoken_period = 10\nrequest_period = 10"
    windows = {f"g{name}": f'generation = "{name}"\n{limits}' for name in LIMITERS}
    few = "tokens_per_minute = 3000000\nrequests_per_minute = 300\nrequest_period = 10"
    requests = {"g2023": f'generation = "2023"\n{few}'}
    found = burst(tmp_path, windows | requests | {"units": "ptu = 15\nbucket_seconds = 10"})
    for name, (model, charge) in LIMITERS.items():
        tokens = found[f"g{name}"]["tokens"]
        assert (tokens["model"], tokens["window"]) == (model, 10.0), name
        assert charge in tokens["charge"].split(" or "), name
        if "per_minute" in tokens:
            assert tokens["per_minute"] == pytest.approx(30_000, rel=0.01), name
    requests_2023 = found["g2023"]["requests"]
    assert requests_2023["model"] == "fixed window"
    assert requests_2023["per_minute_low"] <= 300 <= requests_2023["per_minute_high"]
    units = found["units"]["utilization"]
    assert (units["model"], units["window"]) == ("leaky bucket", pytest.approx(10.0, rel=0.1))
