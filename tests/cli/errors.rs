//! What cannot be done is said in one line, with status 1, or 2 for a wrong command; and nothing is touched.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::common::*;

/// Runs a command that must fail with this status and one line that has all of `says` in it.
#[track_caller]
pub fn fails(command: &mut Command, status: i32, says: &[&str]) {
    let out = command.output().unwrap();
    let said = stderr(&out);
    assert_eq!(out.status.code(), Some(status), "{command:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{command:?}: {said}");
    assert!(said.starts_with("plyfs: ") && said.ends_with('\n') && out.stdout.is_empty(), "{command:?}: {said}");
    for word in says {
        assert!(said.contains(word), "{command:?}: {said} lacks {word:?}");
    }
}

fn stack() -> Stack {
    let stack = Stack::new(1);
    stack.lowers[0].file("file", "x").file("sub/f", "x");
    stack.scratch.dir("work");
    stack
}

#[test]
fn a_wrong_command_is_answered_with_status_2() {
    let merged = "/nonexistent/merged";
    for (args, says) in [
        (vec![], &["MERGED", "--help"][..]),
        (vec!["-o", "lowerdir=/"], &["MERGED"]),
        (vec!["-o"], &["-o", "missing"]),
        (vec!["-x", merged], &["-x", "unknown"]),
        (vec!["--frobnicate", merged], &["--frobnicate", "unknown"]),
        (vec!["a", "b", "c"], &["c", "too many"]),
        (vec!["-o", "lowerdir=/", ""], &["the mountpoint is empty"]),
        (vec!["overlay", "", "-o", "lowerdir=/"], &["the mountpoint is empty"]),
        (vec!["umount", ""], &["the mountpoint is empty"]),
        (vec!["umount"], &["umount MOUNTPOINT"]),
        (vec!["umount", "-o", "ro", "/m"], &["umount MOUNTPOINT", "a flag"]),
        (vec!["help", "nothing"], &["nothing", "no such command", "umount"]),
        (vec!["complete", "-o", "lowerdir=/"], &["complete", "without an upper layer", "upperdir=DIR"]),
        (vec!["-o", "lowerdir=/,copyup_block=4KB", merged], &["copyup_block=4KB", "not a size"]),
        (vec![merged], &["lowerdir"]),
        (vec!["-o", "rw", merged], &["lowerdir"]),
        (vec!["-o", "lowrdir=/", merged], &["lowrdir", "unknown", "lowerdir"]),
        (vec!["-o", "lowerdir=/,volatil", merged], &["volatil", "unknown", "volatile"]),
        (vec!["-o", "lowerdir=/,upperdir=/u", merged], &["upperdir", "workdir"]),
        (vec!["-o", "lowerdir=/,upperdir", merged], &["upperdir", "missing"]),
        (vec!["-o", "lowerdir=", merged], &["lowerdir"]),
        (vec!["-o", "lowerdir=/a::/b:/c", merged], &["lowerdir", "data-only"]),
        (vec!["-o", "lowerdir=::/b", merged], &["lowerdir", "empty"]),
        (vec!["-o", "lowerdir=/a::", merged], &["lowerdir", "empty"]),
        (vec!["-o", "datadir+=/d", merged], &["lowerdir", "datadir+"]),
        (vec!["-o", "lowerdir+=/,datadir+=", merged], &["datadir+", "missing"]),
        (vec!["-o", "lowerdir+=/,datadir+=/d,lowerdir+=/a", merged], &["lowerdir+=/a", "data-only"]),
        (vec!["-o", "lowerdir=/,lowerdir+=/a", merged], &["lowerdir+=/a", "cannot follow lowerdir="]),
        (vec!["-o", "lowerdir=/,datadir+=/d", merged], &["datadir+=/d", "cannot follow lowerdir="]),
        (vec!["-o", "lowerdir=/,metacopy=on,redirect_dir=off", merged], &["metacopy=on", "redirect_dir="]),
        (vec!["-o", "lowerdir=/,redirect_dir=maybe", merged], &["redirect_dir=maybe", "on|follow|nofollow|off"]),
        (vec!["-o", "lowerdir=/a:", merged], &["lowerdir", "empty"]),
        (vec!["-o", "lowerdir=/,ro=1", merged], &["ro=1", "no value"]),
        (vec!["-o", "lowerdir=/,ino32_t=1,xino=on", merged], &["ino32_t=1", "xino=on"]),
        (vec!["-o", "lowerdir=/,xino=maybe", merged], &["xino=maybe", "off|auto|on"]),
        (vec!["-o", "lowerdir=/,threads=0", merged], &["threads=0"]),
        (vec!["-o", "lowerdir=/,timeout=soon", merged], &["timeout=soon"]),
        (vec!["-o", "lowerdir=/,volatile,fsync=strict", merged], &["volatile", "fsync"]),
        (vec!["-o", "lowerdir=/,allow_root", merged], &["allow_root", "allow_other"]),
        (vec!["-o", "lowerdir=/,plugins=x", merged], &["plugins"]),
        (vec!["-o", "lowerdir=/,nooverride_creds", merged], &["nooverride_creds"]),
        (vec!["-o", "lowerdir=/a,b", merged], &["b: unknown", "a comma in a path is \\,"]),
        (vec!["-o", "lowerdir=/, upperdir=/b", merged], &["\" upperdir\"", "without a blank"]),
        (vec!["umont", merged], &["umont: no such command", "umount"]),
        (vec!["unmount", merged], &["unmount: no such command", "umount"]),
        (vec!["run"], &["run: a word is missing", "plyfs help run"]),
        (vec!["layer"], &["layer: a word is missing", "squash", "plyfs help layer"]),
        (vec!["layer", "squash", "--bogus"], &["--bogus", "plyfs help layer squash"]),
        (vec!["diff", "--color=sometimes"], &["--color", "sometimes", "auto, always, never"]),
    ] {
        fails(&mut plyfs(args), 2, says);
    }
}

#[test]
fn what_later_work_brings_is_refused_by_name() {
    fails(&mut plyfs(["-o", "lowerdir=/,nfs_export=on", "/nonexistent"]), 2, &["nfs_export", "not there yet"]);
}

/// In the foreground and in the background alike.
#[track_caller]
fn refused(stack: &Stack, options: &str, says: &[&str]) {
    for how in [&["-f"][..], &[]] {
        let before: Vec<_> = stack.lowers.iter().chain(&stack.upper).map(|layer| view::layer(layer.root())).collect();
        let work = view::layer(&stack.scratch.dir("work"));
        fails(plyfs(how).args(["-o", options]).arg(&stack.merged), 1, says);
        assert!(!is_mounted(&stack.merged));
        let after: Vec<_> = stack.lowers.iter().chain(&stack.upper).map(|layer| view::layer(layer.root())).collect();
        assert!(before == after && work == view::layer(&stack.scratch.dir("work")), "{options}: something was touched");
    }
}

#[test]
fn layers_that_cannot_be_are_named() {
    bounded(|| {
        let stack = stack();
        let base = stack.scratch.path().display().to_string();
        let options = |lower: &str, upper: &str, work: &str| {
            format!("lowerdir={base}/{lower},upperdir={base}/{upper},workdir={base}/{work}")
        };
        for (lower, upper, work, says) in [
            ("none", "upper", "work", &["none", "No such file"][..]),
            ("lower0/file", "upper", "work", &["lower0/file", "Not a directory"]),
            ("lower0", "none", "work", &["none", "No such file"]),
            ("lower0", "lower0/file", "work", &["lower0/file", "Not a directory"]),
            ("lower0", "upper", "none", &["none", "No such file"]),
            ("lower0", "upper", "lower0/file", &["lower0/file", "Not a directory"]),
            ("lower0", "upper", "upper", &["upper"]),
        ] {
            refused(&stack, &options(lower, upper, work), says);
        }
        refused(&stack, &format!("lowerdir=@{base}/none"), &["none", "No such file"]);
        fs::write(stack.scratch.path().join("empty"), "\n").unwrap();
        refused(&stack, &format!("lowerdir=@{base}/empty"), &["empty", "no layer"]);
        refused(&stack, &format!("lowerdir={base}/a:b"), &["/a: No such file", "a colon in a path is \\:"]);
        if who() == Who::User {
            refused(
                &stack,
                &format!("lowerdir={base}/lower0,upperdir=/usr,workdir={base}/work"),
                &["upperdir=/usr: Perm"],
            );
            stack.lowers[0].perm("sub", 0);
            refused(&stack, &format!("lowerdir={base}/lower0/sub"), &["lower0/sub", "Permission denied"]);
            stack.lowers[0].perm("sub", 0o755);
        }
        if who() != Who::User {
            let other = stack.scratch.dir("other");
            let Some(_tmpfs) = scratch::Mounted::tmpfs(&other) else { skip!("no tmpfs to be had") };
            fs::create_dir(other.join("work")).unwrap();
            refused(&stack, &options("lower0", "upper", "other/work"), &["work"]);
        }
    });
}

