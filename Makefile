# Two commands that a newcomer needs; each does its own installing, into .venv.
#   make quickstart   train on the starter suite with the embedded model and score it with EvalPlus
#   make test         lint, types, layers and tests
PYTHON ?= python3
VENV := .venv
# A pinned release, so that set-up is repeatable; the package itself admits a range.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
# Two workers: more would need more memory than a small machine has, as each loads models. WORKERS= is one process.
WORKERS ?= -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test lint setup clean

quickstart: setup
	$(BIN)/promptrl quickstart

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) --cov=promptrl_plugin --cov-report=term:skip-covered

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
