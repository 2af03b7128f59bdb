#!/usr/bin/env bash
# Makes .venv with tfmix installed in editable form, its kernels built. Used by the Makefile.
#
# Missing system tools are installed with apt where this runs as root on Debian, Ubuntu or Colab;
# elsewhere the message says what to install.
set -eu
cd "$(dirname "$0")/.."

need() { # need COMMAND PACKAGE...
  command -v "$1" >/dev/null 2>&1 && return 0
  echo "setup: $1 is missing"
  install_with_apt "${@:2}" && command -v "$1" >/dev/null 2>&1 && return 0
  echo "setup: please install $1 (on Debian: apt-get install ${*:2}) and run make again" >&2
  exit 1
}

install_with_apt() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
  echo "setup: apt-get install $*"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"; } >/dev/null
}

find_python() {
  local python
  for python in "${PYTHON:-}" python3 python3.11 python3.12 python3.10; do
    [ -n "$python" ] && "$python" -c \
      'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null &&
      echo "$python" && return 0
  done
  echo "setup: Python 3.10, 3.11 or 3.12 is needed (set PYTHON=... to name one)" >&2
  return 1
}

need g++ g++
python=$(find_python)
if [ ! -x .venv/bin/pip ]; then
  rm -rf .venv
  # Debian and Colab keep venv's pip in a package of its own.
  "$python" -m venv .venv 2>/dev/null ||
    { rm -rf .venv; install_with_apt python3-venv && "$python" -m venv .venv; } 2>/dev/null ||
    { rm -rf .venv; "$python" -m pip install -q virtualenv && "$python" -m virtualenv -q .venv; }
fi
echo "setup: installing Python packages into .venv (a minute or two the first time)"
.venv/bin/pip install -q --disable-pip-version-check --retries 5 -e '.[test,plot]'
touch .venv/installed