/// What a user has in a directory that he takes for a workdir stays; what overlays have left there goes.
#[test]
fn nothing_of_a_users_is_taken_away_in_a_workdir() {
    bounded(|| {
        let stack = stack();
        let work = Tree::new(stack.scratch.dir("work"));
        let options = stack.layer_options("work");
        for (file, name) in [("work/docs/thesis", "docs"), ("work/f", "f"), ("work/2024/taxes", "2024")] {
            fs::create_dir_all(work.at(file).parent().unwrap()).unwrap();
            work.write(file, "precious").unwrap();
            let said = format!("work/{name} in it was not made by an overlay");
            refused(&stack, &options, &["workdir", &said, "name an empty directory"]);
            assert_eq!(work.text(file), "precious");
            work.remove_all("work").unwrap();
        }
        for dir in ["work/#1f/deep", "work/17"] {
            fs::create_dir_all(work.at(dir)).unwrap();
        }
        work.write("work/#20", "x").unwrap();
        work.write("work/18", "x").unwrap();
        let _view = Background::start(&stack, "rw");
        assert_eq!(work.names("work").unwrap(), [""; 0]);
    });
}

#[test]
fn an_upper_in_use_is_refused_and_stays_in_use() {
    bounded(|| {
        let (stack, second) = (stack(), Stack::new(1));
        let _view = Background::start(&stack, "rw");
        let options = stack.layer_options("work");
        for how in [&["-f"][..], &[]] {
            fails(plyfs(how).args(["-o", &options]).arg(&second.merged), 1, &["in use"]);
        }
        fs::write(stack.merged.join("new"), "x").unwrap();
    });
}

#[test]
fn a_mountpoint_that_cannot_be_is_named() {
    bounded(|| {
        let stack = stack();
        let options = format!("lowerdir={}", stack.lowers[0].root().display());
        let at = |path: &str| stack.scratch.path().join(path);
        fails(plyfs(["-o", &options]).arg(at("none")), 1, &["none", "No such file", "mkdir"]);
        fails(plyfs(["-o", &options]).arg(at("lower0/file")), 1, &["lower0/file", "Not a directory"]);
        if who() == Who::User {
            fails(plyfs(["-o", &options]).arg("/usr"), 1, &["/usr"]);
        }
        // What a killed daemon leaves.
        let mut view = Background::start(&stack, "ro");
        view.signal(Signal::KILL);
        assert_eq!(view.ended(), None);
        fails(plyfs(["-o", &options]).arg(&stack.merged), 1, &["merged", "plyfs umount"]);
        unmount_any(&stack.merged, true).unwrap();
    });
}

#[test]
fn paths_with_odd_bytes_stay_on_their_line() {
    fails(&mut plyfs(["-o", "lowerdir=/no\nsuch\x1bdir", "/tmp"]), 1, &[r"/no\nsuch"]);
    fails(&mut plyfs(["-o", "lowerdir=/,od\nd", "/tmp"]), 2, &[r"od\nd"]);
}

/// Runs the command where `/dev/fuse` is what `device` (a shell command with `$D` for a directory) makes of it.
fn with_device(device: &str, stack: &Stack, user: bool) -> Command {
    let options = stack.layer_options("work");
    let script = format!("{device}; shift; exec \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(["-m", "--propagation", "private", "sh", "-ec", &script, "sh"])
        .env("D", stack.scratch.path())
        .arg("--");
    if user {
        command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    command.arg(common::mount::binary()).args(["-o", &options]).arg(&stack.merged);
    command
}

#[test]
fn a_missing_or_closed_device_is_named() {
    if who() != Who::Root {
        return;
    }
    bounded(|| {
        let stack = stack();
        let work = view::layer(&stack.scratch.dir("work"));
        let missing = "mkdir $D/dev; mount -t tmpfs none $D/dev; mknod $D/dev/null c 1 3; chmod 666 $D/dev/null; mount --move $D/dev /dev";
        fails(&mut with_device(missing, &stack, false), 1, &["/dev/fuse", "No such file", "modprobe"]);
        let closed = "mknod $D/fuse c 10 229; chmod 600 $D/fuse; mount --bind $D/fuse /dev/fuse";
        fs::set_permissions(&stack.merged, fs::Permissions::from_mode(0o777)).unwrap();
        let program = stack.scratch.path().join("plyfs");
        fs::copy(common::mount::binary(), &program).unwrap();
        let mut command = with_device(closed, &stack, true);
        // The build directory may be closed to the user.
        let args: Vec<_> = command
            .get_args()
            .map(|arg| if arg == common::mount::binary() { program.as_os_str() } else { arg })
            .map(OsStr::to_owned)
            .collect();
        let mut again = Command::new("unshare");
        again.args(args).env("D", stack.scratch.path());
        command = again;
        fails(&mut command, 1, &["/dev/fuse", "Permission denied", "chmod"]);
        assert!(work == view::layer(&stack.scratch.dir("work")));
    });
}

#[test]
fn without_a_way_to_mount_the_line_says_what_helps() {
    if who() != Who::User {
        return;
    }
    let stack = stack();
    let mut command = plyfs(["-o", &stack.layer_options("work")]);
    fails(command.arg(&stack.merged).env("PATH", "/nonexistent"), 1, &["fuse3", "unshare -Urm"]);
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let out = Command::new("sh")
        .args(["-c", "\"$0\" --help | head -n 1; echo end"])
        .arg(common::mount::binary())
        .output()
        .unwrap();
    assert!(stderr(&out).is_empty(), "{}", stderr(&out));
    let _ = std::io::stdout().flush();
}

/// The root of an upper layer says how it is written.
#[test]
fn owners_are_not_written_in_another_way_than_the_upper_layers_root_says() {
    bounded(|| {
        let (containers, security) = ("user.containers.override_stat", "security.fuseoverlayfs.override_stat");
        let of_root = [(containers, "xattr_permissions=1"), (security, "xattr_permissions=2")];
        for (key, option) in of_root.into_iter().filter(|_| who() == Who::Root) {
            let stack = Stack::new(2);
            stack.upper().with_xattr("", key, b"0:0:0755:dir");
            refused(
                &stack,
                &format!("{},{option}", stack.layer_options("work")),
                &[option, "upperdir=", key, "leave it out"],
            );
            stack.upper().with_xattr("", key, b"0:0:door");
            refused(&stack, &stack.layer_options("work"), &["upperdir=", key, "no mode"]);
        }
        if who() != Who::Root {
            let stack = Stack::new(1);
            let options = format!("{},xattr_permissions=1", stack.layer_options("work"));
            refused(&stack, &options, &["xattr_permissions=1", "root", "xattr_permissions=2"]);
        }
    });
}

/// A lower layer that is another one or lies in one, which the kernel answers with ELOOP.
#[test]
fn a_layer_twice_or_within_another_is_refused() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.lowers[0].file("in/deep/file", "x").file("in/f", "x");
        stack.lowers[1].file("g", "x");
        let base = stack.scratch.path();
        std::os::unix::fs::symlink("lower0/in", base.join("link")).unwrap();
        stack.scratch.dir("bound");
        let bound = (who() != Who::User)
            .then(|| rustix::mount::mount_bind(base.join("lower0/in"), base.join("bound")).ok())
            .flatten()
            .map(|()| scratch::Mounted::adopt(&base.join("bound")));
        let kernel = who() == Who::Root && Kernel::usable();
        let base = base.display().to_string();
        for (layers, says) in [
            ("/lower0:/lower0", &["lower0", "same directory"][..]),
            ("/lower0:/lower1:/lower0", &["lower0", "same directory"]),
            ("/lower0/in:/lower1:/link", &["link", "lower0/in", "same directory"]),
            ("/lower0:/lower0/in", &["lower0/in", "lies in"]),
            ("/lower0/in/deep:/lower1:/lower0", &["lower0/in/deep", "lies in", "lower0"]),
            ("/link/deep:/lower0", &["link/deep", "lies in"]),
            ("/lower0::/lower0", &["lower0", "same directory"]),
            ("/lower0::/lower0/in", &["lower0/in", "lies in"]),
            ("/lower1::/lower0/in::/lower0", &["lower0/in", "lies in"]),
            ("/lower0/in:/bound", &["bound", "lower0/in", "same directory"]),
            ("/bound:/lower0", &["bound", "lies in", "lower0"]),
            ("/lower0/in/deep:/lower1:/bound", &["lower0/in/deep", "lies in", "bound"]),
        ] {
            if layers.contains("bound") && bound.is_none() {
                say_skipped("bind mounts are needed");
                continue;
            }
            let layers =
                layers.split(':').map(|path| if path.is_empty() { String::new() } else { format!("{base}{path}") });
            let layers = layers.collect::<Vec<_>>().join(":");
            for upper in [String::new(), format!(",upperdir={base}/upper,workdir={base}/work")] {
                let options = format!("lowerdir={layers}{upper}");
                refused(&stack, &options, says);
                if kernel {
                    let answer = Kernel::with(&options, &stack.merged).map(drop);
                    assert_eq!(answer.map_err(|e| e.raw_os_error()), Err(Some(rustix::io::Errno::LOOP.raw_os_error())));
                }
            }
        }
    });
}

