# make demo: set up, then read the model that ships. make test: set up, then run the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench clean

demo: $(READY)
	$(BIN)/bilinear-lm report -o report.html --tokens "sad" "swim - run, climb, eat, fly, walk"
	@echo "Open report.html in a browser."

test: $(READY)
	$(BIN)/python -m pytest -n auto

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/tensor.py
	$(BIN)/python benchmarks/eigen.py
	$(BIN)/python benchmarks/hosvd.py
	$(BIN)/python benchmarks/interactions.py
	$(BIN)/python benchmarks/polynomial.py
	$(BIN)/python benchmarks/trace.py
	$(BIN)/python benchmarks/finetune_speed.py

clean:
	rm -rf $(VENV) report.html

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
