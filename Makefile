# Every target makes .venv itself when it is missing or older than the pins: plain venv, then uv for speed.
PYTHON ?= python3
RUN := .venv/bin/python
STAMP := .venv/.installed

.PHONY: quickstart study test test-other-processor lint mutants requirements clean-venv

$(STAMP): requirements.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(RUN) -r requirements.txt  # halves the start of a script
	touch $@

quickstart: $(STAMP)
	$(RUN) benchmarks/quickstart.py $(ARGS)

# What the papers found, found again: only what docs/study.csv does not hold yet is run.
study: $(STAMP)
	$(RUN) benchmarks/replication_study.py $(ARGS)

test: $(STAMP)
	$(RUN) -m pytest $(ARGS)

# The tests that compute, once more as another processor would compute.
test-other-processor: $(STAMP)
	$(RUN) tests/other_processor.py $(ARGS)

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# Break the toolkit in every way listed and see the named test fail.
mutants: $(STAMP)
	$(RUN) tests/mutants.py $(ARGS)

# Names, versions and markers alone: no address of anybody's index.
requirements: $(STAMP)
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra quickstart --extra lora \
		--no-header --no-annotate --no-emit-index-url --upgrade pyproject.toml -o requirements.txt

clean-venv:
	rm -rf .venv
