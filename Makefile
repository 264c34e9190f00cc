# `make` alone lists the targets.
.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/sh

VENV ?= .venv
# The first Python on the path that the constraints files cover.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.13 python3.10; do \
	"$$p" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && { echo "$$p"; break; }; done)
# An index that holds torch's CPU build; empty: wherever pip looks anyway.
FOLDCAM_TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL = $(PIP) install $$(test -t 1 || echo --quiet --progress-bar off) --constraint "$$(cat $(VENV)/constraints)"
# Each worker runs the tests of one file after the other; `WORKERS=0` runs all in one process.
WORKERS ?= auto
# What is compiled is kept, also where the shell forbids it: else each worker and each process
# that a test starts compiles all modules again.
export PYTHONDONTWRITEBYTECODE =
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
INPUTS := pyproject.toml $(wildcard constraints/*.txt)
# What the tests need, and what constraints/ pins.
EXTRAS := cpu,live,heic,fonts,export,demo,evaluate,parquet,mqtt,rtx,ray,docs,dev
comma := ,

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=python3.12            the interpreter of $(VENV) (3.10 to 3.13); now: $(or $(PYTHON),none found)"
	@echo "  VENV=.venv                   where the environment goes"
	@echo "  WORKERS=auto                 processes that run the tests: one per processor core; 0: none but pytest's own"
	@echo "  KEEP=1                       make constraints without moving a pin that still fits"
	@echo "  FULL=1                       make reliability in full, and keep its figures"
	@echo "  ONLY=cuts,soak               make reliability of these checks alone"
	@echo "  HAVE=packages.txt            make gpu-proof without what pip list --format=freeze printed there"
	@echo "  FOLDCAM_TORCH_INDEX=URL      take torch from this index, e.g. the CPU build, without"
	@echo "                               gigabytes of CUDA: https://download.pytorch.org/whl/cpu"

.PHONY: demo
demo: $(VENV)/.demo ## photographs with heatmaps in demo-output/, from a fresh clone in minutes
	$(BIN)/foldcam demo --out demo-output

.PHONY: check
check: $(VENV)/.test ## before each commit: ruff, mypy and the fast tests, in two minutes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow"

.PHONY: test
test: $(VENV)/.test ## run all tests
	$(PYTEST)

.PHONY: slow
slow: $(VENV)/.test ## run all tests, and list those that take long in tests/slow.txt
	$(PYTEST) --store-slow

.PHONY: lint
lint: $(VENV)/.test docs ## ruff, mypy, who imports whom, and the documents' site built strictly
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: docs
docs: $(VENV)/.test ## the documents as a site, in build/site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.PHONY: figures
figures: $(VENV)/.test ## tables, plots and pictures of README and docs, made again
	$(BIN)/python -m foldcam.benchmarks.studies.tables
	$(BIN)/python -m foldcam.benchmarks.studies.plots
	$(BIN)/python tools/architecture.py

.PHONY: reliability
reliability: $(VENV)/.test ## cuts, soaks and failures, in short; FULL=1 for the published figures
	$(BIN)/python -m foldcam.benchmarks.studies.reliability $(if $(FULL),--full --store) $(if $(ONLY),--only $(ONLY))

.PHONY: gpu-proof
gpu-proof: $(VENV)/.test ## pack what needs a GPU for a machine without network, in build/gpu-proof/
	$(BIN)/python tools/gpu_proof/pack.py $(if $(HAVE),--have $(HAVE))

.PHONY: wheel
wheel: $(VENV)/.test ## build dist/foldcam-*.whl
	@# What an earlier build left would be packed again, moved and deleted modules included.
	rm -rf build/lib
	$(BIN)/python -m build --wheel .

.PHONY: constraints
constraints: $(VENV)/.python ## resolve constraints/py3.*.txt to the newest versions
	$(PIP) install --quiet uv
	@# Without what torch pins by itself (the CUDA libraries of its GPU builds) and suffixes such as
	@# `+cpu`, so that one file serves the CPU build and the GPU build.
	for file in $(wildcard constraints/py3.*.txt); do \
		version=$${file#constraints/py}; \
		$(BIN)/uv pip compile pyproject.toml --quiet --no-annotate $(if $(KEEP),,--upgrade) \
			--python-version $${version%.txt} --python-platform linux \
			--extra $(subst $(comma), --extra ,$(EXTRAS)) --constraint constraints/held.txt \
			--custom-compile-command "make constraints" --output-file $$file > /dev/null && \
		sed -E -i '/^(nvidia|cuda)-|^triton==/d; s/\+[a-z0-9.]+$$//' $$file || exit 1; \
	done

.PHONY: clean
clean: ## remove the environment, builds, caches and the demo's output
	rm -rf $(VENV) build dist demo-output *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, built in steps; each stamp is written when its step has succeeded.
$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "foldcam needs Python 3.10 to 3.13 and found none: install one, or run make PYTHON=/path/to/python3." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { echo "foldcam needs Python 3.10 or later, and $(PYTHON) is older or missing: run make PYTHON=/path/to/python3." >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV) || { echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, install python3-venv." >&2; exit 1; }
	@version=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	if test -f "constraints/py$$version.txt"; then echo "constraints/py$$version.txt"; \
	else echo "Python $$version is newer than the versions foldcam was tested with: only torch is pinned." >&2; \
	echo constraints/held.txt; fi > $(VENV)/constraints
	@touch $@

# torch comes first and alone: its index may lack the other pinned packages.
$(VENV)/.torch: $(VENV)/.python $(INPUTS)
ifneq ($(FOLDCAM_TORCH_INDEX),)
	@echo "Installing torch from $(FOLDCAM_TORCH_INDEX)"
	$(INSTALL) --no-deps --index-url "$(FOLDCAM_TORCH_INDEX)" torch
endif
	@touch $@

$(VENV)/.demo: $(VENV)/.torch
	@echo "Installing foldcam and what the demo needs into $(VENV) (some minutes, once)"
	$(INSTALL) --editable '.[cpu,export,demo,evaluate]'
	@touch $@

$(VENV)/.test: $(VENV)/.torch
	@echo "Installing foldcam and what the tests need into $(VENV) (some minutes, once)"
	$(INSTALL) --editable '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.demo
