//! How containers' tools call it: each row imitates one of them to the letter, as its sources and logs show, writes and
//! reads through the mount, and unmounts in that tool's way. `tests/suites/podman.sh` runs real ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/mod.rs"]
mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::mount::{is_mounted, unmount_any, wait_until};
use common::{Stack, Who, bounded, say_skipped, skip, who};

#[test]
fn again_as_a_normal_user() {
    common::legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    common::legs::in_a_user_namespace();
}

/// What a client calls, as a line of sh. `$MP` is plyfs, `fuse-overlayfs` too; `$A` and `$B` are lower layers (`a`, `both`;
/// `b`, `both`), `$U` and `$W` the upper and the work directory, `$M` the mountpoint, `$G` the directory of all.
struct Row {
    client: &'static str,
    mount: &'static str,
    unmount: &'static str,
    how: How,
}

/// What is special about a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Nothing.
    Writable,
    /// It changes nothing.
    ReadOnly,
    /// It stays in the foreground.
    Foreground,
    /// The same, read-only.
    ForegroundReadOnly,
}

impl How {
    fn is_writable(self) -> bool {
        matches!(self, Self::Writable | Self::Foreground)
    }

    fn stays(self) -> bool {
        matches!(self, Self::Foreground | Self::ForegroundReadOnly)
    }
}

use How::{Foreground, ForegroundReadOnly, ReadOnly, Writable};

const fn row(client: &'static str, mount: &'static str, unmount: &'static str, how: How) -> Row {
    Row { client, mount, unmount, how }
}

/// As containers/storage: `fusermount3 -u`, else `fusermount -u`, else umount2(MNT_DETACH).
const STORAGE: &str = "fusermount3 -u $M || fusermount -u $M || umount -l $M";
const UMOUNT: &str = "umount $M || fusermount3 -u $M";
const DETACH: &str = "umount -l $M || fusermount3 -uz $M";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("podman", "cd $G && $MP -o lowerdir=l/A:l/B,upperdir=$U,workdir=$W, $M", STORAGE, Writable),
    row("podman, mountopt and volatile", "cd $G && $MP -o lowerdir=l/A:l/B,upperdir=$U,workdir=$W,nodev,,volatile $M", STORAGE, Writable),
    row("podman, metacopy and redirects off", "cd $G && $MP -o lowerdir=l/A:l/B,upperdir=$U,workdir=$W,metacopy=off,redirect_dir=off $M", STORAGE, Writable),
    row("podman, supervise", "cd $G && $MP -o lowerdir=l/A:l/B,upperdir=$U,workdir=$W,supervise $M", STORAGE, Writable),
    row("podman, maps", "cd $G && $MP -o lowerdir=l/A:l/B,upperdir=$U,workdir=$W,uidmapping=:0:0:1000:1000:1000:64536,gidmapping=:0:0:1000:1000:1000:64536 $M", STORAGE, Writable),
    row("podman, a map of one id", "cd $G && $MP -o lowerdir=l/A:l/B,upperdir=$U,workdir=$W,squash_to_uid=$(id -u),squash_to_gid=$(id -g) $M", STORAGE, Writable),
    row("podman, force_mask", "cd $G && $MP -o lowerdir=l/A:l/B,upperdir=$U,workdir=$W,xattr_permissions=2 $M", STORAGE, Writable),
    row("podman, diff and commit", "cd $G && $MP -o lowerdir=$U:l/A:l/B $M", STORAGE, ReadOnly),
    row("podman, layers of other maps", "cd $G && $MP -o lowerdir=l/A:l/A/../empty:l/B,upperdir=$U,workdir=$W $M", STORAGE, Writable),
    row("buildah, an overlay volume", "cd / && $MP -o 'lowerdir='$G'/c\\:d','upperdir='$U,'workdir='$W,private $M 2>/dev/null", STORAGE, Writable),
    row("buildah, a read-only one", "cd / && $MP -o lowerdir=$A:$G/empty,private $M", STORAGE, ReadOnly),
    row("moby", "fuse-overlayfs -o lowerdir=$A:$B,upperdir=$U,workdir=$W $M", UMOUNT, Writable),
    row("moby, a committed layer", "fuse-overlayfs -o lowerdir=$A:$B $M", UMOUNT, ReadOnly),
    row("containerd, BuildKit, k3s", "mount.fuse3 overlay $M -o workdir=$W -o upperdir=$U -o lowerdir=$A:$B -t fuse-overlayfs", UMOUNT, Writable),
    row("containerd, maps", "mount.fuse3 overlay $M -o workdir=$W -o upperdir=$U -o lowerdir=$A:$B -o uidmapping=0:0:65536 -o gidmapping=0:0:65536 -t fuse-overlayfs", UMOUNT, Writable),
    row("containerd, a view", "mount.fuse3 overlay $M -o lowerdir=$A:$B -o ro -t fuse-overlayfs", UMOUNT, ReadOnly),
    row("apptainer", "exec fuse-overlayfs -f -o allow_other,lowerdir=$A:$B,upperdir=$U,workdir=$W,noacl $M", DETACH, Foreground),
    row("apptainer, read-only", "exec fuse-overlayfs -f -o allow_other,ro,lowerdir=$A:$B,noacl $M", DETACH, ForegroundReadOnly),
    row("SingularityCE", "fuse-overlayfs -o lowerdir=$A:$M,upperdir=$U,workdir=$W $M", UMOUNT, Writable),
    row("enroot", "FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT=y exec fuse-overlayfs -f -o lowerdir=$M/lower,upperdir=$M/upper,workdir=$M/work $M", UMOUNT, Foreground),
    row("BenchExec", "fuse-overlayfs -o lowerdir=/ -o upperdir=$U -o workdir=$W $M", UMOUNT, Writable),
    row("scripts", "fuse-overlayfs -o lowerdir=$A:$B,upperdir=$U,workdir=$W,noxattrs=1,fsync=1,threaded=1 $M", UMOUNT, Writable),
    row("scripts, squashed", "fuse-overlayfs -o lowerdir=$A:$B,upperdir=$U,workdir=$W -o squash_to_uid=$(id -u) -o squash_to_gid=$(id -g) $M", UMOUNT, Writable),
    row("scripts, with words of libfuse", "fuse-overlayfs -o lowerdir=$A:$B,upperdir=$U,workdir=$W -o ino32_t,noxattrs,auto_unmount,big_writes,clone_fd,max_idle_threads=4 $M", UMOUNT, Writable),
];

