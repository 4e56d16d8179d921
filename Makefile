# Everything goes through .venv, which is made here. To use another interpreter: make PYTHON=python3.12 test
PYTHON  ?= python3
WORKERS ?= 2
THREADS ?= 1
ARGS    ?=
MODEL   ?=
DATA    ?= data

VENV := .venv
BIN  := $(VENV)/bin
LOWEST := .venv-lowest

# One cap for every library that starts threads of its own; otherwise each takes all cores. Of each of the WORKERS.
CAPPED := OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) OPENBLAS_NUM_THREADS=$(THREADS)

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest lint mutants format audit wheel reproduce clean distclean

help:
	@echo 'make demo       find the keypoints of an example photograph: demo/astronaut.png and demo/astronaut.json'
	@echo 'make test       run the tests            (ARGS="-k geometry" passes options on, WORKERS=$(WORKERS) share them, THREADS=$(THREADS) caps threads of each)'
	@echo 'make test-lowest  the fast tests with the lowest versions of the libraries that pyproject.toml allows, in $(LOWEST)'
	@echo 'make lint       ruff, mypy --strict, the layer contracts, the licences of what is needed, and the numbers of the documentation'
	@echo 'make mutants    which small faults in geometry, metrics and schemes the tests notice: an hour (ARGS=--report sums up the last run)'
	@echo 'make format     let ruff format and fix what it can'
	@echo 'make audit      advisories about the libraries (asks an index), and their licences'
	@echo 'make wheel      build dist/*.whl and *.tar.gz, and print their hashes (ARGS=--check builds twice and compares)'
	@echo 'make reproduce  train an embedded model from its recipe: MODEL=ibug68 DATA=folder of the data sets (datasets/README.md)'
	@echo '                into runs/MODEL; stopped, the same command goes on (ARGS="--threads 2" passes options on)'
	@echo 'make clean      remove builds, caches and the demo; make distclean also removes $(VENV) and $(LOWEST)'
	@echo 'The first of them makes $(VENV) with $(PYTHON) (PYTHON=... chooses another) and installs into it.'

# The stamp is renewed only when what is installed may have changed; sources are installed in place (-e).
$(VENV)/.stamp: pyproject.toml setup.cfg
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo 'There is no "$(PYTHON)" here; name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else "cascade_kp needs Python 3.11 or newer, but $(PYTHON) is %s; name another: make PYTHON=python3.12" % v)'
	@echo 'Installing cascade_kp and its tools into $(VENV) (PyTorch is large: this can take minutes) ...'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/.stamp
	@$(BIN)/python docs/examples/astronaut.py demo/input/astronaut.png
	@$(BIN)/cascade-kp predict demo/input/astronaut.png --format json --draw demo > demo/astronaut.json \
	    || { rm -f demo/astronaut.json; exit 1; }
	@test -s demo/astronaut.png || { echo 'demo/astronaut.png was not drawn' >&2; exit 1; }
	@echo 'The picture: demo/astronaut.png; the numbers: demo/astronaut.json'

test: $(VENV)/.stamp
	$(CAPPED) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(VENV)/.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tools.audit --licences
	$(BIN)/python -m benchmarks.readme --check

mutants: $(VENV)/.stamp
	$(CAPPED) $(BIN)/python -m benchmarks.mutants $(ARGS)

format: $(VENV)/.stamp
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

wheel: $(VENV)/.stamp
	$(BIN)/python -m tools.build $(ARGS)

# The lowest versions that pyproject.toml allows, in an environment of its own; the fast tests, as for the wheel.
# Old libraries warn of what newer ones beside them will remove: only there a deprecation is no error.
test-lowest: $(VENV)/.stamp
	$(PYTHON) -m venv --clear $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
	    -e '.[dev,hub,interchange,parquet,ray,tensorboard]'
	$(CAPPED) $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m 'not slow' \
	    -W ignore::DeprecationWarning -p no:cacheprovider $(ARGS)

audit: $(VENV)/.stamp
	$(BIN)/python -m tools.audit $(ARGS)

reproduce: $(VENV)/.stamp
	@test -n '$(MODEL)' || { echo 'Which model? make reproduce MODEL=ibug68 DATA=/path/to/the/data' >&2; exit 1; }
	@test -d '$(DATA)' || { echo 'There is no folder "$(DATA)"; say where the data sets are (datasets/README.md): DATA=/path' >&2; exit 1; }
	$(BIN)/cascade-kp train '$(MODEL)' --data '$(DATA)' --out 'runs/$(MODEL)' $(ARGS)

clean:
	rm -rf build dist demo mutants *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(LOWEST)
