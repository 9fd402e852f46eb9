# Every target makes .venv from the lock first. PYTHON names the interpreter to make it with (3.11 or later).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup up test check bench chaos screenshots clean
.DEFAULT_GOAL := setup

setup: .venv/ready

.venv/ready: pyproject.toml uv.lock .ci/setup
	@PYTHON='$(PYTHON)' .ci/setup

up: setup
	@$(BIN)/hakuriver up

test: setup
	@.ci/lab || true
	@$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.docs

bench: setup
	@$(BIN)/python -m tests.bench $(ARGS)

chaos: setup
	@.ci/lab || true
	@MINUTES='$(MINUTES)' SEED='$(SEED)' $(BIN)/python -m tests.chaos

screenshots: setup
	@$(BIN)/python -m tests.screenshots

clean:
	rm -rf .venv .uv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
