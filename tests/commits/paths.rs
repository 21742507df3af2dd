//! Single paths are taken back: they are what they were at the last commit, nothing else changes, and what they were until then
//! is kept.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use plyfs::Union;
use plyfs::testing::seam::{Plan, with_plan};
use plyfs::union::{Live, Step};

use crate::common::view::Numbers;
use crate::common::*;
use crate::engine::{self, Engine, config};
use crate::{about, plyfs};

fn stack() -> Stack {
    let stack = Stack::new(2);
    stack.lowers[1].file("a", "a").file("d/f", "f").file("d/e/g", "g").file("d/e/h", "h").file("gone", "gone");
    stack.lowers[0]
        .file("d/top", "top")
        .file("other", "other")
        .soft_link("a", "link")
        .file("r/x", "x")
        .file("r/y", "y");
    stack
}

fn sh(at: &Path, script: &str) {
    let done = Command::new("sh").args(["-ec", script]).current_dir(at).status().unwrap();
    assert!(done.success(), "{script}");
}

fn view(tree: &Tree) -> View {
    View::of(tree, Walk { numbers: Numbers::NotJudged, ..Walk::default() })
}

fn undo(mount: &Mount, paths: &[&str]) -> Result<String, String> {
    plyfs(&[&["undo", mount.root().to_str().unwrap()], paths].concat())
}

/// What is done at the path, the path, and what is done elsewhere.
const CASES: &[(&str, &[&str], &str)] = &[
    ("echo new > a", &["a"], "echo other > other"),
    ("echo new > n", &["n"], "true"),
    ("chmod 600 a", &["a"], "chmod 640 other"),
    ("touch -d 2001-01-01 d/f", &["d/f"], "true"),
    ("rm a", &["a"], "rm gone"),
    ("rm a; mkdir a; echo x > a/x", &["a"], "echo x > d/x"),
    ("rm -r d", &["d"], "rm -r r"),
    ("rm -r d; mkdir d; echo x > d/x", &["d"], "true"),
    ("rm -r d; echo d > d", &["d"], "true"),
    ("rm d/f; echo n > d/n; rm -r d/e; chmod 700 d", &["d"], "echo n > r/n"),
    ("rm -r d/e", &["d/e"], "rm d/f; echo n > d/n"),
    ("echo n > d/e/g; rm d/e/h; mkdir -p d/e/k/l", &["d/e"], "echo n > d/n"),
    ("echo n > d/e/g", &["d/e/g"], "rm d/e/h"),
    ("mkdir -p m/n; echo o > m/n/o; ln m/n/o m/n/p", &["m"], "true"),
    ("echo o > m/o", &["m/o"], "mkdir m"),
    ("rm link; ln -s b link", &["link"], "ln -s c more"),
    ("mkfifo fifo", &["fifo"], "true"),
    ("mv r s", &["r", "s"], "echo n > d/n"),
    ("mv r s; echo n > s/x; rm s/y", &["s", "r"], "true"),
    ("mv d/e d/k; mv d/k/g d/k/i", &["d"], "true"),
    ("mv d r/d; mv r/d/e r/e", &["d", "r"], "echo n > other"),
    ("echo n > a; rm -r d; echo n > n", &["a", "d", "n"], "rm gone"),
    ("mv a b", &["a", "b"], "true"),
    ("rm a; echo n > d/f", &["a", "./d/f"], "true"),
];

