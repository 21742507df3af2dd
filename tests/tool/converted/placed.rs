//! A layer is replaced by one in another form, or stays.

use plyfs::testing::seam::{Plan as Fault, traced, with_plan};

use super::*;
use crate::common::stack::Layer;
use std::os::linux::fs::MetadataExt as _;

/// Converts a layer in its place.
pub fn in_place(words: &[&str], layer: &Path) -> Result<(), String> {
    let done = Command::new(mount::binary()).args(["layer", "convert", "--in-place"]).args(words).arg(layer).output();
    let done = done.unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if said.contains("--from user, if you trust") && !words.contains(&"--from") {
        // In one of its forms `.wh.NAME` are whiteouts.
        let from = |how| in_place(&[words, &["--from", how]].concat(), layer);
        return from("user").or_else(|_| from("wh"));
    }
    if done.status.success() { Ok(()) } else { Err(format!("{words:?}: {said}")) }
}

/// Another layer with the same objects.
fn copied(layer: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(layer).arg(to).status().unwrap().success());
}

/// Names beside a layer that begin as what is being made does.
fn leftovers(layer: &Path) -> Vec<OsString> {
    let names = std::fs::read_dir(layer.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".plyfs-new")).collect()
}

#[test]
fn a_layer_is_replaced_by_one_in_another_form() {
    bounded(|| {
        let Some(stack) = leading() else { return };
        stack.upper().file("mine", "new").hard_link("mine", "dir/mine");
        let mut mount = stack.mount();
        mount.write("attributes", "x").unwrap();
        mount.set_xattr("attributes", "user.overlay.x", b"like a mark").unwrap();
        mount.unmount();
        let lowers = [stack.lowers[0].root(), stack.lowers[1].root()];
        let before = view(&stack.scratch, &[stack.upper().root(), lowers[0], lowers[1]], "");
        for (at, form) in forms().enumerate() {
            let layer = stack.scratch.path().join(format!("layer{at}"));
            copied(stack.upper().root(), &layer);
            let number = Tree::new(&layer).stat("mine").unwrap().st_ino;
            let words = [form.words, &flat(&lowers), &["--bottom"]].concat();
            // A second time there is nothing to do.
            for time in ["once", "twice"] {
                in_place(&words, &layer).unwrap();
                let seen = view(&stack.scratch, &[&layer, lowers[0], lowers[1]], form.options);
                seen.assert_same(&before, &format!("{words:?} {time}"));
                assert_eq!(strange(&Tree::new(&layer), form), Vec::<String>::new(), "{words:?} {time}");
            }
            let now = Tree::new(&layer).stat("mine").unwrap();
            assert_eq!((now.st_ino, now.st_nlink), (number, 2), "{words:?}");
            assert!(leftovers(&layer).is_empty(), "{:?}", leftovers(&layer));
        }
    });
}

#[test]
fn a_replacement_that_ends_at_any_call_leaves_the_old_layer_or_the_new_one() {
    within(900, || {
        let Some(stack) = leading() else { return };
        let lowers = [stack.lowers[0].root(), stack.lowers[1].root()];
        let words = [&["--marks", "wh", "--bottom"], &flat(&lowers)[..]].concat();
        let layer = stack.scratch.path().join("layer");
        let raw = |at: &Path| View::of(&Tree::new(at), Walk { without_links: true, ..Walk::default() });
        let seen = |at: &Path| view(&stack.scratch, &[at, lowers[0], lowers[1]], "");
        let old = raw(stack.upper().root());
        let line = ["plyfs", "layer", "convert", "--in-place"].iter().chain(&words).map(OsString::from);
        let line: Vec<OsString> = line.chain([layer.clone().into_os_string()]).collect();
        copied(stack.upper().root(), &layer);
        let (_, calls) = traced(|| plyfs::cli::commands::run(line.clone()));
        let new = raw(&layer);
        seen(&layer).assert_same(&seen(stack.upper().root()), "not ended");
        assert!(old.difference(&new).is_some());
        std::fs::remove_dir_all(&layer).unwrap();
        let (mut stayed, mut went) = (0, 0);
        // How many calls read the mount tables of others changes meanwhile; those that make the layer come last.
        let all = calls.len() as u64;
        for at in (0..all.saturating_sub(400)).step_by(23).chain(all.saturating_sub(400)..all + 50) {
            copied(stack.upper().root(), &layer);
            let (_, calls) = with_plan(Fault::dead_from(at), || plyfs::cli::commands::run(line.clone()));
            let now = raw(&layer);
            let is_old = now.difference(&old).is_none();
            assert!(is_old || now.difference(&new).is_none(), "ended at call {at} of {calls}");
            *if is_old { &mut stayed } else { &mut went } += 1;
            // A second one takes longer than what it shows: one of five.
            if at % 5 == 0 {
                let mut done = Ok(());
                // What other tests start may hold the lock of the first one for an instant.
                mount::wait_until(|| {
                    done = in_place(&words, &layer);
                    !done.as_ref().is_err_and(|said| said.contains("another process"))
                });
                done.unwrap();
                raw(&layer).assert_same(&new, &format!("again after an end at call {at}"));
                assert_eq!(leftovers(&layer), Vec::<OsString>::new());
            }
            std::fs::remove_dir_all(&layer).unwrap();
            let _ = std::fs::remove_dir_all(stack.scratch.path().join(".layer.plyfs-new"));
        }
        assert!(stayed > 50 && went > 5, "{stayed} {went} of {all}");
    });
}

