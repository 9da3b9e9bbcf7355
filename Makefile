.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
DATA_DIR ?= .larimar
PORT ?= 9000
HTTP_PORT ?= 8000

.PHONY: help setup run test check up down protos asyncapi console bench chaos clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[serve,train,dev]'
	@touch $@

setup: .venv/.installed ## make .venv with the pinned dependencies
	@true

run: setup ## start the whole pipeline, run the guided demo, stop
	@$(BIN)/larimar demo

test: setup ## run the test suite, its halves side by side
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests

check: setup ## format, lint, types, import rules and the files of infra/
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/lint-imports && $(BIN)/pyright
	$(BIN)/python -m infra.check

up: setup ## start the pipeline and leave it serving
	@$(BIN)/larimar up --detach --data-dir $(DATA_DIR) --port $(PORT) --http-port $(HTTP_PORT)

down: setup ## stop the pipeline
	@$(BIN)/larimar down --data-dir $(DATA_DIR)

protos: setup ## generate larimar/v1 from protos/
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=. --grpc_python_out=. --pyi_out=. protos/larimar/v1/*.proto

asyncapi: setup ## generate docs/asyncapi.yaml from the code
	$(BIN)/larimar asyncapi

console: ## build the console's assets from their sources (needs Node)
	cd services/gateway/http/console_src && npm install --no-save --no-audit --no-fund && npm run build

bench: setup ## run every benchmark but chaos, powercut and load, JSON to out/
	$(BIN)/python -m benchmarks all --out out

clean: ## remove .venv and caches (not the data directory)
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis out

chaos: setup ## many SIGKILL rounds, minutes to hours: make chaos ROUNDS=100
	LARIMAR_CHAOS_ROUNDS=$(or $(ROUNDS),30) LARIMAR_SIMULATION_ROUNDS=1000 \
	  $(BIN)/python -m pytest -s tests/test_faults*.py tests/test_simulation.py
	$(BIN)/python -m pytest -s -m slow tests
