#!/usr/bin/env bash
# Layers on file systems that most machines cannot mount: vfat, exfat and ntfs3, 9p and virtiofs from the host, NFS 3 and
# 4.2 from a server of its own. Boots a kernel of Debian's in qemu, mounts all of them there and runs `tests/filesystems`
# on each: the rows of docs/layers.md. Root; skipped aloud where there can be no machine.
#
#   filesystems.sh [NAME…]    only these rows, as `vfat` or `NFS 3`
#
# PLYFS_FILESYSTEMS_KERNEL is the suite of Debian whose kernel is booted (trixie), PLYFS_PROFILE the build (--release).
suites=$(cd "$(dirname "$0")" && pwd)
. "$suites/lib.sh"
. "$suites/vm.sh"

virtiofsd=
for at in /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd; do [ -x "$at" ] && virtiofsd=$at; done

why=$(vm_missing)
[ -z "$why" ] || { echo "SKIPPED: filesystems.sh: $why"; exit 0; }
vm_root nfs-kernel-server,nfs-common,exfatprogs,ntfs-3g || { echo "SKIPPED: filesystems.sh: no Debian to boot"; exit 0; }
suite=${PLYFS_FILESYSTEMS_KERNEL:-trixie}
vm_kernel "$suite" || { echo "SKIPPED: filesystems.sh: no kernel of $suite"; exit 0; }
[ -n "$virtiofsd" ] || echo "SKIPPED: filesystems.sh: virtiofs: no virtiofsd (Debian: virtiofsd, or qemu-system-common before 13)"

make_base
mkdir "$base/payload" "$base/9p" "$base/virtiofs"
build() { (cd "$repo" && cargo test ${PLYFS_PROFILE---release} --test filesystems --no-run 2>&1) | tee /dev/stderr; }
program=$(build | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
[ -n "$program" ] || exit 1
cp "$repo/$program" "$base/payload/filesystems" 2>/dev/null || cp "$program" "$base/payload/filesystems"
cp "$(dirname "$(dirname "$(realpath "$repo/$program")")")/plyfs" "$base/payload/plyfs"
strip "$base/payload/filesystems" "$base/payload/plyfs"
printf '%s\n' "$@" >"$base/payload/wanted"

cat >"$base/script" <<'SCRIPT'
mount /dev/vdb /payload
uname -sr
given=
# at NAME COMMAND…: mounts NAME by the command, whose last word is a new directory.
at() {
    local name=$1 dir
    shift
    grep -q . /payload/wanted && ! grep -qxF "$name" /payload/wanted && return
    dir=/fs/${name// /-}
    mkdir -p "$dir"
    if "$@" "$dir"; then given="$given${given:+;}$name=$dir"; else echo "SKIPPED: $name: not mounted"; fi
}
# image TYPE MKFS… DIR: a file system of 128 MiB in a file.
image() {
    local type=$1 file=/image-$1
    truncate -s 128M "$file"
    "${@:2:$#-2}" "$file" >/dev/null 2>&1 && mount -t "$type" -o loop "$file" "${@: -1}"
}
at vfat image vfat mkfs.vfat
at exfat image exfat mkfs.exfat
at ntfs3 image ntfs3 mkfs.ntfs -QF
at 9p mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 shared9p
at virtiofs mount -t virtiofs sharedfs
mkdir -p /export /run/rpcbind
image ext4 mkfs.ext4 -q /export
mount -t nfsd nfsd /proc/fs/nfsd
echo '/export 127.0.0.1(rw,no_root_squash,no_subtree_check,insecure,fsid=0)' >/etc/exports
rpcbind && exportfs -ra && rpc.mountd && rpc.nfsd -V 3 -V 4.2 4
at "NFS 3" mount -t nfs -o vers=3,nolock 127.0.0.1:/export
at "NFS 4.2" mount -t nfs -o vers=4.2 127.0.0.1:/
cd /
echo "$given"
PLYFS_FILESYSTEMS=$given PLYFS_TEST_BIN=/payload/plyfs \
    /payload/filesystems --nocapture --test-threads 1 an_upper_layer_on a_lower_layer_on
SCRIPT
vm_pack "$base/payload" "$base/payload.img"

qemu="-virtfs local,path=$base/9p,mount_tag=shared9p,security_model=none,id=shared9p"
if [ -n "$virtiofsd" ]; then
    "$virtiofsd" --socket-path="$base/socket" -o "source=$base/virtiofs,xattr" 2>"$base/virtiofsd.log" &
    for _ in 1 2 3 4 5; do [ -S "$base/socket" ] || sleep 1; done
    qemu="$qemu -object memory-backend-memfd,id=memory,size=${VM_MIB:-2048}M,share=on -numa node,memdev=memory"
    qemu="$qemu -chardev socket,id=virtiofs,path=$base/socket -device vhost-user-fs-pci,chardev=virtiofs,tag=sharedfs"
fi
VM_MODULES="vfat exfat ntfs3 nls_cp437 nls_ascii nls_iso8859-1 nls_utf8 9p 9pnet_virtio virtiofs nfs nfsv3 nfsv4 nfsd xfs
    btrfs overlay" VM_QEMU=$qemu vm_run "${PLYFS_FILESYSTEMS_SECONDS:-1800}" "$base/script" "$base/payload.img"
