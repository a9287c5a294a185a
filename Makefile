# make demo: set up, then read the model that ships. make test: set up, then run the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# The library, and besides it what tests, checks and benchmarks need.
LIBRARY := $(VENV)/.library
TOOLS := $(VENV)/.tools

.PHONY: demo test fuzz kills lint docs bench studies clean

demo: $(LIBRARY)
	$(BIN)/bilinear-lm report -o report.html --tokens "sad" "swim - run, climb, eat, fly, walk"
	@echo "Open report.html in a browser."

test: $(TOOLS)
	$(BIN)/python -m pytest -n auto --dist worksteal

# Hostile input to every command and loader, and kills of long runs. FUZZ_SEED=1 for others, FUZZ_CASES=all for
# every case of a seed, CASE=... for those whose name has it.
fuzz: $(TOOLS)
	$(BIN)/python -m pytest -n auto -q -m fuzz $(if $(CASE),-k "$(CASE)") tests/fuzz

kills: $(TOOLS)
	$(BIN)/python -m pytest -n auto -q -m kills $(if $(CASE),-k "$(CASE)") tests/fuzz

lint: $(TOOLS)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The site of the documentation, in site/.
docs: $(TOOLS)
	$(BIN)/python docs/pages.py
	$(BIN)/python docs/commands.py
	$(BIN)/mkdocs build --strict

bench: $(TOOLS)
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/tensor.py
	$(BIN)/python benchmarks/eigen.py
	$(BIN)/python benchmarks/hosvd.py
	$(BIN)/python benchmarks/interactions.py
	$(BIN)/python benchmarks/polynomial.py
	$(BIN)/python benchmarks/conversion.py
	$(BIN)/python benchmarks/guarantees.py
	$(BIN)/python benchmarks/trace.py
	$(BIN)/python benchmarks/finetune_speed.py

# Published figures; what a graph says of an intervention, what a difference says of a finetune, and what an edit
# does: TEXT=FILE.
studies: $(TOOLS)
	$(BIN)/python -m pytest -q -m studies
	$(BIN)/python benchmarks/faithfulness.py $(TEXT)
	$(BIN)/python benchmarks/diff.py $(TEXT) $(TEXT)
	$(BIN)/python benchmarks/edits.py $(TEXT)

clean:
	rm -rf $(VENV) report.html site

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is Python " + \
	  sys.version.split()[0] + "; expected 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv --clear $(VENV)

$(LIBRARY): pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e .
	touch $@

$(TOOLS): $(LIBRARY)
	$(INSTALL) -e ".[dev]"
	touch $@
