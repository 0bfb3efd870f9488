# make help lists the targets. PYTHON chooses the interpreter that .venv is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_RESULTS := results
DEMO_REPORTS := reports
# One single-threaded process per core is faster here than one process with all threads.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-browser soak lint lab bench gpu-kit calibrate docs lock clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.made  ## make .venv from requirements.lock

$(VENV)/.made: requirements.lock requirements-torch.lock pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try: make venv PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python .ci/install_torch.py
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: venv  ## train the studies on digits and write reports/ (little more than a minute on 2 cores)
	@$(BIN)/aba demo --results $(DEMO_RESULTS) --out $(DEMO_REPORTS)

test: venv  ## every test but the slow ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow and not browser" -n 2 --dist loadfile

test-slow: venv  ## the slow tests too: coverage simulations, published sizes
	$(BIN)/python -m pytest -m "not browser" -n 2 --dist loadfile

test-browser: venv  ## the notebooks in JupyterLab, in a headless Chromium; pictures in build/browser
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(BIN)/python -m pip install --quiet 'playwright>=1.45' || true
	$(BIN)/python -m pytest -m browser tests/browser

soak: venv  ## kill runners 1,000 times and look what is lost; rewrites a table of docs/reliability.md
	$(BIN)/python -m benchmarks.soak

lint: venv  ## format and check the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

lab: venv  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks

bench: venv  ## measure speed against five peers (15 minutes); rewrites the tables of benchmarks/README.md
	$(BIN)/python -m benchmarks.bench

gpu-kit: venv  ## one folder, build/gpu-kit, for a machine with a GPU and no network; there: benchmarks/gpu.sh all
	rm -rf build/gpu-kit
	$(BIN)/python -m benchmarks.gpu_kit build/gpu-kit

calibrate: venv  ## measure how often verdicts are wrong (half an hour on 2 cores); rewrites the table in docs/statistics.md
	$(BIN)/python -m benchmarks.calibrate

docs: $(VENV)/.docs  ## build the documentation into site/, readable without a network
	@$(BIN)/python docs/make_pages.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html; for its search: $(BIN)/python -m http.server -d site"

$(VENV)/.docs: requirements-docs.lock $(VENV)/.made
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-docs.lock
	@touch $@

# Pins stay as they are where they can; make lock UPGRADE=--upgrade takes the newest.
LOCKED := --extra test --extra notebooks --extra dask
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header $(UPGRADE)

lock: venv  ## pin what pyproject.toml asks for, with the hashes of all published files
	$(COMPILE) pyproject.toml $(LOCKED) -c requirements-torch.lock --no-emit-package torch -o requirements.lock
	$(COMPILE) --group docs -c requirements.lock -o requirements-docs.lock
	@{ echo "# Every package of the environment, pinned, with the hashes of all its files; made by 'make lock'."; \
	  echo "# torch is in requirements-torch.lock, without: its build, and what that needs, is the machine's."; \
	  cat requirements.lock; } > .lock.new && mv .lock.new requirements.lock
	@{ echo "# What 'make docs' installs, with the hashes of all files; made by 'make lock'."; \
	  cat requirements-docs.lock; } > .lock.new && mv .lock.new requirements-docs.lock

clean:  ## remove .venv and caches; results/ and reports/ stay
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
