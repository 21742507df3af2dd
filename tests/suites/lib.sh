# What the suites share: where things are, layers in a directory of their own, mounts that end with the script.
# Sourced by bash; $suites is the directory of this file.

set -euo pipefail

repo=$(cd "$suites/../.." && pwd)
plyfs=${PLYFS_TEST_BIN:-$(cd "$repo" && realpath -m "${CARGO_TARGET_DIR:-target}/release/plyfs")}
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin
export RUST_BACKTRACE=0

base=
cleanup() {
    local at
    [ -n "$base" ] || return 0
    # The innermost first; `base` has no characters that the mount table escapes.
    awk -v base="$base/" 'index($5, base) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r at; do
        unmount "$at" || umount -l "$at"
    done
    rm -rf "$base"
}
trap cleanup EXIT

# make_base [PARENT]: sets $base to a fresh directory that every user can reach.
make_base() {
    base=$(mktemp -d -p "${1:-${PLYFS_TEST_DIR:-/var/tmp}}" plyfs-suite.XXXXXX)
    chmod 755 "$base"
}

have() { command -v "$1" >/dev/null; }

need() {
    have "$1" && return
    echo "$0: $1 is missing: $2" >&2
    exit 1
}

# make_layers DIR: the four directories of one union.
make_layers() { mkdir -p "$1/lower" "$1/upper" "$1/work" "$1/merged"; }

# mount_union IMPLEMENTATION DIR: DIR/merged shows DIR/lower below DIR/upper.
mount_union() {
    local options="lowerdir=$2/lower,upperdir=$2/upper,workdir=$2/work"
    case $1 in
        plyfs) "$plyfs" -o "$options" "$2/merged" ;;
        kernel) mount -t overlay overlay -o "$options" "$2/merged" ;;
        fuse-overlayfs) fuse-overlayfs -o "$options" "$2/merged" 2>"$2/messages" ;;
    esac
}

# unmount AT: until nothing holds it any more, at most five seconds.
unmount() {
    local i
    for i in 1 2 3 4 5; do
        if [ "$(id -u)" = 0 ]; then umount "$1" && return; else fusermount3 -u "$1" && return; fi
        sleep 1
    done
    return 1
}
