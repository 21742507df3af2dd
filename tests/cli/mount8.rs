//! As mount(8) calls it: through `mount.fuse` and `fuse.plyfs`, or as a helper of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;
use crate::common::*;

fn stack() -> Stack {
    let stack = Stack::new(1);
    stack.lowers[0].file("f", "lower");
    stack
}

/// mount(8) gives its helpers no environment, so that the program must stand in one of the usual directories: a private
/// mount table puts it there.
#[test]
fn mount_finds_it_by_its_type() {
    if who() != Who::Root {
        return;
    }
    if !Path::new("/sbin/mount.fuse").exists() {
        skip!("no /sbin/mount.fuse (Debian: fuse3)");
    }
    bounded(|| {
        let stack = stack();
        let script = r#"mount -t tmpfs none /usr/local/bin; cp "$1" /usr/local/bin/plyfs
            mount -t fuse.plyfs -o "$2,nodev,noexec,nofail,x-test" overlay "$3"
            grep " $3 " /proc/self/mountinfo; cat "$3/f"; echo changed > "$3/f"; umount "$3"; cat "$4""#;
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-ec", script, "sh"]).arg(common::mount::binary());
        command.arg(stack.layer_options("work")).arg(&stack.merged).arg(stack.upper().at("f"));
        let out = command.output().unwrap();
        let told = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{told}{}", stderr(&out));
        for expected in ["fuse.plyfs overlay rw", "nodev,noexec", "allow_other", "lower", "changed"] {
            assert!(told.contains(expected), "{told} lacks {expected:?}");
        }
    });
}

/// The binary under the name of a mount helper.
fn helper(stack: &Stack) -> PathBuf {
    let helper = stack.scratch.path().join("mount.fuse.plyfs");
    if !helper.exists() {
        symlink(common::mount::binary(), &helper).unwrap();
    }
    helper
}

#[test]
fn a_helper_takes_the_flags_of_mount() {
    bounded(|| {
        let stack = stack();
        let mut command = Command::new(helper(&stack));
        command.arg("overlay").arg(&stack.merged).args(["-n", "-v", "-s", "-t", "fuse.plyfs"]);
        command.args(["-o", &format!("rw,{},user,nosuchoption", stack.layer_options("work"))]);
        let view = Background::run(&stack, &mut command);
        assert_eq!(view.entry().source, "overlay");
    });
}

#[test]
fn only_a_sloppy_mount_passes_over_unknown_options() {
    bounded(|| {
        let stack = stack();
        let options = format!("{},nosuchoption", stack.layer_options("work"));
        let out =
            Command::new(helper(&stack)).arg("overlay").arg(&stack.merged).args(["-o", &options]).output().unwrap();
        assert_eq!(out.status.code(), Some(1));
        assert!(stderr(&out).contains("nosuchoption"), "{}", stderr(&out));
    });
}

/// mount(8): 1 for a wrong use, 2 for what the system lacks, 32 for a failed mount. It hands them on.
#[test]
fn a_helper_answers_with_the_statuses_of_mount() {
    bounded(|| {
        let stack = stack();
        let (good, bad) = (stack.layer_options("work"), "lowerdir=/nonexistent/layer");
        let merged = stack.merged.to_str().unwrap();
        for (args, by_mount, by_hand) in [
            (&["overlay", merged, "-o", &good, "-x"][..], 1, 2),
            (&["overlay"], 1, 2),
            (&["overlay", merged, "-o", "ro"], 1, 2),
            (&["overlay", "", "-o", &good], 1, 2),
            (&["overlay", merged, "-o", bad], 32, 1),
            (&["overlay", merged, "-o", &format!("{bad},debug")], 32, 1),
            (&["overlay", "/nonexistent/place", "-o", &good], 32, 1),
        ] {
            let status = |program: PathBuf| Command::new(program).args(args).output().unwrap().status.code();
            assert_eq!(status(helper(&stack)), Some(by_mount), "{args:?} by mount");
            if args.len() > 1 {
                assert_eq!(status(common::mount::binary().into()), Some(by_hand), "{args:?} by hand");
            }
        }
        // There can be no other process.
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -n 4; exec \"$@\"", "sh"])
            .arg(helper(&stack))
            .args(["overlay", merged, "-o", &good]);
        let out = command.output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
        assert!(!is_mounted(&stack.merged));
    });
}

#[test]
fn a_fake_mount_does_everything_but_the_mount() {
    bounded(|| {
        let stack = stack();
        let mut command = Command::new(helper(&stack));
        command.arg("overlay").arg(&stack.merged).args(["-f", "-o", &stack.layer_options("work")]);
        assert!(command.status().unwrap().success());
        assert!(!is_mounted(&stack.merged));
    });
}

#[test]
fn a_namespace_to_mount_in_may_be_given() {
    if who() != Who::Root {
        return;
    }
    bounded(|| {
        let stack = stack();
        // A process that keeps a mount namespace of its own alive.
        let mut keeper = Command::new("unshare");
        keeper.args(["-m", "--propagation", "private", "sh", "-c", "echo; exec sleep 30"]);
        let mut keeper = keeper.stdout(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(&mut keeper.stdout.take().unwrap(), &mut [0]).unwrap();
        let namespace = format!("/proc/{}/ns/mnt", keeper.id());
        let out = plyfs(["-N", &namespace, "-o", &stack.layer_options("work")]).arg(&stack.merged).output().unwrap();
        let inside = fs::read(format!("/proc/{}/mountinfo", keeper.id())).unwrap();
        if let Some(pid) = daemon_of(&stack.merged) {
            kill_process(pid, Signal::TERM).unwrap();
        }
        keeper.kill().unwrap();
        keeper.wait().unwrap();
        assert!(out.status.success(), "{}", stderr(&out));
        assert!(String::from_utf8_lossy(&inside).lines().any(|line| line.split(' ').nth(4) == stack.merged.to_str()));
        assert!(!is_mounted(&stack.merged));
    });
}