#[test]
fn a_path_is_what_it_was_and_nothing_else_changes() {
    within(300, || {
        for committed in [false, true] {
            for (at_the_path, paths, elsewhere) in CASES {
                let (one, two) = (stack(), stack());
                let (mut is, expected) = (one.mount(), two.mount());
                for (mount, script) in
                    [(&is, format!("{elsewhere}; {at_the_path}")), (&expected, elsewhere.to_string())]
                {
                    if committed {
                        sh(mount.root(), "echo committed > a; rm d/top; echo new > r/new; chmod 750 d");
                        about("commit", mount.root()).unwrap();
                    }
                    sh(mount.root(), "ls -lR > /dev/null");
                    sh(mount.root(), &script);
                    sh(mount.root(), "ls -lR > /dev/null; ! cat a/x nowhere d/nowhere 2> /dev/null");
                }
                let before = view(&is);
                undo(&is, paths).unwrap_or_else(|why| panic!("{at_the_path}: {why}"));
                sh(is.root(), "ls -lR > /dev/null");
                let again = about("redo", is.root()).unwrap_or_else(|why| panic!("{at_the_path}: redo: {why}"));
                assert_eq!(again, "what was taken back is there again\n");
                assert!(view(&is) == before, "{at_the_path}: after a redo {:#?}\nnot {before:#?}", view(&is));
                let said = undo(&is, paths).unwrap_or_else(|why| panic!("{at_the_path}: {why}"));
                let kept = if committed {
                    "is as at commit 1; what it was is kept as commit 2\n"
                } else {
                    "kept as commit 1\n"
                };
                assert!(said.ends_with(kept), "{said}");
                let wanted = view(&expected);
                assert!(view(&is) == wanted, "{at_the_path}: {:#?}\nnot {wanted:#?}", view(&is));
                is.remount();
                assert!(view(&is) == wanted, "{at_the_path}: after a remount {:#?}\nnot {wanted:#?}", view(&is));
                by_the_kernel(&one, committed, &wanted, at_the_path);
                // All of it comes back where nothing else has changed.
                if *elsewhere == "true" {
                    let mount = is;
                    about_to(&mount, if committed { "2" } else { "1" });
                    assert!(view(&mount) == before, "{at_the_path}: {:#?}\nnot {before:#?}", view(&mount));
                }
            }
        }
    });
}

fn about_to(mount: &Mount, number: &str) {
    plyfs(&["undo", mount.root().to_str().unwrap(), number]).unwrap();
}

/// The kernel's OverlayFS over the layers shows the same.
fn by_the_kernel(stack: &Stack, committed: bool, wanted: &View, case: &str) {
    if who() != Who::Root || std::env::var_os("PLYFS_TEST_OPTIONS").is_some() {
        return;
    }
    let commits = stack.scratch.path().join("work/commits");
    let mut layers = vec![stack.upper().root().to_owned()];
    layers.extend(committed.then(|| commits.join("1/layer")));
    layers.extend(stack.lowers.iter().map(|lower| lower.root().to_owned()));
    let layers: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    let options = format!("lowerdir={},redirect_dir=on,metacopy=on", layers.join(":"));
    let kernel = Kernel::with(&options, &stack.scratch.dir("kernel")).unwrap();
    let plain = |mut view: View| {
        view.same.clear();
        view.wrong.clear();
        view.objects.values_mut().for_each(|object| object.nlink = 0);
        view
    };
    let is = plain(View::of(&kernel, Walk { foreign: true, without_links: true, ..Walk::default() }));
    assert!(is == plain(wanted.clone()), "{case}: by the kernel {is:#?}");
}