/// As the kernel's OverlayFS does with what it knows to be so. By itself and read-only there is nothing to merge.
#[test]
fn a_case_insensitive_layer_is_refused() {
    if who() != Who::Root {
        skip!("root is needed to mount file systems");
    }
    bounded(|| {
        for kind in ["ntfs", "exfat"] {
            let stack = stack();
            let system = match systems::System::folding(kind, &stack.scratch) {
                Ok(system) => system,
                Err(why) => {
                    say_skipped(&format!("{kind}: {why}"));
                    continue;
                }
            };
            let at = system.root().display().to_string();
            for dir in ["low", "upper", "work", "none"] {
                fs::create_dir(system.root().join(dir)).unwrap();
            }
            fs::write(system.root().join("low/Bar"), "x").unwrap();
            let base = stack.scratch.path().display().to_string();
            for (options, says) in [
                (format!("lowerdir={at}/low,upperdir={base}/upper,workdir={base}/work"), "lowerdir="),
                (format!("lowerdir={at}/low:{base}/lower0"), "lowerdir="),
                (format!("lowerdir={base}/lower0::{at}/low"), "lowerdir="),
                (format!("lowerdir={base}/lower0,upperdir={at}/low,workdir={at}/work"), "upperdir="),
                // An empty one shows it by what is made in the workdir.
                (format!("lowerdir={base}/lower0,upperdir={at}/upper,workdir={at}/work"), "case-insensitive"),
                (format!("lowerdir={at}/low:{at}/none,upperdir={at}/upper,workdir={at}/work"), "lowerdir="),
            ] {
                refused(&stack, &options, &[says, "case-insensitive", &at]);
            }
            let view = Background::run(&stack, plyfs(["-o", &format!("lowerdir={at}/low")]).arg(&stack.merged));
            for name in ["Bar", "bar", "BAR"] {
                assert_eq!(fs::read_to_string(stack.merged.join(name)).unwrap(), "x", "{kind}: {name}");
            }
            // One of the two shows all names in small letters.
            let listed =
                |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
            assert_eq!(listed(&stack.merged), listed(&system.root().join("low")), "{kind}");
            drop((view, system));
        }
    });
}
