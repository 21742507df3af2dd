#!/usr/bin/env bash
# Random histories (history.py) as images, there and back: what plyfs exports is unpacked by umoci and podman, what umoci and
# buildah make is imported; each time the trees are equal. images.sh runs it as root, and in the user namespace of a normal user.
#
# PLYFS_IMAGES_HISTORIES is their number.
set -euo pipefail
suites=$(cd "$(dirname "$0")" && pwd)
. "$suites/lib.sh"
. "$suites/images.lib.sh"

make_base
cd "$base"
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
store=(--root "$base/store" --runroot "${PLYFS_IMAGES_RUN:-$base/run}") # Its name may have 50 bytes.
links=
who=root
[ "$(awk 'NR == 1 { print $3 }' /proc/self/uid_map)" = 4294967295 ] || who=user

change() { python3 "$suites/history.py" "$@"; }

# exported SEED: a view of three layers, the upper ones of which are made by mounts, unpacked by the others.
exported() {
    local at=history$1 id
    mkdir -p "$at"/{low,top,work,up,work2,view,view2}
    change "$1" 60 "$at/low"
    quiet "$plyfs" -o "lowerdir=$at/low,upperdir=$at/top,workdir=$at/work" "$at/view"
    change "2$1" 30 "$at/view"
    unmount "$at/view"
    quiet "$plyfs" -o "lowerdir=$at/top:$at/low,upperdir=$at/up,workdir=$at/work2" "$at/view2"
    change "3$1" 30 "$at/view2"
    quiet "$plyfs" layer export --oci "$at/one:v1" --merged "$at/view2"
    quiet umoci unpack --image "$at/one:v1" "$at/umoci-one"
    same "$who, history $1: export --merged, umoci unpack" "$at/view2" "$at/umoci-one/rootfs"
    quiet "$plyfs" layer export --oci "$at/out:v1" "$at/view2"
    quiet umoci unpack --image "$at/out:v1" "$at/umoci"
    joined=
    same "$who, history $1: export, umoci unpack" "$at/view2" "$at/umoci/rootfs"
    tar -C "$at/out" -cf "$at/out.tar" .
    quiet podman "${store[@]}" load -q -i "$at/out.tar"
    id=$(sed -n 's/^Loaded image[^:]*: //p' "$base/said")
    same "$who, history $1: export, podman load" "$at/view2" "$(podman "${store[@]}" image mount "$id")"
    podman "${store[@]}" rmi -f "$id" >/dev/null
    joined=yes
}

# imported SEED: images of three layers, made by umoci and buildah.
imported() {
    local at=history$1 step from=scratch root by
    quiet umoci init --layout "$at/by-umoci"
    quiet umoci new --image "$at/by-umoci:v0"
    for step in 1 2 3; do
        quiet umoci unpack --image "$at/by-umoci:v$((step - 1))" "$at/bundle$step"
        change "$step$1" 40 "$at/bundle$step/rootfs"
        quiet umoci repack --image "$at/by-umoci:v$step" "$at/bundle$step"
        from=$(buildah from "$from" 2>/dev/null)
        root=$(buildah mount "$from")
        change "$step$1" 40 "$root"
        buildah umount "$from" >/dev/null
        quiet buildah commit -q "$from" "oci:$at/by-buildah:v$step"
        from=oci:$at/by-buildah:v$step
    done
    for by in umoci buildah; do
        quiet umoci unpack --image "$at/by-$by:v3" "$at/$by-again"
        view "$at/$by-view" "$at/by-$by:v3"
        same "$who, history $1: by $by, import" "$at/$by-again/rootfs" "$at/$by-view"
    done
}

for seed in $(seq "${PLYFS_IMAGES_HISTORIES:-2}"); do
    exported "$seed"
    imported "$seed"
done

exit "$wrong"
