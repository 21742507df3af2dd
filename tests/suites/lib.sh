# What the suites share: where things are, layers in a directory of their own, mounts that end with the script.
# Sourced by bash; $suites is the directory of this file.

set -euo pipefail

repo=$(cd "$suites/../.." && pwd)
plyfs=${PLYFS_TEST_BIN:-$(cd "$repo" && realpath -m "${CARGO_TARGET_DIR:-target}/release/plyfs")}
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin
export RUST_BACKTRACE=0

base=
cleanup() {
    local at
    [ -n "$base" ] || return 0
    # The innermost first; `base` has no characters that the mount table escapes.
    awk -v base="$base/" 'index($5, base) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r at; do
        unmount "$at" || umount -l "$at"
    done
    rm -rf "$base"
}
trap cleanup EXIT

# make_base [PARENT]: sets $base to a fresh directory that every user can reach.
make_base() {
    base=$(mktemp -d -p "${1:-${PLYFS_TEST_DIR:-/var/tmp}}" plyfs-suite.XXXXXX)
    chmod 755 "$base"
}

have() { command -v "$1" >/dev/null; }

need() {
    have "$1" && return
    echo "$0: $1 is missing: $2" >&2
    exit 1
}

# get_packages COMMAND:PACKAGE...: installs by apt what is missing; fails, and says what, where it cannot.
get_packages() {
    local pair
    for pair in "$@"; do
        have "${pair%%:*}" && continue
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${pair##*:}"; } \
            >/dev/null 2>&1 || { echo "no ${pair%%:*}, and apt has no ${pair##*:}"; return 1; }
    done
}

# busybox_root DIR: a root directory in which programs run.
busybox_root() {
    local applet
    mkdir -p "$1/bin" "$1/etc" "$1/tmp/sub" "$1/srv/tree/deep"
    cp "$(command -v busybox)" "$1/bin/busybox"
    for applet in $(busybox --list | grep -vx busybox); do ln -s busybox "$1/bin/$applet" 2>/dev/null || true; done
    printf 'root:x:0:0:root:/:/bin/sh\nsomebody:x:7:7::/:/bin/sh\n' >"$1/etc/passwd"
    cp "$1/bin/busybox" "$1/bin/suid"
    chmod 4755 "$1/bin/suid"
    echo sub >"$1/tmp/sub/file"
    echo tree | tee "$1/srv/tree/f" >"$1/srv/tree/deep/f"
    chmod 1777 "$1/tmp"
}

# What a container changes, and how all that it shows is then listed: type, mode, owner and bytes.
container_changes='rm /tmp/sub/file; mkdir /new; echo n >/new/n; mv /new /moved; chmod 600 /etc/passwd; ln /bin/suid /bin/suid2;
    echo more >>/etc/group; rm -r /tmp/sub; mkdir /tmp/sub; echo again >/tmp/sub/a; mv /srv/tree /srv/tree2; mkdir /srv/tree; touch /srv/tree/x; chown 7:7 /moved/n'
container_listing='find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /etc/resolv.conf -o -path /etc/hosts -o -path /etc/hostname -o -path /etc/mtab -o -path /changes \) -prune -o -print | sort | while read -r f; do stat -c "%n %F %a %u:%g" "$f"; [ -f "$f" ] && md5sum <"$f"; done; true'

# make_layers DIR: the four directories of one union.
make_layers() { mkdir -p "$1/lower" "$1/upper" "$1/work" "$1/merged"; }

# mount_union IMPLEMENTATION DIR: DIR/merged shows DIR/lower below DIR/upper.
mount_union() {
    local options="lowerdir=$2/lower,upperdir=$2/upper,workdir=$2/work"
    case $1 in
        plyfs) "$plyfs" -o "$options" "$2/merged" ;;
        kernel) mount -t overlay overlay -o "$options" "$2/merged" ;;
        fuse-overlayfs) fuse-overlayfs -o "$options" "$2/merged" 2>"$2/messages" ;;
    esac
}

# unmount AT: until nothing holds it any more, at most five seconds.
unmount() {
    local i
    for i in 1 2 3 4 5; do
        if [ "$(id -u)" = 0 ]; then umount "$1" && return; else fusermount3 -u "$1" && return; fi
        sleep 1
    done
    return 1
}
