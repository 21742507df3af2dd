#!/usr/bin/env bash
# Real clients beside rootless podman (podman.sh): podman of root, podman in podman, bubblewrap, apt-get in a
# chroot, and Docker of a normal user, which calls the program by the name fuse-overlayfs. A line for each case; what cannot be had is skipped.
#
# PLYFS_PODMAN_PROGRAM=/usr/bin/fuse-overlayfs: another program; PLYFS_CLIENTS='bubblewrap docker': only these. Podman 4 of root
# may wait 20 seconds for the end of each container, whatever program mounts its root.
set -euo pipefail
suites=$(cd "$(dirname "$0")" && pwd)
. "$suites/lib.sh"

skip() { echo "SKIPPED: clients: $1"; }
[ "$(id -u)" = 0 ] || { skip "root is needed"; exit 0; }
# Mounts of its own; and crun takes no machine with both versions of cgroups.
if [ -z "${PLYFS_CLIENTS_APART:-}" ]; then
    exec env PLYFS_CLIENTS_APART=1 unshare -m --propagation private bash "$0"
fi
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
program=${PLYFS_PODMAN_PROGRAM:-$plyfs}
need "$program" 'cargo build --release'
# What takes long to get: a Debian tree.
cache=${VM_CACHE:-/var/tmp/plyfs-vm}
mkdir -p "$cache"

make_base
user=plyfs-clients-$$
name=$(basename "$program")
end() {
    [ ! -e "${CONTAINERS_STORAGE_CONF:-}" ] || podman rm -af -t 0 >/dev/null 2>&1 || true
    local pid
    for pid in $(ps -o pid= -u "$user"); do kill -9 "$pid" 2>/dev/null || true; done
    sleep 0.2
    userdel "$user" 2>/dev/null || true
    cleanup
}
trap end EXIT
useradd --system --user-group --home-dir "$base/user" --shell /bin/bash "$user"
usermod --add-subuids 700000-831071 --add-subgids 700000-831071 "$user"
mkdir -p "$base/bin" "$base/home/volume" "$base/user" "$base/run"
chown "$user:$user" "$base/user" "$base/run"
cp "$program" "$base/bin/$name"
program=$base/bin/$name
echo volume >"$base/home/volume/file"
export HOME=$base/home CONTAINERS_STORAGE_CONF=$base/storage.conf CONTAINERS_CONF=$base/containers.conf

passed=0
failed=0
# row NAME SCRIPT: the script must succeed.
row() {
    if bash -c "set -e; cd $base/home; base=$base program=$program user=$user changes='$container_changes' listing='$container_listing'; $2" >"$base/said" 2>&1; then
        passed=$((passed + 1))
        echo "| $1 | pass |"
    else
        failed=$((failed + 1))
        echo "| $1 | FAIL: $(grep -v '^time=.*level=warning' "$base/said" | tail -1 | tr '|\n' '  ' | cut -c 1-200) |"
    fi
}

