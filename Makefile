# Each target works from a bare machine with Python 3.11 or later: it makes its own virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Fails in an environment whose making was interrupted: that is completed or, where it cannot be, made anew.
HAS_PIP := $(BIN)/python -m pip --version >/dev/null 2>&1
READY := $(VENV)/ready
TOOLS := $(VENV)/ready-tools
KERNELS := src/wideresnet/kernels

.PHONY: setup demo check fix test sanitize bench notebooks clean
.DEFAULT_GOAL := demo

setup: $(TOOLS)

# With the tools comes every extra, for the tests. One rule makes both, so that the kernels are compiled once.
.NOTPARALLEL:
$(READY) $(TOOLS): pyproject.toml setup.py constraints.txt $(wildcard $(KERNELS)/csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; name another: make PYTHON=python3.12"; exit 2; }
	@echo "setting up $(VENV) (torch is large: a few minutes the first time)"
	@$(HAS_PIP) || { $(PYTHON) -m venv $(VENV) 2>/dev/null && $(HAS_PIP); } || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) --editable '.$(if $(filter $(TOOLS),$@),[dev])'
	@test -e $(KERNELS)/_kernels.so || \
	  echo "kernels for the CPU: not built, torch computes instead; $(BIN)/pip install --verbose --editable . says why"
	@touch $(READY) $@

demo: $(READY)
	$(BIN)/wrn demo

check: setup  # seconds
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_house.py

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two at a time, each file's tests by one, those of faults/ first, which take longest: many start commands, which take
# one core each. torch's threads that wait for one another let the other's compute.
test: setup
	OMP_WAIT_POLICY=passive $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term

# Slow code that watches itself: out of bounds, undefined, racing. Beside the library that is used, which stays.
sanitize: setup
	@set -e; for kind in address,undefined thread; do \
	  flags="-g -O1 -fsanitize=$$kind -fno-sanitize-recover=all"; into=build/sanitized/$$kind; echo "$$kind"; \
	  CXXFLAGS="$$flags" $(BIN)/python setup.py -q build_ext --build-lib $$into --build-temp $$into/objects; \
	  library=$$into/wideresnet/kernels/_kernels.so; \
	  $(CXX) -std=c++17 -pthread $$flags -I$(KERNELS)/csrc tests/sanitize.cpp $$library -o $$into/sanitize; \
	  $$into/sanitize; \
	done

bench: setup
	$(BIN)/python benchmarks/training_layouts.py

notebooks: setup
	$(BIN)/jupytext --to ipynb notebooks/*.py

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info $(KERNELS)/_kernels.so
