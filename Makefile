# make demo   in a fresh clone: a verdict on the recordings that ship with it
# make test   the tests
# Both work in a virtual environment of their own, and install only what has changed.

PYTHON ?= python3
VENV ?= .venv
# Package index to take PyTorch from, where the one of pip's configuration is not wanted (a CPU build, a CUDA version).
TORCH_INDEX ?=
# Recordings and folders for `make demo`; none: those that ship with the package.
RECORDINGS ?=
PYTEST_ARGS ?= -n auto --maxprocesses 4

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: help demo test lint clean
.DELETE_ON_ERROR:

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) TORCH_INDEX=$(TORCH_INDEX) RECORDINGS=$(RECORDINGS)"

demo: $(VENV)/.installed ## Classify the recordings that ship with the package, and draw them
	$(BIN)/lwm-spectro classify $(RECORDINGS) --plot out/demo.png

test: $(VENV)/.installed-dev ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## Check the style
	$(BIN)/ruff check .

clean: ## Remove everything that make made
	rm -rf $(VENV) build dist out src/*.egg-info .pytest_cache .ruff_cache

# PyTorch comes first and alone: nothing that depends on it may choose its build.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@touch $@

$(VENV)/.installed: $(VENV)/.torch setup.cfg setup.py pyproject.toml
	$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@
