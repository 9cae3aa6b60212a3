#!/bin/sh
# Fetches PostgreSQL's own regression suite for the installed server and compiles its C functions, into
# target/regress/<version>; does nothing when it is there. The suite comes from Debian's source package
# by apt (signed), the headers from postgresql-server-dev; nothing is installed.
#
# POSTGRES_SOURCE=DIRECTORY takes an unpacked source of the same version instead of apt's.
#
# Prints the directory, which holds `suite` and `isolation` (sql or specs, expected, schedules) and
# `regress.so`.
set -eu
cd "$(dirname "$0")/.."

bindir=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | while read -r dir; do
    [ -x "$dir/postgres" ] && echo "$dir"
done | grep '/15/' || true)
[ -n "$bindir" ] || { echo "regress.sh: no PostgreSQL 15 in /usr/lib/postgresql" >&2; exit 2; }
major=15
package=postgresql-$major
# "15.18 (Debian 15.18-0+deb12u1)"
version=$("$bindir/postgres" --version | sed 's/.* \([0-9][0-9.]*\) (.*/\1/')
debian=$(dpkg-query -W -f '${Version}' "$package")
at=$PWD/target/regress/$version
[ -f "$at/done" ] && { echo "$at"; exit 0; }
rm -rf "$at"
mkdir -p "$at/fetch" "$at/lists/partial"

if [ -n "${POSTGRES_SOURCE:-}" ]; then
    cp -r "$POSTGRES_SOURCE/src/test/regress" "$at/suite"
    cp -r "$POSTGRES_SOURCE/src/test/isolation" "$at/isolation"
else
    # The machine's own sources rarely include source packages; a list of our own changes nothing there.
    . /etc/os-release
    case $ID in
    debian)
        cat >"$at/sources.list" <<LIST
deb-src http://deb.debian.org/debian $VERSION_CODENAME main
deb-src http://deb.debian.org/debian-security $VERSION_CODENAME-security main
LIST
        ;;
    *)
        echo "regress.sh: on $ID, set POSTGRES_SOURCE to an unpacked source of PostgreSQL $version" >&2
        exit 2
        ;;
    esac
    apt() {
        apt-get -qq -o Dir::Etc::sourcelist="$at/sources.list" -o Dir::Etc::sourceparts=- \
            -o Dir::State::lists="$at/lists" -o APT::Sandbox::User=root "$@" >&2
    }
    apt update
    (cd "$at/fetch" && apt source --download-only --only-source "$package=$debian")
    mkdir "$at/source"
    tar xf "$at/fetch/${package}_$version.orig.tar.bz2" -C "$at/source" --strip-components=1
    mv "$at/source/src/test/regress" "$at/suite"
    mv "$at/source/src/test/isolation" "$at/isolation"
    rm -rf "$at/source"
fi

(cd "$at/fetch" && apt-get -qq -o APT::Sandbox::User=root download "postgresql-server-dev-$major=$debian" >&2)
dpkg -x "$at"/fetch/postgresql-server-dev-*.deb "$at/dev"
include=$at/dev/usr/include/postgresql
cc -O2 -fPIC -shared -fno-strict-aliasing -fwrapv -w -I"$include/$major/server" -I"$include/internal" \
    -D_GNU_SOURCE -o "$at/regress.so" "$at/suite/regress.c"
rm -rf "$at/fetch" "$at/lists" "$at/dev"
touch "$at/done"
echo "$at"
