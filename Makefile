# A fresh machine needs Python 3.11 or newer and nothing else: every target makes what it needs, once.
#   make demo PYTHON=/path/to/python3.12     another interpreter
#   make test TESTS="tests/test_planner.py -x" WORKERS=0

PYTHON ?= python3
VENV := .venv
ORACLES := .venv-oracles
# What gpu-check needs beside a driver: CuPy for its CUDA (CUDA=cuda12 or cuda13), and torch to compare with.
GPU := .venv-gpu
CUDA ?= cuda12
GPU_FILE ?= asv_bench/gpu.json
BIN := $(VENV)/bin
SOURCES := memopt_ref backends theory tests asv_bench conftest.py
TESTS ?=
# Processes that share the files of tests: a number, or 0 for the one that a debugger can follow.
WORKERS ?= auto
TUNED ?= tests/numba_cpu tests/test_optimizer.py
SMOKE := values.State.track_state|Cuda.track_registers.*sm3_|SmallTensors|LookUp|timeraw_import
PIP := -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv demo verify test lint format types tuned bench gate bench-smoke gpu-check gpu-there oracles clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

venv: $(VENV)/with-dev $(VENV)/with-test ## everything a developer needs, in .venv

demo: $(VENV)/with-nothing ## the main job: every optimizer on one language model, as a table and a page
	$(BIN)/memopt compare

verify: $(VENV)/with-nothing ## the theorems: regret bounds held against the rules and against the fast kernels
	$(BIN)/memopt verify run --suite core
	$(BIN)/memopt verify run --suite kernels

test: $(VENV)/with-test ## all tests, except those that need other libraries
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not oracle" $(TESTS)

lint: $(VENV)/with-dev ## style and format, changing nothing
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

format: $(VENV)/with-dev ## put style and format right
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# mypy cannot follow the installed package's map of folders, so it is shown the package as it installs.
types: $(VENV)/with-dev ## strict types of memopt_ref, its backends and its theory
	rm -rf $(VENV)/types && mkdir -p $(VENV)/types/memopt_ref
	ln -s $(CURDIR)/memopt_ref/* $(CURDIR)/backends $(CURDIR)/theory $(VENV)/types/memopt_ref/
	cd $(VENV)/types && ../bin/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache

tuned: $(VENV)/with-test ## the kernels' tests with kernels drawn at random: the same results, bit for bit
	MEMOPT_TUNE=random $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -q -m "not oracle" $(TUNED)

bench: $(VENV)/with-test ## this machine's table of steps against the memory's limit
	$(BIN)/memopt bench

gate: $(VENV)/with-test ## whether every kernel still has its place: ratios against a committed table
	$(BIN)/memopt bench --gate asv_bench/gate.json

bench-smoke: $(VENV)/with-bench ## whether the benchmark suite runs; records nothing
	cd asv_bench && home=$$(mktemp -d) && trap 'rm -rf "$$home" results/smoke' EXIT && export HOME="$$home" && \
	../$(BIN)/python -m asv machine --yes --machine smoke && ../$(BIN)/python -m asv check --python=same && \
	../$(BIN)/python -m asv run --python=same --machine smoke --quick --dry-run --show-stderr --bench '$(SMOKE)'

gpu-check: gpu-there $(GPU)/with-gpu ## on an NVIDIA GPU: the kernels' tests, then a table in asv_bench/gpu.json
	$(GPU)/bin/python -m pytest -m gpu $(TESTS)
	$(GPU)/bin/python -m memopt_ref.bench.gpu --output $(GPU_FILE)

# Asked before anything is downloaded.
gpu-there:
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null || \
	{ echo "make gpu-check needs a machine with an NVIDIA GPU and its driver; there is none here." >&2; exit 1; }

oracles: $(ORACLES)/with-oracles ## the same figures from other libraries, live; a large download
	$(ORACLES)/bin/python -m pytest -m oracle $(TESTS)

clean: ## remove the environments and caches
	rm -rf $(VENV) $(ORACLES) $(GPU) .mypy_cache .pytest_cache .ruff_cache .hypothesis build

$(VENV)/bin/python $(ORACLES)/bin/python $(GPU)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(patsubst %/bin/python,%,$@)

# A stamp for each extra, so that a second run starts at once.
$(VENV)/with-dev $(VENV)/with-test $(VENV)/with-bench: $(VENV)/with-%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python $(PIP) --editable ".[$*]"
	@touch $@

$(VENV)/with-nothing: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python $(PIP) --editable .
	@touch $@

$(ORACLES)/with-oracles: pyproject.toml | $(ORACLES)/bin/python
	$(ORACLES)/bin/python $(PIP) --editable ".[oracles,test]"
	@touch $@

$(GPU)/with-gpu: pyproject.toml | $(GPU)/bin/python
	$(GPU)/bin/python $(PIP) --editable ".[test,$(CUDA)]" torch
	@touch $@
