# Every target builds .venv by itself when it is missing or older than the pins: plain venv, then uv for speed.
PYTHON ?= python3
RUN := .venv/bin/python
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help quickstart study test test-other-processor lint mutants requirements clean-venv

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-21s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'ARGS="..." passes options on, as in: make quickstart ARGS="--seed 1"'

$(STAMP): requirements.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(RUN) -r requirements.txt  # halves the start of a script
	touch $@

quickstart: $(STAMP) ## fine-tune, generate, measure and compare on the model of this repository (5 to 12 minutes)
	$(RUN) benchmarks/quickstart.py $(ARGS)

study: $(STAMP) ## repeat the experiments of the papers; runs only what docs/study.csv lacks (2 hours for all)
	$(RUN) benchmarks/replication_study.py $(ARGS)

test: $(STAMP) ## run the tests (9 minutes on 2 cores)
	$(RUN) -m pytest $(ARGS)

test-other-processor: $(STAMP) ## run the tests that compute as another processor would (5 minutes)
	$(RUN) tests/other_processor.py $(ARGS)

lint: $(STAMP) ## check style, format and types (half a minute)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

mutants: $(STAMP) ## break the toolkit in every listed way and see the named test fail
	$(RUN) tests/mutants.py $(ARGS)

# Names, versions and markers alone: the file holds no address of a package index.
requirements: $(STAMP) ## renew the pins of all dependencies in requirements.txt (needs a network)
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra quickstart --extra lora \
		--extra prodigy --no-header --no-annotate --no-emit-index-url --upgrade pyproject.toml -o requirements.txt

clean-venv: ## remove .venv
	rm -rf .venv
