# make demo       install what the quickstart needs, run it, print its tables, write report.html
# make test       install everything and the peers; lint, types, import rules, all tests but the slow ones
# make test-slow  the tests that take minutes each
# make lint       ruff, mypy, import rules
# make bench      timings as ratios within one run
# What one goal needs is installed at the same time; goals follow each other.
ifeq ($(MAKELEVEL)$(word 2,$(MAKECMDGOALS)),0)
MAKEFLAGS += --jobs=4
endif
PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check
DEMO := -e . -e plugins/robharness-samples -e plugins/robharness-attacks -e plugins/robharness-corruptions[reference]
# What the tests run with, and what they compare with.
TOOLS := pytest pytest-benchmark pytest-timeout pytest-xdist hypothesis ruff mypy import-linter types-PyYAML setuptools wheel \
  scipy statsmodels duckdb pandas jsonschema check-jsonschema lxml junitparser safetensors playwright nbconvert ipykernel \
  obstore submitit
PEERS := imagecorruptions-imaug foolbox 'torchattacks>=3.5' pyautoattack mlxtend decord2 av scikit-video google-crc32c lightly pytorch-metric-learning
# MLflow has a folder of its own, since a peer pins an old release of a package that MLflow needs a newer one of.
# So has moto, the server of S3 in the tests, which needs newer releases of several libraries than the peers.
# So has adv-lib, without its requirement visdom: it draws plots, and cannot be built with setuptools 81 or newer.
# The browser that opens the pages, TeX for the tables, what reads the text of a PDF, and jq for the action's filter.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
APT := { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends chromium \
  texlive-latex-recommended texlive-fonts-recommended poppler-utils jq; }
PROJECTS := $(wildcard plugins/*/pyproject.toml)
# Two workers on two cores, each with one thread: two threads a test on two busy cores wait for each other. A worker
# begins with half of the tests in their order, so that most fixtures of a module are made once, and takes over tests
# of the other when its own are done, so that a long file at the end leaves no core idle.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal
QUICK := -m "not slow and not gpu"

.PHONY: demo test test-slow lint bench clean
demo: .venv/demo.stamp
	$(BIN)/robharness run suites/quickstart.yaml
	$(BIN)/robharness report suites/quickstart.yaml -o report.html
	@echo "Open $(CURDIR)/report.html in a browser: tables, figures and images of the quickstart."
	@echo "Next: docs/tutorial/first-plugin.md, a model and an attack of your own."

# The core's tests come first: in a clean clone they run before any plugin is installed.
test: .venv/core.stamp
	$(PYTEST) $(QUICK) tests --ignore tests/end_to_end --ignore tests/benchmarks
	$(MAKE) .venv/test.stamp lint
	$(BIN)/pip check
	$(PYTEST) $(QUICK) tests/end_to_end plugins

test-slow: .venv/test.stamp
	$(PYTEST) -m "slow and not gpu" tests plugins

lint: .venv/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/test.stamp
	$(BIN)/pytest tests/benchmarks --benchmark-only -s

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml $(PROJECTS) | .venv/bin/python
	$(PIP) install $(DEMO)
	touch $@

.venv/core.stamp: .venv/packages.stamp .venv/mlflow.stamp .venv/moto.stamp .venv/programs.stamp
	touch $@

.venv/packages.stamp: pyproject.toml Makefile | .venv/bin/python
	$(PIP) install -e . $(TOOLS)
	touch $@

.venv/mlflow.stamp: Makefile | .venv/bin/python
	$(PIP) install --target .venv/mlflow --upgrade mlflow-skinny
	touch $@

.venv/moto.stamp: Makefile | .venv/bin/python
	$(PIP) install --target .venv/moto --upgrade "moto[s3]" flask flask-cors
	touch $@

.venv/programs.stamp: Makefile | .venv/bin/python
	@{ command -v chromium && command -v pdflatex && command -v pdftotext && command -v jq; } > /dev/null || $(APT)
	touch $@

.venv/test.stamp: .venv/core.stamp $(PROJECTS)
	$(PIP) install $(addprefix -e ,. $(wildcard plugins/*)) $(PEERS) $(TOOLS)
	$(PIP) install --target .venv/adv-lib --upgrade --no-deps adv-lib
	@$(BIN)/python -c "import cv2" || \
	  { echo "OpenCV lacks system libraries; type: apt-get install -y libgl1 libglib2.0-0"; exit 1; }
	touch $@

clean:
	rm -rf .venv .robharness
