# Three commands: `make book`, `make test` and `make bench`. All make the environment when it is not there.
# Options: PROFILE=quick|gpu|paper  SEED=0  CHAPTERS="1 4"  (for `make book`)

SHELL := /bin/sh
BIN := .venv/bin
PROFILE ?= quick
SEED ?= 0
CHAPTERS ?=

# The first Python that starts and is new enough; `make PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$python; break; }; done)

.PHONY: help environment book test bench lint stamp clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: environment  ## execute the chapters and render the book; prints the path of its first page
	@$(BIN)/python book/build.py all --profile "$(PROFILE)" --seed "$(SEED)" $(CHAPTERS)

test: environment lint  ## lint everything, then run all tests, the book's last
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/test_book.py
	@$(BIN)/python -m pytest tests/test_book.py

bench: environment  ## measure what the package's own work costs; writes _build/bench.json
	@$(BIN)/shallowpaths bench --output _build/bench.json

lint: environment  ## ruff on package, book, tests and notebooks; the floors of the package; the workflows
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

stamp: environment  ## write the repository's address from pyproject.toml into the chapters
	@$(BIN)/python book/build.py stamp

environment:  ## the virtual environment .venv, from requirements.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found (tried python3, python3.13, python3.12," \
		"python3.11, python). Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" book/building/environment.py

clean:  ## remove the environment and everything that was built
	rm -rf .venv _build build src/*.egg-info .pytest_cache .ruff_cache .import_linter_cache
