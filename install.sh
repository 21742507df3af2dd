#!/bin/sh
# Installs plyfs, its man pages and its completions below PREFIX (/usr/local), and its name for mount(8) in /sbin, the only
# place where mount(8) looks. DESTDIR stands before all of these; BINARY is what is installed (target/release/plyfs).
# FUSE_OVERLAYFS=yes: in PREFIX/bin, too, by the name of fuse-overlayfs (docs/containers.md). `install.sh uninstall` removes it all.
set -eu
cd "$(dirname "$0")"
prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}
binary=${BINARY:-target/release/plyfs}
case "${1:-install}" in
    install | uninstall) ;;
    *) echo "usage: install.sh [install|uninstall]" >&2; exit 2 ;;
esac
if [ "${1:-install}" = install ] && [ ! -x "$binary" ]; then
    echo "install.sh: $binary is not there: cargo build --release" >&2
    exit 1
fi

if [ "${1:-install}" = install ]; then
    # put MODE FILE PLACE
    put() {
        install -D -m "$1" "$2" "$root$3"
        echo "$root$3"
    }
    # name TARGET PLACE: a symlink.
    name() {
        ln -sfn "$1" "$root$2"
        echo "$root$2"
    }
else
    put() { rm -f "$root$3"; }
    # Another program's file stays.
    name() { [ "$(readlink "$root$2")" != "$1" ] || rm -f "$root$2"; }
    FUSE_OVERLAYFS=yes
fi

put 755 "$binary" "$prefix/bin/plyfs"
if [ "${FUSE_OVERLAYFS:-no}" = yes ]; then
    name plyfs "$prefix/bin/fuse-overlayfs"
fi
for page in docs/man/*.1; do put 644 "$page" "$prefix/share/man/man1/${page##*/}"; done
put 644 docs/man/mount.fuse.plyfs.8 "$prefix/share/man/man8/mount.fuse.plyfs.8"
put 644 docs/completions/plyfs.bash "$prefix/share/bash-completion/completions/plyfs"
put 644 docs/completions/_plyfs "$prefix/share/zsh/site-functions/_plyfs"
put 644 docs/completions/plyfs.fish "$prefix/share/fish/vendor_completions.d/plyfs.fish"
[ -z "$root" ] || mkdir -p "$root/sbin"
if [ -w "$root/sbin" ]; then
    name "$prefix/bin/plyfs" /sbin/mount.fuse.plyfs
else
    echo "install.sh: /sbin/mount.fuse.plyfs is left out: mount(8) and fstab need it, and root to make it" >&2
fi
