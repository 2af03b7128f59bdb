#!/usr/bin/env bash
# check_wheel.sh WHEEL: installs it into an empty environment outside the checkout, with what it
# depends on, and goes from a float model to a C program with it (check_wheel.py). Minutes.
set -eu
wheel=$(realpath "$1")
script=$(realpath "$(dirname "$0")/check_wheel.py")
python=$(command -v "${PYTHON:-python3}")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"

echo "check: $(basename "$wheel") into an empty environment"
"$python" -m venv venv
venv/bin/pip install -q --disable-pip-version-check --retries 5 "$wheel"
mkdir work
cd work
export TF_CPP_MIN_LOG_LEVEL=2 PYTHONNOUSERSITE=1
unset PYTHONPATH
../venv/bin/python "$script"
echo "check: $(basename "$wheel") holds"
