#!/usr/bin/env bash
# cargo-fuzz (crates.io, with a nightly toolchain) over the targets of tests/fuzz, each for PLYFS_FUZZ_SECONDS (60), with
# AddressSanitizer and overflow checks. What is found to be new stays in target/fuzz; the corpus in tests/fuzz only grows
# by hand. The words are targets; without any, all.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$HOME/.cargo/bin:$PATH"
cargo +nightly fuzz --version >/dev/null 2>&1 || { echo "SKIPPED: cargo install cargo-fuzz; rustup toolchain install nightly"; exit 0; }
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(sed -n '/\[\[bin\]\]/,/name/s/^name = "\(.*\)"/\1/p' tests/fuzz/Cargo.toml)
failed=0
for target in "${targets[@]}"; do
    found=target/fuzz/found/$target
    mkdir -p "$found"
    cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz "$target" "$found" "tests/fuzz/corpus/$target" -- \
        -max_total_time="${PLYFS_FUZZ_SECONDS:-60}" -max_len=4096 -rss_limit_mb=1024 -timeout=10 \
        -artifact_prefix="target/fuzz/found/" >"target/fuzz/$target.log" 2>&1 || failed=1
    echo "$target: $(tail -n 1 "target/fuzz/$target.log")"
done
exit "$failed"
