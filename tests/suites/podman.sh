#!/usr/bin/env bash
# Real rootless podman and buildah (Debian's packages, installed by apt where they are missing) with plyfs as their
# `mount_program`: a line for each case. A user with ids of its own is made for it, and removed with all that it has.
#
# PLYFS_PODMAN_PROGRAM=/usr/bin/fuse-overlayfs: another mount program; PLYFS_PODMAN_MOUNTOPT=metacopy=off,redirect_dir=off;
# PLYFS_PODMAN_CASE=WORD: only the cases with WORD in their names.
set -euo pipefail
suites=$(cd "$(dirname "$0")" && pwd)
. "$suites/lib.sh"

skip() { echo "SKIPPED: podman: $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "root makes the user that runs it"
# Mounts of its own; and crun takes no machine with both versions of cgroups.
if [ -z "${PLYFS_PODMAN_APART:-}" ]; then
    exec env PLYFS_PODMAN_APART=1 unshare -m --propagation private bash "$0"
fi
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
program=${PLYFS_PODMAN_PROGRAM:-$plyfs}
need "$program" 'cargo build --release'
missing=$(get_packages podman:podman buildah:buildah crun:crun newuidmap:uidmap busybox:busybox-static) || skip "$missing"

make_base
user=plyfs-podman-$$
as_user() {
    setpriv --reuid="$user" --regid="$user" --init-groups env -i HOME="$base/home" XDG_RUNTIME_DIR="$base/run" \
        PATH="$PATH" USER="$user" base="$base" bash -c 'cd "$base/home" && '"$1"
}
end() {
    as_user 'podman rm -af -t 0; podman system reset -f' >/dev/null 2>&1 || true
    # What keeps podman's namespaces, and daemons that serve in them.
    local pid
    for pid in $(ps -o pid= -u "$user"); do kill -9 "$pid" 2>/dev/null || true; done
    userdel "$user" 2>/dev/null || true
    cleanup
}
trap end EXIT
useradd --system --user-group --home-dir "$base/home" --shell /bin/bash "$user"
usermod --add-subuids 500000-631071 --add-subgids 500000-631071 "$user"
mkdir -p "$base/home/.config/containers" "$base/run" "$base/bin"
cp "$program" "$base/bin/$(basename "$program")"
printf '[storage]\ndriver = "overlay"\nrunroot = "%s"\ngraphroot = "%s"\n[storage.options.overlay]\nmount_program = "%s"\n%s\n' \
    "$base/run/storage" "$base/graph" "$base/bin/$(basename "$program")" \
    "${PLYFS_PODMAN_MOUNTOPT:+mountopt = \"$PLYFS_PODMAN_MOUNTOPT\"}" >"$base/home/.config/containers/storage.conf"
printf '[containers]\ncgroups = "disabled"\nnetns = "host"\nlog_driver = "k8s-file"\n[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "crun"\n' \
    >"$base/home/.config/containers/containers.conf"
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$base/home/.config/containers/policy.json"
busybox_root "$base/root"
tar -C "$base/root" -cf "$base/image.tar" --numeric-owner --owner=0 --group=0 .
mkdir -p "$base/home/volume" "$base/home/upper" "$base/home/work" "$base/graph"
echo volume >"$base/home/volume/file"
chown -R "$user:$user" "$base/home" "$base/run" "$base/graph"

as_user 'podman unshare true' >/dev/null 2>&1 || skip "a normal user has no user namespace here"
# Whole copies and no mount program: what fails there is not plyfs's.
vfs='podman --storage-driver vfs --root $base/home/vfs --runroot $base/run/vfs'
as_user "$vfs import -q \$base/image.tar img && $vfs run --rm img true" >"$base/said" 2>&1 ||
    skip "podman runs no container here: $(tail -1 "$base/said")"
as_user 'podman unshare rm -rf vfs'

# Names have a letter that no digit of an id is: podman takes `c` for the image whose id begins so, too.
passed=0
failed=0
# row NAME SCRIPT: the user runs the script, which must succeed.
row() {
    case $1 in *"${PLYFS_PODMAN_CASE:-}"*) ;; *) [ "$1" = import ] || return 0 ;; esac
    if as_user "set -e; changes='$container_changes'; listing='$container_listing'; $2" >"$base/said" 2>&1; then
        passed=$((passed + 1))
        echo "| $1 | pass |"
    else
        failed=$((failed + 1))
        echo "| $1 | FAIL: $(grep -v '^time=.*level=warning' "$base/said" | tail -1 | tr '|\n' '  ' | cut -c 1-160) |"
    fi
}

