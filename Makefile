# SB3's targets, run in a virtual environment that the first of them makes. `make demo` and `make test` need nothing but
# Python 3.10 or later and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SOURCES = sb3_genpolicy/ tests/ examples/ benchmarks/ docs/
# Markdown that a repository's page shows
FRONT = README.md CHANGELOG.md CONTRIBUTING.md benchmarks/README.md sb3_genpolicy/data/README.md

# Two test files at a time, the longest first (tests/conftest.py)
TOGETHER = -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: venv demo dist test test-slow pytest mypy type lint format check-codestyle commit-checks doc linkcheck clean clean-doc

venv: $(VENV)/.installed

$(VENV)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[mujoco,zoo,tests,docs]"
	touch $@

demo: venv
	$(BIN)/python -m sb3_genpolicy.demo

test: venv
	$(BIN)/python -m pytest -m "not slow" $(TOGETHER)

# What `make test` leaves out
test-slow: venv
	$(BIN)/python -m pytest -m slow $(TOGETHER)

pytest: test

mypy: venv
	$(BIN)/python -m mypy sb3_genpolicy examples

type: mypy

lint: venv
	$(BIN)/python -m ruff check $(SOURCES)
	$(BIN)/lint-imports

format: venv
	$(BIN)/python -m ruff check --select I --fix $(SOURCES)
	$(BIN)/python -m black $(SOURCES)

check-codestyle: venv
	$(BIN)/python -m ruff check --select I $(SOURCES)
	$(BIN)/python -m black --check $(SOURCES)

commit-checks: format type lint

doc: venv
	$(BIN)/python -m codespell_lib $(FRONT) docs examples sb3_genpolicy
	$(BIN)/python -m sphinx -W -b html docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html $(FRONT)

# Addresses on the network, which only a machine with one can look at
linkcheck: venv
	$(BIN)/python -m sphinx -b linkcheck docs docs/_build/linkcheck

# A wheel and an sdist in dist/, each in an environment of its own
dist: venv
	$(BIN)/python -m pip install --quiet -c constraints.txt build
	rm -rf build dist
	$(BIN)/python -m build

clean-doc:
	rm -rf docs/_build

clean: clean-doc
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
