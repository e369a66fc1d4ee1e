#!/usr/bin/env bash
# Creates .venv and fills it from requirements.lock, hashes checked. Safe to repeat; needs Python >= 3.11 and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "setup: $1" >&2; exit 1; }

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    fail "requirements.lock is made for Linux on x86_64, this is $(uname -s) on $(uname -m)"

supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
find_python() {
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        if [ -n "$candidate" ] && "$candidate" -c "$supported" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}
python=$(find_python) || fail "no Python 3.11, 3.12 or 3.13 found on PATH; name one with PYTHON=/path/to/python3.12 make setup"

make_venv() {
    if [ -x .venv/bin/python ] && .venv/bin/python -c "$supported" 2>/dev/null; then return; fi
    rm -rf .venv
    "$python" -m venv .venv >/dev/null 2>&1 || { rm -rf .venv; return 1; }
}

# Debian splits ensurepip off into python3-venv: then pip alone, or an existing uv, still gets us there.
if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then
    uv=uv
    if ! { [ -x .venv/bin/python ] && .venv/bin/python -c "$supported" 2>/dev/null; }; then
        uv venv --quiet --clear --python "$python" .venv
    fi
elif make_venv; then
    uv=.venv/bin/uv
    [ -x "$uv" ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
elif "$python" -m pip --version >/dev/null 2>&1; then
    uv=.artiagent/bootstrap/bin/uv
    [ -x "$uv" ] || "$python" -m pip install --quiet --disable-pip-version-check --target .artiagent/bootstrap uv
    "$uv" venv --quiet --clear --python "$python" .venv
else
    fail "$python has neither venv nor pip; on Debian or Ubuntu: sudo apt install python3-venv, then repeat"
fi

echo "setup: installing $(grep -c == requirements.lock) locked packages with $("$uv" --version) into .venv"
"$uv" pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
