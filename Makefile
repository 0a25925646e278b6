# A fresh machine needs two commands: `make demo` and `make test`. Both make the environment first.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
RUN ?= runs/bbc_news
SHARED := --numprocesses auto --maxprocesses 4 --dist loadfile
PACKAGE := __init__.py py.typed analysis configuration export hub_card modeling_wave tokenization training

.PHONY: help demo test test-oldest bench docs check hub clean

help:
	@echo "make demo    set up, train on BBC News, load the result back and classify three headlines"
	@echo "make test    set up, then the tests (no network)"
	@echo "make test-oldest   the same with the oldest versions that are claimed, in an environment of their own"
	@echo "make bench   measure speed, memory and numerical error (about 40 minutes), then make the tables and figures"
	@echo "make docs    draw the figures of docs/analysis.md again, from the committed results of the studies"
	@echo "make check   lint, format and types"
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
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[all,dev]"
	touch $(DEV)

demo: $(READY)
	$(BIN)/python examples/demo.py

# Transformers' own tests are fetched before ours run, which need no network.
# One thread for each of the processes that share them.
test: $(DEV)
	$(BIN)/python tests/fetch_transformers_tests.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED)

# constraints-oldest.txt has wheels for Python 3.10 to 3.12: `make test-oldest PYTHON=python3.11`.
$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade -c constraints-oldest.txt "setuptools>=77" wheel
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt torch
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt --no-build-isolation -e ".[analyze,int8,lora,sentence-transformers,serve,sweep,track,dev]"
	touch $@

test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python tests/fetch_transformers_tests.py
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest $(SHARED)

# Goes on where it was stopped; nothing is measured twice at one commit. What trains models is measured by commands of
# its own: classification.py, choices.py, int8.py and sparse_table.py --accuracy.
bench: $(DEV)
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/sparse_table.py
	$(BIN)/python benchmarks/documents.py
	$(BIN)/python benchmarks/allocator.py
	$(BIN)/python benchmarks/profiles.py
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python -m wave_network.analysis.curves

docs: $(DEV)
	$(BIN)/python -m wave_network.analysis.docs
	$(BIN)/python benchmarks/tables.py

# The repository root is the package; links under its name let the type checker see it as one.
check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/types/wave_network
	ln -sfn $(addprefix $(CURDIR)/,$(PACKAGE)) build/types/wave_network
	$(BIN)/mypy

hub: $(READY)
	@test -n "$(REPO)" || { echo "Name the repository: make hub REPO=user/name"; exit 2; }
	$(BIN)/wave-network push $(RUN) $(REPO)

clean:
	rm -rf $(VENV) $(OLDEST) build .cache *.egg-info