/// What a client finds.
struct Place {
    stack: Stack,
    bin: PathBuf,
}

impl Place {
    fn new() -> Self {
        let stack = Stack::new(0);
        let at = |path: &str| stack.scratch.path().join(path);
        for dir in ["a", "b", "c:d", "empty", "l", "bin", "work", "merged/lower", "merged/upper", "merged/work"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        for (file, text) in [
            ("a/a", "a"),
            ("a/both", "a"),
            ("b/b", "b"),
            ("b/both", "b"),
            ("c:d/a", "a"),
            ("c:d/both", "a"),
            ("merged/b", "b"),
            ("merged/lower/a", "a"),
            ("merged/lower/both", "a"),
        ] {
            fs::write(at(file), text).unwrap();
        }
        symlink("../a", at("l/A")).unwrap();
        symlink("../b", at("l/B")).unwrap();
        symlink(common::mount::binary(), at("bin/fuse-overlayfs")).unwrap();
        let bin = at("bin");
        Place { stack, bin }
    }

    /// The command `line` of sh in this place.
    fn sh(&self, line: &str) -> Command {
        let base = self.stack.scratch.path();
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("MP", common::mount::binary()).env("G", base);
        for (name, dir) in [("A", "a"), ("B", "b"), ("U", "upper"), ("W", "work"), ("M", "merged")] {
            command.env(name, base.join(dir));
        }
        let path = format!("{}:{}:/usr/sbin:/sbin", self.bin.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path);
        command
    }

    /// Mounts as the row says; what stays in the foreground is returned.
    fn mount(&self, row: &Row) -> Option<Child> {
        let log = self.stack.scratch.path().join("log");
        let mut command = self.sh(row.mount);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let said = || fs::read_to_string(&log).unwrap();
        let child = if row.how.stays() {
            let child = command.spawn().unwrap();
            assert!(wait_until(|| is_mounted(&self.stack.merged)), "{}: {}", row.client, said());
            Some(child)
        } else {
            let status = command.status().unwrap();
            assert!(status.success(), "{}: {status}: {}", row.client, said());
            None
        };
        assert!(is_mounted(&self.stack.merged), "{}: {}", row.client, said());
        // fusermount3 cannot do what `private` says.
        let noted = who() == Who::User && row.mount.contains("private");
        assert_eq!(
            said().is_empty(),
            !noted || row.mount.contains("2>"),
            "{}: a client shows its user: {}",
            row.client,
            said()
        );
        child
    }
}

/// The view's mountpoint leaves the tree at the end of a test.
struct End<'a>(&'a Place);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if is_mounted(&self.0.stack.merged) {
            let _ = unmount_any(&self.0.stack.merged, true);
        }
    }
}

fn can_run(row: &Row) -> bool {
    if row.mount.contains("allow_other") && who() == Who::User {
        let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
        return conf.lines().any(|line| line.trim() == "user_allow_other");
    }
    true
}

