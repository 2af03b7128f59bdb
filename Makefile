# Two commands do everything, set-up included:
#   make demo    the main job on real data, in about a minute
#   make test    the tests

SETUP := .venv/installed
RUN := TF_CPP_MIN_LOG_LEVEL=2 .venv/bin/python

.PHONY: demo firmware-demo bench-networks test test-tflm test-wheel bench-kernels fuzz lint format \
	notebooks docs docs-serve wheel clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo    train, quantize to a budget, export and run a network on real digits"
	@echo "make test    run the tests"
	@echo "make test-tflm   tests in your TensorFlow Lite Micro, see docs/tflm.md"
	@echo "make firmware-demo   the demo's network and ResNet-8 as Cortex-M7 firmware, under QEMU"
	@echo "make bench-networks  instructions of whole networks under QEMU; needs ../shared/data"
	@echo "make bench-kernels  count the kernels' instructions on a Cortex-M7 under QEMU"
	@echo "make fuzz    damaged files into tfmix.load and the kernels, MINUTES=10 of them"
	@echo "make notebooks   execute the notebooks of colab/ on small settings"
	@echo "make docs    build the documentation into site/; make docs-serve shows it while you write"
	@echo "make wheel   the wheel for this platform, into dist/"
	@echo "make test-wheel  the wheel, from an empty environment; minutes"
	@echo "make lint    ruff, clang-format and mypy, without changing anything"
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
	$(RUN) -m pytest -q -n 2 --dist worksteal

# TensorFlow Lite Micro is not part of this repository; what is not named is skipped, by name.
export TFLM_INCLUDE_DIRS TFLM_LIBRARY TFLM_LIBRARY_ARM TFLM_LIBRARY_ARM_STRIPPED
test-tflm: $(SETUP)
	$(RUN) -m pytest -q -s -rs tests/tflm

bench-kernels: $(SETUP)
	@$(RUN) benchmarks/kernels.py
	@$(RUN) benchmarks/instruction_table.py

# What not everybody needs: the extras "docs", "notebooks" and "release" of pyproject.toml. tfmix
# itself is there already and is not built anew.
.venv/extra-%: $(SETUP)
	@echo "setup: installing what '$*' takes into .venv"
	@.venv/bin/pip install -q --disable-pip-version-check --retries 5 'tfmix[$*]'
	@touch $@

notebooks: $(SETUP) .venv/extra-notebooks
	TFMIX_SMALL=1 $(RUN) -m pytest -q -p no:cacheprovider --nbmake --nbmake-timeout=600 colab

docs: .venv/extra-docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

docs-serve: .venv/extra-docs
	.venv/bin/mkdocs serve

# auditwheel names the oldest Linux that the wheel runs on; elsewhere the wheel stays as it is built.
wheel: $(SETUP) .venv/extra-release
	rm -rf dist
	.venv/bin/pip wheel -q --disable-pip-version-check --no-deps -w dist .
	if [ "$$(uname)" = Linux ]; then PATH="$$PWD/.venv/bin:$$PATH" \
	  .venv/bin/auditwheel repair --strip -w dist/repaired dist/*.whl && \
	  rm dist/*.whl && mv dist/repaired/*.whl dist/ && rmdir dist/repaired; fi
	@ls dist/*.whl

test-wheel: wheel
	PYTHON=.venv/bin/python bash scripts/check_wheel.sh dist/*.whl

MINUTES ?= 10

fuzz: $(SETUP)
	@$(RUN) tests/fuzz/fuzz_load.py --minutes $(MINUTES)

CXX_SOURCES := $(shell find kernels -name '*.cc' -o -name '*.h' | sort)

lint: $(SETUP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/clang-format --dry-run -Werror $(CXX_SOURCES)
	.venv/bin/mypy

format: $(SETUP)
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/clang-format -i $(CXX_SOURCES)

clean:
	rm -rf .venv build-python demo-output dist site tfmix/_kernels.so *.egg-info
