#!/usr/bin/env bash
# Images beside the programs that others use: what `plyfs layer export` writes is unpacked by umoci and run by podman, what
# buildah, umoci and skopeo (docker-archive) write is imported; each time the trees are equal. A line for each case. Root;
# umoci, skopeo, buildah and podman by apt where they are missing. About 20 seconds.
set -euo pipefail
suites=$(cd "$(dirname "$0")" && pwd)
. "$suites/lib.sh"
. "$suites/images.lib.sh"

skip() { echo "SKIPPED: images: $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "root mounts and unpacks"
# Mounts of its own.
if [ -z "${PLYFS_IMAGES_APART:-}" ]; then
    exec env PLYFS_IMAGES_APART=1 unshare -m --propagation private bash "$0"
fi
# crun takes no machine with both versions of cgroups.
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
need "$plyfs" 'cargo build --release'
need python3 'apt-get install python3'
missing=$(get_packages umoci:umoci skopeo:skopeo buildah:buildah podman:podman setcap:libcap2-bin setfacl:acl \
    getfattr:attr busybox:busybox-static) || skip "$missing"

make_base
cd "$base"
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
store=(--root "$base/store" --runroot "$base/runroot")

# Two layers with something of each kind, and a view whose upper layer renames, changes and deletes.
mkdir -p low top up work view
busybox_root "$base/low"
mkdir -p low/d/sub low/gone low/opaque
head -c 300000 /dev/urandom >low/d/large
printf secret >low/gone/secret
ln low/d/large low/d/again
ln -s ../large low/d/sub/link
truncate -s 3M low/d/hole
printf end >>low/d/hole
mkfifo low/d/fifo
mknod low/d/null c 1 3
printf x >low/d/caps
setcap cap_net_raw+ep low/d/caps
setfacl -m u:12:r low/d/caps
setfacl -d -m u:12:rwx low/d/sub
setfattr -n user.a -v b low/d/large
printf old >low/opaque/old
chown 100000:3000000 low/d/sub
mkdir -p "top/$(printf 'n%.0s' $(seq 200))/$(printf 'm%.0s' $(seq 200))"
printf deep >"top/$(printf 'n%.0s' $(seq 200))/$(printf 'm%.0s' $(seq 200))/deep"
find low top -exec touch -h -d '2020-01-02 03:04:05' {} +
"$plyfs" -o lowerdir=top:low,upperdir=up,workdir=work view
mv view/d view/moved
rm -r view/gone
rm -r view/opaque
mkdir view/opaque
printf new >view/opaque/new
chmod 600 view/moved/hole
printf more >>view/etc/passwd
find view -xdev -newermt '2021-01-01' -exec touch -h -d '2022-01-02 03:04:05' {} +

for compress in gzip zstd none; do
    "$plyfs" layer export --oci "out-$compress:v1" --compress "$compress" view >/dev/null
    # umoci reads no zstd (0.4).
    if [ "$compress" != zstd ]; then
        quiet umoci unpack --image "out-$compress:v1" "unpacked-$compress"
        same "export --compress $compress, umoci unpack" view "unpacked-$compress/rootfs"
    fi
    id=$(podman "${store[@]}" pull -q "oci:out-$compress:v1" 2>/dev/null)
    at=$(podman "${store[@]}" image mount "$id")
    same "export --compress $compress, podman pull" view "$at"
    podman "${store[@]}" image unmount "$id" >/dev/null
done
"$plyfs" layer export --oci flat:v1 --merged view >/dev/null
quiet umoci unpack --image flat:v1 unpacked-flat
same "export --merged, umoci unpack" view unpacked-flat/rootfs

# The same bytes on other file systems, and on another day.
"$plyfs" layer export --oci bytes:v1 low | head -1 >digest
for type in ext4 xfs btrfs tmpfs; do
    mkdir -p other
    if [ "$type" = tmpfs ]; then
        mount -t tmpfs tmpfs other
    else
        have "mkfs.$type" || { echo "SKIPPED: images: no mkfs.$type"; continue; }
        truncate -s 400M "other.$type"
        "mkfs.$type" -q "other.$type" >/dev/null 2>&1 && mount -o loop "other.$type" other
    fi
    cp -a low other/low
    later=()
    if have faketime; then later=(faketime '2031-05-06 07:08:09'); fi
    "${later[@]}" "$plyfs" layer export --oci "bytes-$type:v1" other/low | head -1 >digest-other
    umount other
    cmp -s digest digest-other && echo "export on $type${later:+, another day}: the same bytes" ||
        { echo "export on $type: DIFFERENT bytes"; wrong=1; }
done

said=$(podman "${store[@]}" run --rm --network none --cgroups disabled --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$id" /bin/sh -c 'cat /opaque/new /etc/passwd | tail -1' 2>"$base/said") || true
case $said in
    *more) echo "podman run: it sees what the view has" ;;
    *) echo "SKIPPED: images: podman run: $(tail -1 "$base/said")" ;;
