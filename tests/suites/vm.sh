# Boots a kernel of Debian's in qemu and runs a script there as root. Sourced by bash, after lib.sh.
#
#   vm_missing                      why there can be no machine here; nothing where there can
#   vm_kernel SUITE [VERSION]       sets $kernel to a directory with the newest kernel of a Debian suite (bullseye 5.10,
#                                   bookworm 6.1, trixie 6.12, trixie-backports, sid, experimental) whose version begins so;
#                                   1 where none can be had
#   vm_root [PACKAGE,…]             sets $root to the image of a Debian with what tests call, and these packages
#   vm_pack DIR IMAGE [MIB]         an ext4 image of what stands in DIR, with so much room beside it
#   vm_run SECONDS SCRIPT [IMAGE]…  boots $kernel on a copy of $root, which is gone afterwards, and runs the file SCRIPT
#                                   there; images are /dev/vdb, /dev/vdc …, and keep what is written to them. What the
#                                   script says is said here, its status returned: 124 after SECONDS, 125 where the
#                                   machine ended without one; what the kernel said is in $vm_log.
#
# VM_MODULES: modules of the kernel to load beside those that a machine needs, such as `9p 9pnet_virtio`; what is not
# there is said by the machine. VM_QEMU: more words for qemu, such as `-virtfs …`. VM_CACHE: where all of this is kept.

vm_cache=${VM_CACHE:-/var/tmp/plyfs-vm}
vm_log=$vm_cache/kernel.$$.log
mkdir -p "$vm_cache"
vm_tools=(qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio debootstrap:debootstrap mke2fs:e2fsprogs
    modprobe:kmod xz:xz-utils zstd:zstd)
vm_packages=fuse3,attr,acl,e2fsprogs,xfsprogs,btrfs-progs,dosfstools,kmod,perl,util-linux,mount,uidmap,procps,libcap2-bin

vm_missing() {
    local pair
    [ "$(id -u)" = 0 ] || { echo "root is needed to make the machine's root"; return; }
    [ "$(uname -m)" = x86_64 ] || { echo "the machines are x86_64"; return; }
    for pair in "${vm_tools[@]}"; do
        have "${pair%%:*}" || { echo "no ${pair%%:*}: apt-get install ${pair##*:}"; return; }
    done
    [ -n "$(vm_mirror)" ] || echo "apt knows no mirror of Debian's"
}

# The mirror that this machine takes its own packages from.
vm_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' \
        'Component: main' 2>/dev/null | head -n 1
}

# vm_apt SUITE PROGRAM WORD…: apt of another suite, with nothing of this machine's.
vm_apt() {
    local at=$vm_cache/apt-$1 program=$2
    mkdir -p "$at/lists/partial" "$at/archives/partial"
    [ -e "$at/sources.list" ] ||
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(vm_mirror) $1 main" >"$at/sources.list"
    shift 2
    "$program" -q -o Dir::Etc::SourceList="$at/sources.list" -o Dir::Etc::SourceParts=/none -o Dir::State::Lists="$at/lists" \
        -o Dir::State::status=/dev/null -o Dir::Cache="$at" -o APT::Sandbox::User=root "$@"
}

vm_kernel() {
    kernel=$vm_cache/kernel-$1${2:+-$2}
    exec 8>"$vm_cache/lock"
    flock 8
    vm_get_kernel "$@" || true
    exec 8>&-
    [ -e "$kernel/version" ]
}

vm_get_kernel() {
    local suite=$1 name part version
    [ -e "$kernel/version" ] && return
    vm_apt "$suite" apt-get update >/dev/null 2>&1 || return 1
    name=$(vm_apt "$suite" apt-cache pkgnames linux-image- | sed -n 's/^linux-image-\([0-9].*-amd64\)$/\1/p' |
        grep -v -- '-\(cloud\|rt\)-' | grep "^${2:-}" | sort -V | tail -n 1)
    [ -n "$name" ] || return 1
    rm -rf "$kernel"
    mkdir -p "$kernel/deb" "$kernel/lib"
    # From 7.2 on the package is in parts.
    for part in image base binary modules; do
        (cd "$kernel/deb" && vm_apt "$suite" apt-get download "linux-$part-$name" >/dev/null 2>&1) ||
            [ "$part" != image ] || return 1
    done
    for part in "$kernel"/deb/*.deb; do dpkg-deb -x "$part" "$kernel/deb/x" || return 1; done
    mv "$(find "$kernel/deb/x" -name 'vmlinuz*' -type f | head -n 1)" "$kernel/vmlinuz" || return 1
    # Where /lib is a link the modules stand in /usr/lib.
    mv "$(find "$kernel/deb/x" -type d -path '*lib/modules' | head -n 1)" "$kernel/lib/modules" || return 1
    version=$(ls "$kernel/lib/modules")
    find "$kernel/lib/modules" -name '*.ko.xz' -exec xz -d {} +
    find "$kernel/lib/modules" -name '*.ko.zst' -exec zstd -q -d --rm {} +
    depmod -b "$kernel" "$version" || return 1
    rm -rf "$kernel/deb"
    echo "$version" >"$kernel/version"
}

vm_root() {
    root=$vm_cache/root${1:+-${1//,/-}}.img
    exec 8>"$vm_cache/lock"
    flock 8
    vm_get_root "${1:-}" || true
    exec 8>&-
    [ -e "$root" ]
}

vm_get_root() {
    local more=${1:-}
    [ -e "$root" ] && return
    rm -rf "$vm_cache/root"
    debootstrap --variant=minbase --include="$vm_packages${more:+,$more}" bookworm "$vm_cache/root" "$(vm_mirror)" >"$vm_cache/root.log" ||
        { tail -n 5 "$vm_cache/root.log" >&2; return 1; }
    rm -rf "$vm_cache"/root/var/cache/apt "$vm_cache"/root/var/lib/apt/lists "$vm_cache"/root/usr/share/{doc,man,locale}
    chroot "$vm_cache/root" useradd --create-home --user-group tests
    echo user_allow_other >>"$vm_cache/root/etc/fuse.conf"
    vm_pack "$vm_cache/root" "$root.new" 2048
    mv "$root.new" "$root"
    rm -rf "$vm_cache/root"
}

vm_pack() {
    local size=$(($(du -sm --apparent-size "$1" | cut -f1) * 5 / 4 + ${3:-64}))
    rm -f "$2"
    truncate -s "${size}M" "$2"
    mke2fs -q -t ext4 -O ^orphan_file,^metadata_csum_seed -d "$1" "$2"
}

# The first root: busybox, the modules that are asked for, and the script.
vm_initramfs() {
    local at=$1 script=$2 version module path
    version=$(cat "$kernel/version")
    rm -rf "$at"
    mkdir -p "$at"/{bin,proc,sys,dev,root,"lib/modules/$version"}
    cp "$(command -v busybox)" "$at/bin/busybox"
    # The first are asked for by name while the system runs, and are not there in every kernel.
    for module in crc32c_generic crc32c_cryptoapi virtio_pci virtio_blk virtio_rng ext4 fuse loop ${VM_MODULES:-}; do
        { modprobe -d "$kernel" -S "$version" --show-depends "$module" 2>/dev/null || echo "missing $module"; } |
            while read -r what path _; do
                case $what in
                    insmod) mkdir -p "$at$(dirname "${path#"$kernel"}")"; cp -n "$path" "$at${path#"$kernel"}" ;;
                    missing) [[ $path = crc32c* ]] || echo "no module $path in $version" >>"$at/said" ;;
                esac
            done
        echo "$module"
    done >"$at/load"
    cp "$kernel/lib/modules/$version"/modules.{builtin,order,builtin.modinfo} "$at/lib/modules/$version"
    depmod -b "$at" "$version"
    cp "$script" "$at/script"
    cat >"$at/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ln -sfn /proc/self/fd /dev/fd
while read -r module; do modprobe -q "$module"; done </load
for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/vda ] && break; sleep 1; done
mount -t ext4 /dev/vda /root
mkdir -p /root/lib/modules
cp -a /lib/modules/. /root/lib/modules
cp /script /root/vm-script
cat /said >/dev/ttyS1 2>/dev/null
cat >/root/vm-boot <<'BOOT'
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ln -sfn /proc/self/fd /dev/fd
mkdir -p /dev/pts /dev/shm /payload
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t fusectl fusectl /sys/fs/fuse/connections
chmod 666 /dev/fuse
ln -sf /proc/self/mounts /etc/mtab
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C
stty -F /dev/ttyS1 raw -echo
bash /vm-script >/dev/ttyS1 2>&1 </dev/null
echo "VM STATUS $?" >/dev/ttyS1
sync
sleep 1
echo b >/proc/sysrq-trigger
sleep 60
BOOT
ifconfig lo 127.0.0.1 up
umount /proc /sys
exec switch_root /root /bin/bash /vm-boot
INIT
    chmod 755 "$at/init"
    (cd "$at" && find . | cpio -o -H newc --quiet | gzip -1) >"$at.img"
    rm -rf "$at"
}

vm_run() {
    local seconds=$1 script=$2 image drives=() at status
    shift 2
    at=$(mktemp -d -p "$vm_cache" run.XXXXXX)
    vm_initramfs "$at/first" "$script"
    for image in "$@"; do drives+=(-drive "file=$image,if=virtio,format=raw,cache=unsafe"); done
    # Emulation is what works everywhere; VM_ACCEL=kvm where there is a true one.
    # shellcheck disable=SC2086
    { timeout --foreground -k 5 "$seconds" qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none -accel "${VM_ACCEL:-tcg,thread=multi,tb-size=512}" \
        -cpu max -smp "${VM_CPUS:-2}" -m "${VM_MIB:-2048}" -kernel "$kernel/vmlinuz" -initrd "$at/first.img" \
        -append "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off audit=0" \
        -drive "file=$root,if=virtio,format=raw,snapshot=on" "${drives[@]}" \
        -object rng-random,filename=/dev/urandom,id=rng -device virtio-rng-pci,rng=rng \
        -serial "file:$vm_log" -serial stdio ${VM_QEMU:-} 2>"$at/qemu" </dev/null
      echo $? >"$at/status"; } | tee "$at/said" | grep -v --line-buffered '^VM STATUS ' || true
    status=$(cat "$at/status")
    [ "$status" = 124 ] || status=$(sed -n 's/^VM STATUS //p' "$at/said" | tail -n 1)
    [ -n "$status" ] || { grep -v 'could not open\|failed to initialize kvm' "$at/qemu" >&2 || true; status=125; }
    rm -rf "$at"
    return "$status"
}
