# Everything runs from two commands on a fresh machine with Python, git and make: `make demo` and `make test`.
# `make help` lists the rest. .venv is made when it is not there and brought up to date when the pins change.

PYTHON ?= python3
VENV ?= .venv
BRIDGE_VENV ?= .venv-bridge
# The newest transformer-lens that the bridge part of the suite is run with; all other pins are those of constraints.txt.
BRIDGE_TRANSFORMER_LENS := 4.3.0

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.installed-docs
BRIDGE_INSTALLED := $(BRIDGE_VENV)/.installed
# A worker per core, and each file of tests in one worker: its models and its browser are made once. The files go out in
# the order of tests/conftest.py, which begins with those that take longest.
WORKERS := -n auto --dist loadfile --no-loadscope-reorder
# Byte code is written when a module is first imported: what is installed is mostly never imported.
PIP_INSTALL := -m pip install --disable-pip-version-check --no-compile
BENCHMARKS := $(patsubst benchmarks/%.py,benchmarks.%,$(sort $(wildcard benchmarks/[!_]*.py)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all quick test-bridge check format bench docs pins clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## measure the bundled prompts on the embedded pair, write demo_report/
	$(BIN)/tuco-lens demo --out demo_report

test: $(INSTALLED) ## the suite, on transformer-lens 3.9.0, but for the few tests that take longest
	$(BIN)/python -m pytest -q $(WORKERS) -m "not slow"

test-all: $(INSTALLED) ## and those few: notebooks, JupyterLab, all pages of the documentation, soaks, killed processes
	$(BIN)/python -m pytest -q $(WORKERS)

quick: $(INSTALLED) ## what needs no model: for the inner loop
	$(BIN)/python -m pytest -q $(WORKERS) -m "not slow and not browser" tests/unit

test-bridge: $(BRIDGE_INSTALLED) ## the bridge part of the suite but for the slow tests, on transformer-lens 4.3.0
	$(BRIDGE_VENV)/bin/python -m pytest -q $(WORKERS) -m "bridge and not slow"

check: $(INSTALLED) ## lint, format, types, the arrows between the rooms, and that every test file can be imported
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/pyright
	$(BIN)/python -m pytest -qqq --collect-only --disable-warnings

format: $(INSTALLED) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## every script in benchmarks/, one after the other
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m "$$name"; done

docs: $(DOCS_INSTALLED) ## build the documentation into site/
	$(BIN)/mkdocs build --strict

pins: ## resolve every dependency anew and write constraints.txt
	rm -rf .venv-pins
	$(PYTHON) -m venv .venv-pins
	.venv-pins/bin/python $(PIP_INSTALL) torch==2.13.0 transformer-lens==3.9.0 -e ".[dev,hooked,peft,gguf,quantised,evals,notebook,images,data,train,sae,ray,docs]"
	.venv-pins/bin/python scripts/pin.py > constraints.txt.new
	mv constraints.txt.new constraints.txt
	rm -rf .venv-pins

clean: ## remove what was built, and the environments
	rm -rf $(VENV) $(BRIDGE_VENV) .venv-pins site dist demo_report .pytest_cache .ruff_cache .hypothesis

# An environment is complete once its pip is there; python3 -m venv run again mends one that was interrupted.
$(VENV)/bin/pip $(BRIDGE_VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) is not Python 3.10 or newer; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(@:/bin/pip=)

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[dev,hooked,peft,gguf,quantised,evals,notebook,images,data,train,sae,ray]"
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[docs]"
	@touch $@

# First the wheel, alone, as an index would give it: what it brings along and asks for must do for the demo.
$(BRIDGE_INSTALLED): pyproject.toml constraints.txt Makefile | $(BRIDGE_VENV)/bin/pip $(INSTALLED)
	sed 's/^transformer-lens==.*/transformer-lens==$(BRIDGE_TRANSFORMER_LENS)/' constraints.txt > $(BRIDGE_VENV)/constraints.txt
	rm -rf dist
	$(BIN)/python -m hatchling build -t wheel -d dist
	$(BRIDGE_VENV)/bin/python $(PIP_INSTALL) -c $(BRIDGE_VENV)/constraints.txt dist/tuco_lens-*.whl
	cd "$$(mktemp -d)" && "$(abspath $(BRIDGE_VENV))/bin/tuco-lens" demo --out demo_report
	$(BRIDGE_VENV)/bin/python $(PIP_INSTALL) -c $(BRIDGE_VENV)/constraints.txt -e ".[dev,peft,gguf,quantised,evals,notebook,images,data,train]"
	@touch $@
