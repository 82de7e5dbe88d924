# Two commands do everything: `make demo` and `make test`. Both need only Python 3.11 and make.
PYTHON ?= python3
VENV   ?= .venv
# Most tests wait for processes of their own: two files at a time keep two cores busy.
PARALLEL ?= -n 2 --dist loadfile
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help demo test lint bench chaos trouble clean
.DEFAULT_GOAL := help

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

$(STAMP): pyproject.toml constraints.txt
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once, about half a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)   ## a pool, an outage of its upstream, a SIGKILL: nothing lost
	@$(BIN)/celery -A tasks pool demo $(ARGS)

lint: $(STAMP)   ## ruff, mypy strict, layering
	$(BIN)/ruff check signals resilience tasks tests
	$(BIN)/ruff format --check signals resilience tasks tests
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint       ## lint, types, layers, then every test
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

bench: $(STAMP)  ## what it costs beside its peers, some minutes; ARGS="breaker --json FILE", ARGS=--quick
	$(BIN)/python -m tests.bench $(ARGS)

chaos: $(STAMP)  ## 200 SIGKILLs of loaded workers, about a quarter of an hour; ARGS="--resume FILE --pools solo"
	$(BIN)/python -m tests.chaos $(ARGS)

trouble: $(STAMP) ## Redis cut off 600 times, frozen, full, failed over under load: the long tests, about ten minutes
	CELERIAC_CHAOS=1 $(BIN)/python -m pytest -s tests/integration/test_delivery_*.py $(ARGS)

clean:           ## remove the environment and caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache
