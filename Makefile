# Two commands for a fresh machine with Python 3.11 and pip; each makes its own environment in .venv first.
#   make reproduce    Keskar et al. (2017) in small: train, probe, render figures/keskar2017/, print the table
#   make test         the whole test suite
# Pass options of the script through ARGS, as in: make reproduce ARGS="--seeds 5"

PYTHON ?= python3
BIN := .venv/bin

.PHONY: reproduce test lint clean

reproduce: .venv/installed
	$(BIN)/python scripts/keskar2017.py $(ARGS)

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv
