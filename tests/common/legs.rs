//! The same suite with less power: the test binary runs itself again as a normal user, and as that user's root in a
//! user namespace of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::mount::binary;
use super::{Scratch, Who, kernel, say_skipped, who};

/// The tests of a suite that start it again have this in their names, so that a leg leaves them out.
const AGAIN: &str = "again_";
/// Set in a leg: legs do not nest.
const LEG: &str = "PLYFS_TEST_LEG";

/// The user of the legs: `tests` (made if missing), else nobody's number.
pub fn user() -> (u32, u32) {
    let find = || {
        let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let line = table.lines().find(|l| l.starts_with("tests:"))?.to_owned();
        let mut fields = line.split(':').skip(2).map(str::parse);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    };
    let make = || {
        let _ = Command::new("useradd").args(["--system", "--user-group", "tests"]).output();
        find()
    };
    find().or_else(make).unwrap_or((65534, 65534))
}

fn works(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|o| o.status.success())
}

/// Runs the suite as a normal user who mounts by fusermount3. Does nothing unless the caller is root.
pub fn as_a_normal_user() {
    run(Who::User, false);
}

/// Runs the suite in a normal user's `unshare -Urm`. Does nothing inside one.
pub fn in_a_user_namespace() {
    run(Who::Namespace, false);
}

/// As [`as_a_normal_user`], with the layers in memory, where nothing waits for a disk: the suite itself has them on one.
pub fn as_a_normal_user_in_memory() {
    run(Who::User, true);
}

/// As [`in_a_user_namespace`], with the layers in memory.
pub fn in_a_user_namespace_in_memory() {
    run(Who::Namespace, true);
}

fn run(leg: Who, in_memory: bool) {
    let now = who();
    if std::env::var_os(LEG).is_some() || now == Who::Namespace || now == leg {
        return;
    }
    if leg == Who::User && !works("fusermount3", &["-V"]) {
        return say_skipped("no fusermount3 (Debian: fuse3)");
    }
    let mut command = Command::new("sh");
    let scratch = Scratch::new();
    let mut program = vec![];
    if now == Who::Root {
        let (uid, gid) = user();
        // A private mount table in which /dev/fuse is open to all, as udev leaves it; the machine's own stays. The mounts
        // of tests that run beside this one are in it too, and would live as long as it does.
        let script = r#"for m in $(awk '$5 ~ "/plyfs-" { print $5 }' /proc/self/mountinfo); do umount -l "$m"; done
            [ -z "$2" ] || mount -t tmpfs -o "$2" plyfs-layers "$1/layers" || exit
            mknod "$1/fuse" c 10 229 && chmod 666 "$1/fuse" && mount --bind "$1/fuse" /dev/fuse
            [ -c /dev/fuse ] && shift 2 && exec "$@""#;
        // Since Linux 6.6 users' attributes can be kept there.
        let in_memory = in_memory && std::env::var_os("PLYFS_TEST_DIR").is_none() && kernel() >= (6, 6);
        command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]).arg(scratch.path());
        command.arg(if in_memory { format!("mode=755,uid={uid},gid={gid}") } else { String::new() });
        program.extend(["setpriv".into(), format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
        rustix::fs::chown(
            scratch.dir("layers"),
            Some(rustix::fs::Uid::from_raw(uid)),
            Some(rustix::fs::Gid::from_raw(gid)),
        )
        .unwrap();
    } else {
        command.args(["-c", r#"exec "$@""#, "sh"]);
        scratch.dir("layers");
    }
    if leg == Who::Namespace {
        let probe: Vec<_> = program.iter().map(String::as_str).chain(["unshare", "-Urm", "true"]).collect();
        if !works(probe[0], &probe[1..]) {
            return say_skipped("unshare -Urm is not permitted to normal users here");
        }
        program.extend(["unshare", "-Urm", "--propagation", "private"].map(String::from));
    }
    // The build directory may be closed to the user.
    let suite = copy(&std::env::current_exe().unwrap(), scratch.path());
    let plyfs = copy(Path::new(&binary()), scratch.path());
    command.args(program).arg(suite).args(["--skip", AGAIN]);
    command.args(std::env::args().skip(1).filter(|a| a.starts_with("--test-threads")));
    command.env(LEG, format!("{leg:?}")).env("PLYFS_TEST_BIN", plyfs);
    command.env("PLYFS_TEST_DIR", scratch.path().join("layers")).current_dir("/");
    let out = command.output().unwrap();
    let (told, warned) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    for line in warned.lines().filter_map(|l| l.strip_prefix("SKIPPED: ")) {
        say_skipped(line);
    }
    assert!(out.status.success(), "as {leg:?}: {}\n{told}\n{warned}", out.status);
    println!("as {leg:?}:\n{told}");
}

fn copy(program: &Path, into: &Path) -> PathBuf {
    if !program.is_absolute() {
        return program.to_owned(); // `kernel`
    }
    let to = into.join(program.file_name().unwrap());
    std::fs::copy(program, &to).unwrap();
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
    to
}
