# Two commands set everything up and use it: `make run` and `make test`. What they need is installed on first use
# and remembered by stamps in .venv, so that the second time nothing is installed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FOREIGN := .foreign
PIP := $(BIN)/python -m pip --disable-pip-version-check

STORE := .sovrun/sovrun.db
REPORT := .sovrun/evidence

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links
LOCK := $(COMPILE) --extra examples pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help run test simulate-night lint format lock clean setup sandbox foreign

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

run: setup sandbox ## run the example: evidence about this Python environment, in the sandbox
	@mkdir -p $(dir $(STORE))
	@$(BIN)/sovrun run examples/evidence/dag.yaml \
		--input-file environment="$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		--store sqlite:$(STORE) --save $(REPORT)
	@$(BIN)/python examples/evidence/verdict.py $(REPORT)/report/report.json
	@echo "The report is $(CURDIR)/$(REPORT)/report/report.html"
	@echo "For sovrun as a command, as printed above: . $(BIN)/activate"

test: lint sandbox foreign ## check everything: formatting, types, layers, tests
	@$(BIN)/pytest -n auto

simulate-night: setup ## repeat the two long simulations: 100,000 runs and 100,000 commands, about an hour
	@$(BIN)/sovrun simulate --runs 100000 --seed 1000
	@$(BIN)/sovrun simulate --commands 100000 --seed 100000

lint: setup ## check the code without running it
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@MYPYPATH=examples/evidence $(BIN)/mypy -p evidence

format: setup ## put the code into its one form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: setup ## renew the lock files in requirements/
	@$(LOCK) -o requirements/runtime.lock
	@$(LOCK) requirements/dev.in -o requirements/dev.lock
	@$(COMPILE) requirements/foreign.in -o requirements/foreign.lock

clean: ## remove what can be made again; runs and reports in .sovrun stay
	@rm -rf $(VENV) $(FOREIGN) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(VENV)/.installed

$(VENV)/.installed: requirements/dev.lock pyproject.toml | $(VENV)/.created
	@echo "Installing what requirements/dev.lock names"
	@$(PIP) install --quiet --require-hashes --requirement requirements/dev.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
		echo "Sovrun needs Python 3.11 or newer, and there is no '$(PYTHON)'. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Sovrun needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call apt_install,python3-venv)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

foreign: $(FOREIGN)/.installed

# Servers that are not ours, for tests; apart, so that nothing of theirs is ever beside our own.
$(FOREIGN)/.installed: requirements/foreign.lock | $(VENV)/.created
	@echo "Installing what requirements/foreign.lock names"
	@$(PYTHON) -m venv --clear $(FOREIGN)
	@$(FOREIGN)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes --requirement $<
	@touch $@

sandbox:
	@command -v bwrap >/dev/null || $(call apt_install,bubblewrap)

# Installs only where that asks nobody: as root, with apt. Elsewhere it says what to install.
apt_install = { \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "Please install $(1) (on Debian and Ubuntu: apt install $(1)), then try again" >&2; exit 1; fi; \
	echo "Installing $(1)"; export DEBIAN_FRONTEND=noninteractive; \
	apt-get install -y -qq $(1) >/dev/null 2>&1 || { \
		apt-get update -qq && apt-get install -y -qq $(1) >/dev/null; }; }
