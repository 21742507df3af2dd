#!/usr/bin/env bash
# The engine's threads (tests/threads.rs) under ThreadSanitizer: a nightly toolchain with rust-src builds the standard library
# with it, too. PLYFS_STRESS_SECONDS (60). A report fails the run. One is suppressed: triomphe's Arc (a counted name) orders the
# last drop by a fence, which ThreadSanitizer does not know; the standard library's Arc loads instead where it is watched.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$HOME/.cargo/bin:$PATH"
if [ ! -d "$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src" ]; then
    echo "SKIPPED: rustup toolchain install nightly; rustup +nightly component add rust-src"
    exit 0
fi
target=$(rustc +nightly -vV | sed -n 's/^host: //p')
suppressed=$(mktemp)
trap 'rm -f "$suppressed"' EXIT
echo 'race:triomphe::arc::Arc*drop_slow' >"$suppressed"
export RUSTFLAGS="-Zsanitizer=thread" TSAN_OPTIONS="exitcode=66 history_size=4 suppressions=$suppressed"
PLYFS_STRESS_SECONDS="${PLYFS_STRESS_SECONDS:-60}" \
    cargo +nightly test -Zbuild-std --target "$target" --target-dir target/tsan --test threads "$@" -- --nocapture
