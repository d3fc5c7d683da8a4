# Everything runs in .venv; nothing is installed outside it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
TASK ?= digits
FILE ?= tests
# A file's tests stay in one process: what they share is then made once. Each process keeps to one core; tests that
# need several cores run by themselves.
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# COVERAGE=1 counts the lines that the fast tests run; counting makes them slower.
COUNTED := $(if $(COVERAGE),--cov --cov-append --fast-limit-s 5,)
OUTPUT ?= reports/$(notdir $(subst :,/,$(TASK)))
# Set TORCH_INDEX_URL to take torch from another index, for example one with CPU-only or other CUDA builds.
PIP_TORCH := $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL),)

.PHONY: help install report lab test test-all coverage lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

install: $(STAMP) ## make .venv and install the workbench with its tools

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make install PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_TORCH) --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

report: install ## compress and measure the digits task (TASK=..., OUTPUT=...) and print the path of the HTML report
	$(BIN)/workbench report --task $(TASK) --output $(OUTPUT)

lab: install ## open JupyterLab on the quickstart notebook
	$(BIN)/jupyter lab notebooks/00_quickstart.ipynb

lint: install ## ruff, mypy, import-linter, notebooks without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify notebooks/*.ipynb
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## lint and the fast tests, in WORKERS processes (FILE=tests/engine for one folder or file)
	$(if $(COVERAGE),rm -f .coverage .coverage.*)
	$(PYTEST) $(COUNTED) $(if $(COVERAGE),--cov-report=) -m "cores and not slow and not gpu" $(FILE) || [ $$? -eq 5 ]
	$(PYTEST) $(PARALLEL) $(COUNTED) $(if $(COVERAGE),--cov-report=term:skip-covered --cov-report=html --cov-fail-under=90) -m "not cores and not slow and not gpu" $(FILE)

test-all: test ## lint and every test
	$(PYTEST) -m "(cores and slow) or gpu" $(FILE) || [ $$? -eq 5 ]
	$(PYTEST) $(PARALLEL) -m "slow and not cores and not gpu" $(FILE)

coverage: ## the fast tests with line coverage: a table, and htmlcov/
	$(MAKE) test COVERAGE=1

clean: ## remove what the targets made
	rm -rf $(VENV) reports dist build htmlcov .coverage* .pytest_cache .mypy_cache .ruff_cache
