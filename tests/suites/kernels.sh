#!/usr/bin/env bash
# Kernels of Debian's, from the oldest to the newest that it has, each booted in qemu: the story of examples/house.rs and
# suites of tests there, as root and as a normal user, with OverlayFS taken away, and then what compares with OverlayFS.
# The table of docs/kernels.md. Root; skipped aloud where there can be no machine.
#
#   kernels.sh [SUITE…]     only the kernels of these suites of Debian (bullseye bookworm trixie experimental)
#
# Says `RESULT kernel part as who: ok | FAILED | SKIPPED why` for each, and all of them as a table in the end. What the
# tests said is kept in $vm_cache/kernels-SUITE.log.
#
# PLYFS_KERNELS_PARTS           the parts to run (all of them)
# PLYFS_KERNELS_TESTS           only the tests with one of these words in their names
# PLYFS_KERNELS_PART_SECONDS    how long one part may take (3000)
# PLYFS_TEST_SLOWER             by how much the limits in the tests are longer (20)
suites=$(cd "$(dirname "$0")" && pwd)
. "$suites/lib.sh"
. "$suites/vm.sh"

programs=(kernels engine traps differential regressions)
parts=${PLYFS_KERNELS_PARTS:-story ${programs[*]} absent overlay pjdfstest}
kernels=("$@")
[ $# != 0 ] || kernels=(bullseye bookworm trixie experimental)

why=$(vm_missing)
[ -z "$why" ] || { echo "SKIPPED: kernels.sh: $why"; exit 0; }
vm_root || { echo "SKIPPED: kernels.sh: no Debian to boot"; exit 0; }

# What goes into the machine, and stands there where it stands here: the tests know the path of the repository.
make_base
at=$base/payload
mkdir -p "$at/repo/tests" "$at/bin"
cp -r "$repo/docs" "$at/repo"
cp -r "$suites" "$at/repo/tests"
build() { (cd "$repo" && cargo "$@" 2>&1) | tee /dev/stderr; }
build build --release --bins -p plyfs -p house >"$base/built"
# shellcheck disable=SC2046
build test --release --no-run $(printf -- '--test %s ' "${programs[@]}") >"$base/built"
for name in "${programs[@]}"; do
    program=$(sed -n "s/^ *Executable tests\/$name[/.].*(\(.*\))\$/\1/p" "$base/built")
    [ -n "$program" ] || exit 1
    (cd "$repo" && cp "$program" "$at/bin/$name")
done
cp "$plyfs" "$(dirname "$plyfs")/house" "$at/bin"
strip "$at"/bin/*
! have pjdfstest || cp "$(command -v pjdfstest)" "$at/bin"
cat >"$at/settings" <<SETTINGS
repo=$repo
parts="$parts"
seconds=${PLYFS_KERNELS_PART_SECONDS:-3000}
word="${PLYFS_KERNELS_TESTS:-}"
export PLYFS_TEST_SLOWER=${PLYFS_TEST_SLOWER:-20} PLYFS_TEST_CASES=${PLYFS_TEST_CASES:-1}
SETTINGS

cat >"$base/script" <<'SCRIPT'
mount /dev/vdb /payload
. /payload/settings
mkdir -p "$(dirname "$repo")"
ln -s /payload/repo "$repo"
export PATH=/payload/bin:$PATH PLYFS_TEST_BIN=/payload/bin/plyfs RUST_BACKTRACE=0
release=$(uname -r)
# On the disk: a tmpfs has no user.* attributes before Linux 6.6.
for who in root tests; do
    mkdir -p "/layers/$who"
    chown "$who" "/layers/$who"
done
cd /layers

wanted() { [[ " $parts " = *" $1 "* ]]; }

# tell PART WHO RESULT…
tell() { echo "RESULT $release $1 as $2: ${*:3}"; }

# part NAME WHO COMMAND…: runs it with its limit of time, and tells what came of it.
part() {
    local name=$1 who=$2 log=/layers/log status start=$SECONDS mounted as=()
    shift 2
    [ "$who" = root ] || as=(setpriv "--reuid=$who" "--regid=$who" --clear-groups)
    export HOME=/layers/$who PLYFS_TEST_DIR=/layers/$who TMPDIR=/layers/$who
    echo "--- $release $name as $who"
    timeout -k 20 "$seconds" "${as[@]}" "$@" 2>&1 | tee $log
    status=${PIPESTATUS[0]}
    awk '$5 ~ "/plyfs-" { print $5 }' /proc/self/mountinfo | sort -r | while read -r mounted; do umount -l "$mounted"; done
    local passed skipped failed
    passed=$(sed -n 's/^test result: .* \([0-9]*\) passed.*/, \1 tests passed/p' $log)
    skipped=$(grep -c '^SKIPPED: ' $log)
    [ "$skipped" = 0 ] || passed="$passed, $skipped skipped"
    failed=$(sed -n '/^failures:$/,$s/^    \([a-z_:0-9]*\)$/\1/p' $log | sort -u | tr '\n' ' ')
    [ "$status" != 124 ] || failed="not done; running were: $(sed -n 's/^test \(.*\) has been running.*/\1/p' $log | tr '\n' ' ')"
    if [ "$status" = 0 ]; then tell "$name" "$who" "ok ($((SECONDS - start)) s$passed)"; else
        tell "$name" "$who" "FAILED (status $status, $((SECONDS - start)) s$passed) $failed"
    fi
}

