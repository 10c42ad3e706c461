PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-proto
TRITON_VENV := .venv-triton
STUBS := service/conveyor/v1 service/conveyor/inference

.PHONY: install install-dev demo test soak check lint types proto proto-check bench zoo caption paint compose local chaos

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev $(TRITON_VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu,export]' --group dev
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps --group foreign
	touch $@

# The stock client of the Open Inference Protocol, for the tests. It registers the same message names as our own stubs do,
# so the two cannot be in one process, and it pins an older protobuf.
$(TRITON_VENV)/.installed: constraints.txt
	test -d $(TRITON_VENV) || $(PYTHON) -m venv $(TRITON_VENV)
	$(TRITON_VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt 'tritonclient[grpc]'
	touch $@

demo: install
	$(BIN)/python examples/demo.py

test: install-dev
	$(BIN)/python -m pytest

soak: install-dev
	$(BIN)/python -m pytest -m soak --timeout 3600

bench: install-dev
	$(BIN)/python -m bench

local: install-dev
	$(BIN)/python -m deploy.local

chaos: install-dev
	$(BIN)/python -m chaos

zoo: install-dev
	$(BIN)/python -m conveyor_export.zoo

caption: install-dev
	$(BIN)/python -m conveyor_export.captioner

paint: install-dev
	$(BIN)/python -m conveyor_export.painter

compose: install-dev
	$(BIN)/pip install --quiet --constraint constraints.txt --group chorales
	$(BIN)/python -m conveyor_export.composer

check: lint types proto-check

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint

types: install-dev
	$(BIN)/mypy

# Stubs come from the protoc of the oldest protobuf that we support, so that they load on it and on every newer one.
$(PROTO_VENV)/.installed:
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/pip install --quiet --disable-pip-version-check grpcio==1.76.0 grpcio-tools==1.76.0 protobuf==6.31.1
	touch $@

proto: $(PROTO_VENV)/.installed
	rm -rf $(STUBS)
	mkdir -p $(STUBS)
	$(PROTO_VENV)/bin/python -m grpc_tools.protoc -Iproto --python_out=service --pyi_out=service --grpc_python_out=service proto/conveyor/*/*.proto
	touch $(addsuffix /__init__.py,$(STUBS))

# Fails if the committed stubs are stale, or do not load on the oldest protobuf.
proto-check: proto
	git diff --exit-code -- $(STUBS)
	test -z "$$(git status --porcelain -- $(STUBS))"
	cd service && ../$(PROTO_VENV)/bin/python -W error -c 'import conveyor.v1.sequence_service_pb2_grpc, conveyor.inference.inference_service_pb2_grpc'