fn plyfs_undo(view: &Path) {
    let done = Command::new(mount::binary()).args(["undo", "-q"]).arg(view).arg("0").status().unwrap();
    assert!(done.success());
}

#[test]
fn a_layer_that_anybody_has_is_not_replaced() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "x").file("sub/b", "x");
        let mut mount = stack.mount();
        mount.write("new", "x").unwrap();
        for layer in [stack.upper().root(), stack.lowers[0].root()] {
            let said = in_place(&["--marks", "user"], layer).unwrap_err();
            assert!(said.contains("in use by"), "{said}");
        }
        crate::ranges::commit(&mount).unwrap();
        mount.unmount();
        let said = in_place(&["--marks", "user"], stack.upper().root()).unwrap_err();
        assert!(said.contains("stands on commits"), "{said}");
        let said = in_place(&["--marks", "user"], &stack.scratch.path().join("work/commits/1/layer")).unwrap_err();
        assert!(said.contains("it is a commit"), "{said}");
        mount = stack.mount();
        plyfs_undo(mount.root());
        mount.unmount();
        let said = in_place(&["--marks", "user"], stack.upper().root()).unwrap_err();
        assert!(said.contains("redo leads from it to commits"), "{said}");
        let file = stack.lowers[0].at("a");
        assert!(in_place(&["--marks", "user"], &file).unwrap_err().contains("Not a directory"));
        if let Some(kernel) = stack.mount_kernel() {
            let said = in_place(&["--marks", "user"], stack.lowers[0].root()).unwrap_err();
            assert!(said.contains("in use by the kernel's OverlayFS"), "{said}");
            drop(kernel);
        }
        // By another path, and a directory in it.
        let (lower, link) = (stack.lowers[0].root(), stack.scratch.path().join("link"));
        std::os::unix::fs::symlink(lower, &link).unwrap();
        for layer in [link.clone(), lower.join("sub"), link.join("sub")] {
            let (at, log) = (stack.scratch.dir("other"), stack.scratch.path().join("other log"));
            let options = format!("lowerdir={}", layer.display());
            let mut mount = Mount::with(&options, &at, &log);
            let said = in_place(&["--marks", "user"], lower).unwrap_err();
            assert!(said.contains("in use by the view at"), "{}: {said}", layer.display());
            mount.unmount();
            let empty = stack.scratch.dir("empty");
            if let Ok(kernel) = Kernel::with(&format!("{options}:{}", empty.display()), &at) {
                let said = in_place(&["--marks", "user"], lower).unwrap_err();
                assert!(said.contains("in use by the kernel's OverlayFS"), "{}: {said}", layer.display());
                drop(kernel);
            }
        }
        in_place(&["--marks", "user"], stack.lowers[0].root()).unwrap();
        assert_eq!(stack.lowers[0].read("sub/b").unwrap(), b"x");
    });
}

/// What comes up of a lower layer is no link of it: a later change would change that one.
#[test]
fn no_file_of_a_lower_layer_is_linked() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("d/x", "original");
        stack.age();
        let mut mount = stack.mount();
        let renamed = std::fs::rename(mount.root().join("d"), mount.root().join("e"));
        mount.unmount();
        if renamed.is_err() {
            return say_skipped("no redirects here");
        }
        let marks = if who() == Who::Root { "trusted" } else { "user" };
        let lower = stack.lowers[0].root().to_str().unwrap();
        in_place(&["--marks", marks, "--flatten", "--lower", lower, "--bottom"], stack.upper().root()).unwrap();
        let [up, low] = [stack.upper().stat("e/x").unwrap(), stack.lowers[0].stat("d/x").unwrap()];
        assert_ne!((up.st_dev, up.st_ino), (low.st_dev, low.st_ino));
        assert_eq!(stack.upper().read("e/x").unwrap(), b"original");
    });
}

/// A view whose daemon does not answer keeps nobody from replacing another layer.
#[test]
fn a_stopped_daemon_is_not_waited_for() {
    bounded(|| {
        let _alone = ALONE.lock();
        let (stack, other) = (Stack::new(1), Stack::read_only(1));
        other.lowers[0].file("a", "x");
        let mount = stack.mount();
        let Some(daemon) = mount.pid() else { return };
        rustix::process::kill_process(daemon, rustix::process::Signal::STOP).unwrap();
        let done = in_place(&["--marks", "user"], other.lowers[0].root());
        rustix::process::kill_process(daemon, rustix::process::Signal::CONT).unwrap();
        done.unwrap();
    });
}

