PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test setup lint bench clean

run: setup  ## train with the adjoint method on MNIST and measure its gradient step
	$(BIN)/nodebench run --backend adjoint --task mnist

test: setup  ## the whole test suite
	$(BIN)/python -m pytest -q

setup: $(STAMP)  ## .venv with the pinned set; does nothing when it is up to date

# torch first and by its pinned version: where a CPU build is offered, only the exact version finds it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

lint: setup  ## formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## benchmarks of our own solver; ends with the table of our methods beside their rivals
	$(BIN)/python -m pytest -q benchmarks -p benchmark --benchmark-only --benchmark-max-time 0.5 --benchmark-columns min,median,iqr,rounds
	$(BIN)/python benchmarks/ratios.py

clean:
	rm -rf $(VENV) .nodebench .pytest_cache .mypy_cache .ruff_cache .hypothesis
