#!/bin/sh
# Makes target/python, a virtual environment with what tests/requirements.txt pins, for the tests
# that drive real client libraries. Does nothing when it is up to date.
set -eu
cd "$(dirname "$0")/.."

wanted=$(cat tests/requirements.txt)
if [ "$(cat target/python/requirements.txt 2>/dev/null)" = "$wanted" ] && target/python/bin/python -c 'import psycopg' 2>/dev/null; then
    exit 0
fi
rm -rf target/python
mkdir -p target
python3 -m venv target/python
target/python/bin/pip install --quiet --disable-pip-version-check --no-input -r tests/requirements.txt
cp tests/requirements.txt target/python/requirements.txt