/// One at a time: what runs in this process asks the daemons of its other tests, too, one of which is stopped.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// What somebody does to a layer.
type Act = fn(&Path);
/// What is to happen, between the last sync of a replacement and its exchange.
static WRITTEN: std::sync::Mutex<Option<(PathBuf, Act)>> = std::sync::Mutex::new(None);

fn write_meanwhile() {
    if let Some((layer, act)) = WRITTEN.lock().unwrap().take() {
        act(&layer);
    }
}

/// What somebody does to the layer while it is read is not lost: the layer stays, or the new one has it.
#[test]
fn a_layer_that_changes_meanwhile_is_not_replaced() {
    bounded(|| {
        let _alone = ALONE.lock();
        let cases: &[(&str, Act, bool)] = &[
            ("a new file", |layer| std::fs::write(layer.join("new"), "x").unwrap(), true),
            ("one in a directory", |layer| std::fs::write(layer.join("d/new"), "x").unwrap(), true),
            ("one that goes", |layer| std::fs::remove_file(layer.join("d/f")).unwrap(), true),
            ("data of a file that is copied", |layer| std::fs::write(layer.join("marked"), "y").unwrap(), true),
            ("data of a file that is linked", |layer| std::fs::write(layer.join("d/f"), "y").unwrap(), false),
        ];
        for (what, act, is_kept) in cases {
            let stack = Stack::new(1);
            let layer = Layer::new(stack.scratch.dir("layer"));
            layer.file("d/f", "x").file("marked", "x");
            layer.with_xattr("marked", "user.overlay.overlay.x", b"like a mark");
            std::thread::sleep(std::time::Duration::from_millis(20));
            let path = layer.root().to_path_buf();
            *WRITTEN.lock().unwrap() = Some((path.clone(), *act));
            let words = [
                "plyfs",
                "layer",
                "convert",
                "--in-place",
                "--marks",
                "user",
                "--whiteouts",
                "xattr",
                "--from",
                "user",
            ];
            let line: Vec<OsString> = words.iter().map(OsString::from).chain([path.clone().into_os_string()]).collect();
            let plan = Fault::count().only(plyfs::testing::seam::Call::Syncfs).each(write_meanwhile);
            let number = std::fs::metadata(&path).unwrap().st_ino();
            let (done, _) = with_plan(plan, || plyfs::cli::commands::run(line));
            assert!(WRITTEN.lock().unwrap().is_none(), "{what}: the test has not written");
            let stays = std::fs::metadata(&path).unwrap().st_ino() == number;
            assert_eq!(stays, *is_kept, "{what}: {done:?}");
            if !is_kept {
                assert_eq!(std::fs::read(path.join("d/f")).unwrap(), b"y");
            }
            assert_eq!(leftovers(&path), Vec::<OsString>::new(), "{what}");
        }
    });
}

#[test]
fn what_cannot_go_with_the_old_layer_keeps_it() {
    bounded(|| {
        if who() != Who::Root {
            skip!("flags are for root");
        }
        for (flag, name) in [("i", "d/f"), ("a", "d"), ("i", "link")] {
            let scratch = Scratch::new();
            let layer = Layer::new(scratch.dir("layer"));
            layer.file("d/f", "x").file("link", "x");
            let chattr = |sign: &str| {
                Command::new("chattr")
                    .arg(format!("{sign}{flag}"))
                    .arg(layer.at(name))
                    .output()
                    .unwrap()
                    .status
                    .success()
            };
            if !chattr("+") {
                return say_skipped("no flags of chattr here");
            }
            let said = in_place(&["--marks", "user"], layer.root());
            let left = leftovers(layer.root());
            assert!(chattr("-"));
            let said = said.unwrap_err();
            assert!(said.contains(name) && said.contains("immutable") && said.contains("chattr -ia"), "{said}");
            assert_eq!(left, Vec::<OsString>::new(), "{name}");
            in_place(&["--marks", "user"], layer.root()).unwrap();
        }
    });
}

/// What is done is not told as a failure only because nobody can be told.
#[test]
fn a_full_stdout_undoes_nothing() {
    bounded(|| {
        let scratch = Scratch::new();
        let layer = Layer::new(scratch.dir("layer"));
        layer.file("d/f", "x");
        let out = scratch.path().join("out");
        let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
        let commands: [&[&str]; 3] =
            [&["convert", "--marks", "user"], &["squash"], &["convert", "--in-place", "--marks", "user"]];
        for words in commands {
            let mut command = Command::new(mount::binary());
            command.arg("layer").args(words).arg(layer.root()).stdout(full());
            if !words.contains(&"--in-place") {
                command.arg(&out);
            }
            let done = command.output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.code() == Some(4) && said.contains("in its place"), "{words:?}: {said}");
            assert!(words.contains(&"--in-place") || out.join("d/f").exists(), "{words:?}");
            let _ = std::fs::remove_dir_all(&out);
        }
    });
}
