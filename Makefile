SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup run ablation study test ui lint lock data-pin clean

BIN := .venv/bin
INSTALLED := .venv/.installed
PULLED := .artiagent/stamps/data
CONFIG ?= configs/nano.yaml
export ZENML_ANALYTICS_OPT_IN := false
export HF_HUB_DISABLE_TELEMETRY := 1

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(INSTALLED) $(PULLED)  ## create .venv from the lock and pull the embedded data

run: setup  ## the whole chain on the embedded default (CONFIG=configs/... for another)
	@$(BIN)/artiagent run --config $(CONFIG)

ablation: setup  ## variants of inversion-injection side by side, about an hour on two cores; ends with a report
	@$(BIN)/artiagent ablate

study: setup  ## how much data, which faults, turns and stages: over an hour on two cores; ends with a report
	@$(BIN)/artiagent study

test: setup  ## run the tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile

ui: setup  ## MLflow and the ZenML dashboard on 127.0.0.1
	@$(BIN)/artiagent ui

lint: $(INSTALLED)  ## ruff, formatting included
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

# quantize stays out: torchao warns on every import and is of use on a GPU alone
lock: $(INSTALLED)  ## resolve the extras again in one call; existing pins are kept where they fit
	@uv=$$(command -v uv || echo $(BIN)/uv); $$uv pip compile --quiet pyproject.toml --universal \
	    --extra grounding --extra lpips --extra cluster --extra dev \
	    --python-version 3.11 --fork-strategy fewest --generate-hashes --no-emit-index-url --no-annotate --no-header \
	    -o requirements.lock

data-pin: $(INSTALLED)  ## maintainers: pin data/ as it is now and fill the embedded remote
	@infra/dvc/pin.sh

clean:  ## remove everything derived: environment, stores, runs (data/ stays)
	@rm -rf .venv .artiagent runs .zen .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock pyproject.toml infra/bootstrap.sh
	@infra/bootstrap.sh
	@touch $@

$(PULLED): data.dvc $(INSTALLED) $(if $(wildcard data),,data-missing)
	@$(BIN)/dvc pull --quiet && mkdir -p $(@D) && touch $@ && echo "setup: data/ is in place"

.PHONY: data-missing
data-missing: ;
