//! `plyfs layer convert`: the layer in another form shows the same, to plyfs and to those for whom it is written.

mod foreign;
mod named;
mod placed;
mod whose;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::*;
use crate::model::layers::{build, plan, things, words};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, changes};
use crate::squash::look;

const FUSE_OVERLAYFS: [&str; 2] = ["/usr/bin/fuse-overlayfs", "/work/h/fo20/bin/fuse-overlayfs"];

/// Who reads a form besides plyfs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reader {
    /// The kernel's OverlayFS with these options.
    Kernel(&'static str),
    FuseOverlayfs,
}

/// A form, and how plyfs reads it.
struct Form {
    words: &'static [&'static str],
    options: &'static str,
    reader: Reader,
    /// Marks that lead elsewhere can be written in it.
    leads: bool,
    /// How its private attributes begin.
    prefix: &'static [&'static str],
}

const TRUSTED: &[&str] = &["trusted.overlay."];
const USER: &[&str] = &["user.overlay.", "user.fuseoverlayfs.opaque"];
const PLAIN: &str = "redirect_dir=off,metacopy=off";

const FORMS: &[Form] = &[
    Form { words: &["--marks", "trusted"], options: "", reader: Reader::Kernel(PLAIN), leads: true, prefix: TRUSTED },
    Form {
        words: &["--marks", "trusted", "--whiteouts", "xattr"],
        options: "",
        reader: Reader::Kernel(PLAIN),
        leads: true,
        prefix: TRUSTED,
    },
    Form {
        words: &["--marks", "user"],
        options: "userxattr",
        reader: Reader::Kernel("userxattr"),
        leads: true,
        prefix: USER,
    },
    Form {
        words: &["--marks", "user", "--whiteouts", "xattr"],
        options: "userxattr",
        reader: Reader::Kernel("userxattr"),
        leads: true,
        prefix: USER,
    },
    Form {
        words: &["--marks", "user", "--whiteouts", "wh"],
        options: "userxattr",
        reader: Reader::FuseOverlayfs,
        leads: true,
        prefix: USER,
    },
    Form { words: &["--marks", "wh"], options: "", reader: Reader::FuseOverlayfs, leads: false, prefix: &[] },
    Form {
        words: &["--marks", "wh", "--whiteouts", "device"],
        options: "",
        reader: Reader::FuseOverlayfs,
        leads: false,
        prefix: &[],
    },
];

/// Those that can be written here.
fn forms() -> impl Iterator<Item = &'static Form> {
    FORMS.iter().filter(|form| who() == Who::Root || form.prefix != TRUSTED)
}

fn run(words: &[&str], layer: &Path, out: &Path) -> Output {
    Command::new(mount::binary()).args(["layer", "convert"]).args(words).arg(layer).arg(out).output().unwrap()
}

/// The words that name lower layers.
fn flat<'a>(lowers: &[&'a Path]) -> Vec<&'a str> {
    std::iter::once("--flatten").chain(lowers.iter().flat_map(|lower| ["--lower", lower.to_str().unwrap()])).collect()
}

fn convert(words: &[&str], layer: &Path, out: &Path) -> Result<Tree, String> {
    let done = run(words, layer, out);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    // Root is asked whether the writer is trusted; names that stay below, seen or not, are told.
    if said.contains("--from user, if you trust") && !words.contains(&"--from") {
        return convert(&[words, &["--from", "user"]].concat(), layer, out);
    }
    let is_told = done.status.code() == Some(4) && said.contains("came up without all");
    if done.status.success() || is_told { Ok(Tree::new(out)) } else { Err(format!("{words:?}: {said}")) }
}

/// The one line with which it is refused; nothing is left.
fn refused(words: &[&str], layer: &Path, out: &Path) -> (String, i32) {
    let done = run(words, layer, out);
    let temp = out.with_file_name(format!(".{}.plyfs-new", out.file_name().unwrap().to_str().unwrap()));
    assert!(!temp.exists() && !done.status.success(), "{words:?}");
    let said = String::from_utf8(done.stderr).unwrap();
    (said.lines().last().unwrap_or_default().to_owned(), done.status.code().unwrap())
}

