# make help lists the targets. PYTHON chooses the interpreter that .venv is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_RESULTS := results
DEMO_REPORTS := reports
# One single-threaded process per core is faster here than one process with all threads.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-browser soak lint lab bench docs lock clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.made  ## make .venv from requirements.lock

$(VENV)/.made: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try: make venv PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@

demo: venv  ## train the studies on digits and write reports/ (about 2 minutes on 2 cores)
	@$(BIN)/aba demo --results $(DEMO_RESULTS) --out $(DEMO_REPORTS)

test: venv  ## every test but the slow ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow and not browser" -n 2 --dist loadgroup

test-slow: venv  ## the slow tests too: coverage simulations, published sizes
	$(BIN)/python -m pytest -m "not browser" -n 2 --dist loadgroup

test-browser: venv  ## the notebooks in JupyterLab, in a headless Chromium; pictures in build/browser
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(BIN)/python -m pip install --quiet -c requirements.lock 'playwright>=1.45' || true
	$(BIN)/python -m pytest -m browser tests/browser

soak: venv  ## kill runners 1,000 times and look what is lost; rewrites a table of docs/reliability.md
	$(BIN)/python -m benchmarks.soak

lint: venv  ## format and check the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

lab: venv  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks

bench: venv  ## measure speed against the plain loop; rewrites the table in benchmarks/README.md
	$(BIN)/python -m benchmarks.bench

docs: $(VENV)/.docs  ## build the documentation into site/, readable without a network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html; for its search: $(BIN)/python -m http.server -d site"

$(VENV)/.docs: requirements-docs.lock $(VENV)/.made
	$(BIN)/python -m pip install --quiet -c requirements.lock -r requirements-docs.lock
	@touch $@

lock: venv  ## pin what is installed now
	@{ head -n 1 requirements.lock; $(BIN)/python -m pip freeze --exclude-editable | grep -vxFf requirements-docs.lock | grep -vE '^(playwright|pyee|greenlet)==' | sed 's/+cpu//'; } > requirements.lock.new && mv requirements.lock.new requirements.lock

clean:  ## remove .venv and caches; results/ and reports/ stay
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
