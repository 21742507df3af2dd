//! Which directories are named beside the layer: the workdir, the layers below.

use super::placed::in_place;
use super::*;
use crate::common::stack::Layer;

/// An upper layer with a changed name of a hard link whose names are in its lower layers, and its workdir. `None`: no index
/// here.
fn indexed(lowers: usize) -> Option<(Stack, PathBuf)> {
    let stack = Stack::new(lowers);
    stack.lowers[lowers - 1].file("h1", "h").hard_link("h1", "d/h3");
    stack.lowers[0].file("d/top", "x");
    stack.age();
    let mut mount = stack.mount();
    mount.append("h1", " new").unwrap();
    mount.unmount();
    let work = stack.scratch.path().join("work");
    if std::fs::read_dir(work.join("index")).map_or(0, |names| names.count()) == 0 {
        say_skipped("no index here");
        return None;
    }
    Some((stack, work))
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

#[test]
fn the_workdir_of_another_upper_layer_is_refused() {
    bounded(|| {
        let (Some((stack, _)), Some((_other, other))) = (indexed(1), indexed(1)) else { return };
        let (upper, lower) = (stack.upper().root(), stack.lowers[0].root());
        let empty = stack.scratch.dir("no-workdir");
        let out = stack.scratch.path().join("out");
        for (work, why) in [(&other, "belongs to another upper layer"), (&empty, "has no index")] {
            let words = [&flat(&[lower])[..], &["--marks", "user", "--workdir", work.to_str().unwrap()]].concat();
            let (said, status) = refused(&words, upper, &out);
            assert!(status == 1 && said.contains(why) && said.contains("workdir="), "{said}");
            let said = in_place(&words, upper).unwrap_err();
            assert!(said.contains(why), "{said}");
            let words = ["layer", "squash", "--workdir", work.to_str().unwrap()];
            let done = Command::new(mount::binary()).args(words).args([upper, lower, &out]).output().unwrap();
            let said = self::said(&done);
            assert!(done.status.code() == Some(1) && said.contains(why) && !out.exists(), "{said}");
        }
    });
}

#[test]
fn names_of_hard_links_in_layers_that_were_not_named_are_told() {
    bounded(|| {
        let Some((stack, work)) = indexed(2) else { return };
        let layers: Vec<&Path> = stack.lowers.iter().map(|layer| layer.root()).collect();
        let (upper, out) = (stack.upper().root(), |at: usize| stack.scratch.path().join(format!("out{at}")));
        let work = ["--marks", "user", "--workdir", work.to_str().unwrap()];
        let why = "1 hard links in the index have names that are hidden, or in layers that were not named";
        for (at, named) in [&layers[..0], &layers[..1]].into_iter().enumerate() {
            let words = [&flat(named)[..], &work].concat();
            let done = run(&words, upper, &out(at));
            assert!(done.status.code() == Some(4) && said(&done).contains(why), "{}", said(&done));
            let said = in_place(&words, upper).unwrap_err();
            assert!(said.contains(why) && said.contains("--bottom"), "{said}");
            // Who says that these are all is believed.
            let words = [&words[..], &["--bottom"]].concat();
            assert_eq!(run(&words, upper, &out(at + 2)).status.code(), Some(0), "{named:?}");
        }
        let done = run(&[&flat(&layers)[..], &work].concat(), upper, &out(4));
        assert_eq!((done.status.code(), said(&done).as_str()), (Some(0), ""));
        assert_eq!(Tree::new(out(4)).read("d/h3").unwrap(), b"h new");
    });
}

/// A directory of two lower layers that was renamed, of which one layer is not named.
#[test]
fn what_renamed_directories_may_lack_is_told_and_never_lost() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.lowers[0].file("d/a", "A");
        stack.lowers[1].file("d/b", "B");
        stack.age();
        let mut mount = stack.mount();
        let renamed = mount.rename("d", "e");
        mount.unmount();
        if renamed.is_err() {
            return say_skipped("no redirects here");
        }
        let layers = [stack.lowers[0].root(), stack.lowers[1].root()];
        let (upper, out) = (stack.upper().root(), |at: usize| stack.scratch.path().join(format!("out{at}")));
        let why = "1 renamed directories have only what the named layers have";
        for (at, named) in [&layers[..1], &layers].into_iter().enumerate() {
            let words = [&flat(named)[..], &["--marks", "user"]].concat();
            let done = run(&words, upper, &out(at));
            assert!(done.status.code() == Some(0) && said(&done).contains(why), "{}", said(&done));
            let said = in_place(&words, upper).unwrap_err();
            assert!(said.contains(why) && said.contains("--bottom"), "{said}");
            let done = run(&[&words[..], &["--bottom"]].concat(), upper, &out(at + 2));
            assert_eq!((done.status.code(), self::said(&done).as_str()), (Some(0), ""));
        }
        let before = view(&stack.scratch, &[upper, layers[0], layers[1]], "");
        in_place(&[&flat(&layers)[..], &["--marks", "user", "--bottom"]].concat(), upper).unwrap();
        view(&stack.scratch, &[upper, layers[0], layers[1]], "userxattr").assert_same(&before, "in its place");
    });
}

/// What holds data only gives data, and no names.
#[test]
fn data_only_layers_are_named_apart() {
    bounded(|| {
        let scratch = Scratch::new();
        let [top, base, data] = ["top", "base", "data"].map(|name| Layer::new(scratch.dir(name)));
        data.file("blob", "the data").file("old/hidden", "secret");
        base.file("old/f", "x");
        let mark = |path: &str, name: &str, value: &[u8]| {
            top.with_xattr(path, &format!("{}{name}", stack::prefix()), value);
        };
        top.file("big", "").dir("new", 0o755);
        mark("big", "metacopy", b"");
        mark("big", "redirect", b"/blob");
        top.truncate("big", 8).unwrap();
        mark("new", "redirect", b"/old");
        let lowerdir =
            format!("lowerdir={}:{}::{}", top.root().display(), base.root().display(), data.root().display());
        let before = look(&Mount::with(&lowerdir, &scratch.dir("view"), &scratch.path().join("log")));
        let form = if who() == Who::Root { "trusted" } else { "user" };
        let lower = base.root();
        let out = scratch.path().join("out");
        let (said, _) = refused(&[&flat(&[lower])[..], &["--marks", form]].concat(), top.root(), &out);
        assert!(said.starts_with("plyfs: big: "), "{said}");
        let words = ["--marks", form, "--datadir", data.root().to_str().unwrap()];
        convert(&[&flat(&[lower])[..], &words].concat(), top.root(), &out).unwrap();
        assert_eq!(std::fs::read(out.join("big")).unwrap(), b"the data");
        view(&scratch, &[&out, lower], "").assert_same(&before, "without the layer of data");
    });
}
