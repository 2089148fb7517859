.DEFAULT_GOAL := help
.PHONY: help setup demo check test lint docs bench clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY)  ## make .venv with everything in it

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ranksr needs Python 3.11 or newer; try make PYTHON=python3.11 " + "$(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[pyiqa,onnx,optuna,dev]'
	touch $@

demo: setup  ## the whole method on four photographs: runs/demo/report/index.html
	$(BIN)/python jobs/full_pipeline.py configs/demo.yaml --run runs/demo
	@echo "ask people: $(BIN)/ranksr study make runs/demo --out runs/demo_study && $(BIN)/ranksr study serve runs/demo_study"

check: lint  ## lint, types and the fast tests, in under two minutes
	$(BIN)/python -m pytest -q -n 2 -m "not ray and not slow"

test: setup  ## the whole test suite: what starts Ray or takes long one by one, the rest two at a time
	$(BIN)/python -m pytest -q -n 2 -m "not ray and not slow"
	$(BIN)/python -m pytest -m "ray or slow" --durations=40

lint: setup  ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup  ## docs/config.md and the JSON schemas, from the docstrings of the config
	$(BIN)/ranksr config reference > docs/config.md
	$(BIN)/ranksr config schema > configs/config.schema.json
	$(BIN)/ranksr config schema --ablation > configs/ablations/ablation.schema.json

bench: setup  ## side-by-side measurements, each prints a ratio
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:  ## remove .venv (runs/ stays)
	rm -rf $(VENV)
