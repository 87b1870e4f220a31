# Everything a developer runs. The environment in .venv is made when first needed, and brought up
# to date when pyproject.toml or constraints.txt change.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq -c constraints.txt
PYTEST := $(BIN)/python -m pytest

PYTHON ?= python3

.PHONY: force help demo test test-slow test-lowest test-highest test-extras check tiny-world pages docs bench clean

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

demo: .venv/.installed ## Render a world, train on it, evaluate, search: the whole story
	$(BIN)/valor demo

test: .venv/.installed ## Run the quick tests and the examples in docstrings, with coverage
	OMP_NUM_THREADS=1 $(PYTEST) --cov -n 2 --dist loadscope -m "not slow" --doctest-modules src tests

test-slow: .venv/.installed ## Run the tests that train for minutes
	$(PYTEST) -m slow tests

test-lowest: RESOLUTION := lowest-direct
test-lowest: .venv-lowest ## Run the quick tests with the lowest version of everything that pyproject.toml allows

test-highest: RESOLUTION := highest
test-highest: .venv-highest ## Run them with the highest; PYTHON=python3.13 takes another Python

.venv-%: force
	$(PYTHON) -m venv --clear $@
	$@/bin/python -m pip install -qq uv
	$@/bin/uv pip install -q --python $@/bin/python --resolution $(RESOLUTION) \
		-e ".[search,serve,plots,dev]"
	OMP_NUM_THREADS=1 $@/bin/python -m pytest -n 2 --dist loadscope -m "not slow" tests

test-extras: ## Install each extra alone, and let `valor doctor` look for all of its packages
	@failed=; for extra in search serve ray plots track eval fast sentence; do \
		$(PYTHON) -m venv --clear .venv-extra && .venv-extra/bin/python -m pip install -qq uv && \
		.venv-extra/bin/uv pip install -q --python .venv-extra/bin/python ".[$$extra]" && \
		.venv-extra/bin/valor doctor --json | .venv-extra/bin/python -c "import json, sys; \
			found = json.load(sys.stdin)['extras']['$$extra']; \
			print('$$extra', found); sys.exit(found != 'yes')" || failed+=" $$extra"; \
	done; if [ "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

check: .venv/.installed ## Lint, formatting, types, import layers, docstrings, dependencies, sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/pydoclint --quiet src
	$(BIN)/deptry src
	$(PYTEST) -q tests/laws

tiny-world: .venv/.installed ## Train the model in the package anew (a quarter of an hour)
	$(BIN)/valor demo --out runs/tiny-world
	$(BIN)/python -c "import json; from pathlib import Path; from valor.checkpoints.box import box; \
		run = Path('runs/tiny-world'); box(run / 'model', json.loads((run / 'report.json').read_text()))"

pages: .venv/.installed ## Write the pages of the documentation that repeat what the code says
	$(BIN)/python docs/generate.py

docs: .venv/.installed-docs ## Build the documentation into docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

bench: .venv/.installed ## Run every benchmark once, quickly
	@failed=0; for program in $(wildcard benchmarks/bench_*.py); do \
		echo "== $$program"; $(BIN)/python $$program --quick || failed=1; \
	done; exit $$failed

clean: ## Remove caches and build outputs; .venv and runs/ stay
	rm -rf build dist htmlcov docs/_build .coverage .coverage.* .pytest_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@for python in python3.11 python3.12 python3.13 python3; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Making .venv with $$($$python --version)"; exec $$python -m venv --clear .venv; \
		fi; \
	done; echo "valor needs Python 3.11 or later; none of python3.11 ... python3 is one" >&2; exit 1

# torch comes first, so that a CPU build that pip is configured to find is kept by what follows.
# pydoclint's fork of docstring_parser and tyro's original fill the same folder; the fork serves both.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing into .venv (a minute or two)"
	@$(INSTALL) torch
	@$(INSTALL) -e ".[search,serve,plots,sentence,dev]"
	@$(INSTALL) --no-deps --force-reinstall docstring-parser-fork
	@touch $@

.venv/.installed-docs: .venv/.installed
	@$(INSTALL) -e ".[docs]"
	@touch $@