fn lowerdir(layers: &[&Path], options: &str) -> String {
    let lowers: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    let more = if options.is_empty() { String::new() } else { format!(",{options}") };
    format!("lowerdir={}{more}", lowers.join(":"))
}

/// What a read-only mount of these layers by plyfs shows.
fn view(scratch: &Scratch, layers: &[&Path], options: &str) -> View {
    look(&Mount::with(&lowerdir(layers, options), &scratch.dir("view"), &scratch.path().join("log")))
}

/// What others show of them.
fn foreign(scratch: &Scratch, layers: &[&Path], reader: Reader) -> Vec<(String, View)> {
    let walk = Walk { times: true, foreign: true, without_links: true, ..Walk::default() };
    let empty = scratch.fresh("empty");
    // One lower layer alone is none for the kernel.
    let layers: Vec<&Path> = layers.iter().copied().chain([empty.as_path()]).collect();
    let at = scratch.dir("foreign");
    let mut views = Vec::new();
    match reader {
        Reader::Kernel(options) => {
            if let Ok(kernel) = Kernel::with(&lowerdir(&layers, options), &at) {
                views.push((format!("the kernel, {options}"), View::of(&kernel, walk)));
            }
        }
        Reader::FuseOverlayfs => {
            for program in FUSE_OVERLAYFS.into_iter().filter(|program| Path::new(program).exists()) {
                let log = scratch.path().join("log");
                let mount = Mount::by(OsString::from(program), &lowerdir(&layers, ""), &at, &log).unwrap();
                views.push((program.to_owned(), View::of(&mount, walk)));
            }
        }
    }
    views
}

/// What another program is to show: what it does not hide or tell is left out.
fn plainly(view: &View) -> View {
    let mut view = View { same: Default::default(), ..view.clone() };
    for object in view.objects.values_mut() {
        object.xattrs.retain(|key, _| !key.starts_with(b"user.overlay.") && !key.starts_with(b"trusted.overlay."));
        object.nlink = 0;
    }
    view
}

/// The private attributes in a layer that this form does not have.
fn strange(layer: &Tree, form: &Form) -> Vec<String> {
    let mut strange = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(layer.at(&dir)).unwrap().map(Result::unwrap) {
            let path = dir.join(entry.file_name());
            let listed =
                Command::new("getfattr").args(["-h", "-d", "-m", "overlay"]).arg(entry.path()).output().unwrap();
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            let keys = listed.lines().filter(|line| line.starts_with("trusted.") || line.starts_with("user."));
            let keys = keys.filter(|key| !key.ends_with("=\"like a mark\""));
            let other = keys.filter(|key| !form.prefix.iter().any(|prefix| key.starts_with(prefix)));
            strange.extend(other.map(|key| format!("{}: {key}", path.display())));
            if entry.file_type().unwrap().is_dir() {
                todo.push(path);
            }
        }
    }
    strange
}

/// What `layer check` finds.
fn findings(layers: &[&Path], form: &Form) -> String {
    let words: &[&str] = if form.prefix == USER && who() == Who::Root { &["--userxattr"] } else { &[] };
    let done = Command::new(mount::binary()).args(["layer", "check"]).args(words).args(layers).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let of_first = layers[0].to_str().unwrap();
    said.lines().filter(|line| line.starts_with(of_first)).fold(String::new(), |all, line| all + line + "\n")
}

