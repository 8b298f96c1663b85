# make demo    a simulated line on an embedded default; PARTS=200 stops after 200 parts; PAGE=1 shows it in a web page
# make test    lint, types, import contracts and the whole test suite
VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
PAGE   ?=
PARTS  ?= $(if $(PAGE),5000,60)
RATE   ?= $(if $(PAGE),4,10)
SEED   ?= 1

.PHONY: demo install test lint types contracts bench clean

demo: $(VENV)/$(if $(PAGE),.page,.base)
	$(BIN)/inspector demo --parts $(PARTS) --rate $(RATE) --seed $(SEED) $(if $(PAGE),--page)

install: $(VENV)/.dev

test: $(VENV)/.dev lint types contracts build/bindings build/prometheus build/browser
	$(BIN)/python -m pytest

# The real TensorRT bindings (a few MB, no libraries): our names and the fakes are checked against them.
# Without a package index or a C compiler the tests that need them are skipped, and say so.
build/bindings: | $(VENV)/.dev
	-$(BIN)/python tests/engine/fetch_bindings.py

# promtool and Prometheus, unpacked from the distribution's package where apt is at hand; else their tests are skipped.
build/prometheus: | $(VENV)/.dev
	-$(BIN)/python tests/plant/fetch_prometheus.py

# A browser and axe-core for the tests of the page; without apt, the right to use it, or npm they are skipped.
build/browser: | $(VENV)/.dev
	-$(BIN)/python tests/page/fetch_browser.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

bench: $(VENV)/.base
	$(BIN)/inspector bench

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The daemon alone: no torch, no test tools.
$(VENV)/.base: $(VENV)/bin/python pyproject.toml constraints.txt inspector/_native.c
	$(PIP) install -c constraints.txt -e .
	touch $@

# The same with the web page.
$(VENV)/.page: $(VENV)/bin/python pyproject.toml constraints.txt inspector/_native.c
	$(PIP) install -c constraints.txt -e .[page]
	touch $(VENV)/.base $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt inspector/_native.c
	$(PIP) install -c constraints.txt -e .[dev]
	touch $(VENV)/.base $(VENV)/.page $@

clean:
	rm -rf $(VENV) build inspector/_native*.so demo-out state runs .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