echo "| case | $(basename "$program")${PLYFS_PODMAN_MOUNTOPT:+, $PLYFS_PODMAN_MOUNTOPT} |"
echo "|---|---|"
row import 'podman import $base/image.tar img'
row run '[ "$(podman run --rm img cat /tmp/sub/file)" = sub ]'
row 'run as another user' '[ "$(podman run --rm --user 7:7 img sh -c "echo x >/tmp/x; stat -c %u:%g /tmp/x")" = 7:7 ]'
row 'a set-user-id program' '[ "$(podman run --rm img stat -c %a:%u /bin/suid)" = 4755:0 ]'
row 'exec, stop and start' 'podman run -d --name runs img sleep 1000; podman exec runs sh -c "echo x >/x"; podman stop -t 0 runs; podman start runs; [ "$(podman exec runs cat /x)" = x ]; podman rm -f -t 0 runs'
row 'build of 40 layers' '{ echo FROM img; for i in $(seq 40); do echo "RUN echo $i >>/l; mkdir /d$i; rm -rf /d$((i - 1))"; done; } >many; podman build -q --isolation=chroot --layers -t many -f many .; [ "$(podman run --rm many sh -c "wc -l </l; ls -d /d[0-9]*" | tr "\n" " ")" = "40 /d40 " ]'
row 'multistage build' 'printf "FROM img AS one\nRUN mkdir /o && echo one >/o/f && mv /o /p\nFROM img\nCOPY --from=one /p /q\nCOPY volume /v\n" >stages; podman build -q --isolation=chroot -t two -f stages .; [ "$(podman run --rm two cat /q/f /v/file | tr "\n" " ")" = "one volume " ]'
row 'commit, running' 'podman run -d --name kept img sleep 1000; podman exec kept sh -c "$changes"; podman exec kept sh -c "$listing" >view; podman commit -q kept done1; podman run --rm done1 sh -c "$listing" >there; diff view there'
row 'commit, stopped' 'podman stop -t 0 kept; podman commit -q kept done2; podman run --rm done2 sh -c "$listing" >there; diff view there'
row diff 'podman diff kept >told; grep -q "^D /tmp/sub/file" told; grep -q "^A /moved" told; grep -q "^C /tmp" told'
row export 'podman export kept >c.tar; podman import -q c.tar done3; podman run --rm done3 sh -c "$listing" >there; diff view there; podman rm -f -t 0 kept'
row 'save and load' 'podman save -q -o s.tar done2; podman rmi -f done2; podman load -q -i s.tar; podman run --rm done2 sh -c "$listing" >there; diff view there'
row 'a volume :O' '[ "$(podman run --rm -v ./volume:/v:O img sh -c "cat /v/file; echo x >/v/file; echo y >/v/y; cat /v/file" | tr "\n" " ")" = "volume x " ]; [ "$(cat volume/file)" = volume ]; [ ! -e volume/y ]'
row 'a volume :O with its own layers' 'podman run --rm -v ./volume:/v:O,upperdir=$HOME/upper,workdir=$HOME/work img sh -c "echo x >/v/new"; [ "$(cat upper/new)" = x ]; [ ! -e volume/new ]'
row 'a root directory :O' 'mkdir r; tar -C r -xf $base/image.tar; [ "$(podman run --rm --rootfs r:O sh -c "echo x >/x; cat /x /tmp/sub/file" | tr "\n" " ")" = "x sub " ]; [ ! -e r/x ]'
row 'a mount of an image' '[ "$(podman run --rm --mount type=image,source=img,target=/i img cat /i/tmp/sub/file)" = sub ]; podman run --rm --mount type=image,source=img,target=/i,rw=true img sh -c "echo x >/i/x; cat /i/x"'
row 'an additional store' 'podman --root $base/home/more --runroot $base/run/more import -q $base/image.tar other; [ "$(podman --storage-opt additionalimagestore=$base/home/more run --rm other cat /tmp/sub/file)" = sub ]; podman unshare rm -rf more'
row 'a read-only root' 'podman run --rm --read-only img sh -c "cat /tmp/sub/file; ! touch /x"'
row 'podman mount' 'podman unshare sh -c "d=\$(podman image mount img) && cat \$d/tmp/sub/file && podman image umount img"'
row 'keep-id' '[ "$(podman run --rm --userns=keep-id img sh -c "echo x >/tmp/x; stat -c %u /tmp/x /bin/busybox" | tr "\n" " ")" = "$(id -u) 0 " ]'
row auto '[ "$(podman run --rm --userns=auto:size=1000 img sh -c "echo x >/x; stat -c %u /x /bin/busybox" | tr "\n" " ")" = "0 0 " ]'
row nomap '[ "$(podman run --rm --userns=nomap img sh -c "echo x >/x; stat -c %u /x /bin/busybox" | tr "\n" " ")" = "0 0 " ]'
row '--uidmap' '[ "$(podman run --rm --uidmap 0:1:1000 --gidmap 0:1:1000 img sh -c "echo x >/x; chown 7 /x; stat -c %u /x /bin/busybox" | tr "\n" " ")" = "7 0 " ]'
row '--uidmap of several ranges' '[ "$(podman run --rm --uidmap 0:1:5 --uidmap 5:100:50 --gidmap 0:1:5 --gidmap 5:100:50 img sh -c "echo x >/x; chown 7 /x; stat -c %u:%a /x /bin/suid" | tr "\n" " ")" = "7:644 0:4755 " ]'
row 'keep-id, committed' 'podman run --name k --userns=keep-id --user 0 img sh -c "echo k >/k; chown 7:7 /k"; podman commit -q k again; [ "$(podman run --rm again stat -c %u:%g /k)" = 7:7 ]; podman rm -f k'
row buildah 'c=$(buildah from img); buildah run --isolation=chroot $c sh -c "echo b >/b; mv /tmp/sub /s"; buildah commit -q $c built; buildah rm $c; [ "$(podman run --rm built cat /b /s/file | tr "\n" " ")" = "b sub " ]'
row 'buildah, a volume :O' 'c=$(buildah from img); buildah run --isolation=chroot -v $HOME/volume:/v:O $c sh -c "cat /v/file; echo x >/v/z"; [ ! -e volume/z ]; buildah rm $c'
row prune 'podman system prune -af; [ -z "$(podman images -q)" ]'
echo "podman $(podman --version | awk '{ print $3 }') on $(basename "$program"): $passed passed, $failed failed"
[ "$failed" = 0 ]
