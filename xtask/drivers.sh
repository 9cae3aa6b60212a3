#!/bin/sh
# Installs the client libraries that only `make campaign` drives, as tests/drivers pins them, into
# target/drivers; JDBC is Debian's package (see install-debian.sh). Does nothing when all is there.
set -eu
cd "$(dirname "$0")/.."
xtask/install-debian.sh campaign

fresh() { # wanted-file its-copy
    cmp -s "$1" "$2"
}

for name in asyncpg orm; do
    at=target/drivers/$name
    if ! fresh tests/drivers/$name/requirements.txt $at/requirements.txt; then
        rm -rf $at
        mkdir -p target/drivers
        python3 -m venv $at
        $at/bin/pip install --quiet --disable-pip-version-check --no-input -r tests/drivers/$name/requirements.txt
        cp tests/drivers/$name/requirements.txt $at/
    fi
done

at=target/drivers/node
if ! fresh tests/drivers/node/package-lock.json $at/installed.json; then
    rm -rf $at
    mkdir -p $at
    cp tests/drivers/node/package.json tests/drivers/node/package-lock.json $at/
    npm ci --prefix $at --no-audit --no-fund --ignore-scripts --loglevel=error
    cp tests/drivers/node/package-lock.json $at/installed.json
fi

# Go fetches the modules from its own proxy (GOPROXY), as go.sum has their hashes. Where that cannot be
# reached, the other drivers are tested all the same, and the tests of these say what is missing.
at=target/drivers/go
sources=$(find tests/drivers/go -type f | sort | xargs cat | cksum)
if [ "$sources" != "$(cat $at/sources 2>/dev/null)" ]; then
    rm -rf $at
    mkdir -p $at
    if (cd tests/drivers/go && go build -o ../../../$at/ ./pgx ./pq); then
        echo "$sources" >$at/sources
    else
        echo "the programs in Go were not built" >&2
    fi
fi

# Prometheus' exporter for PgBouncer: what Debian 13 has built of it, which runs on older ones as well.
# (Debian 12 has another program of the same name.)
at=target/drivers/exporter
package=prometheus-pgbouncer-exporter_0.10.2-2_amd64.deb
hash=e8273a94188fd70ad17e9cb8c3a87a11dacce90600223ca919e029e544a07a3a
if ! [ -x $at/pgbouncer_exporter ]; then
    rm -rf $at
    mkdir -p $at
    from=http://deb.debian.org/debian/pool/main/p/prometheus-pgbouncer-exporter/$package
    if [ "$(dpkg --print-architecture)" = amd64 ] && curl -fsS -o $at/$package $from &&
        echo "$hash  $at/$package" | sha256sum --check --quiet; then
        dpkg-deb -x $at/$package $at/unpacked
        ln -s unpacked/usr/bin/prometheus-pgbouncer-exporter $at/pgbouncer_exporter
    elif ! GOBIN="$PWD/$at" go install github.com/prometheus-community/pgbouncer_exporter@v0.10.2; then
        echo "pgbouncer_exporter was not installed" >&2
    fi
fi
