# Turnwire's commands. `make serve` and `make test` need Python 3.11 or newer and nothing else: they build .venv from
# requirements.lock (every file checked against its hash) and do it again only when the lock or pyproject.toml changed.
#
#   make serve      the server on 127.0.0.1:8000, with its own store and a demo model; ARGS="--port 9000"
#   make test       the whole gate: style, types, imports, schemas, tests, coverage
#   make prove      the long versions of the tests, then the benchmarks
#   make lint       the gate without the tests         make format   let ruff rewrite the sources
#   make schema     write protocol/schema              make bench    what a delta costs
#   make lock       write requirements.lock; UPGRADE=--upgrade takes newer releases
#   make clean      remove what these commands made, .venv included

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
UPGRADE ?=

BIN := .venv/bin
READY := .venv/.ready
UV := $(BIN)/uv

# Every tool reports on what is installed here; none of them looks for news of itself.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test lint format prove bench schema lock clean

help:
	@sed -n 's/^#   //p' Makefile

serve: $(READY)
	@$(BIN)/turnwire serve $(ARGS)

test: lint
	@$(BIN)/coverage erase
	$(BIN)/pytest -n $(WORKERS) --cov --cov-report= $(ARGS)
	@echo "coverage of core and protocol (all of it)" && $(BIN)/coverage report --include='$(STRICT)' --fail-under=100
	@echo "coverage of the rest (90 % of it)" && $(BIN)/coverage report --omit='$(STRICT)' --fail-under=90

# The parts whose every branch a test must take.
STRICT := */turnwire/core/*,*/turnwire_protocol/*

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m turnwire_protocol.schema --check

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

prove: $(READY)
	$(BIN)/pytest -m prove -o faulthandler_timeout=3600 $(ARGS)
	$(MAKE) bench

bench: $(READY)
	$(BIN)/python -m tests.benchmarks.relay $(ARGS)
	$(BIN)/python -m tests.benchmarks.cancel

schema: $(READY)
	$(BIN)/python -m turnwire_protocol.schema

lock: $(UV)
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" --quiet $(UPGRADE) --output-file requirements.lock

clean:
	rm -rf .venv .coverage .coverage.* .hypothesis .import_linter_cache .pytest_cache .ruff_cache build dist

# --- The environment ------------------------------------------------------------------------------------------------

$(READY): requirements.lock pyproject.toml .venv/bin/python | $(UV)
	@$(UV) pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@$(UV) pip check --quiet --python $(BIN)/python
	@touch $@

# uv itself comes from the lock: its version and its hashes are there and nowhere else.
$(UV): | .venv/bin/python
	@awk '/^[^ #]/ { wanted = /^uv==/ } wanted' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.lock

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "Turnwire needs Python 3.11 or newer, and there is no $(PYTHON) here: install one, or name it as in" \
			"'make test PYTHON=/path/to/python'." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Turnwire needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1 | cut -d' ' -f2): install a newer" \
			"one, or name it as in 'make test PYTHON=python3.12'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu install them with" \
			"'apt-get install python3-venv', elsewhere the package that has Python's ensurepip module." >&2; exit 1; }
	@echo "Setting up .venv (the first time takes a minute) ..."
	@$(PYTHON) -m venv --clear .venv
