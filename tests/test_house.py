"""The structure: a module imports only from earlier rows, and the packages stay apart."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. The simulator stands aside: nothing of ours imports it, and it imports nothing of ours.
ROWS = (
    "probe/secrecy.py probe/errors.py probe/descriptors.py",
    "probe/hosts.py probe/keys.py",
    "probe/record.py probe/options.py probe/sse.py probe/target.py probe/prompts.py probe/headers.py"
    " probe/escaping.py probe/stamps.py probe/waiting.py probe/lines.py probe/trace.py"
    " probe/ranks.py probe/definitions.py probe/image_size.py probe/meanings.py",
    "probe/dated.py locustfiles/_sketch.py locustfiles/_drift.py",
    "probe/bodies.py probe/explaining.py probe/channel.py probe/prices.py probe/application.py probe/shares.py"
    " probe/headroom.py probe/seen.py probe/traces.py locustfiles/_hub.py locustfiles/_watchdog.py"
    " locustfiles/_clocks.py locustfiles/_signals.py",
    "probe/counting.py probe/dialing.py analysis/frames.py analysis/log_shapes.py"
    " analysis/ptu_models.py probe/spending.py locustfiles/_breaker.py locustfiles/_slo.py locustfiles/_tables.py"
    " locustfiles/_words.py",
    "probe/transport.py probe/journal.py probe/simulated.py probe/advice.py probe/render.py probe/assertions.py"
    " locustfiles/_live.py locustfiles/_knee.py",
    "probe/versus.py probe/outcome.py analysis/stats.py analysis/output.py analysis/runs.py analysis/logs.py"
    " analysis/costs.py analysis/following.py locustfiles/_verdict.py locustfiles/_board.py locustfiles/_web.py"
    " locustfiles/_burst.py",
    "probe/reading.py probe/request.py analysis/application.py analysis/limiter.py analysis/join.py analysis/redact.py"
    " analysis/signals.py analysis/verify.py analysis/replay.py analysis/export.py analysis/sending.py"
    " analysis/token_metric.py",
    "probe/client.py probe/identity.py analysis/gather.py analysis/blocks.py",
    "probe/blobs.py probe/workspace.py",
    "analysis/log_sources.py",
    "analysis/words.py analysis/figures/canvas.py",
    "analysis/figures/load.py analysis/figures/times.py analysis/figures/limits.py analysis/figures/money.py",
    "analysis/to_otlp.py analysis/to_eventhubs.py analysis/to_blobs.py",
    "analysis/outcomes.py analysis/throttling.py analysis/regions.py analysis/tokens.py analysis/ptu.py"
    " analysis/lost.py analysis/destinations.py",
    "analysis/loads.py analysis/counted.py analysis/comparable.py analysis/sizing_told.py",
    "analysis/calibrating.py analysis/compare_figures.py",
    "probe/asking.py probe/calling.py probe/listing.py probe/settings.py probe/offline.py probe/output.py probe/sdk.py"
    " locustfiles/_arrivals.py locustfiles/_options.py locustfiles/_recorded.py analysis/sizing.py analysis/gateway.py"
    " analysis/compare.py",
    "analysis/findings.py analysis/compare_told.py",
    "analysis/caveats.py analysis/rows.py analysis/series.py",
    "analysis/answers.py analysis/panels.py",
    "analysis/summary.py analysis/told.py",
    "probe/capture.py probe/story.py probe/look.py probe/posture.py locustfiles/_plan.py locustfiles/_endings.py",
    "locustfiles/_scenario.py locustfiles/_told.py locustfiles/_terminal.py",
    "locustfiles/_compared.py locustfiles/_capacity.py locustfiles/_soak.py locustfiles/_listening.py",
    "probe/access.py probe/opening.py probe/side_by_side.py probe/watch.py locustfiles/_load.py",
    "probe/interactive.py probe/hidden.py probe/correlate.py probe/doctor.py locustfiles/_preflight.py"
    " locustfiles/_send.py locustfiles/_course.py",
    "probe/cli.py locustfiles/_caps.py locustfiles/_watch.py locustfiles/_tending.py",
    "locustfiles/_worker.py",
    "locustfiles/_gathered.py",
    "locustfiles/_conclusion.py",
    "locustfiles/_starter.py",
    "locustfiles/_run.py analysis/report.py",
    "locustfiles/_user.py analysis/cli.py",
    "locustfiles/mixed.py locustfiles/gateway.py locustfiles/regions.py locustfiles/replay.py locustfiles/_sdk.py"
    " locustfiles/_steps.py",
    "locustfiles/sdk_retries.py locustfiles/knee.py locustfiles/burst.py locustfiles/soak.py",
)
ROW = {module: number for number, row in enumerate(ROWS) for module in row.split()}
PACKAGES = ("probe", "analysis", "locustfiles", "simulator")
MODULES = sorted(
    str(path.relative_to(ROOT))
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)


def imports(module: str) -> Iterator[str]:
    """The modules of ours that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            path = name.replace(".", "/") + ".py"
            if name.partition(".")[0] in PACKAGES and (ROOT / path).exists():
                yield path


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("simulator/")])
def test_a_module_imports_only_from_earlier_rows(module: str) -> None:
    assert module in ROW, f"{module} has no row yet"
    upward = [found for found in imports(module) if found.startswith("simulator/") or ROW[found] >= ROW[module]]
    assert not upward


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("simulator/")])
def test_the_simulator_imports_nothing_of_ours_but_itself(module: str) -> None:
    assert all(found.startswith("simulator/") for found in imports(module))


def test_no_test_has_brought_locust_into_the_process_that_runs_the_tests() -> None:
    # It patches threads and sockets for gevent, for all tests that follow.
    assert "locust" not in sys.modules


def test_every_row_names_modules_that_exist() -> None:
    assert set(ROW) <= set(MODULES)
