# Every target sets up what it needs: .venv with the versions of constraints.txt. `make` alone lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/gradstep/__init__.py)
# With the version, which the installed metadata repeat: where it changes, .venv is set up anew.
READY := .venv/.installed-$(VERSION)
ARGS ?=

# Packages are installed without bytecode: let Python keep what it compiles.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

.PHONY: race
race: $(READY) ## race the optimizers on real data: 45 s, and minutes of set-up the first time; or choose: make race ARGS="text --peers"
	@$(BIN)/gradstep race $(or $(ARGS),--quick)

.PHONY: bench
bench: $(READY) ## time gradstep's step against torch's and this machine's memory
	@$(BIN)/gradstep bench $(ARGS)

# What a change breaks first: the mathematics by hand and against torch, the kernel against the reference bit for bit, every
# storage, checkpoints, errors, both fronts, and the rules of the house. A minute on two cores; the rest takes the others.
CHECKED := tests/rules tests/schedules/test_by_hand.py tests/storage/test_blocks.py tests/storage/test_codecs.py \
  tests/storage/test_rounding.py tests/engines/test_bitwise.py tests/engines/test_same_bits.py \
  tests/engines/test_storages.py tests/engines/test_statistics.py \
  $(addprefix tests/optimizers/test_,$(addsuffix .py,against_torch bad_input checkpoints clipping differences front \
  grad_scaler in_flight messages state_check tensors torch_s_execution user_rules)) \
  $(addprefix tests/numpy/test_,$(addsuffix .py,interface steps table)) \
  tests/training_room/test_groups.py tests/training_room/test_stepper.py tests/judge/test_rewrite.py \
  tests/tools/test_stubs.py tests/test_floors.py tests/test_imports.py README.md

.PHONY: lint
lint: $(READY) ## lint, formatting and types
	@echo "== 1 of 3: ruff check";  $(BIN)/ruff check .
	@echo "== 2 of 3: ruff format"; $(BIN)/ruff format --check .
	@echo "== 3 of 3: mypy, a minute or two the first time"; $(BIN)/mypy

# mypy needs one core for as long as the tests leave the other idle at their beginning and end, so it runs beside them.
TESTS = @bash tools/tests $(BIN) -m "not slow"

.PHONY: check
check: $(READY) ## lint, formatting, types and the tests that matter most: within 2 minutes on two cores
	$(TESTS) $(CHECKED) $(ARGS)

.PHONY: test
test: $(READY) ## lint, formatting, types, then every test; make test ARGS="-k adamw" narrows the tests
	$(TESTS) $(ARGS)

.PHONY: proofs
proofs: $(READY) ## the tests that are too slow for every run
	@$(BIN)/python -m pytest -n auto --dist worksteal -m slow $(ARGS)

.PHONY: format
format: $(READY) ## format the code and repair what ruff can repair
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

.PHONY: docs
docs: $(READY) ## build the site into build/site; a broken link or a missing entry of the reference is an error
	@$(BIN)/python tools/site.py $(ARGS)

.PHONY: stubs
stubs: $(READY) ## write the constructors' types anew, after a rule was added or its settings changed
	@$(BIN)/python tools/stubs.py

.PHONY: pages
pages: $(READY) ## write the table and the picture of the optimizers anew, after a rule was added
	@$(BIN)/python tools/pages.py

.PHONY: notebooks
notebooks: $(READY) ## write tutorials of docs/ as Jupyter notebooks into build/notebooks
	@$(BIN)/python -m tools.notebooks

.PHONY: setup
setup: $(READY) ## only set up .venv

$(READY): pyproject.toml constraints.txt tools/setup
	@bash tools/setup
	@touch $@

.PHONY: dist
dist: $(READY) ## build wheel and sdist into dist/, and use them as a stranger does; nothing is published
	@$(BIN)/python -m tools.dist $(ARGS)

.PHONY: pins
pins: ## resolve the newest versions of everything but torch, and write them to constraints.txt
	@bash tools/setup --repin
	@touch $(READY)

.PHONY: clean
clean: ## remove .venv, caches and builds; runs/ stays
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
