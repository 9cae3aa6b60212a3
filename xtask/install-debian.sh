#!/bin/sh
# Installs what the demo, the tests and the benches need on Debian or Ubuntu; does nothing when
# everything is there. Without root and without password-less sudo it prints the one line to type
# and ends with 2.
#
# usage: install-debian.sh demo|test|campaign|bench
set -eu

purpose=${1:-demo}
packages=

need() { # command-that-shows-it package...
    check=$1
    shift
    if ! sh -c "$check" >/dev/null 2>&1; then packages="$packages $*"; fi
}

# The same places in the same order as src/lab/programs.rs.
server_dirs() {
    if [ -n "${PG_BINDIR:-}" ]; then
        echo "$PG_BINDIR"
        return
    fi
    pg_config --bindir 2>/dev/null || true
    ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V -r || true
}

has_server() {
    for dir in $(server_dirs); do
        [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ] && [ -x "$dir/pg_basebackup" ] &&
            [ -x "$dir/pgbench" ] && [ -x "$dir/pg_dump" ] && return 0
    done
    return 1
}

has_server || packages="$packages postgresql postgresql-contrib"
need 'command -v psql' postgresql-client
need 'command -v cc' gcc libc6-dev
case $purpose in
test) need 'python3 -c "import venv, ensurepip"' python3 python3-venv ;;
campaign)
    need 'python3 -c "import venv, ensurepip"' python3 python3-venv
    need 'command -v node && command -v npm' nodejs npm
    need 'command -v javac' default-jdk-headless
    need 'test -e /usr/share/java/postgresql.jar' libpostgresql-jdbc-java
    need 'command -v go' golang-go
    need 'command -v curl' curl
    ;;
bench) need 'command -v pgbouncer || test -x /usr/sbin/pgbouncer' pgbouncer ;;
esac
[ -n "$packages" ] || exit 0

# No server of the distribution's own: the file has to be there before the package, whose
# configuration reads this directory.
line="mkdir -p /etc/postgresql-common/createcluster.d && \
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/no-main-cluster.conf && \
apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends$packages"

if ! command -v apt-get >/dev/null; then
    echo "missing:$packages (Debian's names); install them with this system's package manager" >&2
    exit 2
elif [ "$(id -u)" = 0 ]; then
    echo "installing:$packages"
    sh -c "$line" </dev/null
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    echo "installing with sudo:$packages"
    sudo -n sh -c "$line" </dev/null
else
    echo "missing:$packages; install them with:" >&2
    printf '%s\n' "sudo sh -c \"$line\"" >&2
    exit 2
fi

# The package starts a daemon on 6432, which is our own default port.
case $packages in
*pgbouncer*)
    if [ "$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi
    $as_root systemctl disable --now pgbouncer 2>/dev/null || $as_root service pgbouncer stop 2>/dev/null || true
    ;;
esac
