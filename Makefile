# `make` lists the targets. Every one of them makes the environment in .venv first if it is not there.
# Paths are relative on purpose: the checkout may lie in a directory with spaces in its name.

PYTHON ?= python3
# Processes that `make test` spreads the test files over. Each starts its own private servers.
WORKERS ?= 2
# Some of the tests alone, without the coverage gate: make test TESTS="tests/unit -k backoff"
TESTS ?=
# Operations of `make model`, all servers together.
OPS ?= 100000
# Mutants of `make mutants`: so many at random instead of all.
SAMPLE ?=
# Power losses of `make powerloss`, and what repeats its choices.
CYCLES ?= 100
SEED ?=
# Of `make chaos` and `make soak`: minutes, the server (valkey-9.1, redis-8.2, redis-7.0), and what else there is to say,
# like FLAGS="--fsync always". NAIVE=1: a worker that must fail.
MINUTES ?= 3
SERVER ?= valkey-9.1
NAIVE ?=
FLAGS ?=

BIN := .venv/bin
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint model mutants chaos soak powerloss guarantees bench bench-peers performance lock clean .venv
.DELETE_ON_ERROR:
export PIP_DISABLE_PIP_VERSION_CHECK = 1

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

demo: .venv ## Publish, fail, retry, kill a worker, and see that nothing is lost: within a minute, no Redis needed
	@$(BIN)/streamq demo

test: .venv ## Run the tests; core and store must be covered to the last branch
	@$(BIN)/pytest $(if $(TESTS),$(TESTS),-n $(WORKERS) --dist loadfile --cov --cov-report=term-missing --cov-fail-under=100)

lint: .venv ## Check style, format, types and the floors of the house
	@failed=0; \
	$(BIN)/ruff check . || failed=1; \
	$(BIN)/ruff format --check . || failed=1; \
	$(BIN)/mypy || failed=1; \
	$(BIN)/lint-imports --no-logo || failed=1; \
	exit $$failed

model: .venv ## Random operations and faults against the scripts, all compared: make model OPS=100000 SEED=1
	@export STREAMQ_MODEL_OPS=$(OPS) STREAMQ_MODEL_SEED=$(or $(SEED),$$RANDOM); echo "SEED=$$STREAMQ_MODEL_SEED"; \
	$(BIN)/pytest tests/contract/test_model.py -n $(WORKERS) --dist load -q

mutants: .venv ## Remove every guard of the Lua, one at a time: each must be caught
	@$(BIN)/python -m tests.mutants $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

powerloss: .venv ## Cut the power of private servers: make powerloss CYCLES=100 SEED=1
	@$(BIN)/python -m tests.powerloss --cycles $(CYCLES) $(if $(SEED),--seed $(SEED))

STORM = --minutes $(MINUTES) --server $(SERVER) $(if $(SEED),--seed $(SEED)) $(FLAGS)

chaos: .venv ## Everything at once: make chaos MINUTES=3 SEED=1 SERVER=redis-7.0; NAIVE=1 must fail
	@$(BIN)/python -m tests.chaos $(STORM) $(if $(NAIVE),--naive)

soak: .venv ## A long life with a fault a minute, and what grows in it: make soak MINUTES=60
	@$(BIN)/python -m tests.soak $(STORM)

guarantees: .venv ## Write the table of faults and their tests into docs/guarantees.md
	@$(BIN)/python -m tests.faults.catalogue

bench: .venv ## Measure streamq beside loops by hand, and what became slower: make bench FLAGS="--quick"
	@$(BIN)/python -m benchmarks $(FLAGS)

bench-peers: .venv ## Install other frameworks, each in its own environment, and run them beside it
	@$(BIN)/python -m benchmarks.peers install || echo "==> going on with those that are installed" >&2
	@$(BIN)/python -m benchmarks --peers all $(FLAGS)

performance: .venv ## Write the committed results into docs/performance.md
	@$(BIN)/python -m benchmarks.report

# Everything is pinned with hashes, for every platform at once. dev.txt: all groups and extras. runtime.txt: what the
# image runs with. build.txt: what the image is built with.
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

lock: .venv ## Resolve pyproject.toml anew into requirements/*.txt
	@$(COMPILE) pyproject.toml --all-extras --group dev --output-file requirements/dev.txt
	@$(COMPILE) pyproject.toml --extra email --extra fast --extra http --output-file requirements/runtime.txt
	@$(COMPILE) --group build --output-file requirements/build.txt
	@grep -c '==' requirements/*.txt

clean: ## Remove the environment, caches, reports and the embedded server's data
	@rm -rf .venv .streamq .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@rm -rf build dist htmlcov
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment: one stamp for the locked packages, one for our own. Nothing happens while both are newer than
# what they were made from.
.venv: .venv/.package

.venv/.package: .venv/.locked pyproject.toml
	@echo "==> installing streamq itself"
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.locked: requirements/dev.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "streamq needs Python 3.11 or newer, and there is no $(PYTHON): make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("streamq needs Python 3.11 or newer, and %s is %d.%d: make PYTHON=/path/to/python3" % (sys.executable, v[0], v[1]))'
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "this Python cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	@echo "==> making .venv with $$("$(PYTHON)" --version)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv .venv
	@echo "==> installing $$(grep -c '==' requirements/dev.txt) locked packages (about a minute)"
	@$(BIN)/python -m pip install --require-hashes --requirement requirements/dev.txt \
		| awk '/^Collecting / { print "    " $$2; fflush() } /^Installing collected/ { print "==> unpacking"; fflush() }'
	@touch $@
