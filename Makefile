# make run: install into .venv and run the demo study. make test: also install the test tools, and run the tests.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev
OLDEST := .venv-oldest

.DEFAULT_GOAL := help
.PHONY: help install install-dev install-oldest run test test-all test-cluster test-oldest docs check format clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED) ## install attnlab into .venv (once)

install-dev: $(INSTALLED_DEV) ## install attnlab and its tools into .venv (once)

# uv is several times as fast as pip; pip knows mirrors that uv does not.
define install_extras
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "attnlab needs Python 3.10 or newer; choose one by: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@uv=$$(command -v uv) || { $(BIN)/python -m pip install --quiet --disable-pip-version-check uv && uv=$(BIN)/uv; }; \
	if [ -n "$$uv" ] && "$$uv" pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '$(1)'; then :; else \
		echo "uv cannot install here; installing with pip, which takes some minutes"; \
		$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '$(1)'; \
	fi
	@touch $@
endef

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv, with PyTorch: about 6 GB, once"
	$(call install_extras,.)

$(INSTALLED_DEV): $(INSTALLED)
	@echo "Installing the test tools"
	$(call install_extras,.[dev])

run: install ## run the demo study on the embedded digits and show its leaderboard
	@$(BIN)/attnlab train experiment=demo
	@$(BIN)/attnlab report outputs/demo
	@printf '%s\n' '' 'Next (after source .venv/bin/activate):' \
		'  attnlab more outputs/demo --budget 40                  train the seeds that an undecided comparison needs' \
		'  attnlab sites backbone=resnet18 --input 3x224x224      where attention can go in your network' \
		'  attnlab plan -m attention=none,se,cbam sites=branch,block "seed=range(5)" study=mine   plan your own study'

# Where it is set, every worker and every process that the tests start would compile the tests and attnlab anew.
unexport PYTHONDONTWRITEBYTECODE

# One worker more than cores: some of the tests wait for processes.
WORKERS = $$($(BIN)/python -c 'import os; print(min(4, 1 + len(os.sched_getaffinity(0))))')
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist=loadfile --no-loadscope-reorder

T = tests
test: install-dev ## run the tests (about 12 minutes on 2 cores), or those of one file: make test T=tests/test_docs.py
	@$(PYTEST) -m "not slow" $(T)

test-all: install-dev ## run all tests, with all combinations (about 15 minutes on 2 cores)
	@$(PYTEST)

install-oldest: ## install the oldest versions allowed into .venv-oldest (once)
	@test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	@test $(OLDEST)/.installed -nt constraints-oldest.txt || { \
		$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check uv && \
		$(OLDEST)/bin/uv pip install --compile-bytecode --python $(OLDEST)/bin/python --constraint constraints-oldest.txt --editable '.[test]' && \
		touch $(OLDEST)/.installed; }

test-oldest: install-oldest ## test the code that uses internals of Hydra, Lightning and PyTorch, with the oldest versions
	@$(OLDEST)/bin/python -m pytest -n auto --maxprocesses=4 --dist=loadfile -m "not slow" tests/config/test_compose.py \
		tests/config/test_many.py tests/training/test_checkpoints.py tests/training/test_classifier.py \
		tests/training/test_loop.py tests/sweep/test_grid.py tests/sweep/test_plan.py \
		tests/attention/kernels/test_by_image.py \
		tests/training/test_compiled.py::test_steps_are_those_of_the_network_as_written

test-cluster: install-dev ## run the cluster tests: real SLURM (Debian, root), real Ray
	@$(BIN)/python -m pytest -rs -n 3 --dist=loadfile tests/cluster

docs: install-dev ## run the commands of every README (some minutes)
	@$(BIN)/python -m tests.docs

format: install-dev ## format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

check: install-dev ## ruff, the type checker, and no conflict of a merge left
	@! git grep -nE '^(<{7}|>{7}) ' || { echo "a merge has left these"; exit 1; }
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean: ## remove .venv and caches; keep outputs/
	rm -rf .venv .venv-oldest .pytest_cache .ruff_cache .mypy_cache dist
