# Each target makes the virtual environment that it needs: when there is none, and again when pyproject.toml has changed.

VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# The first of these that runs, is new enough and can make environments; `make test PYTHON=/path/to/python` puts one ahead of them.
PYTHONS := $(PYTHON) python3 python python3.13 python3.12 python3.11 python3.14
SUITABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))

# Two installations must not run at once.
.NOTPARALLEL:
.PHONY: help demo test test-slow lint format docs study results clean

help:
	@echo 'make demo       train and translate on made streets, then report: demo/report.html'
	@echo 'make test       style, types, layers and tests'
	@echo 'make test-slow  the tests that take minutes'
	@echo 'make lint       style, types and layers only'
	@echo 'make format     rewrite the code in the house style'
	@echo 'make docs       the documentation as a site: site/index.html'
	@echo 'make study      the study of docs/results: SCALE=cpu, gpu-short or gpu, DATA=folder of images; goes on where it stopped'
	@echo 'make results    write the pages of the study anew from its files: RECORDS=study/records, or those of this repository'
	@echo 'make clean      remove what these targets made'

demo: $(CORE)
	@rm -rf demo
	$(BIN)/unflip demo --out demo

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test-slow: $(DEV)
	$(BIN)/python -m pytest -m slow

lint: $(DEV)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo

format: $(DEV)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# Two runs at once: on two cores, or on one GPU.
SCALE := cpu
study: $(DEV)
	$(BIN)/python benchmarks/study.py --scale $(SCALE) $(if $(DATA),--data $(DATA)) --jobs 2 --out study

results: $(DEV)
	$(BIN)/python benchmarks/results.py $(if $(RECORDS),--records $(RECORDS))

clean:
	rm -rf $(VENV) demo dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(CORE): pyproject.toml $(BIN)/activate
	@echo 'Installing unflip and what it needs into $(VENV): the first time takes minutes (PyTorch is large).'
	@$(PIP_INSTALL) -e .
	@touch $@

$(DEV): pyproject.toml $(BIN)/activate
	@echo "Installing unflip, what it needs and its tests' tools into $(VENV): the first time takes minutes (PyTorch is large)."
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(CORE) $@

# An environment whose Python is gone (upgraded, or the folder copied from another machine) is made anew.
ifneq ($(shell $(BIN)/python -c 'print("runs")' 2>/dev/null),runs)
.PHONY: $(BIN)/activate
endif

$(BIN)/activate:
	@for python in $(PYTHONS); do \
	    if "$$python" -c '$(SUITABLE)' >/dev/null 2>&1; then exec "$$python" -m venv --clear $(VENV); fi; \
	done; \
	echo 'error: no Python 3.11 or newer that can make environments, on PATH; install one (Debian: with python3-venv), or name it: make PYTHON=/path/to/python' >&2; \
	exit 1
