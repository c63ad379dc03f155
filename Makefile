# Two commands do everything: `make repro` and `make test`. Both set themselves up first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILED := nem/__pycache__/.compiled
LOCK := requirements/all.txt
RAY := $(VENV)/.cluster
PEERS := $(VENV)/.bench
# DVC's default is a folder that everybody on the machine may write to, and it unpickles what it finds there.
SITE := $(CURDIR)/.dvc/tmp/site
# Users with a GPU or a CPU-only package index override the index: make repro PIP_FLAGS="--index-url …"
PIP_FLAGS ?=

export DVC_NO_ANALYTICS := 1
export DVC_SITE_CACHE_DIR ?= $(SITE)
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: help setup repro study why test test-all test-faults test-cluster bench ui track lint format facts docs tune check-repro audit licences clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) $(COMPILED) $(if $(CLUSTER),$(RAY)) ## Make the virtual environment from the hash-locked requirements (CLUSTER=1: Ray, too)
	@mkdir -p -m 700 "$(SITE)"
	@test -f .dvc/tmp/plots.html || $(BIN)/python -m tools.plots_page
	@grep -qs html_template .dvc/config.local || $(BIN)/dvc config --local plots.html_template tmp/plots.html
	@grep -qsF "site_cache_dir = $(SITE)" .dvc/config.local || $(BIN)/dvc config --local core.site_cache_dir "$(SITE)" 2>/dev/null \
	  || echo "setup: DVC cannot note a folder that is not ASCII: outside of make, first export DVC_SITE_CACHE_DIR=\"$(SITE)\""
	@git rev-parse --git-dir >/dev/null 2>&1 || grep -qs "no_scm = true" .dvc/config.local || $(BIN)/dvc config --local core.no_scm true
	@! git rev-parse --git-dir >/dev/null 2>&1 || ! grep -qs no_scm .dvc/config.local || $(BIN)/dvc config --local --unset core.no_scm

$(READY): $(LOCK)
	@echo "Setting up $(VENV) (a few minutes the first time) …"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else f"expected Python 3.10 to 3.13, found {v[0]}.{v[1]}; run make PYTHON=python3.11 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on --require-hashes $(PIP_FLAGS) -r $(LOCK)
	@touch $@

$(COMPILED): nem/kernels.py nem/fast.py nem/gaussian.py $(READY)
	@echo "Compiling nem/kernels.py for this processor …"
	@$(BIN)/python -m tools.compile && touch $@ || echo "nem/kernels.py was not compiled (above): what needs it will fail, too"

$(RAY): requirements/cluster.txt $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes $(PIP_FLAGS) -r requirements/cluster.txt
	@touch $@

$(PEERS): requirements/bench.txt $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes $(PIP_FLAGS) -r requirements/bench.txt
	@touch $@

repro: setup ## Run the pipeline: PROFILE=demo|fx|ucf101|paper (without it, params.yaml as it stands)
ifdef PROFILE
	@$(BIN)/python -m pipeline.params compose $(PROFILE) $(if $(FORCE),--force)
endif
	@$(BIN)/python -m pipeline.params check
	@$(BIN)/dvc repro
	@$(BIN)/python -m stages.track
	@$(BIN)/python -m tools.closing

test: setup ## Run the test suite (minutes; whole paths and faults: make test-all)
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not faults and not cluster" $(ARGS)

test-all: setup ## Run everything, whole paths and faults included (CLUSTER=1: a cluster, too)
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-faults: setup ## Kill, fill, lock and corrupt things, feed hostile input (under 20 minutes)
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "faults or hostile" $(ARGS)

test-cluster: setup $(RAY) ## Run everything on Ray, kill its workers, nodes and drivers (under 10 minutes)
	@$(BIN)/python -m pytest -p no:xdist tests/cluster $(ARGS)

bench: setup $(PEERS) ## Measure every hot path against its floor and other software, side by side in one run
	@$(BIN)/python -m tools.bench

track: setup ## Bring MLflow up to date with the run files
	@$(BIN)/python -m stages.track

ui: setup ## Compare the noise conditions in MLflow: prints links for each task and cell (PORT=5001: on another port)
	@$(BIN)/python -m stages.track --serve $(if $(PORT),--port $(PORT))

DATA_fx := windows
DATA_video := clips
DATA_own := sequences
tune: setup ## Choose hyperparameters on validation sequences (TASK=fx SPLIT=…)
	@$(BIN)/dvc repro $(or $(DATA_$(TASK)),$(DATA_fx))
	@$(BIN)/python -m stages.tune $(or $(TASK),fx) $(if $(SPLIT),--split $(SPLIT))

study: setup ## When does NEM noise help? PROFILE=real: the paper's rates, real videos, under an hour (QUICK=1: a minute)
ifdef PROFILE
	@$(BIN)/python -m pipeline.params compose $(PROFILE) $(if $(FORCE),--force)
endif
	@$(BIN)/python -m pipeline.params check
ifdef QUICK
	@NEM_EXECUTOR=serial $(BIN)/dvc repro study/dvc.yaml:quick
	@echo "Of tiny networks, which show the path and nothing else: data/study/quick"
else
	@$(BIN)/dvc repro study/dvc.yaml:judge
	@echo "Verdicts and pictures: data/results/study.html; tables: data/study/tables"
endif

why: setup ## Why did the paper see what it saw? Trains what docs/why/rows.csv lacks, writes docs/why.md (MINUTES=60, QUICK=1, LONG=1)
	@$(BIN)/python -m stages.why $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

lint: setup ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

facts: setup ## Put the present results into README.md, docs/results.md and docs/study.md
	@$(BIN)/python -m tools.readme
	@PYTHONPATH=. $(BIN)/python docs/schema.py
	@PYTHONPATH=. $(BIN)/python docs/figures.py

docs: setup ## Build the documentation as a site in docs/_build/html, and run its examples
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@$(BIN)/python -m sphinx -W --keep-going -q -b doctest docs docs/_build/doctest
	@echo "Open docs/_build/html/index.html"

check-repro: setup ## Run the pipeline twice and compare every byte (QUICK=1: a small form)
	@$(BIN)/python -m tools.check_repro

audit: setup ## Ask for known vulnerabilities of all locked packages (network; ARGS: pip-audit's options)
	@$(BIN)/python -m tools.audit $(ARGS)

licences: setup ## List the licences of all installed packages; fail on copyleft that docs/supply-chain.md does not name
	@$(BIN)/pip-licenses --from=mixed --format=markdown --partial-match --fail-on "GPL;General Public;EUPL" \
	  --ignore-packages pygit2 asyncssh dulwich grandalf docutils

clean: ## Remove results and caches, not the environment
	rm -rf data .checkpoints .pytest_cache .mypy_cache .ruff_cache .hypothesis
