# Everything one does with this project; `make` alone lists it.

PYTHON ?= python3
VENV := .venv
DEV := .venv-dev
BENCH := .venv-bench
AUDIT := .venv-audit

# Long tests mostly wait, so there may be more processes of them than cores.
PROCESSES ?= 4
ARGS ?=

# A hundred servers are started in the tests: none shall compile what the one before it has.
test: export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run run-scaled install test check format bench overhead scale-out chaos fuzz flapping isolation lock sbom audit clean

help:
	@echo "make run        build .venv once and serve on http://localhost:8080 (PORT=9000 make run)"
	@echo "make run-scaled the same as two web processes and two workers, over a Redis of its own"
	@echo "make install    build .venv with the package in it; then .venv/bin/orchestrator serve"
	@echo "make test       every test; some of them: make test ARGS='tests/unit -k frames'"
	@echo "make check      format, lint, types, tests"
	@echo "make format     format the code and mend what the linter can"
	@echo "make bench      measure submit and poll beside a bare WSGI app"
	@echo "make overhead   measure streams through the service beside the model server itself"
	@echo "make scale-out  measure one worker and two beside the same job on Celery and Flask"
	@echo "make chaos      kill, stop and restart what runs for 10 minutes, and miss no answer"
	@echo "make fuzz       send whatever may come for up to 10 minutes, and find no rule broken"
	@echo "make flapping   have a provider come and go for a minute, and get no half answer"
	@echo "make isolation  have 50 tenants send 20,000 requests, and none reads of another"
	@echo "make lock       write requirements.txt: what requirements.in needs, with all hashes"
	@echo "make sbom       write sbom.json: all that make run installs, as CycloneDX"
	@echo "make audit      ask whether any of that is known to be vulnerable"
	@echo "make clean      remove what the others built"

# What a local model needs comes along only where one is asked for.
LOCAL := $(if $(filter engine,$(ORCHESTRATOR_BACKEND)),$(VENV)/local)

run: $(VENV)/built $(LOCAL)
	@exec $(VENV)/bin/orchestrator serve

install: $(VENV)/built $(LOCAL)
	@echo "$(VENV)/bin/orchestrator is there; '$(VENV)/bin/orchestrator serve' starts the server."

run-scaled: $(VENV)/built $(LOCAL)
	@exec $(VENV)/bin/orchestrator run-scaled

test: $(DEV)/built
	$(DEV)/bin/python -m pytest -n $(PROCESSES) $(ARGS)

check: $(DEV)/built
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy
	@$(MAKE) --no-print-directory test

format: $(DEV)/built
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

bench: $(VENV)/built
	@$(VENV)/bin/python benchmarks/submit_and_poll.py --profile

overhead: $(VENV)/built
	@$(VENV)/bin/python benchmarks/overhead.py

scale-out: $(BENCH)/built
	@$(BENCH)/bin/python benchmarks/scale_out.py

chaos: $(DEV)/built
	@$(DEV)/bin/python -m tests.chaos $(ARGS)

fuzz: $(DEV)/built
	@$(DEV)/bin/python -m tests.fuzz $(ARGS)

flapping: $(DEV)/built
	FLAPPING_S=60 $(DEV)/bin/python -m pytest tests/e2e/test_flapping.py $(ARGS)

isolation: $(DEV)/built
	ISOLATION_REQUESTS=20000 $(DEV)/bin/python -m pytest tests/e2e/test_isolation.py \
		tests/e2e/test_isolation_of_stores.py $(ARGS)

# For every platform and every Python from 3.11 on. What is pinned stays, unless ARGS=--upgrade.
lock: $(AUDIT)/built
	@$(AUDIT)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-annotate --custom-compile-command "make lock" --output-file requirements.txt $(ARGS) \
		requirements.in

sbom: $(AUDIT)/built $(VENV)/built
	@$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file sbom.json $(VENV)/bin/python
	@echo "sbom.json lists what is in $(VENV)."

# Strict: what can't be looked up has not passed. Of a trace its last line is the reason.
audit: $(AUDIT)/built
	@$(AUDIT)/bin/pip-audit --strict --disable-pip --progress-spinner off $(ARGS) \
		--requirement requirements.txt >$(AUDIT)/report 2>&1; code=$$?; \
	if grep -q "^Name  *Version  *ID" $(AUDIT)/report; then \
		tail -n 40 $(AUDIT)/report; \
		echo "make audit: the packages above are known to be vulnerable." >&2; exit 1; \
	elif [ $$code -ne 0 ]; then \
		echo "make audit: NOT CHECKED. The service that knows of vulnerabilities could not be asked," \
			"or does not know a package ($$(grep . $(AUDIT)/report | tail -n 1)). Try again where it" \
			"can be reached; $(AUDIT)/report says more." >&2; \
		exit 1; \
	else \
		tail -n 40 $(AUDIT)/report; \
	fi

clean:
	rm -rf $(VENV) $(DEV) $(BENCH) $(AUDIT) sbom.json build dist .hypothesis .mypy_cache
	rm -rf .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each environment is built anew, and only when what it is built from changes: the mark inside is
# written last, so one that was cut short is not taken for whole.
$(VENV)/built: requirements.txt requirements-fast.txt pyproject.toml
	$(call build,$(VENV),requirements.txt)

$(VENV)/local: $(VENV)/built requirements-local.txt
	@echo "Installing llama.cpp from requirements-local.txt (34 MB)."
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check -r requirements-local.txt
	@touch $@

$(DEV)/built: requirements-dev.txt requirements.txt requirements-fast.txt requirements-local.txt \
		pyproject.toml
	$(call build,$(DEV),requirements.txt requirements-local.txt requirements-dev.txt)

$(BENCH)/built: requirements-bench.txt requirements.txt requirements-fast.txt pyproject.toml
	$(call build,$(BENCH),requirements.txt requirements-bench.txt)

$(AUDIT)/built: requirements-audit.txt
	$(call new,$(AUDIT),requirements-audit.txt)
	@touch $@

# $(1): the environment, $(2): its files of requirements, one after the other: where one has hashes,
# pip wants them of all that it installs together with it.
define new
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not: set PYTHON, as in" \
	"'make run PYTHON=python3.12'." >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	echo "'$(PYTHON)' can't make virtual environments: install its venv module" \
	"(Debian, Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
@echo "Building $(1) from $(2)."
@$(PYTHON) -m venv --clear $(1)
@echo '*' >$(1)/.gitignore
@for file in $(2); do \
	$(1)/bin/python -m pip install -qq --disable-pip-version-check -r $$file || exit 1; done
endef

# The same, with this package and its parts in C.
define build
$(call new,$(1),$(2))
@$(1)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --editable .
@$(1)/bin/python -m pip install -qq --disable-pip-version-check -r requirements-fast.txt \
	>$(1)/fast.log 2>&1 || echo "No C extension for HTTP (see $(1)/fast.log): all works, a little" \
	"slower."
@touch $@
endef
