# Three commands: `make book`, `make test` and `make bench`. All make the environment where there is none that is current.
# Options: PROFILE=quick|gpu|paper  SEED=0  CHAPTERS="1 4"  (for `make book`)

SHELL := /bin/sh
BIN := .venv/bin
READY := .venv/.ready
PROFILE ?= quick
SEED ?= 0
CHAPTERS ?=

# The first Python that starts and is new enough; `make PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$python; break; }; done)

# An environment is trusted if its last file, which says where it lies, is there, and its Python starts. It is made
# under a lock: where another make has made it meanwhile, there is nothing left to do.
UNFIT := $(shell [ "$$(cat $(READY) 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -c '' 2>/dev/null || echo unfit)

.PHONY: help environment book test bench lint stamp clean unfit
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: $(READY)  ## execute the chapters and render the book; prints the path of its first page
	@$(BIN)/python book/build.py all --profile "$(PROFILE)" --seed "$(SEED)" $(CHAPTERS)

test: $(READY) lint  ## lint everything, then run all tests, the book's last
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/test_book.py
	@$(BIN)/python -m pytest tests/test_book.py

bench: $(READY)  ## measure what the package's own work costs; writes _build/bench.json
	@$(BIN)/shallowpaths bench --output _build/bench.json

lint: $(READY)  ## ruff on package, book, tests and notebooks; the floors of the package; the workflows
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

stamp: $(READY)  ## write the repository's address from pyproject.toml into the chapters
	@$(BIN)/python book/build.py stamp

environment: $(READY)  ## the virtual environment .venv, from requirements.txt

$(READY): requirements.txt pyproject.toml $(UNFIT)
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found (tried python3, python3.13, python3.12," \
		"python3.11, python). Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@mkdir -p _build; exec 9> _build/environment.lock; if command -v flock >/dev/null; then flock 9; fi; \
	if [ -z "$(UNFIT)" ]; then \
		echo "environment: requirements.txt or pyproject.toml changed, updating .venv"; rm -f $@; \
	elif [ "$$(cat $@ 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -c '' 2>/dev/null; then \
		exit 0; \
	else \
		echo "environment: making .venv with $$("$(PYTHON)" --version)"; \
		"$(PYTHON)" -m venv --clear .venv || { echo "error: $(PYTHON) cannot make a virtual environment: its venv" \
			"module is incomplete. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	fi; \
	echo "environment: installing $$(grep -c '^[[:alpha:]]' requirements.txt) packages (1 to 4 minutes, about 2 GB)"; \
	pip() { PYTHONPATH= PIP_REQUIRE_VIRTUALENV=0 $(BIN)/python -m pip --no-input --disable-pip-version-check "$$@"; }; \
	{ pip install --progress-bar off --requirement requirements.txt && \
		pip install --no-deps --no-build-isolation --no-index --editable .; } > _build/pip.log 2>&1 || { \
		echo "error: pip could not install the packages. Is there a network, and room on the disk?" >&2; \
		grep '^ERROR' _build/pip.log | head -4 >&2; \
		echo "Everything pip said: _build/pip.log. Nothing half made is kept in use: run the same command again." >&2; \
		exit 1; }; \
	echo "$(CURDIR)" > $@; echo "environment: .venv is ready"

clean:  ## remove the environment and everything that was built
	rm -rf .venv _build build src/*.egg-info .pytest_cache .ruff_cache .import_linter_cache
