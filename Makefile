# Two commands are enough: `make book` and `make test`.  Both set up .venv by themselves.
.DEFAULT_GOAL := help
.PHONY: help setup book test test-public test-slurm check links bench serve lab pdf notebooks wheel lock clean distclean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
# One thread a process: tests and notebooks run side by side.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
# One order of sums on every x86 machine: printed numbers are compared to the last digit.
ifeq ($(shell uname -m),x86_64)
export OPENBLAS_CORETYPE ?= Haswell
endif

help:  ## Show what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || \
	  { echo "make: '$(PYTHON)' is not Python 3.11, 3.12 or 3.13; install one, or say: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: '$(PYTHON)' has no venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

setup: $(STAMP)  ## Create .venv and install the lock

book: $(STAMP)  ## Execute every notebook and render the site into _build/html
	$(BIN)/python book/_ext/build.py

test: $(STAMP) book  ## Unit, property, notebook and site tests; coverage of pvsbook
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest tests pvsbook book/pvsbook_book tools -m "not site and not rerun and not slurm" --cov --cov-report=term:skip-covered --cov-fail-under=95
	$(BIN)/python -m pytest tests/unit/test_rerun.py -m rerun -n $(CORES)
	$(BIN)/python -m pytest --nbval --nbval-sanitize-with tests/nbval.cfg -n $(CORES) --dist loadscope notebooks
	$(BIN)/python -m pytest tests/site -n $(CORES)

test-public: $(STAMP)  ## The tests on real files, fetched from their public hosts
	PVSBOOK_TEST_PUBLIC=1 $(BIN)/python -m pytest tests -m public

test-slurm: $(STAMP)  ## SLURM, set up and taken down on this machine (needs slurm-wlm and munge)
	@PATH="$$PATH:/usr/sbin"; for tool in munged slurmctld slurmd; do command -v $$tool >/dev/null || \
	  { echo "make: no $$tool; on Debian and Ubuntu: apt-get install slurm-wlm munge"; exit 1; }; done
	$(BIN)/python -m pytest tests/slurm -m slurm -s

check: $(STAMP)  ## Lint, format, types, layers, dependencies, spelling, links inside
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry pvsbook book/pvsbook_book
	$(BIN)/codespell
	$(BIN)/python book/_ext/links.py
	$(BIN)/python -m pip check

links: $(STAMP)  ## Ask every outside address once whether it still answers (weekly)
	$(BIN)/python book/_ext/links.py --external

bench: $(STAMP)  ## Time and accuracy beside the peers (installs them; takes a while)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

serve: book  ## Serve the site at http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

lab: $(STAMP)  ## Open the notebooks in JupyterLab (installs it)
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/locked.txt  # an editable has no hash
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/locked.txt --editable '.[lab]'
	$(BIN)/jupyter lab notebooks

pdf: book  ## Print the site into _build/pvsbook.pdf (needs chromium and poppler-utils)
	$(BIN)/python book/_ext/pdf.py

notebooks: $(STAMP)  ## Run every notebook afresh and keep its text outputs
	$(BIN)/python book/_ext/notebooks.py

wheel: $(STAMP)  ## Build sdist and wheel into _build/dist, and use the wheel in an empty environment
	VENV=$(VENV) bash tools/try_wheel.sh

lock:  ## Resolve the dependencies again, keeping what is pinned (needs uv; UPGRADE=--upgrade renews)
	uv pip compile --universal --generate-hashes --no-strip-extras --no-annotate --no-header --python-version 3.11 $(UPGRADE) \
	  --extra book --extra test --extra dev pyproject.toml --output-file requirements.txt

clean:  ## Remove what was built
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .import_linter_cache

distclean: clean  ## Remove .venv too
	rm -rf $(VENV)
