# Each verb sets up what it needs by itself. ARGS are passed on: make test ARGS="-k window".
VENV ?= .venv
PYTHON ?= python3
ARGS ?=
python := $(VENV)/bin/python
workers := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))
cpp = $(shell find csrc tests/cpp -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help setup test bench families lint format sanitize wheel wheel-test gpu clean

help: ## Show this list
	@echo "pkernels: what make can do"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: ARGS (passed on), VENV (default .venv), PYTHON (default python3),"
	@echo "  PKERNELS_TORCH (what pip installs if torch is missing, default torch==2.13.0)"

setup: ## Make the environment and build the C++ kernels
	@PYTHON=$(PYTHON) .ci/environment $(VENV)

test: setup ## Run the tests, and the examples of the docstrings
	@OMP_NUM_THREADS=1 $(python) -m pytest -n $(workers) --dist worksteal tests pkernels --doctest-modules $(ARGS)

bench: setup ## Measure the kernels and a real model (about three minutes)
	@$(python) -m benchmarks run $(ARGS)

gpu: setup ## On an NVIDIA GPU: all tests, compute-sanitizer and figures, within ten minutes
	@$(python) -m benchmarks gpu $(ARGS)

families: setup ## Run every model family and write the README's table of them
	@OMP_NUM_THREADS=1 $(python) -m tests.models.families

lint: setup ## Check style and types: ruff, mypy, clang-format
	@status=0; \
	$(python) -m ruff check . || status=1; \
	$(python) -m ruff format --check . || status=1; \
	$(python) -m mypy || status=1; \
	$(VENV)/bin/clang-format --dry-run -Werror $(cpp) || status=1; \
	exit $$status

format: setup ## Put all sources into the one style
	@$(python) -m ruff format .
	@$(python) -m ruff check --fix .
	@$(VENV)/bin/clang-format -i $(cpp)

sanitize: ## Run the C++ tests under AddressSanitizer and UBSan
	@.ci/sanitize

wheel: setup ## Build and audit the wheel, one for all torch >= 2.10 and Python >= 3.10
	@rm -rf build/lib* build/wheel dist/*.whl
	@$(python) -m pip wheel . --no-deps --no-build-isolation -w build/wheel
	@PATH="$(abspath $(VENV)/bin):$$PATH" auditwheel repair --exclude 'libtorch*.so' --exclude 'libc10*.so' -w dist build/wheel/*.whl
	@$(python) -m tests.audit dist/*.whl

wheel-test: wheel ## Test the wheel beside another torch (TORCH, default torch==2.14.1), from outside of the checkout
	@PYTHON=$(PYTHON) .ci/wheel-test dist/*.whl -n $(workers) $(ARGS)

clean: ## Remove what was built, but not the environment
	@rm -rf build dist *.egg-info pkernels/_C*.so .pytest_cache .mypy_cache .ruff_cache .benchmarks
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
