# Each target sets up .venv by itself; nothing but python3 (3.11 or newer) and make is needed.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
TESTS := -m pytest -n $(or $(PROCESSES),2) --dist loadfile

.PHONY: help setup demo serve test test-all faults soak check bench bench-all load pages lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## make .venv with the exact versions of requirements.lock

$(READY): requirements.lock requirements-generator.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "could not make a virtual environment; on Debian and Ubuntu: install python3-venv"; exit 1; }
	@echo "installing the packages of requirements.lock into $(VENV) ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-generator.lock
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(READY)  ## the main job on the embedded stack: learn 1608 hyperparameters, download them
	@$(VENV)/bin/retrograd demo

serve: $(READY)  ## run the whole service on this machine until Ctrl-C
	@$(VENV)/bin/retrograd up

test: $(READY)  ## lint, types, import rules, and the tests but for the slow ones
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@$(RUN) $(TESTS) -m "not slow"

test-all: $(READY)  ## every test
	@$(RUN) $(TESTS)

faults: $(READY)  ## every fault that must lose nothing, one after the other; a line each
	@$(RUN) -m pytest -q -m fault --override-ini addopts="--strict-markers --strict-config -p no:cacheprovider"

soak: $(READY)  ## many short jobs while everything dies at random (MINUTES=20)
	@$(RUN) -m tests.faults.soak --minutes $(or $(MINUTES),20)

check: test  ## what CI runs

$(BENCH_READY): requirements-bench.lock $(READY)
	@echo "installing the rivals of requirements-bench.lock into $(VENV) ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-bench.lock
	@$(RUN) -c 'import torch' \
	  || { echo "PyTorch does not import; install its CPU build into $(VENV) and try again"; exit 1; }
	@touch $@

bench: $(BENCH_READY)  ## engines and rivals side by side: time and memory as ratios, stored bits against the bound
	@$(RUN) -m benchmarks.engines

bench-all: bench  ## and how they scale, what the planner foretells, a million steps, five million hyperparameters
	@$(RUN) -m benchmarks.planner
	@$(RUN) -m benchmarks.scaling
	@$(RUN) -m benchmarks.long_training
	@$(RUN) -m benchmarks.large_model
	@$(RUN) -m benchmarks.programs
	@$(RUN) -m benchmarks.plots
	@$(RUN) -m benchmarks.report

pages: $(READY)  ## the dashboard with 100 000 jobs and a job of 10 000 meta-iterations, in a real browser (see CONTRIBUTING.md)
	@$(RUN) -m benchmarks.pages
	@$(RUN) -m benchmarks.report

load: $(READY)  ## the service under load, at ten thousand jobs and at a million: takes 12 GB of disk and half an hour
	@$(RUN) -m benchmarks.load
	@$(RUN) -m benchmarks.report

lock: $(READY)  ## resolve the dependencies anew into requirements*.lock
	@sh requirements.sh

clean:  ## remove what setup and runs have made
	rm -rf $(VENV) .retrograd outputs