# Podman of root, whose containers run in the machine's own user namespace, and in others.
rootful() {
    local missing
    missing=$(get_packages podman:podman crun:crun busybox:busybox-static) || { skip "podman of root: $missing"; return; }
    printf '[storage]\ndriver = "overlay"\nrunroot = "%s"\ngraphroot = "%s"\n[storage.options]\nroot-auto-userns-user = "%s"\n[storage.options.overlay]\nmount_program = "%s"\n' \
        "$base/storage" "$base/graph" "$user" "$program" >"$base/storage.conf"
    # Of itself podman gives more open files and processes than every root may give.
    printf '[containers]\ncgroups = "disabled"\nnetns = "host"\nlog_driver = "k8s-file"\ndefault_ulimits = ["nofile=1024:1024", "nproc=16384:16384"]\n[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "crun"\nlock_type = "file"\ntmp_dir = "%s"\nstatic_dir = "%s"\nvolume_path = "%s"\n' \
        "$base/tmp" "$base/static" "$base/volumes" >"$base/containers.conf"
    mkdir -p "$base/home/.config/containers"
    echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$base/home/.config/containers/policy.json"
    busybox_root "$base/root"
    tar -C "$base/root" -cf "$base/image.tar" --numeric-owner --owner=0 --group=0 .
    # Podman 4 maps the lower layers by idmapped mounts, and once more by the options of the mount program, so that no program
    # can serve it. Later ones do only the latter, as this one does where it remembers that the kernel cannot.
    mkdir -p "$base/storage/overlay"
    : >"$base/storage/overlay/idmapped-lower-dir-false"
    podman --storage-driver vfs --root "$base/vfs" --runroot "$base/vfsrun" run --rm --rootfs "$base/root" true >"$base/said" 2>&1 ||
        { skip "podman of root runs no container here: $(tail -1 "$base/said")"; return; }
    row 'root: import' 'podman import -q $base/image.tar img'
    row 'root: run' '[ "$(podman run --rm img cat /tmp/sub/file)" = sub ]'
    row 'root: a user, set-user-id' '[ "$(podman run --rm --user 7:7 img sh -c "echo x >/tmp/x; stat -c %u:%g /tmp/x; stat -c %a:%u /bin/suid" | tr "\n" " ")" = "7:7 4755:0 " ]'
    row 'root: commit, running and stopped' 'podman run -d --name kept img sleep 1000; podman exec kept sh -c "$changes"; podman exec kept sh -c "$listing" >view; podman commit -q kept done1; podman stop -t 0 kept; podman commit -q kept done2; for i in done1 done2; do podman run --rm $i sh -c "$listing" >there; diff view there; done'
    row 'root: diff' 'podman diff kept >told; grep -q "^D /tmp/sub/file" told; grep -q "^A /moved" told; grep -q "^C /tmp" told'
    row 'root: export' 'podman export kept >c.tar; podman import -q c.tar done3; podman run --rm done3 sh -c "$listing" >there; diff view there; podman rm -f -t 0 kept'
    row 'root: build' 'printf "FROM img AS one\nRUN mkdir /o && echo one >/o/f && mv /o /p && rm -r /tmp/sub\nFROM img\nCOPY --from=one /p /q\n" >stages; podman build -q --isolation=chroot -t two -f stages .; [ "$(podman run --rm two cat /q/f)" = one ]'
    row 'root: --userns=auto' '[ "$(podman run --rm --userns=auto:size=1000 img sh -c "echo x >/x; chown 7:7 /x; stat -c %u:%g:%a /x /bin/suid" | tr "\n" " ")" = "7:7:644 0:0:4755 " ]'
    row 'root: --uidmap' '[ "$(podman run --rm --uidmap 0:700000:1000 --gidmap 0:700000:1000 img sh -c "echo x >/x; chown 7 /x; mv /srv/tree /t; stat -c %u /x /t/f" | tr "\n" " ")" = "7 0 " ]'
    row 'root: --uidmap of several ranges' '[ "$(podman run --rm --uidmap 0:700001:5 --uidmap 5:700100:50 --gidmap 0:700001:5 --gidmap 5:700100:50 img sh -c "echo x >/x; chown 7 /x; stat -c %u:%a /x /bin/suid" | tr "\n" " ")" = "7:644 0:4755 " ]'
    row 'root: --uidmap, committed' 'podman run -d --name mapped --uidmap 0:700000:1000 --gidmap 0:700000:1000 img sleep 1000; podman exec mapped sh -c "$changes"; podman exec mapped sh -c "$listing" >view; podman stop -t 0 mapped; podman commit -q mapped done4; podman run --rm done4 sh -c "$listing" >there; diff view there; podman diff mapped | grep -q "^A /moved"; podman rm -f -t 0 mapped'
    row 'root: a volume :O' '[ "$(podman run --rm -v ./volume:/v:O img sh -c "cat /v/file; echo x >/v/file; cat /v/file" | tr "\n" " ")" = "volume x " ]; [ "$(cat volume/file)" = volume ]'
    row 'root: a mount of an image' '[ "$(podman run --rm --mount type=image,source=img,target=/i img cat /i/tmp/sub/file)" = sub ]'
    nested
    row 'root: prune' 'podman system prune -af; [ -z "$(podman images -q)" ]'
}

