# The developer's verbs. `make demo` and `make test` each start from nothing: they set up what they need.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help setup demo test lint format bench clean

help: ## list the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: .setup/python ## the virtual environment, in .venv

.setup/python: pyproject.toml scripts/setup-python
	@PYTHON=$(PYTHON) scripts/setup-python $(VENV)
	@mkdir -p .setup && touch $@

.setup/system-%: scripts/setup-system
	@scripts/setup-system $*
	@mkdir -p .setup && touch $@

.setup/node: scripts/setup-node
	@scripts/setup-node $@ && touch $@

demo: .setup/python .setup/system-demo ## train, build, run and ask the breast-cancer model
	@$(BIN)/python scripts/demo.py

# Three files at once: on two cores tests wait as well as compute.
test: .setup/python .setup/system-test .setup/node ## every test, with a real Docker Engine and runc
	@$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

lint: .setup/python ## style, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .setup/python ## rewrite in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .setup/python .setup/system-test ## measure; writes benchmarks/results/
	@$(BIN)/python -m benchmarks.run $(ARGS)

clean: ## remove what setup made
	rm -rf $(VENV) .setup