/// The layers as one.
fn squashed(layers: &[&Path], out: &Path) {
    let words = ["layer", "squash", "--bottom"];
    let done = Command::new(mount::binary()).args(words).args(layers).arg(out).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn same(what: &str, seen: &View, expected: &View) -> Result<(), String> {
    seen.difference(expected).map_or(Ok(()), |difference| Err(format!("{what}:\n{difference}")))
}

/// Converts a layer over others to each form, and compares what is shown with `before`.
fn compare(scratch: &Scratch, layers: &[&Path], before: &View, leads: bool) -> Result<(), String> {
    for (at, form) in forms().enumerate() {
        for is_flat in [false, true] {
            let mut words = form.words.to_vec();
            if is_flat {
                words.extend(flat(&layers[1..]));
            }
            let out = scratch.path().join(format!("out{at}{is_flat}"));
            let made = convert(&words, layers[0], &out);
            if !is_flat && !form.leads && leads {
                match made {
                    Err(why) if why.contains("--flatten") => continue,
                    // It may have none that leads elsewhere.
                    made => drop(made?),
                }
            } else {
                made?;
            }
            let after: Vec<&Path> = [&[&*out], &layers[1..]].concat();
            same(&format!("{words:?}"), &view(scratch, &after, form.options), before)?;
            let other = strange(&Tree::new(&out), form);
            if !other.is_empty() {
                return Err(format!("{words:?}: {other:?}"));
            }
            let found = findings(&after, form);
            if !found.is_empty() {
                return Err(format!("{words:?}: {found}"));
            }
            if is_flat {
                let base = scratch.path().join("base");
                if !base.exists() {
                    squashed(&layers[1..], &base);
                }
                // fuse-overlayfs 2.0 shows a directory below a file of its name in a layer between.
                let over: Vec<&Path> =
                    if form.reader == Reader::FuseOverlayfs { vec![&*out, &*base] } else { after.clone() };
                for (who, seen) in foreign(scratch, &over, form.reader) {
                    same(&format!("{words:?}, read by {who}"), &plainly(&seen), &plainly(before))?;
                }
            }
        }
    }
    Ok(())
}

/// Converts an upper layer with its index, and compares what is shown with what its mount showed.
fn with_workdir(scratch: &Scratch, layers: &[&Path], live: &View) -> Result<(), String> {
    let work = scratch.path().join("work");
    for (at, form) in forms().enumerate() {
        let out = scratch.path().join(format!("indexed{at}"));
        let words = [form.words, &flat(&layers[1..]), &["--workdir", work.to_str().unwrap()]].concat();
        convert(&words, layers[0], &out)?;
        let after: Vec<&Path> = [&[&*out], &layers[1..]].concat();
        same(&format!("{words:?}"), &view(scratch, &after, form.options), live)?;
    }
    Ok(())
}

/// A changed name of a lower hard link, and those that the index keeps with it.
#[test]
fn hard_links_of_lower_files_stay_or_are_told() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "old").hard_link("a", "d/b").hard_link("a", "d/e/c").file("alone", "x");
        stack.age();
        let mut mount = stack.mount();
        mount.append("d/b", "new").unwrap();
        mount.append("alone", "new").unwrap();
        let live = look(&mount);
        mount.unmount();
        let layers = [stack.upper().root(), stack.lowers[0].root()];
        let indexed = || std::fs::read_dir(stack.scratch.path().join("work/index")).map_or(0, |names| names.count());
        if indexed() == 0 || live.same.is_empty() {
            return say_skipped("no index here");
        }
        with_workdir(&stack.scratch, &layers, &live).unwrap();
        let work = stack.scratch.path().join("work");
        let words = ["--marks", "user", "--workdir", work.to_str().unwrap()];
        let done = run(&words, layers[0], &stack.scratch.path().join("parted"));
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(4) && said.contains("1 hard links of lower files"), "{said}");
        let said = placed::in_place(&words, layers[0]).unwrap_err();
        assert!(said.contains("1 hard links of lower files") && said.contains("--flatten"), "{said}");
    });
}

#[test]
fn a_layer_of_any_history_shows_the_same_in_each_form() {
    crate::squash::of_histories(10, 229, |stack, live| {
        let lowers = stack.lowers.iter().map(|layer| layer.root());
        let layers: Vec<&Path> = std::iter::once(stack.upper().root()).chain(lowers).collect();
        let before = view(&stack.scratch, &layers, "");
        compare(&stack.scratch, &layers, &before, true)?;
        with_workdir(&stack.scratch, &layers, live)
    });
}

