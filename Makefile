# Every target makes .venv from the lock first. PYTHON names the interpreter to make it with (3.11 or later).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup up test test-gpu check bench chaos screenshots clean
.DEFAULT_GOAL := setup

setup: .venv/ready

.venv/ready: pyproject.toml uv.lock .ci/setup
	@PYTHON='$(PYTHON)' .ci/setup

up: setup
	@$(BIN)/hakuriver up

test: setup
	@.ci/lab || true
	@$(BIN)/pytest -n 4 --dist loadfile $(ARGS)

# On a machine with a real NVIDIA driver; nothing else is needed, no Docker.
test-gpu: setup
	@nvidia-smi -L 2>/dev/null | grep -q . || { echo 'make test-gpu needs a real NVIDIA GPU with its driver: nvidia-smi lists none here' >&2; exit 1; }
	@$(BIN)/pytest tests/gpu/checks.py $(ARGS)

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
