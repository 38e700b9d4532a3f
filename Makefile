# What a developer does with this repository. Needs make and Python 3.11 or newer, nothing else.

PYTHON3 ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check -qq
VERSION := 0.1.0
UV := uv==0.13.9
WORKERS ?= 2
CODE := $(wildcard api tests migrations bench requirements)
PYTEST := $(PYTHON) -m pytest -n $(WORKERS) --dist loadgroup

.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:
.PHONY: help venv demo test test-all lint format check soak faults freeze extension bench bench-rights bench-read bench-seal screenshots wheel requirements clean

help: ## list the targets
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; \
	do printf '  %-13s %s\n' "$$name" "$$text"; done

venv: $(VENV)/.dev ## make the virtual environment with everything that development needs

demo: $(VENV)/.demo ## run the demo (options: make demo ARGS="--port 8001")
	@exec $(PYTHON) -m daybook demo $(ARGS)

test: $(VENV)/.dev ## run the tests on the newest embedded PostgreSQL (PG=15 takes another, ARGS="-k seal" goes to pytest)
	@$(PYTEST) $(ARGS)

test-all: $(VENV)/.dev ## run the tests on each PostgreSQL found (PG="15 18": on these)
	@$(PYTHON) -m tests.on_every_server -n $(WORKERS) --dist loadgroup $(ARGS)

lint: $(VENV)/.dev ## check style, format and types
	@$(PYTHON) -m ruff check $(CODE)
	@$(PYTHON) -m ruff format --check $(CODE)
	@$(PYTHON) -m mypy --strict $(CODE)

format: $(VENV)/.dev ## format the Python code
	@$(PYTHON) -m ruff check --fix $(CODE)
	@$(PYTHON) -m ruff format $(CODE)

check: lint test ## lint and test

soak: $(VENV)/.dev ## run the replay test with fresh seeds for an hour (ARGS="--minutes 5")
	@$(PYTHON) -m tests.soak $(ARGS)

freeze: $(VENV)/.dev ## copy sql/ into the migration that is not released yet
	@$(PYTHON) migrations/freeze.py $(ARGS)

extension: ## build build/extension, to be copied into a server's share/extension folder
	@mkdir -p build/extension build/extension.$$PPID
	@cp sql/pg_daybook.control build/extension.$$PPID/pg_daybook.control
	@cat $(sort $(wildcard sql/*.sql)) > build/extension.$$PPID/pg_daybook--$(VERSION).sql
	@mv build/extension.$$PPID/* build/extension && rmdir build/extension.$$PPID # whole, whoever reads it meanwhile
	@echo build/extension

bench: $(VENV)/.dev $(VENV)/.bench ## measure a write without a log, with ours and with others (ARGS="--help")
	@$(PYTHON) -m bench $(ARGS)

bench-rights: $(VENV)/.dev ## measure what row-level security, authentication and recording add to reading
	@$(PYTHON) -m bench.rights $(ARGS)

bench-read: $(VENV)/.dev ## measure reading at 200,000 and 20,000,000 entries (ARGS="--large 2000000 --data FOLDER")
	@$(PYTHON) -m bench.read $(ARGS)

bench-seal: $(VENV)/.dev ## measure sealing and verifying a million entries (ARGS="--entries 20000000 --data FOLDER")
	@$(PYTHON) -m bench.seal $(ARGS)

faults: $(VENV)/.dev ## faults of ten kinds under writers, 5 rounds of each (ARGS="--kinds server,app --rounds 50 --seed 1")
	@$(PYTHON) -m tests.faults $(ARGS)

screenshots: $(VENV)/.dev ## take the README's pictures anew from a demo (needs Chromium)
	@$(PYTHON) -m tests.screenshots $(ARGS)

wheel: $(VENV)/.dev ## build the wheel into dist/
	@$(PYTHON) -m build --wheel --no-isolation --outdir dist

requirements: $(VENV)/.dev ## resolve requirements/*.txt anew from pyproject.toml
	@$(PIP) install $(UV)
	@$(PYTHON) requirements/resolve.py

clean: ## remove what was built, the virtual environment included
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps say what is installed: made once, made anew when the pins change.

$(VENV)/.python:
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo 'Python 3.11 or newer is needed; name one: make PYTHON3=python3.12' >&2; exit 2; }
	@$(PYTHON3) -m venv $(VENV)
	@touch $@

# Others' packages stand apart: one needs an older SQLAlchemy. One that cannot be installed is said in the table.
$(VENV)/.bench: requirements/bench.txt | $(VENV)/.python
	@echo 'Installing what the bench measures against into $(VENV)/bench …' >&2
	@$(PYTHON) -m venv $(VENV)/bench
	@$(VENV)/bench/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements/bench.txt && touch $@ || \
	echo 'They cannot be installed: the bench goes on without them and says so.' >&2

$(VENV)/.demo: requirements/demo.txt pyproject.toml | $(VENV)/.python
	@echo 'Installing what the demo needs into $(VENV) …' >&2
	@$(PIP) install --require-hashes -r requirements/demo.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/.python
	@echo 'Installing what development needs into $(VENV) …' >&2
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@ $(VENV)/.demo
