#!/usr/bin/env bash
# fsx (crates.io), random reads, writes, mappings, truncations, holes and copies whose every read is checked, on plyfs:
# a file of the upper layer, a file of the lower layer emptied by the open, and one changed in place, each with and
# without mmap. After each run the lower layer must be what it was, and a new mount must show the same bytes.
#
# PLYFS_FSX_OPS operations each (100000), PLYFS_FSX_SEED (1), PLYFS_FSX_ON=kernel|fuse-overlayfs for another file system.
set -euo pipefail
suites=$(cd "$(dirname "$0")" && pwd)
. "$suites/lib.sh"
need fsx 'cargo install --locked fsx@0.3.2'

ops=${PLYFS_FSX_OPS:-100000}
seed=${PLYFS_FSX_SEED:-1}
on=${PLYFS_FSX_ON:-plyfs}

# In memory: each mapped write ends in msync(2), which would make this a test of the disk.
make_base "${PLYFS_FSX_DIR:-/dev/shm}"
passed=0
failed=0

sum() { sha256sum <"$1"; }

# in_place CONFIG: the same without what changes the size or opens the file again, so that the lower bytes count.
in_place() {
    sed -e '1i blockmode = true' -e 's/^\(close_open\|truncate\|posix_fallocate\) = .*/\1 = 0/' "$1"
}

# exercise FILE CONFIG: one run in a fresh union whose lower layer has `lower`, 256 KiB.
exercise() {
    local dir=$base/run file=$1 config=$2 before after
    make_layers "$dir"
    head -c 262144 /dev/urandom >"$dir/lower/lower"
    before=$(sum "$dir/lower/lower")
    mount_union "$on" "$dir" || return
    fsx -q -f "$config" -N "$ops" -S "$seed" -P "$base" "$dir/merged/$file" || return
    after=$(sum "$dir/merged/$file")
    unmount "$dir/merged" || return
    [ "$(sum "$dir/lower/lower")" = "$before" ] || { echo "the lower layer has changed" && return 1; }
    [ "$(ls -A "$dir/lower")" = lower ] || { echo "the lower layer has a new name" && return 1; }
    mount_union "$on" "$dir" || return
    [ "$(sum "$dir/merged/$file")" = "$after" ] || { echo "other bytes after a remount" && return 1; }
    unmount "$dir/merged"
}

for kind in mmap plain; do
    in_place "$suites/fsx-$kind.toml" >"$base/in-place.toml"
    for run in upper lower in-place; do
        config=$suites/fsx-$kind.toml file=$run
        [ "$run" = in-place ] && config=$base/in-place.toml file=lower
        started=$SECONDS
        if exercise "$file" "$config"; then
            passed=$((passed + 1)) result=ok
        else
            failed=$((failed + 1)) result=FAILED
            unmount "$base/run/merged" 2>/dev/null || true
        fi
        echo "  fsx $kind, $run file, $ops operations ($((SECONDS - started)) s): $result"
        rm -rf "$base/run"
    done
done
echo "fsx on $on: $passed passed, $failed failed"
[ "$failed" = 0 ]
