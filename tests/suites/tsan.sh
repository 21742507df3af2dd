#!/usr/bin/env bash
# The engine's threads (tests/threads.rs) under ThreadSanitizer: a nightly toolchain with rust-src builds the standard library
# with it, too. PLYFS_STRESS_SECONDS (60). Nothing is suppressed: a report fails the run.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$HOME/.cargo/bin:$PATH"
if [ ! -d "$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src" ]; then
    echo "SKIPPED: rustup toolchain install nightly; rustup +nightly component add rust-src"
    exit 0
fi
target=$(rustc +nightly -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Zsanitizer=thread" TSAN_OPTIONS="halt_on_error=0 exitcode=66 history_size=4"
PLYFS_STRESS_SECONDS="${PLYFS_STRESS_SECONDS:-60}" \
    cargo +nightly test -Zbuild-std --target "$target" --target-dir target/tsan --test threads "$@" -- --nocapture
