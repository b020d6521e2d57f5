# What is needed beforehand: make, and Python 3.11 or 3.12 with venv. Everything else comes from constraints.txt.
# `make setup TORCH_INDEX=URL` takes torch, alone, from that index (PyTorch has one of CPU builds).

PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
	2>/dev/null && { echo $$python; break; }; done)
IN := .venv/bin/python -m
READY := .venv/.ready

.PHONY: setup test demo proto clean

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "edgeswarm needs Python 3.11 or 3.12 with venv: install it (Debian, Ubuntu:" \
		"apt install python3.11-venv; macOS: brew install python@3.11), or name one: make setup PYTHON=PATH" >&2; exit 2; }
	$(IN) pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@test -z "$(TORCH_INDEX)" || $(IN) pip install -q -c constraints.txt --no-deps --index-url "$(TORCH_INDEX)" torch
	$(IN) pip install -q --disable-pip-version-check -c constraints.txt -e '.[peer,dev]'
	@touch $@

test: setup
	$(IN) ruff check .
	$(IN) ruff format --check .
	$(IN) mypy
	$(IN) pytest -n 2

demo: setup
	.venv/bin/swarm-demo --out demo-run

proto: setup
	$(IN) grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --plugin=.venv/bin/protoc-gen-mypy \
		--mypy_out=. proto/edgeswarm.proto

clean:
	rm -rf build dist *.egg-info demo-run .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
