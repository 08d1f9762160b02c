# `make demo` and `make test` do all their set-up: nothing is asked of the reader but Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
PROCESSES ?= auto
PIP := $(VENV)/bin/pip --disable-pip-version-check -q
ORACLE := torch==2.13.0
RAY := ray==2.60.0
CASES := onnx==1.16.2  # its wheel holds cases that newer ones do not; it is read, not installed
PLANS := nvidia-cudnn-cu13==9.19.0.56 nvidia-cudnn-frontend==1.32.0 nvidia-cublas==13.1.0.3 nvidia-cuda-nvrtc==13.0.88 cuda-bindings==13.0.3 cuda-pathfinder

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz lint types contracts bench gpu-check gpu-plan-check slurm-check ray-check lock clean

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

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock requirements-nvrtc.lock
	@echo "installing what the tests need into $(VENV) (once)"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(VENV)/bin/python -c 'import torch' 2>/dev/null || $(PIP) install $(ORACLE)
	@$(VENV)/bin/python -c 'import ray' 2>/dev/null || $(PIP) install $(RAY) || echo "no Ray for this Python: its tests are skipped"
	@$(PIP) install --require-hashes --no-deps --target $(VENV)/nvrtc -r requirements-nvrtc.lock || echo "no NVRTC for this machine: the tests will not compile the GPU kernels"
	@test -d $(VENV)/onnx-cases || $(PIP) download --no-deps --only-binary=:all: --python-version 3.11 -d $(VENV)/onnx-cases $(CASES)
	@touch $@

demo: $(VENV)/.run ## train a CNN on handwritten digits on a local cluster, synchronously and asynchronously, and compare
	@$(VENV)/bin/python examples/async_vs_sync.py

test: $(VENV)/.dev ## run the whole test suite, in as many processes as there are cores (PROCESSES=0: in one)
	@$(VENV)/bin/python -m pytest -q -n $(PROCESSES)

fuzz: $(VENV)/.dev ## seek counterexamples to the properties among new random examples (the suite takes the same ones each time)
	@HYPOTHESIS_PROFILE=fuzz $(VENV)/bin/python -m pytest -q -m hypothesis $(TESTS)

lint: $(VENV)/.dev ## ruff: style and likely bugs
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

types: $(VENV)/.dev ## mypy --strict
	@$(VENV)/bin/mypy

contracts: $(VENV)/.dev ## which room may import which
	@$(VENV)/bin/lint-imports

bench: $(VENV)/.dev ## every benchmark, JSON lines
	@for f in benchmarks/bench_*.py; do $(VENV)/bin/python $$f; done

gpu-check: $(VENV)/.run ## is shoal right on this machine's GPU, and what does it give? (GPU_PYTHON: one with CuPy)
	@$(or $(GPU_PYTHON),$(VENV)/bin/python) -m shoal.gpucheck --out "$${OUT:-gpu-check-out}"

gpu-plan-check: ## ask cuDNN, without a GPU, whether it has plans for all that shoal asks of it (downloads 1 GB once)
	@test -x $(VENV)-plans/bin/python || $(PYTHON) -m venv $(VENV)-plans
	@$(VENV)-plans/bin/pip --disable-pip-version-check -q install numpy ml_dtypes
	@$(VENV)-plans/bin/pip --disable-pip-version-check -q install --no-deps $(PLANS)
	@$(VENV)-plans/bin/python tests/ops/gpu/plan_check.py

slurm-check: $(VENV)/.run ## run jobs on a Slurm of this machine's own, if its programs are installed, and take it down again
	@$(VENV)/bin/python deploy/slurm_check.py $(CHECKS)

ray-check: ## run jobs, a program and a notebook on a Ray of this machine's own, in a virtual environment of its own
	@test -x $(VENV)-ray/bin/python || $(PYTHON) -m venv $(VENV)-ray
	@$(VENV)-ray/bin/pip --disable-pip-version-check -q install --require-hashes -r requirements.lock
	@$(VENV)-ray/bin/pip --disable-pip-version-check -q install --no-deps -e .
	@$(VENV)-ray/bin/pip --disable-pip-version-check -q install 'ray[default,client]$(RAY:ray%=%)' nbconvert ipykernel
	@$(VENV)-ray/bin/python deploy/ray_check.py $(CHECKS)

lock: ## renew requirements*.lock and deploy/*.lock (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --group dev pyproject.toml -o requirements-dev.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header pyproject.toml deploy/gpu.in -o deploy/gpu.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra cloud pyproject.toml -o deploy/cloud.lock

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) $(VENV)-plans $(VENV)-ray build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
