#!/usr/bin/env bash
# Each example runs, and what it says is true of layers that a mount wrote.
set -euo pipefail
cd "$(dirname "$0")/../.."
base=$(mktemp -d)
mounted=
trap '[ -z "$mounted" ] || umount "$base/view" || fusermount3 -u "$base/view"; rm -rf "$base"' EXIT
example() { cargo run --release --quiet --example "$@"; }

# says WHAT LINE: a line of the output of the last example.
says() {
    grep -qE -- "$2" "$base/said" || { echo "$1 does not say: $2"; cat "$base/said"; exit 1; }
}

example house
mkdir "$base"/{lower,upper,work,view}
echo hello >"$base/lower/greeting"
echo gone >"$base/lower/deleted"
mkdir "$base/lower/dir"
echo more >"$base/lower/dir/file"
target/release/plyfs -o "lowerdir=$base/lower,upperdir=$base/upper,workdir=$base/work" "$base/view"
mounted=yes
rm "$base/view/deleted"
chmod 600 "$base/view/greeting"
mv "$base/view/dir" "$base/view/moved"
umount "$base/view" 2>/dev/null || fusermount3 -u "$base/view"
mounted=

example merged "$base/upper" "$base/lower" >"$base/said"
says merged ' 6  /greeting$'
says merged ' 5  /moved/file$'
says merged ' 11  in 2 files$'
example marks "$base/upper" >"$base/said"
says marks '^/deleted  whiteout'
says marks '^/moved  redirect: the layers below have it as dir '
says marks '^/greeting  metacopy: '
example own_bench -- --bench --warm-up-time 0.1 --measurement-time 0.2 'first_write/4096' >"$base/said" 2>&1
says own_bench 'thrpt: '
echo "the examples run"
