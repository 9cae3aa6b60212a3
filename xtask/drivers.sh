#!/bin/sh
# Installs the client libraries that only `make campaign` drives, as tests/drivers pins them, into
# target/drivers; JDBC is Debian's package (see install-debian.sh). Does nothing when all is there.
set -eu
cd "$(dirname "$0")/.."
xtask/install-debian.sh campaign

fresh() { # wanted-file its-copy
    cmp -s "$1" "$2"
}

at=target/drivers/asyncpg
if ! fresh tests/drivers/asyncpg/requirements.txt $at/requirements.txt; then
    rm -rf $at
    mkdir -p target/drivers
    python3 -m venv $at
    $at/bin/pip install --quiet --disable-pip-version-check --no-input -r tests/drivers/asyncpg/requirements.txt
    cp tests/drivers/asyncpg/requirements.txt $at/
fi

at=target/drivers/node
if ! fresh tests/drivers/node/package-lock.json $at/installed.json; then
    rm -rf $at
    mkdir -p $at
    cp tests/drivers/node/package.json tests/drivers/node/package-lock.json $at/
    npm ci --prefix $at --no-audit --no-fund --ignore-scripts --loglevel=error
    cp tests/drivers/node/package-lock.json $at/installed.json
fi