/// A stack whose upper layer has each mark that leads elsewhere.
fn leading() -> Option<Stack> {
    let stack = Stack::new(2);
    stack.lowers[0].file("in", "inside").file("moved/in", "inside").file("moved/deep/in", "inside");
    stack.lowers[1].file("out", "outside").file("moved/out", "outside").file("kept/x", "x").file("gone", "");
    stack.age();
    let mut mount = stack.mount();
    if mount.rename("kept", "here").is_err() {
        say_skipped("no redirects here");
        return None;
    }
    ["in", "out"].iter().for_each(|name| mount.chmod(name, 0o600).unwrap());
    mount.rename("out", "out2").unwrap();
    mount.rename("moved", "there").unwrap();
    mount.mkdir("dir", 0o755).unwrap();
    mount.rename("there/deep", "dir/deep").unwrap();
    mount.unlink("gone").unwrap();
    mount.unmount();
    Some(stack)
}

#[test]
fn what_leads_elsewhere_is_kept_or_brought_up_or_refused_by_name() {
    bounded(|| {
        let Some(stack) = leading() else { return };
        let layers = [stack.upper().root(), stack.lowers[0].root(), stack.lowers[1].root()];
        let before = view(&stack.scratch, &layers, "");
        compare(&stack.scratch, &layers, &before, true).unwrap();
        let none = stack.scratch.path().join("none");
        let (said, status) = refused(&["--marks", "wh"], layers[0], &none);
        assert!(said.contains("--flatten") && status == 1, "{said}");
        let (said, _) = refused(&["--marks", "wh", "--flatten"], layers[0], &none);
        assert!(said.contains("in a layer that was not named") && said.contains("--lower"), "{said}");
        let mut words = vec!["--marks", "wh"];
        words.extend(flat(&layers[1..2]));
        let (said, _) = refused(&words, layers[0], &none);
        assert!(said.contains("in a layer that was not named"), "{said}");
    });
}

/// A renamed directory has one of a lower file's names, and its content comes up.
#[test]
fn names_that_stay_below_are_told() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "x").hard_link("a", "d/b");
        stack.age();
        let mut mount = stack.mount();
        let renamed = std::fs::rename(mount.root().join("d"), mount.root().join("e"));
        mount.unmount();
        if renamed.is_err() {
            return say_skipped("no redirects here");
        }
        let words = [&["--marks", "user"][..], &flat(&[stack.lowers[0].root()])].concat();
        let out = stack.scratch.path().join("out");
        let done = run(&words, stack.upper().root(), &out);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(4) && said.contains("1 hard links of lower files came up"), "{said}");
        assert_eq!(Tree::new(&out).read("e/b").unwrap(), b"x");
    });
}

/// Root does not follow marks that a user can have set, unless told to.
#[test]
fn marks_of_users_are_not_roots_without_a_word() {
    bounded(|| {
        if who() != Who::Root {
            return say_skipped("root only");
        }
        let stack = Stack::read_only(2);
        stack.lowers[1].file("secret", "s").perm("secret", 0o600);
        let (metacopy, redirect) = ("user.overlay.metacopy", "user.overlay.redirect");
        stack.lowers[0].file("f", "x").with_xattr("f", metacopy, b"").with_xattr("f", redirect, b"/secret");
        stack.lowers[0].with_xattr("", "user.overlay.plyfs.style", b"device");
        let (layer, out) = (stack.lowers[0].root(), stack.scratch.path().join("out"));
        let flat = [&["--marks", "user"][..], &flat(&[stack.lowers[1].root()])].concat();
        for words in [&["--marks", "trusted"][..], &flat] {
            let (said, status) = refused(words, layer, &out);
            assert!(said.contains("--from user") && status == 1, "{words:?}: {said}");
        }
        convert(&["--marks", "trusted", "--from", "user"], layer, &out).unwrap();
    });
}

