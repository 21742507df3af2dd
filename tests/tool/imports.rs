//! `plyfs layer import`: what an image has is the view of its layers, and no archive reaches out of them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tar::{Builder, EntryType, Header};

use crate::common::view::Numbers;
use crate::common::*;
use crate::images::{exported, noise, options};
use crate::model::layers::{build, plan, things, words};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, changes};

fn import(args: &[&str]) -> Output {
    Command::new(mount::binary()).args(["layer", "import"]).args(args).output().unwrap()
}

/// The layers that an import has made, the topmost first.
fn imported(args: &[&str]) -> String {
    let out = import(&[args, &["--print-lowerdir"]].concat());
    assert_eq!(out.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn seen(root: &Path) -> View {
    View::of(&Tree::new(root), Walk { numbers: Numbers::NotJudged, without_links: true, ..Walk::default() })
}

/// Mounts a list of layers, and looks at them.
fn view_of(list: &str, scratch: &Scratch) -> View {
    let (file, at) = (scratch.path().join("list"), scratch.fresh("imported"));
    std::fs::write(&file, list).unwrap();
    let _mount = Mount::with(&format!("lowerdir=@{}", file.display()), &at, &scratch.path().join("log"));
    seen(&at)
}

#[test]
fn of_any_history_the_imported_layers_are_the_view() {
    within(600, || {
        let test = |(things, ops): &(Vec<Vec<_>>, Vec<Op>)| {
            let stack = build(&plan(things, true));
            let mount = stack.mount();
            let mut real = Real::new(&mount);
            for op in ops {
                let _ = real.apply(&op.resolve(&real.known()));
            }
            drop(real);
            let (image, layers) = (stack.scratch.path().join("image"), stack.scratch.path().join("layers"));
            let out = Command::new(mount::binary())
                .args(["layer", "export", "--oci", text(&image), "-o", &options(&stack)])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            if who() != Who::Root && said.contains("Permission denied") {
                // A user's file that he himself may not read.
                return Ok(());
            }
            assert_eq!(out.status.code(), Some(0), "{said}");
            let expected = seen(&stack.merged);
            let list = imported(&[text(&image), text(&layers)]);
            let found = view_of(&list, &stack.scratch);
            expected.difference(&found).map_or(Ok(()), Err)
        };
        let drawn = (things(), changes(30));
        let words = |(things, _): &(Vec<Vec<_>>, Vec<Op>)| words(&plan(things, true));
        model::check(30, 227, proptest::strategy::Strategy::boxed(drawn), test, words);
    });
}

/// An entry of an archive: its type, name, target or content.
type Thing<'a> = (EntryType, &'a str, &'a str);

fn archive(at: &Path, things: &[Thing<'_>]) -> PathBuf {
    let mut builder = Builder::new(std::fs::File::create(at).unwrap());
    for (kind, name, what) in things {
        let mut header = Header::new_ustar();
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(if *kind == EntryType::Directory { 0o755 } else { 0o644 });
        let own = std::fs::metadata(at).unwrap();
        header.set_uid(std::os::unix::fs::MetadataExt::uid(&own).into());
        header.set_gid(std::os::unix::fs::MetadataExt::gid(&own).into());
        let mut content = &b""[..];
        match kind {
            EntryType::Link | EntryType::Symlink => {
                header.as_ustar_mut().unwrap().linkname[..what.len()].copy_from_slice(what.as_bytes());
            }
            EntryType::Char | EntryType::Block => {
                header.set_device_major(1).unwrap();
                header.set_device_minor(3).unwrap();
            }
            _ => content = what.as_bytes(),
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap();
    at.to_owned()
}

#[test]
#[allow(clippy::too_many_lines)] // Two tables.
fn no_archive_reaches_out_of_its_layer() {
    use EntryType::{Directory, Fifo, Link, Regular, Symlink, XHeader};
    bounded(|| {
        let outside = Scratch::new();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let to = text(outside.path()).to_owned();
        let beyond = format!("{to}/secret");
        let refused: [(&str, Vec<Thing<'_>>); 16] = [
            ("a name with ..", vec![(Regular, "../x", "x")]),
            ("a name with .. in it", vec![(Directory, "a/", ""), (Regular, "a/../../x", "x")]),
            ("behind a symlink", vec![(Symlink, "a", &to), (Regular, "a/secret", "x")]),
            ("behind a symlink to ..", vec![(Symlink, "a", ".."), (Regular, "a/x", "x")]),
            ("a directory behind a symlink", vec![(Symlink, "a", &to), (Directory, "a/b/", "")]),
            ("a whiteout behind a symlink", vec![(Symlink, "a", &to), (Regular, "a/.wh.secret", "")]),
            ("an opaque mark behind a symlink", vec![(Symlink, "a", &to), (Regular, "a/.wh..wh..opq", "")]),
            ("a hard link to the outside", vec![(Link, "a", &beyond)]),
            ("a hard link with ..", vec![(Link, "a", "../../secret")]),
            ("a hard link behind a symlink", vec![(Symlink, "a", &to), (Link, "b", "a/secret")]),
            ("a hard link to nothing", vec![(Link, "a", "b")]),
            ("a hard link to a directory", vec![(Directory, "b/", ""), (Link, "a", "b")]),
            ("a name behind a file", vec![(Regular, "a", "x"), (Regular, "a/b", "x")]),
            ("a file in the place of a full directory", vec![(Regular, "a/b", "x"), (Regular, "a", "x")]),
            ("a name in a whiteout", vec![(Regular, ".wh.a/b", "")]),
            ("records that make no sense", vec![(XHeader, "x", "9 path\n"), (Regular, "a", "x")]),
        ];
        for (what, things) in refused {
            let scratch = Scratch::new();
            let (file, layers) = (archive(&scratch.path().join("a.tar"), &things), scratch.path().join("layers"));
            let out = import(&[text(&file), text(&layers)]);
            let said = String::from_utf8_lossy(&out.stderr);
            assert_eq!((out.status.code(), said.lines().count()), (Some(1), 1), "{what}: {said}");
            assert_eq!(std::fs::read_dir(&layers).map_or(0, Iterator::count), 0, "{what}");
        }
        let safe: [(&str, Vec<Thing<'_>>, &[&str]); 9] = [
            ("an absolute name", vec![(Regular, "/etc/x", "x")], &["etc", "etc/x"]),
            ("a symlink to the outside", vec![(Symlink, "a", &beyond)], &["a"]),
            ("a symlink that a file replaces", vec![(Symlink, "a", &beyond), (Regular, "a", "x")], &["a"]),
            (
                "a symlink that a directory replaces",
                vec![(Symlink, "a", &to), (Directory, "a/", ""), (Regular, "a/secret", "x")],
                &["a", "a/secret"],
            ),
            (
                "a hard link that a file replaces",
                vec![(Regular, "a", "old"), (Link, "b", "a"), (Regular, "b", "new")],
                &["a", "b"],
            ),
            ("a name twice", vec![(Regular, "a", "old"), (Fifo, "a", ""), (Regular, "a", "new")], &["a"]),
            ("aufs's own names", vec![(Regular, ".wh..wh.plnk/1.2", "x"), (Regular, "a", "x")], &["a"]),
            ("a whiteout beside its name", vec![(Regular, "a", "x"), (Regular, ".wh.a", "")], &["a"]),
            ("a name with a whiteout after it", vec![(Regular, ".wh.a", ""), (Regular, "a", "x")], &["a"]),
        ];
        for (what, things, expected) in safe {
            let scratch = Scratch::new();
            let (file, layers) = (archive(&scratch.path().join("a.tar"), &things), scratch.path().join("layers"));
            let found = view_of(&imported(&[text(&file), text(&layers)]), &scratch);
            let names: Vec<_> = found.objects.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
            assert_eq!(names[1..], *expected, "{what}");
        }
        assert_eq!(std::fs::read_to_string(&beyond).unwrap(), "secret");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    });
}

#[test]
fn what_cannot_be_made_here_and_marks_of_overlays_are_left_out() {
    bounded(|| {
        let scratch = Scratch::new();
        let record = |key: &str, value: &str| {
            let rest = format!(" SCHILY.xattr.{key}={value}\n");
            let len = (rest.len()..).find(|len| len.to_string().len() + rest.len() == *len).unwrap();
            format!("{len}{rest}")
        };
        let records = [
            "user.overlay.metacopy",
            "user.overlay.redirect",
            "trusted.overlay.opaque",
            "user.containers.override_stat",
        ]
        .map(|key| record(key, "y"))
        .concat();
        let things = [
            (EntryType::XHeader, "x", records.as_str()),
            (EntryType::Regular, "a", "x"),
            (EntryType::Char, "null", ""),
        ];
        let (file, layers) = (archive(&scratch.path().join("a.tar"), &things), scratch.path().join("layers"));
        let out = import(&[text(&file), text(&layers)]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(4), "{said}");
        let devices = usize::from(who() != Who::Root);
        assert_eq!(said.lines().count(), 4 + devices, "{said}");
        let layer = std::fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path();
        assert_eq!(Tree::new(&layer).xattrs("a").unwrap(), [[0; 0]; 0]);
        assert_eq!(Tree::new(&layer).has("null"), devices == 0);
    });
}

#[test]
fn a_directory_over_a_whiteout_and_an_opaque_one_hide_what_is_below() {
    use EntryType::{Directory, Regular};
    bounded(|| {
        for things in [
            vec![(Regular, ".wh.d", ""), (Directory, "d/", ""), (Regular, "d/new", "x")],
            vec![(Directory, "d/", ""), (Regular, "d/new", "x"), (Regular, ".wh.d", "")],
            vec![(Regular, ".wh.d", ""), (Regular, "d/new", "x")],
            vec![(Regular, "d/.wh..wh..opq", ""), (Regular, "d/new", "x")],
            vec![(Regular, "d/new", "x"), (Regular, "d/.wh..wh..opq", "")],
        ] {
            let scratch = Scratch::new();
            let top = archive(&scratch.path().join("top.tar"), &things);
            let base = archive(&scratch.path().join("base.tar"), &[(Regular, "d/old", "x"), (Regular, "e", "x")]);
            let list = imported(&[text(&top), text(&base), text(&scratch.path().join("layers"))]);
            let found = view_of(&list, &scratch);
            let names: Vec<_> = found.objects.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
            assert_eq!(names, ["", "d", "d/new", "e"], "{things:?}");
        }
    });
}

/// umoci hides what was in a directory also where that is a file now.
#[test]
fn a_whiteout_behind_a_file_hides_nothing() {
    bounded(|| {
        let scratch = Scratch::new();
        let things = [(EntryType::Regular, "d", "x"), (EntryType::Regular, "d/.wh.y", "")];
        let top = archive(&scratch.path().join("top.tar"), &things);
        let list = imported(&[text(&top), text(&scratch.path().join("layers"))]);
        let names: Vec<_> = view_of(&list, &scratch).objects.into_keys().collect();
        assert_eq!(names, [&b""[..], b"d"]);
    });
}

/// umoci writes what has changed only, and not the directories that hold it.
#[test]
fn directories_of_which_an_archive_has_only_what_is_in_them_are_those_below() {
    use EntryType::Regular;
    bounded(|| {
        let scratch = Scratch::new();
        let base = Tree::new(scratch.dir("base"));
        let dirs = ["d/e", "d", "again/e", "again", "gone", "."];
        for dir in dirs {
            std::fs::create_dir_all(base.at(dir)).unwrap();
        }
        for dir in dirs {
            base.set_xattr(dir, "user.a", dir.as_bytes()).unwrap();
            base.chmod(dir, 0o2750).unwrap();
            assert!(Command::new("touch").args(["-d", "@7000000.5"]).arg(base.at(dir)).status().unwrap().success());
        }
        let tar = |name: &str, things: &[Thing<'_>]| archive(&scratch.path().join(name), things);
        let base_tar = scratch.path().join("base.tar");
        let mut words = Command::new("tar");
        words.args(["--xattrs", "--format=posix", "-C"]).arg(base.root()).arg("-cf").arg(&base_tar).arg(".");
        assert!(words.status().unwrap().success());
        let middle = tar("middle.tar", &[(Regular, "d/.wh.y", ""), (Regular, ".wh.gone", "")]);
        let top = [(Regular, "d/e/f", ""), (Regular, "again/.wh..wh..opq", ""), (Regular, "again/e/f", "")];
        let top = tar("top.tar", &[&top[..], &[(Regular, "gone/f", "")]].concat());
        let list = imported(&[text(&top), text(&middle), text(&base_tar), text(&scratch.path().join("layers"))]);
        let (expected, found) = (seen(base.root()), view_of(&list, &scratch));
        let of = |view: &View, path: &str| {
            let object = &view.objects[path.as_bytes()];
            (object.mode, object.owner, object.xattrs.clone())
        };
        let layer = Tree::new(Path::new(list.lines().next().unwrap()));
        for path in ["", "d", "d/e", "again"] {
            assert_eq!(of(&found, path), of(&expected, path), "{path:?}");
            let time = |tree: &Tree| tree.stat(path).map(|stat| (stat.st_mtime, stat.st_mtime_nsec)).unwrap();
            assert_eq!(time(&layer), time(&base), "{path:?}");
        }
        for path in ["again/e", "gone"] {
            assert_eq!((of(&found, path).0, of(&found, path).2.len()), (0o755, 0), "{path:?}");
        }
    });
}

#[test]
fn digests_are_verified_and_sizes_are_bounded() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("zeros", vec![0; 8 << 20]).file("a", "x");
        let (image, layers) = (stack.scratch.path().join("image"), stack.scratch.path().join("layers"));
        exported(&["--oci", text(&image), text(stack.lowers[0].root())]);
        let refused = |args: &[&str], why: &str| {
            let out = import(&[args, &[text(&image), text(&layers)]].concat());
            let said = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(1), "{said}");
            assert!(said.contains(why), "{said}");
            assert_eq!(std::fs::read_dir(&layers).map_or(0, Iterator::count), 0);
        };
        refused(&["--max", "7M"], "--max");
        // Not the layer alone is named by its digest.
        for entry in std::fs::read_dir(image.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()) {
            let whole = std::fs::read(&entry).unwrap();
            let mut broken = whole.clone();
            let at = broken.len() - 5;
            broken[at] ^= 1;
            std::fs::write(&entry, broken).unwrap();
            refused(&[], "");
            std::fs::write(&entry, whole).unwrap();
        }
        let list = imported(&["--max", "9M", text(&image), text(&layers)]);
        assert_eq!(list.lines().count(), 1);
        assert!(list.starts_with(&format!("{}/sha256-", layers.canonicalize().unwrap().display())), "{list}");
        assert_eq!(imported(&[text(&image), text(&layers)]), list, "it is there already");
        let out = import(&[&format!("{}:v7", image.display()), text(&layers)]);
        assert!(String::from_utf8_lossy(&out.stderr).contains("latest"), "the names that there are");
    });
}

#[test]
fn an_import_that_is_killed_leaves_no_layer_and_the_next_one_cleans() {
    bounded(|| {
        let stack = Stack::new(1);
        let (image, layers) = (stack.scratch.path().join("image"), stack.scratch.dir("layers"));
        stack.lowers[0].file("big", noise(64)).dir("closed", 0o555);
        exported(&["--oci", text(&image), text(stack.lowers[0].root())]);
        let count = || std::fs::read_dir(&layers).unwrap().count();
        for _ in 0..3 {
            let mut child = Command::new(mount::binary())
                .args(["layer", "import", text(&image), text(&layers)])
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            assert!(mount::wait_until(|| count() > 0));
            child.kill().unwrap();
            child.wait().unwrap();
            let name = std::fs::read_dir(&layers).unwrap().next().unwrap().unwrap().file_name();
            assert!(name.to_string_lossy().starts_with(".plyfs-import."), "{name:?}");
        }
        imported(&[text(&image), text(&layers)]);
        assert_eq!(count(), 1);
    });
}

#[test]
fn images_of_other_programs_are_what_these_show() {
    within(300, || {
        let has = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
        if who() != Who::Root || !has("podman") {
            skip!("podman, and root");
        }
        let scratch = Scratch::new();
        let dirs = ["root", "run"].map(|name| text(&scratch.dir(name)).to_owned());
        let podman = |args: &[&str]| {
            let all = ["--root", &dirs[0], "--runroot", &dirs[1], "--storage-driver", "vfs"];
            let out = Command::new("podman").current_dir(scratch.path()).args(all).args(args).output().unwrap();
            assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8_lossy(&out.stdout).trim().to_owned()
        };
        let context = scratch.dir("context");
        let tree = Tree::new(&context);
        std::fs::create_dir_all(context.join("d/e")).unwrap();
        tree.write("d/one", "one").unwrap();
        tree.link("d/one", "d/two").unwrap();
        tree.symlink("/d/one", "link").unwrap();
        tree.write("gone", "gone").unwrap();
        tree.chown("d/e", 1234, 4321).unwrap();
        tar_of(&context, &scratch.path().join("base.tar"));
        podman(&["import", "-q", "base.tar", "base"]);
        let top = archive(
            &scratch.path().join("top.tar"),
            &[(EntryType::Regular, ".wh.gone", ""), (EntryType::Regular, "d/three", "3")],
        );
        // An image of two layers.
        let list = imported(&[text(&top), text(&scratch.path().join("base.tar")), text(&scratch.path().join("own"))]);
        let stack: Vec<_> = list.lines().collect();
        exported(&["--oci", text(&scratch.path().join("two")), stack[0], stack[1]]);
        let id = podman(&["pull", "-q", "oci:two:latest"]);
        podman(&["tag", &id, "two"]);
        let at = podman(&["image", "mount", &id]);
        let mut expected = seen(Path::new(&at));
        expected.objects.remove(&b""[..]);
        for (format, name) in [("docker-archive", "two.tar"), ("oci-archive", "two-oci.tar"), ("oci-dir", "two-dir")] {
            podman(&["save", "-q", "--format", format, "-o", name, "two"]);
            let layers = scratch.path().join(format!("layers-{format}"));
            let list = imported(&[text(&scratch.path().join(name)), text(&layers)]);
            let mut found = view_of(&list, &scratch);
            found.objects.remove(&b""[..]);
            expected.assert_same(&found, format);
        }
    });
}

fn tar_of(dir: &Path, to: &Path) {
    let out = Command::new("tar").arg("-C").arg(dir).arg("-cf").arg(to).arg(".").output().unwrap();
    let _ = std::io::stderr().write_all(&out.stderr);
    assert!(out.status.success());
}
