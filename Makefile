# Everything runs in .venv, which the first target that needs it makes from a lock file with hashes.
PYTHON ?= python3
BIN := .venv/bin
DEMO_TIME ?= 30s
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test soak check audit sbom alt format screens bench lock clean

demo: .venv/.run
	@HEADROOM_SIMULATE=1 $(BIN)/locust --headless --run-time $(DEMO_TIME) --loglevel WARNING
	@$(BIN)/analysis report

# Most tests wait for a run or a server: four at once are twice as fast on two cores. Without bytecode each of them
# would compile every test anew.
test: check
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 4 --dist worksteal

# The proofs that take minutes.
soak: .venv/.test
	@$(BIN)/python -m pytest -m soak

check: .venv/.test
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy

# Known vulnerabilities of everything that is installed; what cannot be looked up fails, too.
audit: .venv/.test
	@$(BIN)/pip-audit --strict --require-hashes --disable-pip -r requirements.lock
	@$(BIN)/pip-audit --strict --require-hashes --disable-pip -r requirements-test.lock

# What a release is made of, as CycloneDX.
sbom: .venv/.test
	@mkdir -p dist
	@$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o dist/sbom.json requirements.lock
	@echo dist/sbom.json

format: .venv/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The flat folder that Azure Load Testing takes: docs/azure-load-testing/README.md.
ALT ?= dist/alt
SCENARIO ?= locustfiles/mixed.py
alt: .venv/.run
	@rm -rf $(ALT) && mkdir -p $(ALT)
	@$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir $(ALT) .
	@cp docs/azure-load-testing/test.yaml docs/azure-load-testing/headroom.conf locustfiles/traffic.toml $(SCENARIO) $(ALT)
	@cp requirements-engine.lock $(ALT)/requirements.txt
	@cd $(ALT) && wheel=$$(ls *.whl) && echo "./$$wheel $$($(abspath $(BIN))/python -m pip hash $$wheel | tail -1)" >> requirements.txt && \
	  sed -i.bak -e "s/WHEEL/$$wheel/" -e "s/mixed.py/$(notdir $(SCENARIO))/" test.yaml && rm test.yaml.bak
	@echo $(ALT)

# The pictures of the probe's screens in docs/.
screens: .venv/.test
	@$(BIN)/python docs/screens.py

# Needs an idle machine: it measures.
bench: .venv/.test
	@$(BIN)/python -m bench.simulator
	@$(BIN)/python -m bench.client
	@$(BIN)/python -m bench.client --tls
	@$(BIN)/python -m bench.commands
	@$(BIN)/python -m bench.counting
	@$(BIN)/python -m bench.analyses
	@$(BIN)/python -m bench.replaying
	@$(BIN)/python -m bench.scale

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Headroom needs Python 3.11 or later: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up .venv (a minute or so, the first time)" >&2
	@$(PYTHON) -m venv .venv

.venv/.run: requirements.lock pyproject.toml | .venv/bin/python
	@$(PIP) install --quiet --require-hashes -r requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# The tests' lock holds everything the other one does, at the same versions.
.venv/.test: requirements-test.lock requirements.lock pyproject.toml | .venv/bin/python
	@$(PIP) install --quiet --require-hashes -r requirements-test.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch .venv/.run $@

# Index addresses stay out of the locks, so that they serve behind any mirror.
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-header
lock: .venv/.test
	$(LOCK) --group build -o requirements.lock
	$(LOCK) --all-extras --group test -c requirements.lock -o requirements-test.lock
	$(LOCK) --extra logs --extra otel --extra eventhubs -c requirements-test.lock -o requirements-engine.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
