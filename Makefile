# The commands of this project. `make demo` and `make test` need Python 3.11 or later and make, nothing else.

PYTHON ?= python3
UV := .venv/bin/uv
UV_VERSION := 0.13.9
RUN := .venv/bin
JOBS ?= 3

.PHONY: demo test check format bench torture clean

demo: .venv/ready
	$(RUN)/python -m bud_asgi.cli.demo $(ARGS)

test: .venv/ready check
	$(RUN)/python -m pytest -n $(JOBS) $(ARGS)

check: .venv/ready
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/lint-imports
	$(RUN)/basedpyright

format: .venv/ready
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

bench: .venv/ready
	$(RUN)/python benchmarks/cost.py
	$(RUN)/python benchmarks/relay.py $(ARGS)

torture: .venv/ready
	BUD_ASGI_TORTURE=1 $(RUN)/python -m pytest -m torture --timeout 3600 $(ARGS)

clean:
	rm -rf .venv

# uv is installed into the environment that it then fills, so that nothing outside the checkout changes.
.venv/ready: pyproject.toml uv.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bud_asgi needs Python 3.11 or later; set PYTHON=")'
	test -x $(UV) || ($(PYTHON) -m venv .venv && $(RUN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION))
	$(UV) sync --frozen --quiet --inexact
	touch $@
