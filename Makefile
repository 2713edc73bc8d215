# `make` alone lists the targets. All of them work in a fresh clone; .ci/setup says what is missing on the machine.
.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo test test-slow stress lint format
.NOTPARALLEL:

python := .venv/bin/python
only_fresh := $(if $(filter-out 0 no false,$(FRESH)),--fresh)

help: ## this list
	@awk -F ' *## ' '/^[a-z-]+:.*## / { sub(/:.*/, "", $$1); printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## create .venv and install the package; pip runs again only if pyproject.toml or constraints.txt changed
	@sh .ci/setup

demo: setup ## search and prune on the photos that ship with the packages, at most 8 minutes on 2 cores; FRESH=1 starts over
	@.venv/bin/paretosr search quick --out out/demo $(only_fresh)

setup-test:
	@sh .ci/setup test

lint: setup-test ## ruff and basedpyright
	@$(python) -m ruff check
	@$(python) -m ruff format --check
	@$(python) -m basedpyright

test: lint ## lint and the tests, about 10 minutes on 2 cores
	@$(python) -m pytest --session-timeout 900 --numprocesses 2 --dist loadfile

test-slow: setup-test ## what is heavy: kills, the browser, exports of many networks; about 35 minutes
	@$(python) -m pytest --session-timeout 3600 -m slow

stress: setup-test ## hundreds of random cut networks; an hour
	@$(python) -m pytest -m stress

format: setup-test ## let ruff mend layout and imports
	@$(python) -m ruff check --fix --select I
	@$(python) -m ruff format
