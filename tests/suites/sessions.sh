#!/usr/bin/env bash
# Programs that people run in a session (`plyfs run`), as root and as a normal user. A line for each; what cannot be had is
# skipped. They need the registries of npm, PyPI and Debian.
#
# PLYFS_SESSIONS='npm make': only these.
set -euo pipefail
suites=$(cd "$(dirname "$0")" && pwd)
. "$suites/lib.sh"

[ "$(id -u)" = 0 ] || { echo "SKIPPED: sessions: root is needed"; exit 0; }
need "$plyfs" 'cargo build --release'
make_base
user=plyfs-sessions-$$
end() {
    userdel "$user" 2>/dev/null || true
    cleanup
}
trap end EXIT
useradd --system --user-group --home-dir "$base/user" --shell /bin/bash "$user"
mkdir "$base/user" "$base/root" "$base/source"
cp "$plyfs" "$base/plyfs"
# Rust's tools are found by the home directory, which is another one here.
export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
chown "$user:$user" "$base/user"

# fetch_lua: the source of a program that make(1) builds, in $base/source.
fetch_lua() {
    local lists=$base/lists
    mkdir -p "$lists/partial"
    echo 'deb-src [trusted=yes] http://deb.debian.org/debian bookworm main' >"$base/sources.list"
    local apt=(apt-get -qq -o Dir::Etc::sourcelist="$base/sources.list" -o Dir::Etc::sourceparts=/nonexistent -o Dir::State::lists="$lists")
    (cd "$base/source" && "${apt[@]}" update && "${apt[@]}" --download-only source lua5.4) >/dev/null 2>&1 || true
    chmod -R a+rX "$base/source"
    ls "$base"/source/*.orig.tar.* >/dev/null 2>&1
}

passed=0
failed=0
# row NAME PROGRAM SCRIPT: as root and as the user the script succeeds in a session, and outside nothing is changed.
row() {
    local who as begin
    [ -z "${PLYFS_SESSIONS:-}" ] || [[ " $PLYFS_SESSIONS " == *" $1 "* ]] || return 0
    for who in root user; do
        as=()
        [ "$who" = root ] || as=(setpriv --reuid "$user" --regid "$user" --clear-groups)
        "${as[@]}" bash -c "$2 --version" >/dev/null 2>&1 || { echo "SKIPPED: sessions: $1: $who has no $2"; continue; }
        begin=$(date +%s%N)
        if (cd "$base/$who" && HOME=$base/$who XDG_STATE_HOME=$base/$who/.state source=$base/source \
            "${as[@]}" timeout 300 "$base/plyfs" run -q -n "$1" -- bash -ec "$3") >"$base/said" 2>&1 &&
            [ "$(ls "$base/$who")" = "" ]; then
            passed=$((passed + 1))
            echo "| $1 | $who | pass | $((($(date +%s%N) - begin) / 1000000)) ms |"
        else
            failed=$((failed + 1))
            echo "| $1 | $who | FAIL: $(tail -1 "$base/said" | tr '|\n' '  ' | cut -c 1-200) | |"
        fi
    done
}

row npm npm 'mkdir n; cd n; npm init -y >/dev/null; npm install express lodash >/dev/null; rm -r node_modules; npm ci; node -e "require(\"express\")"'
row pip python3 'python3 -m venv v; v/bin/pip install -q six; v/bin/python -c "import six"'
row git git 'git init -q g; cd g; git config user.email a@b; git config user.name a
    for i in $(seq 100); do echo $i >f$i; git add .; git commit -qm $i; done; git gc -q --aggressive; git fsck --full; test -z "$(git status --porcelain)"'
row cargo cargo 'cargo init -q --vcs none c; cd c; cargo run -q | grep Hello; cargo clean -q; cargo build -q --release'
row vim vim 'echo a >e; vim -es -c "%s/a/b/" -c wq e; grep b e'
if have make && have cc && fetch_lua; then
    row make make 'tar xf $source/*.orig.tar.*; cd lua*; make -j4 linux; test "$(src/lua -e "print(6 * 7)")" = 42'
else
    echo "SKIPPED: sessions: make: no make, cc or source of lua5.4"
fi

# apt ROOT ONLY: packages change the machine, in the session alone.
if [ -z "${PLYFS_SESSIONS:-}" ] && have apt-get && ! have cowsay; then
    if "$base/plyfs" run --store "$base/root/.store" -q --rm -- sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends cowsay && /usr/games/cowsay hi' >"$base/said" 2>&1 &&
        [ ! -e /usr/games/cowsay ] && ! dpkg -s cowsay >/dev/null 2>&1; then
        passed=$((passed + 1))
        echo "| apt-get | root | pass | |"
    else
        failed=$((failed + 1))
        echo "| apt-get | root | FAIL: $(tail -1 "$base/said" | cut -c 1-200) | |"
    fi
fi
echo "sessions: $passed passed, $failed failed"
[ "$failed" = 0 ]
