# Turnwire's commands. `make serve` and `make test` need Python 3.11 or newer and nothing else: they build .venv from
# requirements.lock (every file checked against its hash) and do it again only when the lock or pyproject.toml changed.
#
#   make serve      the server on 127.0.0.1:8000, with its own store and a demo model; ARGS="--port 9000"
#   make test       the whole gate: style, types, imports, schemas, the JavaScript client, tests, coverage
#   make prove      the long versions of the tests, then the benchmarks
#   make lint       the gate without the tests         make format   let ruff rewrite the sources
#   make client     build what the server serves of clients/js     make client-test   that part of the gate alone
#   make schema     write protocol/schema and the client's types   make bench         what a delta and the page cost
#   make lock       write requirements.lock; UPGRADE=--upgrade takes newer releases
#   make clean      remove what these commands made, .venv included

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
UPGRADE ?=

BIN := .venv/bin
READY := .venv/.ready
SERVING := .venv/.serving
UV := $(BIN)/uv

# Node and npm are those of .venv, whatever else this machine has.
JS := clients/js
NODE_MODULES := $(JS)/node_modules/.ready
NPM := cd $(JS) && PATH="$(CURDIR)/$(BIN):$$PATH" npm
RUN := $(NPM) run --silent

# Every tool reports on what is installed here; none of them looks for news of itself.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export UV_PYTHON_DOWNLOADS := never
# uv and pip read the first, Node only the second.
ifdef SSL_CERT_FILE
export NODE_EXTRA_CA_CERTS ?= $(SSL_CERT_FILE)
endif
# Where nobody has a home, npm would keep its downloads in a folder named ~ here.
ifeq ($(HOME),)
export npm_config_cache := $(CURDIR)/.venv/npm
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test lint python-lint client-lint client-test format prove bench schema client browser lock clean

help:
	@sed -n 's/^#   //p' Makefile

serve: $(SERVING)
	@$(BIN)/turnwire serve $(ARGS)

test: lint client-test browser
	@$(BIN)/coverage erase
	$(BIN)/pytest -n $(WORKERS) --cov --cov-report= $(ARGS)
	@echo "coverage of core and protocol (all of it)" && $(BIN)/coverage report --include='$(STRICT)' --fail-under=100
	@echo "coverage of the rest (90 % of it)" && $(BIN)/coverage report --omit='$(STRICT)' --fail-under=90

# The parts whose every branch a test must take.
STRICT := */turnwire/core/*,*/turnwire_protocol/*

lint: python-lint client-lint

python-lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m turnwire_protocol.schema --check

client: $(NODE_MODULES)
	@$(RUN) build

client-lint: $(NODE_MODULES)
	$(RUN) types
	$(RUN) check

client-test: client-lint
	$(RUN) test
	$(RUN) pack
	$(RUN) size

# Finds the browser for tests/browser, or installs one where that can be done unasked. Without one those tests skip, and
# in continuous integration fail.
browser: $(READY)
	@$(BIN)/python -m tests.support.browser

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

prove: $(READY) $(NODE_MODULES)
	$(BIN)/pytest -m prove -o faulthandler_timeout=3600 $(ARGS)
	export TURNWIRE_RUNS=5000; $(RUN) prove
	$(BIN)/python -m tests.faults
	$(BIN)/python -m tests.mutants
	$(MAKE) bench

bench: $(READY)
	$(BIN)/python -m tests.benchmarks.relay $(ARGS)
	$(BIN)/python -m tests.benchmarks.cancel
	$(BIN)/python -m tests.benchmarks.page

schema: $(NODE_MODULES)
	$(BIN)/python -m turnwire_protocol.schema
	$(RUN) wire

lock: $(UV)
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" --quiet $(UPGRADE) --output-file requirements.lock

clean:
	rm -rf .venv .coverage .coverage.* .hypothesis .import_linter_cache .pytest_cache .ruff_cache build dist \
		$(JS)/node_modules $(JS)/dist $(JS)/coverage

# --- The environment ------------------------------------------------------------------------------------------------

# The server alone, for people who only want to see it: they need not wait for Node, a browser's driver and type
# checkers. As constraints the lock's versions and hashes hold all the same.
$(SERVING): requirements.lock pyproject.toml .venv/bin/python | $(UV)
	@$(UV) pip install --quiet --constraint requirements.lock --requirement pyproject.toml --python $(BIN)/python
	@$(UV) pip install --quiet --no-deps --build-constraint requirements.lock --python $(BIN)/python --editable .
	@touch $@

$(READY): requirements.lock pyproject.toml .venv/bin/python | $(UV)
	@$(UV) pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@$(UV) pip check --quiet --python $(BIN)/python
	@touch $@ $(SERVING)

$(NODE_MODULES): $(JS)/package.json $(JS)/package-lock.json $(JS)/.npmrc $(READY)
	@$(NPM) ci --loglevel=error >/dev/null
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
