# Everything sets itself up: python3 (3.11 or newer, with venv) and make are all that is needed.
#
#     make demo       watch it work, on a throwaway PostgreSQL
#     make test       run every test that this machine allows
#     make deb        make the Debian package, and with it the one file that runs everywhere
#     make man        make the manual pages
#     make torture    break everything below it, and look whether its promises hold
#     make bench      measure it beside its peers, as root, on a machine without other work (about 40 minutes)
#
# PYTHON=python3.12 chooses the Python. .venv is made once; `make clean` removes it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

export PYTHON PREFIX DESTDIR WHEEL PIP_ARGS DATA ARCH

.DEFAULT_GOAL := help
.PHONY: help demo test bench fuzz torture soak pictures lint check build dist deb man install-host uninstall-host constraints clean

help:  ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s%s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo  ## see the main job on a throwaway PostgreSQL (KEEP=1 leaves it running)
	$(BIN)/arcbackupd demo $(if $(filter-out 0 no,$(KEEP)),--keep)

test: $(VENV)/.dev  ## run every test that this machine allows; ends with what was skipped, and why
	$(BIN)/python -m pytest --numprocesses 4 $(PYTEST_ARGS)

bench: $(VENV)/.bench  ## measure beside the peers, and write bench/RESULTS.md (BENCH_ARGS="--help" tells how much)
	$(BIN)/python -m bench $(BENCH_ARGS)

fuzz: $(VENV)/.fuzz  ## fuzz what reads hostile input: FUZZ_TARGET (all), FUZZ_SECONDS (1800 each), FUZZ_KEEP=1
	$(BIN)/python -m tests.fuzz --seconds $(or $(FUZZ_SECONDS),1800) $(if $(filter-out 0 no,$(FUZZ_KEEP)),--keep) $(FUZZ_TARGET)

torture: $(VENV)/.dev  ## the daemon under real faults, as root: TORTURE_SECONDS in all (1800), TORTURE_SEED
	TORTURE_SECONDS=$${TORTURE_SECONDS:-1800} $(BIN)/python -m pytest tests/torture/test_torture.py $(PYTEST_ARGS)

soak: $(VENV)/.dev  ## a month of hourly dumps under a clock that skips the waiting (SOAK_HOURS between two dumps)
	SOAK_HOURS=$${SOAK_HOURS:-1} $(BIN)/python -m pytest tests/torture/test_soak.py $(PYTEST_ARGS)

pictures: $(VENV)/.pictures  ## make the pictures of the README anew, from real runs (the report's needs chromium)
	$(BIN)/python scripts/pictures.py

lint: $(VENV)/.dev  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint  ## all of that and the fast tests, in under two minutes
	$(BIN)/python -m pytest --numprocesses 2 -m "not docker and not podman and not systemd and not postgres and not slow" -x -q $(PYTEST_ARGS)

build: $(VENV)/.dev  ## make the wheel and the source archive, in dist/
	$(BIN)/python -m build

dist: $(VENV)/.dev  ## make the program as one file, dist/arcbackupd, for Python 3.11 to 3.14
	$(BIN)/python scripts/onefile/build.py dist/arcbackupd $(if $(ARCH),--arch $(ARCH))

deb: dist man  ## make the Debian package of it, in dist/
	scripts/deb/build dist/arcbackupd $(BIN) dist

man: $(VENV)/.man  ## make the manual pages, in build/man/
	$(BIN)/python -m manpages build/man

install-host:  ## install on this host (as root): PREFIX, DESTDIR, WHEEL, DATA; see scripts/host
	@scripts/host install

uninstall-host:  ## take it off this host again; backups and settings stay
	@scripts/host uninstall

constraints:  ## pin the newest versions of everything, in constraints.txt
	scripts/constraints $(PYTHON) constraints.txt

clean:  ## remove what was made here
	rm -rf $(VENV) .demo .fuzz build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find arcbackupd tests bench manpages -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# Stamps: each step is done once, and again when what it reads has changed.

$(VENV)/.made:
	@echo "Setting up $(VENV) …"
	@scripts/venv $(PYTHON) $(VENV)
	@touch $@

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "Installing what the demo needs …"
	@$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "Installing what the tests need …"
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.demo
	@echo "Installing what the fuzzer needs …"
	@$(PIP) --editable '.[fuzz]'
	@touch $@

$(VENV)/.man: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "Installing what the manual pages need …"
	@$(PIP) --editable '.[man]'
	@touch $@

$(VENV)/.bench: $(VENV)/.demo
	@echo "Installing what the bench needs …"
	@$(PIP) --editable '.[bench]'
	@touch $@

$(VENV)/.pictures: $(VENV)/.demo
	@echo "Installing what the pictures need …"
	@$(PIP) --editable '.[pictures]'
	@touch $@
