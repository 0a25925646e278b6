# A fresh machine needs two commands: `make demo` and `make test`. Both make the environment first.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
NPM := .cache/npm
RUN ?= runs/bbc_news
# One thread for each of the processes that share the tests.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
PACKAGE := __init__.py __main__.py api.py cli.py files.py py.typed analysis configuration data hub_card inference modeling_wave tokenization training

.PHONY: help demo test nightly test-oldest bench check sbom hub clean

help:
	@echo "make demo    set up, train on 64 articles of BBC News and on all, classify three headlines"
	@echo "make test    set up, then the tests (no network)"
	@echo "make nightly       the tests that take minutes, and 1,000 random examples of each property"
	@echo "make test-oldest   the tests with the oldest versions that are claimed, in an environment of their own"
	@echo "make bench   measure speed, memory and numerical error (15 minutes), then fill the tables of the documents"
	@echo "make check   lint, format and types"
	@echo "make sbom    list the packages of the environment in sbom.json, in the form of CycloneDX"
	@echo "make hub     push a run:  make hub REPO=user/name [RUN=runs/bbc_news]"
	@echo "make clean   remove the environment and caches; runs stay"

# torch first and by its pin: asked for by another package, pip would take the newest build, with gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[demo]"
	touch $(READY)

$(DEV): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[dev,onnx]"
	touch $(DEV)

demo: $(READY)
	$(BIN)/python examples/demo.py

# What runs in Node.js and in Chromium is tested where npm is and reaches its registry, and skipped elsewhere.
$(NPM)/.ready: tests/npm/package-lock.json
	mkdir -p $(NPM)
	cp tests/npm/package.json tests/npm/package-lock.json $(NPM)
	npm ci --prefix $(NPM) --ignore-scripts --no-audit --no-fund && touch $@ || echo "No packages of npm: their tests are skipped."

# Transformers' own tests and npm's packages are fetched before our tests run, which need no network.
test: $(DEV) $(if $(shell command -v npm),$(NPM)/.ready)
	$(BIN)/python tests/fetch_transformers_tests.py
	$(PYTEST)

nightly: $(DEV)
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[ray]"
	$(PYTEST) -m "nightly or hypothesis" --hypothesis-profile nightly

# constraints-oldest.txt has wheels for Python 3.10 to 3.12: `make test-oldest PYTHON=python3.11`.
$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade -c constraints-oldest.txt "setuptools>=77" wheel
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt torch
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt --no-build-isolation -e ".[dev]"
	touch $@

test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python tests/fetch_transformers_tests.py
	$(subst $(BIN),$(OLDEST)/bin,$(PYTEST))

bench: $(DEV)
	$(BIN)/python -m research.bench
	$(BIN)/python -m research.tables

# The repository root is the package; links under its name let the type checker see it as one.
check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/types/wave_network
	ln -sfn $(addprefix $(CURDIR)/,$(PACKAGE)) build/types/wave_network
	$(BIN)/mypy

# From an environment of its own: the list is of what the project needs.
sbom: $(READY)
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip install --quiet "cyclonedx-bom>=7"
	build/sbom/bin/cyclonedx-py environment $(VENV) --output-file sbom.json

hub: $(READY)
	@test -n "$(REPO)" || { echo "Name the repository: make hub REPO=user/name"; exit 2; }
	$(BIN)/wave-network push $(RUN) $(REPO)

clean:
	rm -rf $(VENV) $(OLDEST) build .cache *.egg-info
