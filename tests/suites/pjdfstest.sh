#!/usr/bin/env bash
# The POSIX test suite pjdfstest (crates.io) on plyfs, beside the file system below it, the kernel's OverlayFS and
# fuse-overlayfs. It runs as root, in a directory that comes from the lower layer.
#
# Fails unless plyfs fails nothing and passes all that the file system below it passes. One case is done by hand:
# `link::link_count_max` asks pathconf(3) for LINK_MAX, which glibc knows by the file system's magic number; for FUSE and
# for overlay it answers 127 and the suite skips the case. So links are made here until EMLINK, and counted.
set -euo pipefail
suites=$(cd "$(dirname "$0")" && pwd)
. "$suites/lib.sh"

if [ "$(id -u)" != 0 ]; then
    echo "SKIPPED: pjdfstest switches users, so it needs root"
    exit 0
fi
need pjdfstest 'cargo install --locked pjdfstest@0.2.2'
need perl 'apt-get install perl'
for user in nobody tests; do
    getent passwd "$user" >/dev/null || { echo "$0: no user $user: useradd --system --user-group $user" >&2; exit 1; }
done

make_base
mkdir -m 1777 "$base/second"
mount -t tmpfs second "$base/second"

# run_suite NAME DIR: the results in $base/NAME.results, one "case ok|FAILED|skipped" a line, and all that was said in .log.
run_suite() {
    pjdfstest -c "$suites/pjdfstest.toml" -p "$2" -s "$base/second" >"$base/$1.log" 2>&1 || true
    awk 'NF == 2 && $2 ~ /^(ok|FAILED|skipped)$/ { print $1, $2 }' "$base/$1.log" | sort >"$base/$1.results"
    grep -q '^Summary: ' "$base/$1.log" || { tail -n 20 "$base/$1.log"; echo "$0: pjdfstest did not end on $1" >&2; exit 1; }
}

# count_links DIR: how many names one file can have there, or 70000 where no limit is met before.
count_links() {
    mkdir "$1/names"
    perl -e 'chdir shift; open my $f, ">", "f"; my $n = 1; while ($n < 70000 && link "f", "l$n") { $n++ }
        die "link $n: $!\n" if $n < 70000 && !$!{EMLINK}; print "$n\n"' "$1/names"
    rm -rf "$1/names"
}

count() { grep -c " $2\$" "$base/$1.results" || true; }

row() {
    printf '  %-24s %4d passed, %3d failed, %3d skipped, %6s links of one file\n' \
        "$1" "$(count "$2" ok)" "$(count "$2" FAILED)" "$(count "$2" skipped)" "$3"
}

mkdir -m 755 "$base/plain"
run_suite plain "$base/plain"
plain_links=$(count_links "$base/plain")
row "$(findmnt -no FSTYPE -T "$base/plain") (below)" plain "$plain_links"

for name in kernel fuse-overlayfs plyfs; do
    dir=$base/$name
    make_layers "$dir"
    mkdir -m 755 "$dir/lower/dir"
    case $name in
        fuse-overlayfs) have fuse-overlayfs || { echo "  SKIPPED: fuse-overlayfs is not installed"; continue; } ;;
        kernel) [ "${PLYFS_NO_KERNEL:-}" ] && { echo "  SKIPPED: PLYFS_NO_KERNEL is set"; continue; } ;;
    esac
    if ! mount_union "$name" "$dir"; then
        [ "$name" = plyfs ] && exit 1
        echo "  SKIPPED: $name cannot be mounted over $dir"
        continue
    fi
    run_suite "$name" "$dir/merged/dir"
    links=-
    [ "$name" = plyfs ] && links=$(count_links "$dir/merged")
    unmount "$dir/merged"
    row "$name" "$name" "$links"
done

passed=$(count plyfs ok)
failed=$(count plyfs FAILED)
grep ' FAILED$' "$base/plyfs.results" || true
if [ "$links" = "$plain_links" ]; then passed=$((passed + 1)); else
    failed=$((failed + 1))
    echo "one file can have $links names on plyfs, $plain_links below it"
fi
# What passes below and does not here, a skipped case too, is a failure.
while read -r name; do
    [ "$name" = link::link_count_max ] && continue
    echo "$name passes on the file system below, and not on plyfs"
    failed=$((failed + 1))
done < <(comm -23 <(grep ' ok$' "$base/plain.results") <(grep -v ' skipped$' "$base/plyfs.results" | sed 's/ FAILED$/ ok/') |
    cut -d' ' -f1)
if [ "$failed" != 0 ] && [ "${PLYFS_KEEP_LOG:-}" ]; then cp "$base/plyfs.log" "$PLYFS_KEEP_LOG"; fi
echo "pjdfstest on plyfs: $passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -ge 300 ]
