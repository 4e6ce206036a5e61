# make demo   install what the quickstart needs, run it, print its tables
# make test   install everything and the peers; lint, types, import rules, all tests
# make lint   ruff, mypy, import rules
# make bench  timings as ratios within one run
PYTHON ?= python3.11
BIN := .venv/bin
DEMO := -e . -e plugins/robharness-samples -e plugins/robharness-attacks -e plugins/robharness-corruptions
# What the tests compare with, and what they run with.
PEERS := foolbox torchattacks statsmodels scipy duckdb pandas jsonschema
TOOLS := pytest pytest-benchmark pytest-timeout hypothesis ruff mypy import-linter types-PyYAML setuptools wheel
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint bench clean
demo: .venv/demo.stamp
	$(BIN)/robharness run suites/quickstart.yaml

test: .venv/test.stamp lint
	$(BIN)/pip check
	$(BIN)/pytest -m "not slow and not gpu"

lint: .venv/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/test.stamp
	$(BIN)/pytest tests/benchmarks --benchmark-only -s

.venv/demo.stamp: $(PROJECTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install $(DEMO)
	@$(BIN)/python -c "import cv2" || \
	  { echo "OpenCV lacks system libraries; type: apt-get install -y libgl1 libglib2.0-0"; exit 1; }
	touch $@

.venv/test.stamp: $(PROJECTS) Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install $(addprefix -e ,. $(wildcard plugins/*)) $(PEERS) $(TOOLS)
	touch $@

clean:
	rm -rf .venv .robharness