#[test]
fn what_cannot_be_taken_back_is_one_line_and_changes_nothing() {
    within(120, || {
        let stack = stack();
        stack.lowers[0].file("l/one", "linked").hard_link("l/one", "l/two");
        let mount = stack.mount();
        sh(mount.root(), "mv r s; mkdir n; echo l > n/l; ln n/l n2; rm -r d; mkdir d; echo f > d/f; rm a; mkdir a");
        let before = view(&mount);
        for (paths, said) in [
            (&["other"][..], "nothing has changed there"),
            (&["nowhere"], "nothing has changed there"),
            (&["gone/x"], "nothing has changed there"),
            (&["r"], "it was renamed to s"),
            (&["s"], "it was renamed from r"),
            (&["s/x"], "its directory s was renamed"),
            (&["r/x"], "its directory r is deleted or replaced"),
            (&["d/f"], "its directory d was made anew"),
            (&["d/e/g"], "nothing has changed there"),
            (&["n"], "more names"),
            (&["n2"], "more names"),
            (&["3", "a"], "a number stands beside paths"),
            (&["."], "it is the whole view"),
            (&["d/.."], "it is the whole view"),
            (&["a", "."], "it is the whole view"),
            (&["../a"], "it is not in the view"),
        ] {
            let error = undo(&mount, paths).unwrap_err();
            assert!(error.contains(said) && error.lines().count() == 1, "{paths:?}: {error}");
        }
        assert!(view(&mount) == before);
        assert_eq!(fs::read_dir(stack.scratch.path().join("work/commits")).map_or(0, |all| all.count()), 0);
        // All names of a file go together, wherever they are.
        undo(&mount, &["n", "n2"]).unwrap();
        assert!(!mount.has("n") && !mount.has("n2"));
        sh(mount.root(), "echo changed > l/one");
        if stack.scratch.path().join("work/index").exists() {
            assert!(undo(&mount, &["a"]).unwrap_err().contains("hard links"));
        }
    });
}

/// A daemon owns what its user has closed to himself.
#[test]
fn a_closed_directory_elsewhere_is_in_no_paths_way() {
    within(60, || {
        let stack = stack();
        let mount = stack.mount();
        sh(mount.root(), "echo new > a; mkdir -p c/c/k; mv r c/c/s; chmod 000 c/c/k; chmod 100 c/c; chmod 000 c");
        undo(&mount, &["a"]).unwrap();
        assert_eq!((mount.text("a").as_str(), mount.mode("c")), ("a", 0));
        // What is in it counts.
        let error = undo(&mount, &["r"]).unwrap_err();
        assert!(error.contains("it was renamed to c/c/s"), "{error}");
        mount.chmod("c", 0o700).unwrap();
        assert_eq!(mount.mode("c/c"), 0o100);
        mount.chmod("c/c", 0o700).unwrap();
        assert_eq!(mount.mode("c/c/k"), 0);
        mount.chmod("c/c/k", 0o700).unwrap();
    });
}

/// The parent of a directory that a symlink leads to, as the kernel has it.
#[test]
fn two_dots_lead_where_the_kernel_says() {
    within(60, || {
        let stack = stack();
        let mut mount = stack.mount();
        sh(mount.root(), "echo n > d/f; echo n > f; ln -s d/e lk");
        undo(&mount, &["lk/../f"]).unwrap();
        assert_eq!((mount.text("d/f"), mount.text("f")), ("f".into(), "n\n".into()));
        mount.unmount();
        let options = stack.layer_options("work");
        for path in ["lk/../f", "d/..", "."] {
            plyfs(&["undo", path, "-o", &options]).unwrap_err();
        }
        assert_eq!(stack.mount().text("f"), "n\n");
    });
}

/// Whichever marks a directory was made anew with.
#[test]
fn nothing_is_taken_back_in_a_directory_that_hides_what_is_below() {
    within(60, || {
        for opaque in ["trusted.overlay.opaque", "user.overlay.opaque", ".wh..wh..opq"] {
            if opaque.starts_with("trusted") && who() != Who::Root {
                continue;
            }
            let stack = stack();
            stack.upper().file("d/f", "new");
            match opaque.strip_prefix('.') {
                Some(_) => stack.upper().file("d/.wh..wh..opq", ""),
                None => stack.upper().with_xattr("d", opaque, b"y"),
            };
            let mount = stack.mount();
            if mount.has("d/top") {
                // This mark counts for nothing here.
                continue;
            }
            let error = undo(&mount, &["d/f"]).unwrap_err();
            assert!(error.contains("its directory d was made anew"), "{opaque}: {error}");
            assert_eq!(mount.text("d/f"), "new");
        }
    });
}

