# Everything a newcomer types. Needs python3 >= 3.11 and nothing else; each target sets up .venv by itself.
PYTHON ?= python3
SEED ?= 0
BIN = .venv/bin
RUN = runs/demo-seed$(SEED)

.PHONY: demo test test-all bench results check clean

demo: .venv/ready
	$(BIN)/surrogate fit --run $(RUN) --recipe demo --app segmentation --seed $(SEED)
	$(BIN)/surrogate finetune --run $(RUN) --loss ce
	$(BIN)/surrogate finetune --run $(RUN)

test: .venv/ready
	$(BIN)/python -m pytest

test-all: .venv/ready
	$(BIN)/python -m pytest -m "slow or not slow"

# The README's table, from scratch: 30 to 60 minutes on one core, and it goes on where it was stopped.
results: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/surrogate compare --run runs/results --app segmentation --recipe demo --lrs 0.002,0.004,0.008 --losses ce,dice,iou-appx-batch,lovasz,surrogate,surrogate+dice
	cp runs/results/table.md docs/results/digits.md
	cp runs/results/compare.json docs/results/digits.json

# Under ten minutes on two free cores; writes docs/results/performance.{json,md} and the figure.
bench: .venv/ready
	$(BIN)/python -m benchmarks --out docs/results/performance.json

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Installs once, and again when the dependencies change.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python3 >= 3.11 is needed; name one: make PYTHON=python3.12")'
	@echo "setting up .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,examples]'
	@touch $@

clean:
	rm -rf .venv runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
