#!/usr/bin/env bash
# The packages, as root: the .deb in chroots of Debian 12 and 13, where fstab mounts a view; it goes without a trace. The same
# for `make install` and for the static binary. What is missing is said. Not part of CI: it loads two Debian systems once, to
# PLYFS_CHROOTS (/var/tmp/plyfs-chroots).
set -euo pipefail
cd "$(dirname "$0")/../.."
chroots=${PLYFS_CHROOTS:-/var/tmp/plyfs-chroots}
target=${CARGO_TARGET_DIR:-target}
static=x86_64-unknown-linux-musl
[ "$(id -u)" = 0 ] || { echo "SKIPPED: packages: root is needed"; exit 0; }
if [ -z "${PLYFS_PACKAGES_INSIDE:-}" ]; then
    for program in cargo-deb debootstrap; do
        command -v $program >/dev/null || { echo "SKIPPED: packages: $program is missing"; exit 0; }
    done
    make deb
    make static || echo "SKIPPED: packages: the static binary: rustup target add $static"
    for system in bookworm trixie; do
        if [ ! -d "$chroots/$system" ]; then
            rm -rf "$chroots/$system.part" && mkdir -p "$chroots"
            debootstrap --variant=minbase --include=fuse3,man-db,make "$system" "$chroots/$system.part" >/dev/null
            mv "$chroots/$system.part" "$chroots/$system"
        fi
    done
    # The mounts of the chroots are in a mount table of their own.
    exec env PLYFS_PACKAGES_INSIDE=yes unshare -m --propagation private bash "$0"
fi

# names: all that is in the chroot, but for what dpkg writes down for itself.
names() {
    (cd "$root" && find . -xdev ! -path './proc/*' ! -path './var/lib/dpkg/*' ! -path './var/log/*' ! -path './var/cache/*' \
        ! -path './try/*' -printf '%y %m %p %l\n' | sort)
}
inside() { chroot "$root" env PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "$@"; }
same() { diff <(printf '%s\n' "$before") <(names) || { echo "$system: $1 left a trace"; exit 1; }; }

# mounts WHAT: fstab's line mounts a view.
mounts() {
    rm -rf "$root/try" && mkdir -p "$root"/try/{lower,upper,work,merged}
    echo hello >"$root/try/lower/greeting"
    cp "$root/etc/fstab" "$base/fstab" 2>/dev/null || : >"$base/fstab"
    echo "plyfs /try/merged fuse.plyfs lowerdir=/try/lower,upperdir=/try/upper,workdir=/try/work 0 0" >>"$root/etc/fstab"
    inside mount /try/merged
    [ "$(inside cat /try/merged/greeting)" = hello ]
    inside sh -c 'echo changed >/try/merged/greeting'
    inside umount /try/merged
    [ "$(cat "$root/try/upper/greeting")" = changed ] && [ "$(cat "$root/try/lower/greeting")" = hello ]
    cp "$base/fstab" "$root/etc/fstab"
    rm -rf "$root/try"
    echo "$system: $1 mounts by fstab"
}

base=$(mktemp -d)
trap 'rm -rf "$base"' EXIT
for system in bookworm trixie; do
    root=$chroots/$system
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --bind /dev "$root/dev"
    touch "$root/etc/fstab"
    before=$(names)

    cp "$target"/debian/plyfs_*.deb "$root/plyfs.deb"
    inside dpkg -i /plyfs.deb >/dev/null
    rm "$root/plyfs.deb"
    inside plyfs --version
    inside man -w plyfs mount.fuse.plyfs plyfs-run >/dev/null
    [ "$(inside readlink -f /usr/bin/fuse-overlayfs)" = /usr/bin/plyfs ]
    mounts "the package"
    inside dpkg --purge plyfs >/dev/null
    same "the package"

    mkdir "$root/src" && cp -r install.sh Makefile docs "$root/src" && install -D "$target/release/plyfs" "$root/src/target/release/plyfs"
    inside make -C /src install PREFIX=/opt/plyfs >/dev/null
    inside /opt/plyfs/bin/plyfs --version >/dev/null
    mounts "make install"
    inside make -C /src uninstall PREFIX=/opt/plyfs >/dev/null
    rm -rf "$root/src"
    find "$root/opt/plyfs" -type f -o -type l | grep . && { echo "$system: make uninstall left these"; exit 1; }
    rm -rf "$root/opt/plyfs"
    same "make install"

    if [ -x "$target/$static/release/plyfs" ]; then
        cp "$target/$static/release/plyfs" "$root/usr/bin/plyfs"
        ln -s ../bin/plyfs "$root/usr/sbin/mount.fuse.plyfs"
        mounts "the static binary"
        rm "$root/usr/bin/plyfs" "$root/usr/sbin/mount.fuse.plyfs"
        same "the static binary"
    fi
    umount "$root/dev" "$root/proc" "$root"
done
echo "the packages are installed, mounted by fstab, and removed without a trace"
