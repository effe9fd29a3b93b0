# Starling. `make help` lists what can be done. Everything that is fetched is pinned and checked.
PYTHON ?= python3
ARGS ?=
# Tests at a time, a file each: most wait for speech or for servers, so that two cores keep three busy.
WORKERS ?= 3
BIN := .venv/bin

# Programs under test are started by the hundred: they must find their byte code.
test soak bench: export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help python gateway dev setup serve test core lint bench soak fuzz doctor clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'PYTHON=python3.12 chooses the interpreter, ARGS=... goes on to the program.'

python:
	@command -v $(PYTHON) >/dev/null || { echo 'starling: there is no $(PYTHON): apt-get install python3 python3-venv, or give PYTHON=...' >&2; exit 1; }

gateway: python
	@$(PYTHON) -m launcher.bootstrap gateway

dev: python
	@$(PYTHON) -m launcher.bootstrap dev

setup: gateway ## fetch and check all that is needed, without starting anything
	@$(BIN)/python -m launcher.setup

serve: setup ## set up, then start Triton and the gateway on ws://127.0.0.1:8000/stream
	@exec $(BIN)/starling serve $(ARGS)

test: python ## lint, types, and every test, those against the real Triton included
	@$(firstword $(wildcard $(BIN)/python) $(PYTHON)) -m launcher.setup & setup=$$!; \
	{ $(MAKE) --no-print-directory dev && $(MAKE) --no-print-directory -j2 --output-sync=target lint core; }; status=$$?; \
	wait $$setup && exit $$status
	@status=0; $(BIN)/python -m pytest -m 'not soak' --ignore=tests/server/session -n $(WORKERS) --dist loadfile $(ARGS) || status=$$?; \
	$(BIN)/python -m launcher.doctor --left-out $(if $(STRICT),--strict) || exit 1; exit $$status

core: dev
	@$(BIN)/python -m coverage run --branch --source=server/session -m pytest -q -m 'not soak' tests/server/session
	@$(BIN)/python -m coverage report --fail-under=100 --skip-covered

lint: dev ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

bench: dev ## the short form of every benchmark; writes perf/REPORT.md
	@$(BIN)/python -m launcher.setup
	@$(BIN)/python -m perf.bench $(ARGS)

soak: dev ## the long reliability tests, two at a time; docs/reliability.md says how to make them longer or shorter
	@$(BIN)/python -m launcher.setup
	@$(BIN)/python -m pytest -s -m soak -n 2 --dist loadfile $(ARGS)

fuzz: dev ## parsers and codecs under atheris, a minute each; ARGS="codec --seconds 3600" chooses
	@$(BIN)/python -m tests.fuzz.run $(ARGS)

doctor: gateway ## what is installed, reachable and ready, and what to do about what is not
	@$(BIN)/python -m launcher.doctor

clean: ## remove what make made here; the shared cache (~/.cache/starling) stays
	rm -rf .venv .starling build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
