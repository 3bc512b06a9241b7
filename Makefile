# Every target sets up what it needs: .venv with the versions of constraints.txt. `make` alone lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
READY := .venv/.installed
ARGS ?=

# Packages are installed without bytecode: let Python keep what it compiles.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

.PHONY: race
race: $(READY) ## race the optimizers on real data (45 s); or choose: make race ARGS="text --peers"
	@$(BIN)/gradstep race $(or $(ARGS),--quick)

.PHONY: bench
bench: $(READY) ## time gradstep's step against torch's and this machine's memory
	@$(BIN)/gradstep bench $(ARGS)

.PHONY: test
test: $(READY) ## lint, formatting, types, then every test; make test ARGS="-k adamw" narrows the tests
	@echo "== ruff check";  $(BIN)/ruff check .
	@echo "== ruff format"; $(BIN)/ruff format --check .
	@echo "== mypy";        $(BIN)/mypy
	@echo "== pytest";      $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" $(ARGS)

.PHONY: proofs
proofs: $(READY) ## the tests that are too slow for every run
	@$(BIN)/python -m pytest -n auto --dist worksteal -m slow $(ARGS)

.PHONY: format
format: $(READY) ## format the code and repair what ruff can repair
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

.PHONY: stubs
stubs: $(READY) ## write the constructors' types anew, after a rule was added or its settings changed
	@$(BIN)/python tools/stubs.py

.PHONY: setup
setup: $(READY) ## only set up .venv

$(READY): pyproject.toml constraints.txt tools/setup
	@bash tools/setup

.PHONY: pins
pins: ## resolve the newest versions of everything but torch, and write them to constraints.txt
	@bash tools/setup --repin

.PHONY: clean
clean: ## remove .venv, caches and builds; runs/ stays
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
