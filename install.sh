#!/bin/sh
# Installs plyfs, its man pages and its completions below PREFIX (/usr/local), and its name for mount(8) in /sbin, the only
# place where mount(8) looks. DESTDIR stands before all of these; BINARY is what is installed (target/release/plyfs).
# FUSE_OVERLAYFS=yes: in PREFIX/bin, too, by the name of fuse-overlayfs (docs/containers.md).
set -eu
cd "$(dirname "$0")"
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}
binary=${BINARY:-target/release/plyfs}
if [ ! -x "$binary" ]; then
    echo "install.sh: $binary is not there: cargo build --release" >&2
    exit 1
fi

# put MODE FILE PLACE
put() {
    install -D -m "$1" "$2" "$root$prefix/$3"
    echo "$root$prefix/$3"
}

put 755 "$binary" bin/plyfs
if [ "${FUSE_OVERLAYFS:-no}" = yes ]; then
    ln -sfn plyfs "$root$prefix/bin/fuse-overlayfs"
    echo "$root$prefix/bin/fuse-overlayfs"
fi
for page in docs/man/*.1; do put 644 "$page" "share/man/man1/${page##*/}"; done
put 644 docs/man/mount.fuse.plyfs.8 share/man/man8/mount.fuse.plyfs.8
put 644 docs/completions/plyfs.bash share/bash-completion/completions/plyfs
put 644 docs/completions/_plyfs share/zsh/site-functions/_plyfs
put 644 docs/completions/plyfs.fish share/fish/vendor_completions.d/plyfs.fish
[ -z "$root" ] || mkdir -p "$root/sbin"
if [ -w "$root/sbin" ]; then
    ln -sfn "$prefix/bin/plyfs" "$root/sbin/mount.fuse.plyfs"
    echo "$root/sbin/mount.fuse.plyfs"
else
    echo "install.sh: /sbin/mount.fuse.plyfs is left out: mount(8) and fstab need it, and root to make it" >&2
fi