fn run(row: &Row) {
    let place = Place::new();
    let _end = End(&place);
    let merged = &place.stack.merged;
    let child = place.mount(row);
    let read = |name: &str| fs::read_to_string(merged.join(name));
    if row.client == "BenchExec" {
        assert_eq!(read("etc/passwd").unwrap(), fs::read_to_string("/etc/passwd").unwrap());
    } else {
        assert_eq!((read("a").unwrap(), read("both").unwrap()), ("a".into(), "a".into()), "{}", row.client);
        let is_alone = ["buildah", "enroot"].iter().any(|client| row.client.starts_with(client));
        assert_eq!(read("b").is_ok(), !is_alone, "{}", row.client);
    }
    let written = fs::write(merged.join("new"), "n").and_then(|()| fs::write(merged.join("both"), "changed"));
    match row.how.is_writable() {
        true => {
            written.unwrap_or_else(|error| panic!("{}: {error}", row.client));
            assert_eq!((read("new").unwrap(), read("both").unwrap()), ("n".into(), "changed".into()), "{}", row.client);
        }
        false => assert!(written.is_err(), "{}", row.client),
    }
    let out = place.sh(row.unmount).output().unwrap();
    assert!(out.status.success(), "{}: {}", row.client, String::from_utf8_lossy(&out.stderr));
    assert!(wait_until(|| !is_mounted(merged)), "{}: still mounted", row.client);
    if let Some(mut child) = child {
        assert!(child.wait().unwrap().success(), "{}", row.client);
    }
    if row.how.is_writable() {
        let upper = if row.client == "enroot" { "merged/upper" } else { "upper" };
        let upper = place.stack.scratch.path().join(upper);
        assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "n", "{}", row.client);
        assert_eq!(fs::read_to_string(upper.join("both")).unwrap(), "changed", "{}", row.client);
    }
}

#[test]
fn each_client_mounts_writes_and_unmounts_as_it_does() {
    if !common::mount::is_plyfs() {
        skip!("the calls are those that plyfs gets");
    }
    for row in ROWS {
        if !can_run(row) {
            say_skipped(&format!("{}: /etc/fuse.conf lets no normal user give allow_other", row.client));
            continue;
        }
        bounded(move || run(row));
    }
}

/// A container whose own root directory is a fuse-overlayfs 1.x, in which another union is mounted: there a device that is
/// refused leaves its name, `.wh.` names are refused, and marks cannot be read back.
#[test]
fn an_upper_layer_on_fuse_overlayfs_is_written_as_far_as_that_lets_it() {
    if !fs::exists("/usr/bin/fuse-overlayfs").unwrap() || !common::mount::is_plyfs() {
        skip!("no fuse-overlayfs (Debian: fuse-overlayfs)");
    }
    bounded(|| {
        let place = Place::new();
        let base = place.stack.scratch.path();
        let dirs = ["outer/lower", "outer/upper", "outer/work", "outer/merged"];
        dirs.iter().for_each(|dir| fs::create_dir_all(base.join(dir)).unwrap());
        fs::create_dir(base.join("a/dir")).unwrap();
        let outer = base.join("outer/merged");
        let line = "cd $G/outer && exec /usr/bin/fuse-overlayfs -o lowerdir=lower,upperdir=upper,workdir=work merged";
        let out = place.sh(line).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let _outer = Outer(&outer);
        let _end = End(&place);
        fs::create_dir(outer.join("u")).unwrap();
        fs::create_dir(outer.join("w")).unwrap();
        let merged = &place.stack.merged;
        let read = |name: &str| fs::read_to_string(merged.join(name)).map_err(|error| error.kind());
        for round in 0..3 {
            let out =
                place.sh("exec $MP -o lowerdir=$A:$B,upperdir=$G/outer/merged/u,workdir=$G/outer/merged/w $M").output();
            let out = out.unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "mount {round}: {said}");
            assert!(said.contains("neither device nodes nor .wh.NAME files"), "{said}");
            let expected = |changed: &str, first: &str| if round == 0 { first.to_owned() } else { changed.to_owned() };
            assert_eq!((read("a"), read("both")), (Ok(expected("changed", "a")), Ok("a".to_owned())), "mount {round}");
            fs::write(merged.join("a"), "changed").unwrap();
            fs::write(merged.join("dir/new"), "n").unwrap();
            fs::rename(merged.join("dir/new"), merged.join("dir/renamed")).unwrap();
            fs::create_dir_all(merged.join("made/deep")).unwrap();
            fs::write(merged.join("gone"), "g").unwrap();
            fs::remove_file(merged.join("gone")).unwrap();
            assert!(fs::remove_file(merged.join("both")).is_err(), "what hides it?");
            assert_eq!((read("a"), read("dir/renamed")), (Ok("changed".into()), Ok("n".into())));
            assert_eq!((read("both"), read("gone")), (Ok("a".into()), Err(std::io::ErrorKind::NotFound)));
            assert!(merged.join("made/deep").is_dir());
            unmount_any(merged, false).unwrap();
        }
        // But for the marks of the outer one. The daemon ends after the unmount.
        let left = || -> Vec<_> {
            let names = fs::read_dir(base.join("outer/upper/w/work")).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| !name.to_string_lossy().starts_with(".wh.")).collect()
        };
        assert!(wait_until(|| left().is_empty()), "{:?}", left());
    });
}

/// Another union, unmounted at the end of a test.
struct Outer<'a>(&'a Path);

impl Drop for Outer<'_> {
    fn drop(&mut self) {
        if unmount_any(self.0, false).is_err() {
            let _ = unmount_any(self.0, true);
        }
    }
}
