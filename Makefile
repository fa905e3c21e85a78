# `make repro` and `make test` are all the set-up there is. See README.md.

PYTHON ?= python3.11
TORCH ?= torch==2.13.0
BIN := .venv/bin
PARALLEL := -n 3 --dist loadfile  # most of a test is a start of Python; the processes of a file share what it builds
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: repro test test-unit test-slow lint format lock clean

repro: .venv/installed  ## the whole graph, then what came of it
	python -m stages.params
	dvc repro
	python -m release.summary

test: .venv/gguf  ## every test
	python -m pytest $(PARALLEL) -m "not slow"

test-unit: .venv/gguf  ## the fast tier
	python -m pytest $(PARALLEL) -n 4 -m "not e2e and not slow"

test-slow: .venv/installed  ## what `make test` leaves out
	python -m pytest -m slow

lint: .venv/installed
	ruff check .
	ruff format --check .
	mypy

format: .venv/installed
	ruff check --fix .
	ruff format .

# Everything but torch is installed by hash. torch is pinned by version; its build (CPU, CUDA) is the machine's choice,
# and the release records which one was used.
.venv/installed: requirements.lock
	$(PYTHON) -m venv .venv
	python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	python -m pip install --quiet $(TORCH)
	touch $@

# llama.cpp, built from source, for the tests of GGUF files; nothing else needs it.
.venv/gguf: requirements-gguf.lock .venv/installed
	python -m pip install --quiet --require-hashes --no-deps -r requirements-gguf.lock
	touch $@

COMPILE := pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-header --no-emit-index-url \
	--no-emit-find-links --no-emit-trusted-host --no-emit-options

lock: .venv/installed  ## resolve pyproject.toml anew
	$(COMPILE) --extra dev --output-file requirements.lock pyproject.toml
	sed -i -e '/^torch==/,/^[^ ]/{/^torch==/d;/^ /d}' -e '/^#/d' requirements.lock
	$(COMPILE) --extra gguf --constraint requirements.lock --output-file requirements-gguf.lock pyproject.toml
	sed -i -n -e '/^llama-cpp-python==/,/^[^ ]/{/^llama-cpp-python==/p;/^ .*hash/p}' requirements-gguf.lock

clean:  ## all results; the environment stays
	rm -rf out