# Podman in a container of podman, its storage on the container's own root directory; its programs are this machine's.
nested() {
    local inner=$base/inner
    mkdir -p "$inner"/{etc/containers,root/.config/containers,var/tmp,tmp,run,proc,sys,dev,usr,mp}
    ln -s usr/bin usr/sbin usr/lib usr/lib64 "$inner"
    [ ! -e /etc/ld.so.cache ] || cp /etc/ld.so.cache "$inner/etc"
    printf 'root:x:0:0:root:/root:/bin/sh\n' | tee "$inner/etc/passwd" >/dev/null
    printf 'root:x:0:\n' >"$inner/etc/group"
    cp "$program" "$inner/mp"
    cp "$base/image.tar" "$inner"
    cp "$base/home/.config/containers/policy.json" "$inner/etc/containers"
    printf '[storage]\ndriver = "overlay"\nrunroot = "/run/storage"\ngraphroot = "/graph"\n[storage.options.overlay]\nmount_program = "/mp/%s"\n' "$name" >"$inner/etc/containers/storage.conf"
    sed -e '/^tmp_dir\|^static_dir\|^volume_path/d' "$base/containers.conf" >"$inner/etc/containers/containers.conf"
    tar -C "$inner" -cf "$base/inner.tar" --numeric-owner --owner=0 --group=0 .
    row 'root: podman in podman' 'podman import -q $base/inner.tar outer; podman run --rm --privileged --device /dev/fuse -v /usr:/usr:ro outer /usr/bin/bash -ec "
        unset CONTAINERS_CONF CONTAINERS_STORAGE_CONF; export PATH=/usr/bin:/usr/sbin
        podman import -q /image.tar img
        [ \"\$(podman run --rm img cat /tmp/sub/file)\" = sub ]
        podman run --name inner img sh -c \"rm -r /tmp/sub; mkdir /tmp/sub; mv /srv/tree /t; echo x >>/etc/passwd\"
        podman commit -q inner again
        [ \"\$(podman run --rm again sh -c \"cat /t/f; ls /tmp/sub\")\" = tree ]"'
}

# Views that bubblewrap binds, mounted and used by root, and by a normal user.
bubblewrap() {
    local missing who as
    missing=$(get_packages bwrap:bubblewrap busybox:busybox-static) || { skip "bubblewrap: $missing"; return; }
    for who in root user; do
        make_layers "$base/bwrap-$who"
        busybox_root "$base/bwrap-$who/lower"
        as=
        if [ "$who" = user ]; then
            chown -R "$user:$user" "$base/bwrap-$who"
            as="setpriv --reuid=$user --regid=$user --init-groups"
        fi
        $as bwrap --ro-bind / / true 2>"$base/said" || { skip "bubblewrap, $who: $(tail -1 "$base/said")"; continue; }
        $as bash -c "cd / && '$program' -o lowerdir=$base/bwrap-$who/lower,upperdir=$base/bwrap-$who/upper,workdir=$base/bwrap-$who/work $base/bwrap-$who/merged"
        row "bubblewrap, $who: a view as the root directory" "cd /; $as bwrap --bind $base/bwrap-$who/merged / --dev /dev --proc /proc --chdir / sh -c '
            cat /tmp/sub/file; echo more >>/etc/passwd; mv /srv/tree /srv/moved; rm -r /tmp/sub; mkdir /tmp/sub; echo x >/new; sync'
            [ \"\$($as cat $base/bwrap-$who/merged/new $base/bwrap-$who/merged/srv/moved/f | tr '\n' ' ')\" = 'x tree ' ]
            [ -z \"\$($as ls $base/bwrap-$who/merged/tmp/sub)\" ]; [ -e $base/bwrap-$who/lower/tmp/sub/file ]"
        row "bubblewrap, $who: a read-only view" "cd /; $as bwrap --ro-bind $base/bwrap-$who/merged / --tmpfs /tmp --unshare-all sh -c 'cat /new; ! echo y >/new' 2>/dev/null | grep -qx x"
        unmount "$base/bwrap-$who/merged"
    done
}

# apt-get in a chroot whose root is a view of a Debian tree that no package was added to.
apt() {
    local missing tree=$cache/minbase at=$base/apt
    if [ ! -d "$tree" ]; then
        missing=$(get_packages debootstrap:debootstrap) || { skip "apt-get in a chroot: $missing"; return; }
        rm -rf "$tree.part"
        debootstrap --variant=minbase bookworm "$tree.part" >"$base/said" 2>&1 ||
            { skip "apt-get in a chroot: debootstrap: $(tail -1 "$base/said")"; rm -rf "$tree.part"; return; }
        mv "$tree.part" "$tree"
    fi
    mkdir -p "$at/upper" "$at/work" "$at/merged"
    "$program" -o "lowerdir=$tree,upperdir=$at/upper,workdir=$at/work" "$at/merged"
    cp /etc/resolv.conf /etc/hosts "$at/merged/etc/"
    cp /etc/apt/sources.list "$at/merged/etc/apt/" 2>/dev/null || true
    cp /etc/apt/apt.conf.d/*proxy* "$at/merged/etc/apt/apt.conf.d/" 2>/dev/null || true
    if ! chroot "$at/merged" apt-get update -qq >"$base/said" 2>&1; then
        skip "apt-get in a chroot: $(tail -1 "$base/said")"
    else
        row 'apt-get in a chroot: install' "chroot $at/merged sh -ec 'export DEBIAN_FRONTEND=noninteractive; apt-get install -y -qq hello file; dpkg -V hello file; dpkg --audit; hello; file /bin/ls | grep -q ELF'; [ ! -e $tree/usr/bin/hello ]"
        row 'apt-get in a chroot: reinstall and upgrade' "chroot $at/merged sh -ec 'export DEBIAN_FRONTEND=noninteractive; apt-get install -y -qq --reinstall base-files dpkg tzdata login; apt-get -y -qq upgrade; dpkg --audit; dpkg -V dpkg login'"
        row 'apt-get in a chroot: purge' "chroot $at/merged sh -ec 'apt-get purge -y -qq hello; apt-get autoremove -y -qq; ! dpkg -s hello; [ ! -e /usr/bin/hello ]; dpkg --audit'"
        row 'apt-get in a chroot: the same after a remount' "chroot $at/merged sh -ec 'dpkg -l; dpkg -V file dpkg; find / -xdev | sort | while read -r f; do stat -c \"%n %F %a %u:%g %s %Y\" \"\$f\"; done' >before; umount $at/merged; $program -o lowerdir=$tree,upperdir=$at/upper,workdir=$at/work $at/merged; chroot $at/merged sh -ec 'dpkg -l; dpkg -V file dpkg; find / -xdev | sort | while read -r f; do stat -c \"%n %F %a %u:%g %s %Y\" \"\$f\"; done' >after; diff before after"
    fi
    unmount "$at/merged"
}

# Docker of a normal user. Debian's packages are only unpacked: installed they would start a daemon of root's.
docker() {
    local missing at=$base/docker pid tries
    missing=$(get_packages slirp4netns:slirp4netns newuidmap:uidmap busybox:busybox-static) || { skip "Docker: $missing"; return; }
    mkdir -p "$at/deb" "$at/root" "$at/bin"
    (cd "$at/deb" && apt-get download -qq -o APT::Sandbox::User=root docker.io containerd runc rootlesskit) >"$base/said" 2>&1 ||
        { skip "Docker: no packages: $(tail -1 "$base/said")"; return; }
    for deb in "$at"/deb/*.deb; do dpkg -x "$deb" "$at/root"; done
    ln -s "$program" "$at/bin/fuse-overlayfs"
    # A user's network takes a tun device that he may open.
    if [ -e /dev/net/tun ]; then
        mknod -m 666 "$at/tun" c 10 200 && mount --bind "$at/tun" /dev/net/tun
    fi
    busybox_root "$base/docker-root"
    tar -C "$base/docker-root" -cf "$base/docker.tar" --numeric-owner --owner=0 --group=0 .
    as_docker="setpriv --reuid=$user --regid=$user --init-groups env -i HOME=$base/user USER=$user XDG_RUNTIME_DIR=$base/run DOCKER_BUILDKIT=0 DOCKER_HOST=unix://$base/run/docker.sock base=$base PATH=$at/bin:$at/root/usr/bin:$at/root/usr/sbin:$PATH bash -c"
    (cd / && exec $as_docker "exec bash $at/root/usr/share/docker.io/contrib/dockerd-rootless.sh --storage-driver fuse-overlayfs --iptables=false --ip6tables=false --bridge=none --data-root $base/user/data") >"$base/dockerd" 2>&1 &
    pid=$!
    disown "$pid"
    for ((tries = 0; tries < 60; tries++)); do
        [ -S "$base/run/docker.sock" ] || ! kill -0 "$pid" 2>/dev/null || { sleep 0.5; continue; }
        break
    done
    [ -S "$base/run/docker.sock" ] || { skip "Docker: $(grep error "$base/dockerd" | tail -1)"; return; }
    row_docker() { row "$1" "cd $base/user; $as_docker $(printf %q "set -e; changes=$(printf %q "$container_changes"); listing=$(printf %q "$container_listing"); run='docker run --network host'; $2")"; }
    row_docker 'Docker: import and run' 'docker import -q $base/docker.tar img || docker import $base/docker.tar img; [ "$($run --rm img cat /tmp/sub/file)" = sub ]; $run --rm img mount | head -1 | grep -q fuse'
    row_docker 'Docker: commit, running and stopped' '$run -d --name kept img sleep 1000; docker exec kept sh -c "$changes"; docker exec kept sh -c "$listing" >view; docker commit kept done1; docker stop -t 0 kept; docker commit kept done2; for i in done1 done2; do $run --rm $i sh -c "$listing" >there; diff view there; done'
    row_docker 'Docker: diff' 'docker diff kept >told; grep -q "^D /tmp/sub/file" told; grep -q "^A /moved" told'
    row_docker 'Docker: export' 'docker export kept >c.tar; docker import c.tar done3; $run --rm done3 sh -c "$listing" >there; diff view there; docker rm -f kept'
    row_docker 'Docker: save and load' 'docker save -o s.tar done2; docker rmi -f done2; docker load -i s.tar; $run --rm done2 sh -c "$listing" >there; diff view there'
    row_docker 'Docker: build' 'mkdir -p context; { echo FROM img; for i in $(seq 10); do echo "RUN echo $i >>/l; mkdir /d$i; rm -rf /d$((i - 1))"; done; } >context/Dockerfile; docker build -q --network host -t many context; [ "$($run --rm many sh -c "wc -l </l; ls -d /d[0-9]*" | tr "\n" " ")" = "10 /d10 " ]'
    row_docker 'Docker: prune' 'docker system prune -af; [ -z "$(docker images -q)" ]'
}

echo "| case | $name |"
echo "|---|---|"
for client in ${PLYFS_CLIENTS:-rootful bubblewrap apt docker}; do "$client"; done
echo "clients on $name: $passed passed, $failed failed"
[ "$failed" = 0 ]