#[test]
fn who_has_a_file_open_keeps_it() {
    within(60, || {
        let stack = stack();
        let mount = stack.mount();
        sh(mount.root(), "echo changed > a; mkdir n; echo n > n/n; echo e > d/e/g");
        let open = |path: &str| File::options().read(true).write(true).open(mount.at(path)).unwrap();
        let (mut a, n, g) = (open("a"), open("n/n"), open("d/e/g"));
        let map = SharedMap::new(&g, 2, false);
        let inside = Command::new("sleep").arg("20").current_dir(mount.at("n")).spawn().unwrap();
        undo(&mount, &["a", "n", "d/e"]).unwrap();
        assert_eq!((mount.text("a"), mount.has("n"), mount.text("d/e/g")), ("a".into(), false, "g".into()));
        let mut text = String::new();
        a.read_to_string(&mut text).unwrap();
        assert_eq!(text, "changed\n");
        a.write_all(b"more").unwrap();
        a.rewind().unwrap();
        text.clear();
        a.read_to_string(&mut text).unwrap();
        assert_eq!(text, "changed\nmore");
        n.write_all_at(b"N", 0).unwrap();
        assert_eq!((map.get(0, 1), mount.text("a")), (b"e".to_vec(), "a".into()));
        // What is kept is not written to.
        let kept = stack.scratch.path().join("work/commits/1/layer");
        assert_eq!(fs::read_to_string(kept.join("a")).unwrap(), "changed\n");
        assert_eq!(fs::read_to_string(kept.join("n/n")).unwrap(), "n\n");
        sh(mount.root(), "echo again > a; mkdir n; echo again > n/n");
        assert_eq!((mount.text("a"), mount.text("n/n")), ("again\n".into(), "again\n".into()));
        let mut inside = inside;
        inside.kill().unwrap();
        inside.wait().unwrap();
    });
}

#[test]
fn a_path_is_taken_back_without_a_mount_and_told_by_log() {
    let stack = stack();
    let options = stack.layer_options("work");
    let mut mount = stack.mount();
    sh(mount.root(), "echo changed > a; rm other");
    mount.unmount();
    assert_eq!(
        plyfs(&["undo", "a", "-o", &options]).unwrap(),
        "it is as the lower layers have it; what it was is kept as commit 1\n"
    );
    let mount = stack.mount();
    assert_eq!((mount.text("a"), mount.has("other")), ("a".into(), false));
    assert_eq!(plyfs(&["undo", mount.root().to_str().unwrap(), "1", "-q"]).unwrap(), "");
    assert_eq!((mount.text("a"), mount.has("other")), ("changed\n".into(), true));
    assert!(about("log", mount.root()).unwrap().contains("(taken back: a)"));
    assert!(about("redo", mount.root()).is_err());
}

fn open(base: &Path) -> Engine {
    Engine::around(Union::open(config(&base.join("lower"), base)).unwrap_or_else(|error| panic!("{error:?}")))
}

fn take(base: &Path, paths: &[&str]) -> Result<(), String> {
    let union = Union::open(config(&base.join("lower"), base)).map_err(|error| error.to_string())?;
    let paths = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
    let done = Live::new(Arc::new(union)).step(&Step::UndoPaths { paths }, &|| Ok(()));
    done.map(drop).map_err(|error| error.to_string())
}

fn layers() -> tempfile::TempDir {
    let scratch = tempfile::tempdir_in(scratch::memory()).unwrap();
    let base = scratch.path();
    for dir in ["lower/d/e", "lower/r", "upper", "work"] {
        fs::create_dir_all(base.join(dir)).unwrap();
    }
    for file in ["a", "d/f", "d/e/g", "r/x"] {
        fs::write(base.join("lower").join(file), file).unwrap();
    }
    let engine = open(base);
    engine.write("d/e/g", 0, "changed").unwrap();
    engine.unlink("d/f").unwrap();
    engine.rename("r", "s").unwrap();
    engine.write("a", 0, "changed").unwrap();
    drop(engine);
    scratch
}

