# `make` shows the targets. Everything runs in .venv, which `make install` makes from pinned and hashed files.

PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3.13 python3,$(shell \
	$(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && command -v $(p))))
VENV := .venv
RUN := $(VENV)/bin/python
PIP := PIP_USE_PEP517=1 $(RUN) -m pip --disable-pip-version-check install --no-deps --require-hashes
DATA ?= data/balloon

.DEFAULT_GOAL := help
.PHONY: help install install-dev install-batch demo demo-check serve stop web doctor test test-slow bench gpu-check \
	bench-batch load soak audit lint format lock clean

help:  ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# --- the chain, and its steps ---------------------------------------------------------------------------------------

demo: install  ## fine-tune, serve, swap and roll back on drawn photos, then the page; until Ctrl-C (BACKBONE=resnet50_fpn)
	@$(RUN) -m serve_config.demo $(if $(BACKBONE),--backbone $(BACKBONE))

demo-check: install  ## the same without staying: exit status 0 or 1
	@$(RUN) -m serve_config.demo --check $(if $(BACKBONE),--backbone $(BACKBONE))

install: $(VENV)/.installed  ## make .venv (3 GB to download, 6 GB on disk)

serve: install  ## start TorchServe, with the versions that it served last (the first time: all of model_store/)
	@$(RUN) -m serve_config start

stop: install  ## stop TorchServe
	@$(RUN) -m serve_config stop

web: install  ## start the page that shows the masks
	@$(RUN) -m web_client

doctor:  ## what is missing on this machine, and the cure
	@$(if $(wildcard $(RUN)),$(RUN),$(or $(PYTHON),python3)) -m serve_config.doctor

# --- development ----------------------------------------------------------------------------------------------------

test: install-dev  ## the tests (those that need real photos want BALLOON_DATA=folder)
	@$(RUN) -m pytest -q -n $(or $(JOBS),2) --dist loadfile -m "not slow" $(ARGS) tests

test-slow: install-dev install-batch  ## the slow tests as well
	@$(RUN) -m pytest -q -n $(or $(JOBS),2) --dist loadfile $(ARGS) tests

bench: install-dev  ## measure speed (TRAINED=run or checkpoint: its own, and the accuracy of each precision)
	@$(RUN) -m tests.benchmarks.bench $(if $(TRAINED),--parts predictor --backbones --run $(TRAINED) --data $(DATA))

gpu-check: install-dev  ## prove the GPU path in ten minutes (DRY_RUN=1: on the processor, with a toy model)
	@$(RUN) -m tests.benchmarks.gpu_check $(if $(DRY_RUN),--dry-run)

bench-batch: install-dev install-batch  ## measure batch prediction: against the predictor alone, two nodes against one
	@$(RUN) -m tests.benchmarks.bench_batch $(if $(TRAINED),--run $(TRAINED))

load: install-dev  ## the page and TorchServe under steady load, a burst of ten times as much, slow clients
	@$(RUN) -m tests.benchmarks.load

soak: install-dev  ## half an hour of load (MINUTES=3): memory and open files must not grow
	@$(RUN) -m tests.benchmarks.load --soak $(or $(MINUTES),30)

audit: install-dev  ## known vulnerabilities of the pinned packages, and the bill of materials
	@$(RUN) -m tests.audit

install-dev: $(VENV)/.installed-dev  ## what the tests and checks need as well

install-batch: $(VENV)/.installed-batch  ## what `maskrcnn predict --ray` and `--format parquet` need as well

lint: install-dev  ## lint, format and types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: install-dev  ## put the code into its format
	@$(RUN) -m ruff check --fix --quiet .
	@$(RUN) -m ruff format .

lock:  ## choose the versions anew (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header pyproject.toml \
	  --extra dev -o requirements-dev.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header pyproject.toml \
	  -c requirements-dev.txt -o requirements.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header pyproject.toml \
	  --extra batch -c requirements-dev.txt -o requirements-batch.txt

clean:  ## remove what the targets made, but for your data and runs
	rm -rf $(VENV) .serve .demo reports .pytest_cache .ruff_cache .mypy_cache

# --- how .venv is made ----------------------------------------------------------------------------------------------

$(VENV)/.installed: requirements.txt requirements-detectron2.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found: install one, or make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into $(VENV) (3 GB to download on the first run)"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m virtualenv -q $(VENV); } || \
	  { rm -rf $(VENV); echo "error: $(PYTHON) cannot make a virtual environment: apt-get install python3-venv, or" \
	    "$(PYTHON) -m pip install virtualenv" >&2; exit 1; }
	@$(PIP) --quiet -r requirements.txt
	@# Detectron2's wheel says CPython 3.10 because of one compiled file that these models never load; pip takes it for
	@# any Python when told so, and then asks for a target folder. Its stray package `tools` is not wanted.
	@site=$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  $(PIP) --quiet --only-binary=:all: --python-version 3.10 --implementation cp --abi none --platform any \
	    --upgrade --target $$site -r requirements-detectron2.txt && rm -rf $$site/tools && \
	  printf '%s\n' "$(CURDIR)" >$$site/maskrcnn.pth
	@printf '%s\n' '#!/bin/sh' 'exec "$(CURDIR)/$(RUN)" -m maskrcnn "$$@"' >$(VENV)/bin/maskrcnn
	@chmod +x $(VENV)/bin/maskrcnn
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt requirements-kserve.txt
	@$(PIP) --quiet -r requirements-dev.txt -r requirements-kserve.txt
	@touch $@

$(VENV)/.installed-batch: $(VENV)/.installed requirements-batch.txt
	@$(PIP) --quiet -r requirements-batch.txt
	@touch $@
