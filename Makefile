# `make help` lists the targets.  Everything is built in .venv and build/.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CODE := $(wildcard src tests demo bench tools)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test bench-core bench-stream bench-serve bench-costs bench-sim fuzz docs clean

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY)  ## Make .venv with every locked dependency; builds llama.cpp once

demo: setup  ## Serve four models from memory for two, and watch (under 2 minutes)
	@$(BIN)/python -m demo

test: setup  ## Every check: format, lint, types, import contracts, tests
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

bench-core: setup  ## How long one decision takes, with 100 models and 1,000 waiting requests
	$(BIN)/python -m bench.core

bench-stream: setup  ## What a stream feels of another model's load
	$(BIN)/python -m bench.stream

bench-serve: setup  ## Beside llama-server: throughput, first tokens, swaps, mixtures (over an hour)
	@bash bench/peers.sh
	$(BIN)/python -m bench.serve

fuzz: setup  ## Generated requests and damaged files against a real server (some 10 minutes)
	$(BIN)/python -m bench.fuzz

bench-costs: setup  ## Prediction errors, preemption beside llama-server, streams under kills (some 50 minutes)
	@bash bench/peers.sh
	@bash bench/pair.sh
	$(BIN)/python -m bench.costs

bench-sim: setup  ## How fast the simulator is, how it grows, how true it is (over an hour)
	$(BIN)/python -m bench.sim

docs: setup  ## Write the generated pages of docs/ from the tables in the code
	$(BIN)/python -m repertory.reports.diagrams
	$(BIN)/python -m repertory.gateway.pages
	$(BIN)/python -m repertory.gateway.asking.api_page

clean:  ## Remove what was built and cached, but not .venv
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(CODE) -name __pycache__ -type d -exec rm -rf {} +

# RPC lets the tests see a device that is no CPU; the image library of llama.cpp is not used.
$(READY): export CMAKE_ARGS := -DGGML_RPC=ON -DLLAVA_BUILD=OFF $(CMAKE_ARGS)
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one: make setup PYTHON=python3.11" >&2; exit 1; }
	@echo "Setting up .venv.  The first time builds llama.cpp: about 4 minutes on two cores."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --no-deps -e .
	@touch $@