esac

# What umoci has made: its own repack of what it unpacked, changed.
cp -r --preserve=all out-gzip umoci
mv unpacked-gzip bundle
rm -r bundle/rootfs/moved/sub bundle/rootfs/opaque
mkdir bundle/rootfs/opaque
printf umoci | tee bundle/rootfs/opaque/x >bundle/rootfs/new
ln bundle/rootfs/new bundle/rootfs/new2
# It knows its bundle by the image's directory, which is another one now.
quiet umoci unpack --image umoci:v1 bundle2
rm -r bundle2/rootfs && mv bundle/rootfs bundle2/rootfs
quiet umoci repack --image umoci:v2 bundle2
quiet umoci unpack --image umoci:v2 umoci-again
view umoci-view umoci:v2
same "umoci repack, import" umoci-again/rootfs umoci-view

# What buildah has made, as OCI layout and as docker's archive.
from=$(buildah from oci:out-gzip:v1 2>/dev/null)
at=$(buildah mount "$from")
rm -r "$at/moved/sub" "$at/srv"
mkdir "$at/srv"
printf buildah >"$at/srv/b"
ln "$at/srv/b" "$at/srv/c"
buildah umount "$from" >/dev/null
quiet buildah commit -q "$from" oci:buildah:v3
quiet umoci unpack --image buildah:v3 buildah-again
view buildah-view buildah:v3
same "buildah commit, import" buildah-again/rootfs buildah-view
quiet skopeo copy -q --insecure-policy oci:buildah:v3 docker-archive:docker.tar:image:v3
view docker-view docker.tar
same "skopeo copy to docker-archive, import" buildah-again/rootfs docker-view
quiet skopeo copy -q --insecure-policy oci:buildah:v3 oci-archive:oci.tar:v3
view archive-view oci.tar
same "skopeo copy to oci-archive, import" buildah-again/rootfs archive-view

# Random histories, as root and as a user.
bash "$suites/histories.sh" || wrong=1
user=plyfs-images-$$
end() { userdel "$user" 2>/dev/null || true; cleanup; }
trap end EXIT
useradd --system --user-group --home-dir "$base/home" "$user"
usermod --add-subuids 500000-565535 --add-subgids 500000-565535 "$user"
mkdir -p "$base/home" "$base/run"
cp "$plyfs" "$base/plyfs"
cp "$suites"/{histories.sh,history.py,images.lib.sh,lib.sh} "$base"
chown "$user:$user" "$base/home" "$base/run"
as_user=(setpriv --reuid="$user" --regid="$user" --init-groups env -i "HOME=$base/home" "XDG_RUNTIME_DIR=$base/run" "PATH=$PATH"
    "PLYFS_TEST_BIN=$base/plyfs" "PLYFS_TEST_DIR=$base/home" "PLYFS_IMAGES_RUN=$base/run" "PLYFS_IMAGES_HISTORIES=${PLYFS_IMAGES_HISTORIES:-}" "BUILDAH_ISOLATION=chroot" STORAGE_DRIVER=vfs)
cd /
if "${as_user[@]}" buildah unshare true >"$base/said" 2>&1; then
    "${as_user[@]}" buildah unshare bash "$base/histories.sh" || wrong=1
else
    echo "SKIPPED: images: no user namespace for a normal user: $(tail -1 "$base/said")"
fi

exit "$wrong"
