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

# With the examples, whose crates the tests have built: without them the library would be built once more.
cargo build --release --quiet --workspace --bins --examples
target/release/house
# Without criterion and proptest: `cargo check` in tests/all.sh compiles it so.
if cargo tree -p house -e normal,build | grep -E "criterion|proptest"; then
    echo "the demonstration needs more than the library does"
    exit 1
fi
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
# The study: what it writes is whole, its page names all, and its statistics are right where the answer is known.
mkdir "$base/page"
# Where a sync costs nothing: all of it has its turn.
fast=$base
[ ! -w /dev/shm ] || fast=/dev/shm
example study -- --quick --budget 40 --on "$fast" --json "$base/study.json" --csv "$base/study.csv" --html "$base/page" --markdown "$base/study.md" >"$base/said" 2>"$base/skipped"
python3 - "$base" <<'END'
import csv, json, sys
base = sys.argv[1]
run = json.load(open(f"{base}/study.json"))
page = open(f"{base}/page/index.html").read()
methods = {(one["method"], one["durability"]) for one in run["series"]}
assert ("engine", "auto") in methods and ("plyfs", "strict") in methods, methods
for method, durability in methods:
    assert f"{method} ({durability})" in page, f"the page lacks {method} ({durability})"
try:
    import jsonschema
    jsonschema.validate(run, json.load(open("examples/study/schema.json")))
except ImportError:
    print("SKIPPED: the schema of the study: python3-jsonschema is not there")
assert "http" not in page and "<script" not in page, "the page needs something from elsewhere"
samples = sum(len(one["samples_ns"]) for one in run["series"])
assert samples == sum(1 for _ in csv.DictReader(open(f"{base}/study.csv"))), "the CSV has other samples"
whole = [one for one in run["series"] if (one["method"], one["size_bytes"], one["extra"]) == ("plyfs", 1 << 20, "nothing")]
for one in whole:
    grows = one["change"] not in ("chmod", "chown", "setxattr", "rename", "link")
    least, most = (1 << 19, 3 << 20) if grows else (0, 1 << 16)
    assert least <= one["upper_bytes"] <= most, one
assert len({one["change"] for one in whole}) > 3 and run["machine"]["cpu"] and run["places"][0]["file_system"]
extras = {one["extra"] for one in run["series"] if one["change"] == "middle"}
assert extras == {"nothing", "xattrs", "acl", "holes", "links", "depth"}, (extras, run["skipped"])
words = {one["change"] for one in run["series"]}
assert "stat-meanwhile" in words or any("there is no room" in why for why in run["skipped"]), run["skipped"]
holes = [one["upper_bytes"] for one in run["series"] if (one["method"], one["extra"]) == ("plyfs", "holes")]
assert holes and max(holes) < 1 << 18, holes
table = open(f"{base}/study.md").read()
assert "| middle, 1 MiB | nothing | xattrs | acl | holes | links | depth |" in table and "| engine (auto) |" in table, table

# Two lines that cross at 9000 bytes, and the same with the one a tenth slower.
def known(file, slower):
    series = []
    for method, a, b in ("first", 3000, 2 * slower), ("second", 12000, 1):
        for size in 4096, 8192, 65536, 1048576:
            samples = [a + b * size + wobble for wobble in range(-5, 6)]
            series.append({"place": "p", "method": method, "durability": "auto", "change": "middle", "extra": "nothing", "size_bytes": size,
                           "changed_bytes": 4096, "upper_bytes": size, "device_bytes": None, "samples_ns": samples})
    json.dump({**run, "skipped": [], "places": [{"name": "p"}], "series": series}, open(f"{base}/{file}", "w"))
known("known.json", 1)
known("slower.json", 1.1)
END
example study -- --from "$base/known.json" >"$base/said"
says study 'p: middle, first \(auto\): 3 µs ± 0 ns \+ \(2.10 ms ± 0 ns\) per MiB$'
says study 'p: middle: from 8.79 KiB on second \(auto\) costs less than first \(auto\)$'
example study -- --compare "$base/known.json" "$base/known.json" >"$base/said"
says study '^0 of 8 differ'
example study -- --compare "$base/known.json" "$base/slower.json" >"$base/said"
says study '^4 of 8 differ'
says study '^p .* first \(auto\) .* x1.10  '
echo "the examples run"