/// What chattr(1) has set in a view forbids the same in the view of the new layer.
#[test]
fn the_mark_of_chattr_stays_or_is_refused() {
    bounded(|| {
        let stack = Stack::read_only(1);
        let key = format!("{}protattr", crate::common::stack::prefix());
        stack.lowers[0].file("f", "x").with_xattr("f", &key, b"i").dir("d", 0o755).with_xattr("d", &key, b"a");
        for form in forms() {
            let out = stack.scratch.path().join("out");
            let Some(prefix) = form.prefix.first() else {
                let (said, status) = refused(form.words, stack.lowers[0].root(), &out);
                assert!(said.contains("--marks trusted") && status == 1, "{:?}: {said}", form.words);
                continue;
            };
            let made = convert(form.words, stack.lowers[0].root(), &out).unwrap();
            for (path, value) in [("f", b"i"), ("d", b"a")] {
                assert_eq!(made.xattr(path, format!("{prefix}protattr")).unwrap(), value, "{:?}", form.words);
            }
            std::fs::remove_dir_all(&out).unwrap();
        }
    });
}

type Fill = fn(&Stack);

/// Each row: what a layer holds, how it is converted, and why it cannot be.
#[test]
fn what_cannot_be_said_in_a_form_is_refused() {
    bounded(|| {
        let table: [(&str, Fill, &[&str], &str, i32); 10] = [
            (
                "the same where whiteouts are devices",
                |s| _ = s.lowers[0].file("d/.wh.x", ""),
                &["--marks", "wh", "--whiteouts", "device", "--from", "user"],
                "d/.wh.x: ",
                1,
            ),
            (
                "a name like a whiteout's",
                |s| _ = s.lowers[0].file("d/.wh.x", ""),
                &["--marks", "wh", "--from", "user"],
                "d/.wh.x: ",
                1,
            ),
            (
                "a long name",
                |s| _ = s.lowers[0].whiteout(&"x".repeat(253)),
                &["--marks", "wh"],
                "File name too long",
                1,
            ),
            (
                "a whiteout of such a name",
                |s| _ = s.lowers[0].whiteout(".wh.x"),
                &["--marks", "wh", "--from", "user"],
                ".wh.x: ",
                1,
            ),
            ("two forms", |s| _ = s.lowers[0].whiteout("x").file(".wh.y", ""), &["--marks", "wh"], "--from wh", 1),
            ("no form", |_| (), &[], "--marks", 2),
            ("marked files without marks", |_| (), &["--marks", "wh", "--whiteouts", "xattr"], "--whiteouts xattr", 2),
            ("another's form", |_| (), &["--marks", "none"], "none", 2),
            ("lower layers that are not asked", |_| (), &["--marks", "user", "--lower", "/"], "--flatten", 2),
            (
                "a layer that is not there",
                |s| std::fs::remove_dir(s.lowers[0].root()).unwrap(),
                &["--marks", "user"],
                "No such file",
                1,
            ),
        ];
        for (what, fill, words, expected, code) in table {
            let stack = Stack::read_only(1);
            fill(&stack);
            let done = run(words, stack.lowers[0].root(), &stack.scratch.path().join("out"));
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(said.contains(expected) && done.status.code() == Some(code), "{what}: {:?} {said}", done.status);
            assert!(
                !stack.scratch.path().join("out").exists() && !stack.scratch.path().join(".out.plyfs-new").exists()
            );
        }
        if who() != Who::Root {
            let stack = Stack::read_only(1);
            let (said, _) = refused(&["--marks", "trusted"], stack.lowers[0].root(), &stack.scratch.path().join("out"));
            assert!(said.contains("only root"), "{said}");
        }
    });
}

/// Data under a name like a whiteout's is a user's, and is not thrown away.
#[test]
fn a_whiteout_with_data_is_none() {
    bounded(|| {
        let stack = Stack::read_only(1);
        stack.lowers[0].file("d/.wh.notes", "notes");
        let out = stack.scratch.path().join("out");
        let (said, status) = refused(&["--marks", "user"], stack.lowers[0].root(), &out);
        assert!(said.contains("d/notes: .wh.NAME has data") && status == 1, "{said}");
        convert(&["--marks", "user", "--from", "user"], stack.lowers[0].root(), &out).unwrap();
    });
}

