# `make demo` and `make test` do all the set-up on a fresh machine and then run. `make help` lists the targets.

SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Voices and a virtual microphone for the demo and the tests, PortAudio for the microphone, kcat to look into Kafka.
SYSTEM := alsa-utils espeak-ng flite libportaudio2 libasound2-plugins pulseaudio pulseaudio-utils kcat
# Port of the local broker of `make kafka`; 0 takes a free one.
PORT ?= 9092
# Of `make chaos`: HISTORY=sensors, speech or both; SEED makes a run again, CHAOS=--resume goes on with it.
KILLS ?= 500
HISTORY ?= both
# Of `make soak`: how long, and more arguments (SOAK=--help).
SOAK_MINUTES ?= 60

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types kafka bench chaos soak gpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.python $(VENV)/.system ## virtual environment, Python packages, system libraries

$(VENV)/.python: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or later, or run make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.system: Makefile | $(VENV)/.python
	@missing=""; for package in $(SYSTEM); do \
	  dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing$$missing"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null \
	    && missing=""; \
	fi; \
	if [ -n "$$missing" ]; then echo "missing system packages, some tests and the demo's voices need them:$$missing"; \
	else touch $@; fi

demo: setup ## words appear while people speak, alerts fire while machines misbehave; ends by itself
	$(BIN)/python -m streamer demo

test: setup ## all tests; STREAMER_REQUIRE=kafka,mic makes those compulsory that need Kafka and a microphone
	$(BIN)/python -m pytest $(PYTEST)

lint: setup ## style, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

types: setup ## strict types
	$(BIN)/mypy

kafka: setup ## a local Apache Kafka without Docker (Java 17, Maven); PORT=9092
	$(BIN)/python -m streamer.testing.kafka_broker --port $(PORT)

bench: setup ## the reference workloads and their rivals, as a table
	$(BIN)/python -m streamer bench

chaos: setup ## workers killed while they serve, over a real Kafka: is every output there once? KILLS, HISTORY, SEED
	$(BIN)/python -m tests.chaos --kills $(KILLS) --history $(HISTORY) $(if $(SEED),--seed $(SEED)) $(CHAOS)

soak: setup ## 200 live streams for an hour, over a real Kafka: does anything grow, is anything lost? SOAK_MINUTES
	$(BIN)/python -m tests.soak --minutes $(SOAK_MINUTES) $(SOAK)

gpu: ## everything that needs a GPU, in at most 8 minutes, with this machine's own torch where it has one
	@if python3 -c 'import torch' 2>/dev/null; then python3 -m streamer.bench.gpu; \
	else $(MAKE) --no-print-directory setup && $(BIN)/python -m streamer.bench.gpu; fi

clean: ## forget the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
