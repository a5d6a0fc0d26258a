# Two commands are all that anybody needs; each does its own set-up:
#   make demo    a key released and served on the embedded emulator
#   make test    the whole test suite
# The rest is for who changes the code. `make` alone lists everything.

.DEFAULT_GOAL := help
.PHONY: help demo test test-packages test-vm check lint docs deb rpm lock package-tools bench soak chaos kills fleet fix clean setup
.SUFFIXES:
MAKEFLAGS += --no-print-directory --no-builtin-rules

PY := .venv/bin/python -I
FAST := tests/unit tests/property tests/vectors
# Debian's own: the packages are for its Python, and not for .venv's.
PACKAGING := /usr/bin/python3 -B packaging/build.py
# of `make fleet`
N := 10000
K := 1
V := 1

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | \
	  sed -E 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/' | expand -t 14

setup: ## install what is missing: apt packages (with sudo where not root) and .venv
	@bash .ci/setup

demo: setup ## show the main job: attest, release, unwrap, serve, on the embedded emulator
	@$(PY) -m skragent.cli.main demo

test: setup ## run every test layer that this machine can run
	@bash .ci/test $(ARGS)

test-packages: package-tools ## build the packages, judge them, and install them in a Debian of their own
	@SKRAGENT_REQUIRE=packages bash .ci/own-mounts .venv/bin/python -m pytest tests/packaging $(ARGS)

test-vm: setup ## boot a Debian VM with a TPM, install the package in it, and use it there
	@bash .ci/setup-vm
	@SKRAGENT_REQUIRE=qemu .venv/bin/python -m pytest -q --no-header tests/vm $(ARGS)

check: setup lint ## what a change must pass before it is committed: about a minute
	@.venv/bin/python -m pytest -q -n auto $(FAST) $(ARGS)

lint: setup ## format, lint, types and import contracts
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@.venv/bin/python .ci/check_links.py
	@.venv/bin/python packaging/generate_docs.py --check

docs: setup ## write the generated documents anew: error codes, settings, metrics, events
	@.venv/bin/python packaging/generate_docs.py

package-tools: setup ## install what building and testing packages needs beside that
	@bash .ci/apt lintian rpm mmdebstrap binutils dpkg-dev python3-venv

deb: package-tools ## build the Debian packages in build/, and tell what is in them
	@$(PACKAGING) deb $(ARGS)

rpm: package-tools ## build the RPM packages in build/, of the same trees
	@$(PACKAGING) rpm $(ARGS)

lock: setup ## pin anew, with hashes, all that the packages are built of
	@.venv/bin/python packaging/lock.py

bench: setup ## measure start-up, memory and throughput; the last line is JSON
	@$(PY) tests/bench/run.py

soak: setup ## a million requests while the key rotates under them
	@.venv/bin/python tests/bench/soak.py

chaos: setup ## three minutes of random faults, with clients that watch
	@.venv/bin/python tests/bench/chaos.py $(ARGS)

kills: setup ## a thousand kills during renewals of the AK certificate, which none may lose
	@.venv/bin/python tests/bench/renewal_kills.py $(ARGS)

fleet: setup ## simulate N VMs that want K keys each from V vaults; the last line is JSON
	@.venv/bin/python tests/bench/fleet.py --vms $(N) --keys $(K) --vaults $(V)

fix: setup ## let the tools repair what they can
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

clean: ## remove everything that a command can make again
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache \
	  .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