#[test]
fn a_layer_that_is_in_use_is_refused() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "x");
        let out = stack.scratch.path().join("out");
        let mut mount = stack.mount();
        let daemon = mount.pid().unwrap().as_raw_nonzero().to_string();
        let (said, _) = refused(&["--marks", "user"], stack.upper().root(), &out);
        assert!(said.contains("in use by") && said.contains(&daemon), "{said}");
        mount.unmount();
        convert(&["--marks", "user"], stack.upper().root(), &out).unwrap();
        let (said, status) = refused(&["--marks", "user"], stack.lowers[0].root(), &stack.lowers[0].at("in"));
        assert!(said.contains("it lies in") && status == 2, "{said}");
    });
}

#[test]
fn every_kind_of_object_keeps_all_that_it_has() {
    bounded(|| {
        let stack = Stack::read_only(1);
        let layers = crate::squash::all_kinds(&stack);
        if who() == Who::User {
            stack.lowers[0].perm("unreadable", 0o600);
        }
        let before = look(&Tree::new(&layers[0]));
        for (at, form) in forms().enumerate() {
            let out = convert(form.words, &layers[0], &stack.scratch.path().join(format!("out{at}"))).unwrap();
            let mut after = look(&out);
            after.objects.get_mut(&b""[..]).unwrap().xattrs.clear();
            let escaped = after.objects.get_mut(&b"escaped"[..]).unwrap();
            escaped.xattrs.retain(|key, _| key == b"user.containers.x");
            after.assert_same(&before, &format!("{:?}", form.words));
            assert!(out.stat("holes").unwrap().st_blocks < 1000, "the holes are filled");
        }
    });
}

/// Attributes that users have set, with names like those of marks, are theirs in each form.
#[test]
fn attributes_like_marks_are_still_the_users() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "x");
        let mut mount = stack.mount();
        for key in
            ["user.overlay.opaque", "user.overlay.x", "user.fuseoverlayfs.origin", "user.containers.override_stat"]
        {
            mount.set_xattr("f", key, b"v").unwrap();
        }
        let before = look(&mount);
        mount.unmount();
        let layers = [stack.upper().root(), stack.lowers[0].root()];
        for (at, form) in forms().enumerate() {
            let out = stack.scratch.path().join(format!("out{at}"));
            convert(&[form.words, &flat(&layers[1..])].concat(), layers[0], &out).unwrap();
            view(&stack.scratch, &[&out, layers[1]], form.options).assert_same(&before, &format!("{:?}", form.words));
        }
    });
}

/// Nothing outside of a layer is read or changed, whatever is in it, and nothing is waited for.
#[test]
fn hostile_layers_are_converted_or_refused() {
    bounded(|| {
        let stack = Stack::read_only(1);
        let secret = stack.scratch.path().join("secret");
        std::fs::write(&secret, "SECRET").unwrap();
        let layer = &stack.lowers[0];
        layer
            .soft_link("../secret", "link")
            .soft_link("..", "up")
            .fifo("fifo")
            .fifo(".wh.fifo2")
            .fifo("d/.wh..wh..opq");
        layer.soft_link("/", ".unionfs").file("x", "").file(".wh.x", "").file(".wh..wh.", "").file(".wh.", "");
        layer.file("y", "").with_xattr("y", "user.overlay.metacopy", b"").with_xattr(
            "y",
            "user.overlay.redirect",
            b"/../secret",
        );
        for (at, form) in forms().enumerate() {
            let out = stack.scratch.path().join(format!("out{at}"));
            let said = run(form.words, layer.root(), &out);
            assert!(!said.status.success(), "{:?}", form.words);
            let said = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(said.lines().last().unwrap().starts_with("plyfs: y: "), "{said}");
        }
        layer.unlink("y").unwrap();
        for (at, form) in forms().enumerate() {
            let out = stack.scratch.path().join(format!("out{at}"));
            let made = convert(form.words, layer.root(), &out).unwrap();
            assert_eq!(std::fs::read_link(made.at("link")).unwrap(), Path::new("../secret"));
            let names = made.names("").unwrap().join(" ");
            assert_eq!(names, ".unionfs d fifo link up x", "{:?}", form.words);
        }
    });
}