#[test]
fn an_undo_of_paths_that_is_killed_is_made_or_not() {
    kill_at_each_call(&|base, paths| take(base, paths), &|_, _| {});
}

#[test]
fn a_redo_of_paths_that_is_killed_is_made_or_not() {
    let redo = |base: &Path, _: &[&str]| crate::crash::take(base, &Step::Redo);
    kill_at_each_call(&redo, &|base, paths| take(base, paths).unwrap());
}

/// A step with these paths.
type Take<'a> = &'a dyn Fn(&Path, &[&str]) -> Result<(), String>;

/// Ends a step at each of its calls.
fn kill_at_each_call(take: Take<'_>, prepare: &dyn Fn(&Path, &[&str])) {
    for paths in [&["a"][..], &["d/e/g"], &["d/f"], &["r", "s"], &["a", "d", "r", "s"]] {
        let layers = || {
            let scratch = layers();
            prepare(scratch.path(), paths);
            scratch
        };
        let see = |base: &Path| -> engine::View { open(base).view().unwrap() };
        let scratch = layers();
        let before = see(scratch.path());
        take(scratch.path(), paths).unwrap();
        let after = see(scratch.path());
        let left = fs::read_dir(scratch.path().join("work/commits")).unwrap().count();
        assert!(before != after);
        let (mut stayed, mut went) = (0, 0);
        for at in 0.. {
            let scratch = layers();
            let base = scratch.path();
            let (done, calls) = with_plan(Plan::dead_from(at), || take(base, paths));
            if calls <= at {
                assert_eq!(done, Ok(()));
                break;
            }
            let now = see(base);
            assert!(now == before || now == after, "{paths:?} killed at call {at}: {done:?}");
            if now == after {
                went += 1;
                continue;
            }
            stayed += 1;
            take(base, paths).unwrap_or_else(|why| panic!("{paths:?} after a kill at call {at}: {why}"));
            assert!(see(base) == after, "{paths:?} after a kill at call {at}");
            // Nothing is left of what was broken off.
            let commits = fs::read_dir(base.join("work/commits")).unwrap().count();
            assert_eq!(commits, left, "{paths:?} after a kill at call {at}");
        }
        assert!(stayed > 20 && went > 0, "{paths:?}: {stayed} {went}");
    }
}

/// An apply would bring half of it below.
#[test]
fn no_tool_looks_at_a_layer_in_which_an_undo_of_paths_was_broken_off() {
    let mut found = false;
    for at in 0.. {
        let scratch = layers();
        let base = scratch.path();
        let (_, calls) = with_plan(Plan::dead_from(at), || take(base, &["d/e/g", "r", "s"]));
        assert!(calls > at, "never half done");
        let has_taking = base.join("work/commits/1/taking").exists();
        if has_taking && !base.join("upper/d/e/g").exists() {
            let error = plyfs::union::look(&config(&base.join("lower"), base)).err().map(|error| error.to_string());
            assert!(error.as_ref().is_some_and(|error| error.contains("was broken off")), "{error:?}");
            // Whatever else has changed there, what was to be taken comes back.
            fs::remove_dir_all(base.join("upper/d")).unwrap();
            open(base);
            assert_eq!(fs::read_to_string(base.join("upper/d/e/g")).unwrap(), "changed");
            plyfs::union::look(&config(&base.join("lower"), base)).unwrap();
            found = true;
            break;
        }
    }
    assert!(found);
}

