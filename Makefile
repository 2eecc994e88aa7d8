# Everything runs in .venv, which is made and refreshed as needed. `make help` lists the verbs.
.DEFAULT_GOAL := help
.PHONY: help install demo watch-demo test numerics lint lint-style lint-types lint-arrows lint-pages lint-dockerfile check
.PHONY: proto docs bench study fuzz audit sbom image clean

# The first of these that is Python 3.11 or newer; `make PYTHON=...` names another.
PYTHON ?= $(firstword $(foreach p,python3.11 python3 python,\
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
BIN := .venv/bin
READY := .venv/.ready
TOOLS := .venv/.tools
PEERS := .venv/.peers
PROMETHEUS := .venv/prometheus
POSTGRESQL := .venv/postgresql
CHROMIUM := .venv/chromium
NGINX := .venv/nginx

BENCHMARKS := mixed scale memory peers serve backends hotload training monitoring

# Spinning threads starve each other on a busy machine; it counts only when set before torch starts.
export OMP_WAIT_POLICY := passive

# Packages are installed without bytecode: where it may not be kept, each of the tests' processes compiles PyTorch anew.
unexport PYTHONDONTWRITEBYTECODE

help:  ## list the verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

install: $(TOOLS)  ## make .venv with everything in it, at the pinned versions

# Without byte-compiling everything: what is imported is compiled then, and installing takes half the time.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "corolla needs Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "installing the pinned packages into .venv (5 GB; minutes the first time)"
	$(PYTHON) -m venv .venv
	$(PIP) -e '.[serve,train,report]'
	@touch $(READY)

$(TOOLS): $(READY)
	$(PIP) -e '.[serve,train,report,dev,torchserve]'
	@touch $(TOOLS)

$(PEERS): $(READY)
	$(PIP) -e '.[serve,train,bench]'
	@touch $(PEERS)

# Without it, the tests of queries are skipped by name; `make test` tries again.
$(PROMETHEUS): | $(READY)
	-@.ci/prometheus $@

# Without it, the tests of replicas that share a database are skipped by name.
$(POSTGRESQL): | $(READY)
	-@.ci/postgresql $@

# Without it, the tests that read pages in a browser are skipped by name.
$(CHROMIUM): | $(READY)
	-@.ci/chromium $@

# Without it, the tests of the TLS sidecar in front of Ray are skipped by name.
$(NGINX): | $(READY)
	-@.ci/nginx $@

demo: $(READY)  ## train, register, serve, classify and watch: the whole mission in minutes
	$(BIN)/python demo.py

watch-demo: $(READY) | $(PROMETHEUS)  ## a shift against a running server, until a real Prometheus raises the alert
	$(BIN)/python watch_demo.py

# One thread each: faster than several for one. The smallest machine has two cores; a third process uses them while
# others wait for a server, a deadline or a disk.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: lint | $(PROMETHEUS) $(CHROMIUM) $(POSTGRESQL) $(NGINX)  ## everything that must pass: lint, then all tests, then those of numbers as other CPUs see them
	$(PYTEST)
	$(MAKE) --no-print-directory numerics

# Without AVX-512, where bf16 is emulated; and products sum in orders that their rows decide, as they do with it.
OTHER_CPU := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2

numerics: $(TOOLS)  ## the tests of numbers once more, as on other CPUs
	@# Only the files that have some: importing all others takes as long as running these.
	@echo "as on other CPUs: $(OTHER_CPU) pytest --sums-by-rows -m numerics"
	$(OTHER_CPU) $(PYTEST) -q --sums-by-rows -m numerics $$(grep -rl mark.numerics tests --include='test_*.py')

# Two at a time; what one says is kept together where make can do that.
LINTS := lint-types lint-pages lint-arrows lint-style lint-dockerfile
TOGETHER := -j 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

lint: $(TOOLS)  ## style, types, arrows between packages, generated pages, Dockerfile
	@$(MAKE) --no-print-directory $(TOGETHER) $(LINTS)

lint-style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types:
	$(BIN)/mypy

lint-arrows:
	$(BIN)/lint-imports

lint-pages:
	$(BIN)/python -m docs.generate --check

lint-dockerfile:
	$(BIN)/hadolint Dockerfile

check: lint | $(PROMETHEUS) $(CHROMIUM) $(POSTGRESQL) $(NGINX)  ## lint and the quick tests only
	$(PYTEST) -m 'not slow'

proto: $(TOOLS)  ## write the code of protos/**/*.proto
	$(BIN)/python -m protos.generate

docs: $(TOOLS)  ## write the pages that are made from code
	$(BIN)/python -m docs.generate

bench: $(PEERS)  ## every benchmark the quick way, in fp32 and bf16, beside other servers: a quarter of an hour
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

study: $(READY)  ## the study on your own images: make study DATA=FOLDER_OR_ZIP [ARGS=...]; hours on a CPU, resumable
	@test -n "$(DATA)" || { echo "name the images: make study DATA=pacs.zip, laid out as DOMAIN/CLASS/IMAGE" >&2; exit 2; }
	$(BIN)/python -m benchmarks.study "$(DATA)" $(ARGS)

SECONDS_EACH ?= 10

# Its wheels are of Linux alone, so nothing else needs it.
FUZZ := .venv/.fuzz

$(FUZZ): $(READY)
	$(PIP) -e '.[serve,train,fuzz]'
	@touch $(FUZZ)

fuzz: $(FUZZ) $(TOOLS)  ## every fuzzing target for ten seconds; make fuzz SECONDS_EACH=600 for longer
	$(BIN)/python -m fuzz --seconds $(SECONDS_EACH)

audit: $(TOOLS)  ## known vulnerabilities of the pinned packages; needs a network
	@.ci/audit $(BIN)/pip-audit constraints.txt

sbom: $(TOOLS)  ## what is installed, as CycloneDX, in build/sbom.json
	@mkdir -p build
	$(BIN)/cyclonedx-py environment --no-validate --pyproject pyproject.toml --of JSON -o build/sbom.json $(BIN)/python
	@echo "build/sbom.json lists what is installed"

image:  ## build the image with buildah and ask its server; as root, with ARGS="-v FILE:FILE:ro" for what pip needs
	.ci/image $(ARGS)

clean:  ## remove .venv and what tools leave behind
	rm -rf .venv .fuzz build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
