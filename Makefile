# `make app`, `make demo` and `make test` set up what they need by themselves: a private virtual environment in .venv.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
MODERN = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "segcft needs Python 3.11 or newer; name one, e.g. make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }

# Tests side by side, a process for each core but no more than four: a process takes a gigabyte.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help app demo quick test docs lint format audit licences gpu clean .venv

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z.]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

app: .venv  ## open the web page with the models that come with segcft
	$(BIN)/segcft app models/*

demo: .venv  ## run the quickstart study, into runs/quickstart
	$(BIN)/segcft run configs/quickstart.yaml --out runs/quickstart

quick: lint  ## lint, check types and run the tests that are fast: minutes
	$(PYTEST) -m "not slow"

test: lint docs  ## lint, check types, build the documentation, run all tests and name the slowest
	$(PYTEST) --durations=20

# Four processes, even on two cores: the pages are dealt out by their names, and two of four get those that are executed.
docs: .venv  ## build the documentation, with its examples executed, into build/docs
	$(BIN)/sphinx-build -q -j 4 -E -W --keep-going docs build/docs
	@echo "documentation: build/docs/index.html"

lint: .venv  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv  ## put the code in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

audit:  ## look the pinned dependencies up in PyPI's and OSV's advisories (needs the network)
	@test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/pip install -qq pip-audit; }
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

licences: .venv  ## check the licences of what is installed and write docs/licences.md
	$(BIN)/python -m tools.licences --write

# Another Python, causal-gen beside, other options: make gpu PYTHON=.venv/bin/python CAUSAL_GEN=DIR GPU="--minutes 20"
gpu:  ## test and measure on a GPU, in 8 minutes, with a Python that has PyTorch: benchmarks/gpu.json and gpu.md
	@$(MODERN)
	@$(PYTHON) benchmarks/gpu/environment.py build/gpu/env
	@PYTHONPATH=src$${PYTHONPATH:+:$$PYTHONPATH} build/gpu/env/bin/python -m benchmarks.gpu \
		$(if $(CAUSAL_GEN),--causal-gen "$(CAUSAL_GEN)") $(GPU)

clean:  ## remove caches and build products (keeps .venv and runs)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
	find src -name '*.egg-info' -type d -prune -exec rm -rf {} +

.venv: .venv/installed  ## make or update the virtual environment

# pip says nothing but errors (-qq). The stamp is newer than what it depends on once everything is installed.
.venv/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(MODERN)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	@echo "Installing segcft and its dependencies into .venv (minutes the first time) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@
