# Two commands that a newcomer needs; each does its own installing, into .venv.
#   make quickstart   train on the starter suite with the embedded model and score it with EvalPlus
#   make test         lint, types, layers and tests
PYTHON ?= python3
VENV := .venv
# A pinned release, so that set-up is repeatable; the package itself admits a range.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
# For instance WORKERS="-n 2 --dist loadfile --no-loadscope-reorder": faster, but tests of what is left on a
# machine may see the files of the other worker.
WORKERS ?=

.PHONY: quickstart test lint setup clean

quickstart: setup
	$(BIN)/promptrl quickstart

test: lint
	$(BIN)/python -m pytest $(WORKERS) --cov=promptrl_plugin --cov-report=term:skip-covered

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV)
