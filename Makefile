# What can be done here, each in one word. `make` alone lists them.

PYTHON ?= python3
BIN := .venv/bin
MADE := .venv/.made-from-lock

.DEFAULT_GOAL := help
.PHONY: help demo test check mutants bench soak abuse rehearsal lock clean

help: ## list what can be done
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(MADE) ## record half a minute of a generated tape, with no key; make demo ARGS=--dashboard shows it in the browser
	@$(BIN)/tape demo $(ARGS)

test: $(MADE) ## run the tests; make test ARGS="-k journal" runs some
	@PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 $(BIN)/pytest -m "not slow" -n 4 --dist worksteal $(ARGS)

check: $(MADE) ## lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

mutants: $(MADE) ## would a test notice? changes lines that carry guarantees; make mutants ARGS="--sample 0": all
	@$(BIN)/python tests/mutants/mutants.py $(ARGS)

bench: $(MADE) ## measure against peers, minutes; the table is left in build/bench.md
	@mkdir -p build
	@rm -f build/bench.md
	@for bench in capture paced limits archive query upload catalog dashboard dashboard_data; do \
		$(BIN)/python tests/benchmarks/$$bench.py > build/bench.part && cat build/bench.part >> build/bench.md || exit 1; \
		echo >> build/bench.md; \
	done
	@rm -f build/bench.part
	@cat build/bench.md

soak: $(MADE) ## random kill -9 and random faults for minutes; make soak ARGS="--minutes 10 --seed 7"
	@$(BIN)/python tests/soak/kills.py
	@$(BIN)/python tests/soak/soak.py $(ARGS)

abuse: $(MADE) ## a hostile feed, bucket, API and disk, for minutes; what each attack took; make abuse ARGS="--seconds 60"
	@$(BIN)/python tests/abuse/abuse.py $(ARGS)
	@$(BIN)/pytest -q tests/tasks/upload/test_hostile_bucket.py tests/scenarios/test_hostile_house.py \
		tests/flows/test_key_hosts.py tests/tasks/capture/test_bounds.py

rehearsal: $(MADE) ## a trading day in minutes with server, worker, store and faults; make rehearsal ARGS="--seconds 600"
	@PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 $(BIN)/python tests/rehearsal/rehearsal.py $(ARGS)

lock: ## pin what pyproject.toml asks for; needs uv
	uv pip compile -q --universal --generate-hashes --no-header --extra dev --extra dashboard -p 3.11 pyproject.toml -o requirements.lock

clean: ## remove what make made; recordings stay
	rm -rf .venv build demo-data mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find flows tape tasks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# From the lock alone, hashes checked; anew when the lock or the project's own description changed.
$(MADE): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: needs Python 3.11 or later, $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
			"name another with make PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv from requirements.lock: one to three minutes, once."
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
	@touch $@
