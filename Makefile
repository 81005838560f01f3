# make run: install into .venv and run the demo study. make test: install and run the tests.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test test-cluster check clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED) ## install attnlab and its tools into .venv (once)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "attnlab needs Python 3.10 or newer; choose one by: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "Installing into .venv, with PyTorch: about 6 GB, some minutes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: install ## run the demo study on the embedded digits and show its leaderboard
	@$(BIN)/attnlab train experiment=demo
	@$(BIN)/attnlab report outputs/demo

test: install ## run the tests (about 10 minutes on 2 cores)
	@$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

test-cluster: install ## run the cluster tests: real SLURM (Debian, root), real Ray
	@$(BIN)/python -m pytest -rs tests/cluster

check: install ## ruff and the type checker
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean: ## remove .venv and caches; outputs/ stays
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache dist