/// Without an index all names of a lower file lead to the copy as long as the view is mounted.
#[test]
fn lower_hard_links_without_an_index_go_back_together() {
    within(60, || {
        let stack = Stack::new(1).option("index=off");
        stack.lowers[0].file("l/one", "linked").hard_link("l/one", "l/two");
        let mut mount = stack.mount();
        mount.write("l/one", "changed").unwrap();
        let mut held = File::open(mount.at("l/two")).unwrap();
        if undo(&mount, &["l/one"]).is_ok() {
            assert_eq!((mount.text("l/one"), mount.text("l/two")), ("linked".into(), "linked".into()));
            let mut text = String::new();
            held.read_to_string(&mut text).unwrap();
            assert!(text == "changed" || text == "linked", "{text}");
            mount.write("l/two", "again").unwrap();
            drop(held);
            mount.remount();
            assert_eq!(mount.text("l/two"), "again");
        }
    });
}

#[test]
fn programs_go_on_while_paths_are_taken_back() {
    within(120, || {
        let stack = stack();
        let mount = stack.mount();
        let (log, dir) = (mount.at("log"), mount.at("d/e"));
        let mut file = File::options().create(true).append(true).open(&log).unwrap();
        let append = move |over: &std::sync::atomic::AtomicBool| {
            let mut lines = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(format!("{lines}\n").as_bytes()).unwrap();
                // What is taken back may go away under this at any moment, and is otherwise whole.
                let made = fs::write(dir.join("g"), "made").and_then(|()| fs::rename(dir.join("g"), dir.join("i")));
                if let Err(error) = made {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}");
                }
                let read = fs::read_to_string(dir.join("h"));
                assert_eq!(read.unwrap(), "h");
                lines += 1;
            }
            lines
        };
        let mut taken = 0;
        let lines = crate::live::beside(append, || {
            for _ in 0..30 {
                taken += usize::from(undo(&mount, &["d/e"]).is_ok());
            }
        });
        assert!(taken > 10 && lines > 30, "{taken} {lines}");
        let expected: String = (0..lines).map(|n| format!("{n}\n")).collect();
        assert!(fs::read_to_string(log).unwrap() == expected);
        let _ = undo(&mount, &["d/e"]);
        assert_eq!((mount.text("d/e/g"), mount.has("d/e/i")), ("g".into(), false));
    });
}

#[test]
fn no_path_is_taken_back_beneath_a_mount() {
    if who() == Who::User {
        skip!("a normal user mounts nothing");
    }
    let stack = stack();
    let mount = stack.mount();
    sh(mount.root(), "echo n > a; mkdir -p m/on; echo n > d/n; mount -t tmpfs on m/on");
    let error = undo(&mount, &["m"]).unwrap_err();
    assert!(error.contains("something is mounted at or below it") && error.lines().count() == 1, "{error}");
    undo(&mount, &["a", "d/n"]).unwrap();
    sh(mount.root(), "umount m/on");
    undo(&mount, &["m"]).unwrap();
    assert!(!mount.has("m"));
}

#[test]
fn a_redo_moves_nothing_over_what_has_come_since() {
    within(60, || {
        let stack = stack();
        let mut mount = stack.mount();
        sh(mount.root(), "echo n > d/n; echo a > a; echo o > other");
        undo(&mount, &["d/n"]).unwrap();
        undo(&mount, &["a"]).unwrap();
        mount.remount();
        let redo = || about("redo", stack.merged.as_path());
        sh(mount.root(), "echo since > a");
        let error = redo().unwrap_err();
        assert!(error.contains("it has changed since") && error.lines().count() == 1, "{error}");
        undo(&mount, &["a"]).unwrap();
        // Back in the order in which they went.
        redo().unwrap();
        assert_eq!(mount.text("a"), "since\n");
        sh(mount.root(), "rm a; mv d k; mkdir d");
        undo(&mount, &["a"]).unwrap();
        mount.write("other", "more").unwrap();
        let error = redo();
        assert!(error.is_ok() && !mount.has("a"), "{error:?}");
        assert!(redo().is_err());
        assert_eq!((mount.has("k/n"), mount.text("other")), (false, "more".into()));
    });
}
