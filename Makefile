# decayax. Every target sets up what it needs in .venv: Python >= 3.11 and make suffice.
#   make demo         train Flax models with each chain, see why the decays differ
#   make study NAME=bf16   does weight decay survive bfloat16? (any experiment by name)
#   make test         the tests, with doctests and every block of the README
#   make check        lint, types, layers, tests: what CI runs
#   make test-torch   compare with PyTorch itself, live (installs torch)
#   make test-lowest  the library against the oldest jax and optax it admits

PYTHON ?= python3
LOWEST := jax==0.5.3 jaxlib==0.5.3 optax==0.2.5
VENV   := .venv
RUN    := $(VENV)/bin/python -m
UV     := $(shell command -v uv 2>/dev/null)

.PHONY: help demo study test check lint types layers format test-torch test-lowest clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/demo.ready
	$(RUN) experiments demo

study: $(VENV)/demo.ready
	$(RUN) experiments $(NAME)

test: $(VENV)/dev.ready
	$(RUN) pytest -n auto --maxprocesses 4

check: lint types layers test

lint: $(VENV)/dev.ready
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: $(VENV)/dev.ready
	$(RUN) pyright

layers: $(VENV)/dev.ready
	$(VENV)/bin/lint-imports

format: $(VENV)/dev.ready
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

test-torch: $(VENV)/dev.ready
	$(call install,$(VENV),torch==2.13.0)
	$(RUN) pytest tests/test_torch.py

test-lowest:
	rm -rf $(VENV)-lowest
	$(call create,$(VENV)-lowest)
	$(call install,$(VENV)-lowest,$(LOWEST) -e . pytest pytest-xdist chex hypothesis)
	$(VENV)-lowest/bin/python -m pytest -n auto --maxprocesses 4 -m "not needs_extras"

clean:
	rm -rf $(VENV) $(VENV)-lowest results

# --- set-up: uv where it is present, else pip -------------------------------------

ifdef UV
create  = uv venv --quiet --python $(PYTHON) $(1)
install = uv pip install --quiet --python $(1) $(2)
groups  = $(install)
else
create  = $(PYTHON) -m venv $(1)
install = $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2)
endif

$(VENV)/demo.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('decayax needs Python >= 3.11: make PYTHON=python3.12 ...')"
	@echo "Setting up $(VENV) (a minute or two, once) ..."
	$(call create,$(VENV))
	$(call install,$(VENV),-c constraints.txt -e ".[experiments]")
	@touch $@

# Dependency groups need pip >= 25.1; Python 3.11 brings 23.2.
$(VENV)/dev.ready: $(VENV)/demo.ready
	$(if $(UV),,$(call install,$(VENV),--upgrade "pip>=25.1"))
	$(call install,$(VENV),-c constraints.txt --group dev)
	@touch $@