# overlay away|back: OverlayFS is a module.
overlay() {
    local module
    module=$(find "/lib/modules/$release" -name 'overlay.ko*' | head -n 1)
    case $1 in
        away) modprobe -qr overlay; mv "$module" "$module.away"; ! grep -qw overlay /proc/filesystems ;;
        back) mv "$module" "${module%.away}"; modprobe overlay ;;
    esac
}

overlay away || echo "SKIPPED: OverlayFS cannot be taken away: it is in the kernel"
for who in root tests; do
    for name in story kernels engine traps regressions differential absent; do
        wanted $name || continue
        case $name in
            story) part story $who house ;;
            # It takes away what newer kernels have, one after the other, which is long.
            kernels) part kernels $who kernels --skip each_newer $word ;;
            absent) part absent $who kernels each_newer ;;
            # The legs of the suites are run by this script.
            *) part $name $who $name --test-threads 2 --skip again_ $word ;;
        esac
    done
done
if wanted overlay; then
    # What reads and writes the marks of OverlayFS, beside OverlayFS itself.
    overlay back
    part kernels-with-overlayfs root kernels uuid
    part traps-with-overlayfs root traps chain
    overlay away
fi
if wanted pjdfstest && ! [ -x /payload/bin/pjdfstest ]; then
    tell pjdfstest root "SKIPPED no pjdfstest: cargo install --locked pjdfstest@0.2.2"
elif wanted pjdfstest; then
    # A short path: the suite binds sockets below it, whose paths have 107 bytes at most.
    PLYFS_NO_KERNEL=1 PLYFS_KEEP_LOG=/dev/stderr part pjdfstest root env PLYFS_TEST_DIR=/layers bash "$repo/tests/suites/pjdfstest.sh"
fi
exit 0
SCRIPT

# table: the results as docs/kernels.md has them.
table() {
    printf '| kernel | part | as | result |\n|---|---|---|---|\n'
    sed 's/^RESULT \([^ ]*\) \([^ ]*\) as \([^ ]*\): \(.*\)$/| \1 | \2 | \3 | \4 |/' "$base/results"
}

touch "$base/results"
for suite in "${kernels[@]}"; do
    log=$vm_cache/kernels-$suite.log
    vm_kernel "$suite" || { echo "RESULT $suite all as all: SKIPPED no kernel to be had" | tee -a "$base/results"; continue; }
    vm_pack "$at" "$base/payload.img"
    set +e
    VM_MODULES="xfs btrfs squashfs overlay" vm_run "${PLYFS_KERNELS_SECONDS:-10000}" "$base/script" "$base/payload.img" |
        tee "$log" | grep --line-buffered '^RESULT \|^SKIPPED: '
    status=${PIPESTATUS[0]}
    set -e
    grep '^RESULT ' "$log" >>"$base/results" || true
    [ "$status" = 0 ] || echo "RESULT $(cat "$kernel/version") machine as root: FAILED it ended with $status" | tee -a "$base/results"
done
echo
table
! grep -q ': FAILED' "$base/results"
