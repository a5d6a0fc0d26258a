# The two main commands. Each installs what is missing:
#   make demo    a key released and served on the emulator
#   make test    the whole test suite
# The other targets are for contributors. `make` lists all of them.

.DEFAULT_GOAL := help
.PHONY: audit coverage help demo test test-packages test-vm check lint docs deb rpm lock package-tools bench soak chaos kills fleet fix clean setup
.SUFFIXES:
MAKEFLAGS += --no-print-directory --no-builtin-rules

PY := .venv/bin/python -I
FAST := tests/unit tests/property tests/vectors
# The packages are for Debian's Python, not for the Python of .venv.
PACKAGING := /usr/bin/python3 -B packaging/build.py
# VMs, keys per VM and vaults of `make fleet`
N := 10000
K := 1
V := 1

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | \
	  sed -E 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/' | expand -t 14

setup: ## install missing apt packages (with sudo if not root) and create .venv
	@bash .ci/setup

demo: setup ## attest, release, unwrap and serve a key on the emulator
	@$(PY) -m skragent.cli.main demo

test: setup ## run every test layer that this machine supports
	@bash .ci/test $(ARGS)

test-packages: package-tools ## build and check the packages, and install them in a separate Debian
	@SKRAGENT_REQUIRE=packages bash .ci/own-mounts .venv/bin/python -m pytest tests/packaging $(ARGS)

test-vm: setup ## boot a Debian VM with a TPM, install the package and test it there
	@bash .ci/setup-vm
	@SKRAGENT_REQUIRE=qemu .venv/bin/python -m pytest -q --no-header tests/vm $(ARGS)

check: setup lint ## run before each commit: lint and fast tests, about a minute
	@.venv/bin/python -m pytest -q -n auto $(FAST) $(ARGS)

lint: setup ## check format, types, import contracts, spelling, links and generated pages
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@.venv/bin/vulture
	@.venv/bin/codespell
	@.venv/bin/python .ci/check_text.py
	@.venv/bin/python .ci/check_links.py
	@.venv/bin/python packaging/generate_docs.py --check

docs: setup ## generate lists in docs and manual pages, the journal catalog, config.example.toml, openapi.json
	@.venv/bin/python packaging/generate_docs.py

coverage: setup ## measure the coverage of all layers except the VM and the packages
	@bash .ci/coverage $(ARGS)

audit: setup ## compare the locked libraries with the known vulnerabilities
	@test -x build/audit/bin/pip-audit || { python3 -m venv build/audit && \
	  build/audit/bin/pip install --quiet --disable-pip-version-check 'pip-audit~=2.10'; }
	@build/audit/bin/python .ci/audit.py

package-tools: setup ## install the tools that build and test packages
	@bash .ci/apt lintian rpm mmdebstrap binutils dpkg-dev python3-venv

deb: package-tools ## build the Debian packages in build/, and list their contents
	@$(PACKAGING) deb $(ARGS)

rpm: package-tools ## build the RPM packages in build/ from the same trees
	@$(PACKAGING) rpm $(ARGS)

lock: setup ## pin the libraries of the packages again, with hashes
	@.venv/bin/python packaging/lock.py

bench: setup ## measure start-up, memory and throughput; the last line is JSON
	@$(PY) tests/bench/run.py

soak: setup ## send a million requests while the key rotates
	@.venv/bin/python tests/bench/soak.py

chaos: setup ## three minutes of random faults and kills, with clients that watch
	@.venv/bin/python tests/bench/chaos.py $(ARGS)

kills: setup ## kill the agent a thousand times during renewals of the AK certificate
	@.venv/bin/python tests/bench/renewal_kills.py $(ARGS)

fleet: setup ## simulate N VMs that want K keys each from V vaults; the last line is JSON
	@.venv/bin/python tests/bench/fleet.py --vms $(N) --keys $(K) --vaults $(V)

fix: setup ## format, and correct imports and simple findings
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

clean: ## remove everything that another target creates
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache \
	  .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
