# Two commands do everything, set-up included:
#   make demo    the main job on real data, in about a minute
#   make test    the tests

SETUP := .venv/installed
RUN := TF_CPP_MIN_LOG_LEVEL=2 .venv/bin/python

.PHONY: demo firmware-demo bench-networks test test-tflm bench-kernels fuzz lint format clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo    train, quantize to a budget, export and run a network on real digits"
	@echo "make test    run the tests"
	@echo "make test-tflm   tests in your TensorFlow Lite Micro, see docs/tflm.md"
	@echo "make firmware-demo   the demo's network and ResNet-8 as Cortex-M7 firmware, under QEMU"
	@echo "make bench-networks  instructions of whole networks under QEMU; needs ../shared/data"
	@echo "make bench-kernels  count the kernels' instructions on a Cortex-M7 under QEMU"
	@echo "make fuzz    damaged files into tfmix.load and the kernels, MINUTES=10 of them"
	@echo "make lint    ruff and clang-format, without changing anything"
	@echo "make format  let ruff and clang-format rewrite the sources"
	@echo "make clean   remove what was built, .venv included"

$(SETUP): scripts/setup.sh pyproject.toml setup.py $(wildcard kernels/src/* kernels/host/* kernels/include/*/*)
	@bash scripts/setup.sh

demo: $(SETUP)
	@$(RUN) examples/digits.py

firmware-demo: $(SETUP)
	@$(RUN) examples/firmware_demo.py

bench-networks: $(SETUP)
	@$(RUN) benchmarks/networks.py

test: $(SETUP)
	$(RUN) -m pytest -q -n 2 --dist loadfile

# TensorFlow Lite Micro is not part of this repository; what is not named is skipped, by name.
export TFLM_INCLUDE_DIRS TFLM_LIBRARY TFLM_LIBRARY_ARM TFLM_LIBRARY_ARM_STRIPPED
test-tflm: $(SETUP)
	$(RUN) -m pytest -q -s -rs tests/tflm

bench-kernels: $(SETUP)
	@$(RUN) benchmarks/kernels.py

MINUTES ?= 10

fuzz: $(SETUP)
	@$(RUN) tests/fuzz/fuzz_load.py --minutes $(MINUTES)

CXX_SOURCES := $(shell find kernels -name '*.cc' -o -name '*.h' | sort)

lint: $(SETUP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/clang-format --dry-run -Werror $(CXX_SOURCES)

format: $(SETUP)
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/clang-format -i $(CXX_SOURCES)

clean:
	rm -rf .venv build-python demo-output tfmix/_kernels.so *.egg-info
