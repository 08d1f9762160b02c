# `make demo` and `make test` do all their set-up: nothing is asked of the reader but Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check -q
ORACLE := torch==2.13.0
CASES := onnx==1.16.2  # its wheel holds cases that newer ones do not; it is read, not installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint types contracts bench lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(VENV)/.run: pyproject.toml requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "shoal needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "shoal needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 1; }
	@echo "installing shoal into $(VENV) (once)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	@echo "installing what the tests need into $(VENV) (once)"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(VENV)/bin/python -c 'import torch' 2>/dev/null || $(PIP) install $(ORACLE)
	@test -d $(VENV)/onnx-cases || $(PIP) download --no-deps --only-binary=:all: --python-version 3.11 -d $(VENV)/onnx-cases $(CASES)
	@touch $@

demo: $(VENV)/.run ## train a CNN on handwritten digits on a local cluster, synchronously and asynchronously, and compare
	@$(VENV)/bin/python examples/async_vs_sync.py

test: $(VENV)/.dev ## run the whole test suite
	@$(VENV)/bin/python -m pytest -q

lint: $(VENV)/.dev ## ruff: style and likely bugs
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

types: $(VENV)/.dev ## mypy --strict
	@$(VENV)/bin/mypy

contracts: $(VENV)/.dev ## which room may import which
	@$(VENV)/bin/lint-imports

bench: $(VENV)/.dev ## every benchmark, JSON lines
	@for f in benchmarks/bench_*.py; do $(VENV)/bin/python $$f; done

lock: ## renew requirements*.lock (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --group dev pyproject.toml -o requirements-dev.lock

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
