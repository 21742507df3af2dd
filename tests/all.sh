#!/usr/bin/env bash
# All that must hold before a change lands. Every section runs, even after one has failed; the last lines say which failed,
# and what was skipped.
#
# --quick: what tells most in three minutes, for people at work (the build not counted).
# PLYFS_FSX_OPS (operations of each fsx run), PLYFS_STRESS_SECONDS and PLYFS_TEST_CASES make it shorter or longer.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"
export PLYFS_FSX_OPS="${PLYFS_FSX_OPS:-2000}"
passed=0
failed=0
broken=()
quick=false
case "$*" in
    '') ;;
    --quick) quick=true ;;
    *) echo "usage: tests/all.sh [--quick]" >&2; exit 2 ;;
esac
said=$(mktemp)
trap 'rm -f "$said"' EXIT

# section NAME COMMAND...
section() {
    local name=$1 start=$SECONDS
    shift
    printf '\n=== %s\n' "$name"
    if "$@" 2>&1 | tee -a "$said"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        broken+=("$name")
    fi
    printf '=== %s: %s s\n' "$name" $((SECONDS - start))
}

# What could not be tried here is said by each test as `SKIPPED: NAME: WHY`; what only a later run of a suite as another
# user leaves out (`again_…`) is counted alone.
finish() {
    local name skipped
    skipped=$(grep -a -o 'SKIPPED: .*' "$said" | sort -u)
    printf '\n'
    grep -v '^SKIPPED: again_' <<<"$skipped"
    for name in ${broken[@]+"${broken[@]}"}; do echo "FAILED: $name"; done
    # What a test says of its fault stands far above: here are the names, and the first lines.
    grep -a -o -E '^test .* \.\.\. FAILED' "$said" | sort -u | while read -r _ test _; do
        echo "FAILED: $test"
        grep -a -A 4 "^thread '$test' .*panicked at" "$said" | cut -c1-400 | head -n 6
    done
    echo "$passed passed, $failed failed, $(grep -c . <<<"$skipped") skipped"
    [ "$failed" = 0 ]
    exit
}

section "formatting" cargo fmt --all --check
section "clippy" cargo clippy --release --all-targets --workspace -- -D warnings
if $quick; then
    section "tests" cargo test --release --no-fail-fast --lib --test house --test engine --test cli --test regressions \
        --test traps --test requests --test data_path --test differential
    finish
fi

section "tests" cargo test --release --no-fail-fast
for way in io=passthrough io=writeback copyup=open supervise; do
    [ "$way" = io=passthrough ] && [ "$(id -u)" != 0 ] && continue
    section "tests with $way" env PLYFS_TEST_OPTIONS="$way" \
        cargo test --release --no-fail-fast --test regressions --test traps --test stress -- --skip again_
done
# What is newer than some kernels in use is missing: docs/kernels.md.
section "tests with everything newer missing" env PLYFS_ABSENT=all \
    cargo test --release --no-fail-fast --test regressions --test traps --test stress --test engine -- --skip again_
section "examples" bash tests/suites/examples.sh
section "build of the benches" cargo bench --quiet --no-run
for bench in copy_up copy_up_methods metadata lookup readdir mount_ops inode_table; do
    section "bench $bench (short)" env PLYFS_BENCH_SHORT=1 cargo bench --bench "$bench"
done
# The binary of the sections below is the one of the tests; without their crates it and the demonstration compile, too.
section "check" cargo check --release --workspace
if [ "$(id -u)" = 0 ] && command -v python3 >/dev/null; then
    section "programs (short)" python3 benches/programs.py --scale 0.01 --rounds 1
else
    echo "SKIPPED: benches/programs.py: root and python3 are needed" | tee -a "$said"
fi
section "pjdfstest" bash tests/suites/pjdfstest.sh
section "fsx" bash tests/suites/fsx.sh
section "podman" bash tests/suites/podman.sh
section "images" bash tests/suites/images.sh
section "clients" env PLYFS_CLIENTS="bubblewrap apt docker" bash tests/suites/clients.sh

finish
