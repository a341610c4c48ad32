# Commands for a fresh machine with Python 3.11 and pip; each makes its own environment in .venv first.
#   make reproduce    Keskar et al. (2017) in small: train, probe, render figures/keskar2017/, print the table
#   make test         the whole test suite, then ruff; FAST=1 leaves studies and whole commands out
#   make test-lowest  a part of the suite with the oldest versions that pyproject.toml allows, in .venv-lowest
#   make docs         the documentation as a site, offline, in docs/build/site/index.html; a warning is an error
# Pass options of the script, or of pytest, through ARGS, as in: make reproduce ARGS="--seeds 5"

PYTHON ?= python3
BIN := .venv/bin

# A part of the tests that goes through every layer and every library, for the oldest versions that are allowed.
THROUGH := imports config_and_records data data_sources models checkpoints loss loss_parts linalg certificates curvature \
	curvature_probes probes estimators landscapes training optimizer_states hugging_face_folders tables plots spectra \
	landscape_plots results_travel ray door

.PHONY: reproduce test test-lowest lint docs clean

reproduce: .venv/installed
	$(BIN)/python scripts/keskar2017.py $(ARGS)

# Each part runs whatever the one before it said, and the last line says what failed. A file's tests stay in one process,
# which makes what they share once; the files with little to do are the last, and even the two processes out.
test: .venv/installed-test
	@failed=; \
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
		$(if $(FAST),-m "not slow and not study and not dear") $(ARGS) || failed="$$failed tests"; \
	$(BIN)/ruff check . || failed="$$failed lint"; \
	$(BIN)/ruff format --check . || failed="$$failed format"; \
	echo "make test: $${failed:+failed:}$${failed:-passed}"; \
	test -z "$$failed"

# Old releases warn of each other, which is not ours to mend. Of the slow tests one starts a Ray, which no other does.
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest -n 2 --dist loadfile -W default $(THROUGH:%=tests/test_%.py) $(ARGS)
	.venv-lowest/bin/python -m pytest -W default -m slow -k worker_killed tests/test_ray.py

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: .venv/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html -c docs -d docs/build/doctrees . docs/build/site

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

.venv-lowest/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt \
		-e '.[timm,torchvision,hf,interactive,parquet,ray]' pytest pytest-timeout pytest-xdist hypothesis pyyaml
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf .venv .venv-lowest docs/build docs/gallery docs/figures docs/api
