#!/usr/bin/env bash
# The engine under a scheduler that decides at each lock which thread goes on (tests/models.rs; crates.io: shuttle).
# PLYFS_TEST_CASES schedules of each model (200). The words are models.
set -euo pipefail
cd "$(dirname "$0")/../.."
RUSTFLAGS="--cfg plyfs_shuttle" cargo test --target-dir target/shuttle --test models -- --test-threads=2 "$@"
