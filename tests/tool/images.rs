//! `plyfs layer export`: what other programs unpack is what the view shows, and the bytes are the same each time.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::view::Numbers;
use crate::common::*;
use crate::model::layers::{build, plan, things, words};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, changes};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn export(args: &[&str]) -> Output {
    Command::new(mount::binary()).args(["layer", "export"]).args(args).output().unwrap()
}

/// What an export that must be whole prints to standard error.
pub fn exported(args: &[&str]) -> String {
    let out = export(args);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(0), "{args:?}: {said}");
    said
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The layers of a stack, as the tools take them.
pub fn options(stack: &Stack) -> String {
    let all: Vec<_> = std::iter::once(stack.layer_options("work")).chain(stack.options.iter().cloned()).collect();
    all.join(",")
}

fn tar(args: &[&str]) -> Vec<u8> {
    let out = Command::new("tar").args(args).output().unwrap();
    assert!(out.status.success(), "tar {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn names(archive: &Path) -> Vec<String> {
    let list = tar(&["--quoting-style=literal", "-tf", text(archive)]);
    String::from_utf8_lossy(&list).lines().filter(|name| *name != "./").map(str::to_owned).collect()
}

/// Unpacks a layer as the rules of OCI say.
fn apply(archive: &Path, to: &Path) {
    let remove = |path: &Path| {
        if path.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            let _ = std::fs::remove_file(path);
        }
    };
    let tree = Tree::new(to);
    let all = names(archive);
    for name in &all {
        let path = Path::new(name);
        let (dir, last) = (to.join(path.parent().unwrap()), path.file_name().unwrap().to_str().unwrap());
        if last == ".wh..wh..opq" {
            if dir.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
                tree.remove_all(path.parent().unwrap()).ok();
                std::fs::create_dir_all(&dir).unwrap();
            }
        } else if let Some(hidden) = last.strip_prefix(".wh.") {
            remove(&dir.join(hidden));
        }
    }
    for name in all.iter().filter(|name| !Path::new(name).file_name().unwrap().as_bytes().starts_with(b".wh.")) {
        let at = to.join(name.trim_end_matches('/'));
        let is_dir = at.symlink_metadata().ok().map(|stat| stat.is_dir());
        if is_dir.is_some_and(|is_dir| !(is_dir && name.ends_with('/'))) {
            remove(&at);
        }
    }
    unpack(archive, to);
}

fn unpack(archive: &Path, to: &Path) {
    let (archive, to) = (text(archive), text(to));
    tar(&["-C", to, "--exclude=.wh.*", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", archive]);
}

/// A tree without numbers, and without link counts: a lower file counts names that are hidden.
fn seen(root: &Path) -> View {
    let mut view = View::of(&Tree::new(root), Walk { times: true, numbers: Numbers::NotJudged, ..Walk::default() });
    view.objects.values_mut().for_each(|object| (object.changed, object.nlink) = (view::Changed::Whenever, 0));
    view
}

type Act = fn(&Mount);

#[test]
fn what_a_layer_refers_to_is_whole_in_its_archive() {
    bounded(|| {
        let table: [(&str, Act, &[&str]); 12] = [
            ("nothing", |_| {}, &[]),
            ("a write", |m| m.append("a", "x").unwrap(), &["a"]),
            ("a new mode", |m| m.chmod("a", 0o600).unwrap(), &["a"]),
            ("a removal", |m| m.unlink("a").unwrap(), &[".wh.a"]),
            ("a directory that goes", |m| m.remove_all("dir").unwrap(), &[".wh.dir"]),
            ("a new file in it", |m| m.write("dir/new", "x").unwrap(), &["dir/", "dir/new"]),
            (
                "a renamed directory",
                |m| m.rename("dir", "new").unwrap(),
                &[".wh.dir", "new/", "new/.wh..wh..opq", "new/sub/", "new/sub/z", "new/x", "new/y"],
            ),
            (
                "a write and a removal in a renamed directory",
                |m| {
                    m.rename("dir", "new").unwrap();
                    m.append("new/x", "x").unwrap();
                    m.unlink("new/y").unwrap();
                },
                &[".wh.dir", "new/", "new/.wh..wh..opq", "new/sub/", "new/sub/z", "new/x"],
            ),
            (
                "a directory made again",
                |m| {
                    m.remove_all("dir").unwrap();
                    m.mkdir("dir", 0o755).unwrap();
                    m.write("dir/x", "new").unwrap();
                },
                &["dir/", "dir/.wh..wh..opq", "dir/x"],
            ),
            ("a renamed file", |m| m.rename("a", "b").unwrap(), &[".wh.a", "b"]),
            ("hard links", |m| m.link("a", "dir/b").unwrap(), &["a", "dir/", "dir/b"]),
            (
                "a symlink and a fifo",
                |m| {
                    m.symlink("/etc/passwd", "link").unwrap();
                    m.mknod("fifo", rustix::fs::FileType::Fifo, 0o600, 0).unwrap();
                },
                &["fifo", "link"],
            ),
        ];
        for (what, act, expected) in table {
            let stack = Stack::new(1);
            stack.lowers[0]
                .file("a", vec![b'x'; 40 * KIB])
                .file("dir/x", "x")
                .file("dir/y", "y")
                .file("dir/sub/z", "z");
            let mount = stack.mount();
            act(&mount);
            let (archive, out) = (stack.scratch.path().join("a.tar"), stack.scratch.dir("out"));
            exported(&["--tar", text(&archive), text(&stack.merged)]);
            assert_eq!(names(&archive), expected, "{what}");
            // Over what is below it is the view.
            let status = Command::new("cp").arg("-aT").args([stack.lowers[0].root(), &out]).status().unwrap();
            assert!(status.success());
            apply(&archive, &out);
            seen(&stack.merged).assert_same(&seen(&out), what);
        }
    });
}

#[test]
fn names_of_a_lower_file_whose_copy_the_index_has_are_told() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("d/one", "old").hard_link("d/one", "e/two").file("e/three", "3");
        let mount = stack.mount();
        mount.append("d/one", "new").unwrap();
        if mount.text("e/two") != "oldnew" {
            skip!("there is no index here");
        }
        let archive = stack.scratch.path().join("a.tar");
        exported(&["--tar", text(&archive), text(&stack.merged)]);
        assert_eq!(names(&archive), ["d/", "d/one", "e/", "e/two"]);
    });
}

#[test]
fn holes_long_names_and_odd_attributes_are_kept() {
    bounded(|| {
        let stack = Stack::new(1);
        let layer = &stack.lowers[0];
        let long = ["n".repeat(200), "m".repeat(250), "x".repeat(255)].join("/");
        layer.file(&long, "deep").soft_link(&"t".repeat(300), "link").hard_link(&long, "again");
        layer.file("odd \u{e4}\n*", "x").with_xattr("again", "user.a", b"a\0\n=%").with_xattr(
            "again",
            "user.empty",
            b"",
        );
        for (name, size, data) in
            [("hole", 9 * MIB as u64, 5 * MIB as u64 + 3), ("end", 3 * MIB as u64 + 1, 7), ("all", MIB as u64, 0)]
        {
            layer.file(name, "");
            layer.truncate(name, size).unwrap();
            if data > 0 {
                layer.pwrite(name, data, b"data").unwrap();
            }
        }
        layer.utimes("hole", rustix::fs::Timespec { tv_sec: -2, tv_nsec: 500_000_000 }).unwrap();
        layer.utimes("end", rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 }).unwrap();
        let (archive, out) = (stack.scratch.path().join("a.tar"), stack.scratch.dir("out"));
        exported(&["--tar", text(&archive), text(layer.root())]);
        assert!(archive.metadata().unwrap().len() < MIB as u64, "holes are no bytes");
        unpack(&archive, &out);
        let of = |root: &Path| {
            View::of(&Tree::new(root), Walk { times: true, numbers: Numbers::NotJudged, ..Walk::default() })
        };
        of(layer.root()).assert_same(&of(&out), "unpacked by tar");
        let (one, two) = (layer.stat("end").unwrap(), Tree::new(&out).stat("end").unwrap());
        assert_eq!((one.st_mtime, one.st_mtime_nsec), (two.st_mtime, two.st_mtime_nsec));
    });
}

#[test]
fn what_no_archive_can_hold_is_left_out_and_told() {
    bounded(|| {
        let stack = Stack::new(1);
        let socket = std::os::unix::net::UnixListener::bind(stack.lowers[0].at("socket")).unwrap();
        let (archive, layer) = (stack.scratch.path().join("a.tar"), stack.lowers[0].root().to_owned());
        let said = exported(&["--tar", text(&archive), text(&layer)]);
        assert_eq!(said, "plyfs: socket: left out: a socket\n");
        drop(socket);
        let mount = stack.mount();
        mount.write(".wh.file", "a user's own").unwrap();
        let out = export(&["--tar", text(&archive), text(&stack.merged)]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!((out.status.code(), said.lines().count()), (Some(4), 1), "{said}");
        assert_eq!(names(&archive), [""; 0]);
    });
}

#[test]
fn a_layer_without_those_that_it_stands_on_is_refused() {
    bounded(|| {
        for act in [(|m| m.rename("dir", "new").unwrap()) as Act, |m| m.chmod("a", 0o600).unwrap()] {
            let stack = Stack::new(1);
            stack.lowers[0].file("a", vec![b'x'; 40 * KIB]).file("dir/x", "x");
            let mut mount = stack.mount();
            act(&mount);
            mount.unmount();
            let archive = stack.scratch.path().join("a.tar");
            let out = export(&["--tar", text(&archive), text(stack.upper().root())]);
            let said = String::from_utf8_lossy(&out.stderr);
            assert_eq!((out.status.code(), said.lines().count()), (Some(1), 1), "{said}");
            assert!(said.contains("name"), "{said}");
            let left: Vec<_> =
                std::fs::read_dir(stack.scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(!left.iter().any(|name| name.to_string_lossy().contains("a.tar")), "{left:?}");
            exported(&["--tar", text(&archive), text(stack.upper().root()), text(stack.lowers[0].root())]);
        }
    });
}

/// All files of an image.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                todo.push(entry);
            } else {
                files.insert(entry.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&entry).unwrap());
            }
        }
    }
    files
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}

fn blob(files: &BTreeMap<PathBuf, Vec<u8>>, of: &serde_json::Value) -> Vec<u8> {
    let digest = of["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let bytes = files[&Path::new("blobs/sha256").join(digest)].clone();
    assert_eq!(of["size"], bytes.len());
    bytes
}

/// The manifest of an image.
fn manifest(files: &BTreeMap<PathBuf, Vec<u8>>, tag: &str) -> serde_json::Value {
    let index = json(&files[Path::new("index.json")]);
    let all = index["manifests"].as_array().unwrap();
    let tagged: Vec<_> =
        all.iter().filter(|one| one["annotations"]["org.opencontainers.image.ref.name"] == tag).collect();
    assert_eq!(tagged.len(), 1, "{index}");
    json(&blob(files, tagged[0]))
}

/// The archives of an image in a directory, the lowest first.
fn archives(image: &Path, tag: &str, to: &Path) -> Vec<PathBuf> {
    let files = files(image);
    let layers = manifest(&files, tag)["layers"].as_array().unwrap().clone();
    let paths = layers.iter().enumerate().map(|(at, layer)| {
        let path = to.join(format!("{at}.tar"));
        std::fs::write(&path, blob(&files, layer)).unwrap();
        path
    });
    paths.collect()
}

#[test]
fn of_any_history_the_archives_are_the_view() {
    within(600, || {
        let test = |(things, ops): &(Vec<Vec<_>>, Vec<Op>)| {
            let stack = build(&plan(things, true));
            let mount = stack.mount();
            let mut real = Real::new(&mount);
            for op in ops {
                let _ = real.apply(&op.resolve(&real.known()));
            }
            drop(real);
            let (image, merged) = (stack.scratch.path().join("image"), stack.scratch.path().join("merged.tar"));
            for args in [["--oci", text(&image)], ["--tar", text(&merged)]] {
                let merged = if args[0] == "--tar" { &["--merged"][..] } else { &["--compress", "none"] };
                let out = export(&[&args[..], merged, &["-o", &options(&stack)]].concat());
                let said = String::from_utf8_lossy(&out.stderr).into_owned();
                if who() != Who::Root && said.contains("Permission denied") {
                    // A user's file that he himself may not read.
                    return Ok(());
                }
                if out.status.code() != Some(0) {
                    return Err(said);
                }
            }
            if who() == Who::User {
                // Tar sets no attributes of files that their owner may not write.
                return Ok(());
            }
            let expected = seen(&stack.merged);
            let one = stack.scratch.dir("one");
            unpack(&merged, &one);
            if let Some(difference) = expected.difference(&seen(&one)) {
                return Err(format!("all in one:\n{difference}"));
            }
            let many = stack.scratch.dir("many");
            let archives = archives(&image, "latest", &stack.scratch.dir("archives"));
            archives.iter().for_each(|archive| apply(archive, &many));
            let without = |root: &Path| {
                let walk = Walk { numbers: Numbers::NotJudged, without_links: true, ..Walk::default() };
                View::of(&Tree::new(root), walk)
            };
            // A hard link cannot join a name in one layer with one in another.
            without(&stack.merged).difference(&without(&many)).map_or(Ok(()), |d| Err(format!("layers:\n{d}")))
        };
        let drawn = (things(), changes(30));
        let words = |(things, _): &(Vec<Vec<_>>, Vec<Op>)| words(&plan(things, true));
        model::check(30, 223, proptest::strategy::Strategy::boxed(drawn), test, words);
    });
}

#[test]
fn an_image_is_the_same_bytes_each_time_and_on_each_file_system() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.lowers[1].file("a", vec![b'x'; 3 * MIB]).file("dir/x", "x").hard_link("dir/x", "dir/y").file("hole", "");
        stack.lowers[1].truncate("hole", 2 * MIB as u64).unwrap();
        stack.lowers[0].whiteout("a").file("dir/z", "z");
        stack.age();
        let other = Scratch::in_memory();
        let copied =
            Command::new("cp").arg("-a").args(stack.lowers.iter().map(|layer| layer.root())).arg(other.path()).status();
        assert!(copied.unwrap().success());
        let dirs = |root: &Path| ["lower0", "lower1"].map(|name| text(&root.join(name)).to_owned());
        for compress in ["gzip", "zstd", "none"] {
            let made: Vec<_> = [stack.scratch.path(), other.path(), stack.scratch.path()]
                .iter()
                .enumerate()
                .map(|(at, root)| {
                    let image = stack.scratch.path().join(format!("{compress}{at}"));
                    let [one, two] = dirs(root);
                    exported(&["--oci", &format!("{}:v1", image.display()), "--compress", compress, &one, &two]);
                    files(&image)
                })
                .collect();
            assert!(made[0] == made[1] && made[0] == made[2], "{compress}");
            let manifest = manifest(&made[0], "v1");
            assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
            let config = json(&blob(&made[0], &manifest["config"]));
            assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
        }
    });
}

#[test]
fn no_time_is_later_than_source_date_epoch() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("new", "x").file("old", "x");
        stack.lowers[0].utimes("old", rustix::fs::Timespec { tv_sec: 1000, tv_nsec: 7 }).unwrap();
        let archive = stack.scratch.path().join("a.tar");
        for (value, status) in [("5000", 0), ("yesterday", 2)] {
            let out = Command::new(mount::binary())
                .args(["layer", "export", "--tar", text(&archive), text(stack.lowers[0].root())])
                .env("SOURCE_DATE_EPOCH", value)
                .output()
                .unwrap();
            assert_eq!(out.status.code(), Some(status), "{}", String::from_utf8_lossy(&out.stderr));
        }
        let out = stack.scratch.dir("out");
        unpack(&archive, &out);
        let tree = Tree::new(&out);
        assert_eq!(["new", "old"].map(|name| tree.stat(name).unwrap().st_mtime), [5000, 1000]);
    });
}

#[test]
fn what_was_deleted_is_not_in_the_merged_layer() {
    bounded(|| {
        let stack = Stack::new(1);
        let secret = b"the secret of the base layer";
        stack.lowers[0].file("secret", secret).file("kept", "kept");
        let mount = stack.mount();
        mount.unlink("secret").unwrap();
        let has = |image: &Path| {
            let files = files(image);
            files.values().any(|bytes| bytes.windows(secret.len()).any(|part| part == secret))
        };
        for (merged, expected) in [(None, true), (Some("--merged"), false)] {
            let image = stack.scratch.path().join(format!("image{expected}"));
            let mut args = vec!["--oci", text(&image), "--compress", "none", text(&stack.merged)];
            args.extend(merged);
            exported(&args);
            assert_eq!(has(&image), expected);
        }
    });
}

#[test]
fn a_tag_is_replaced_and_others_stay() {
    bounded(|| {
        let stack = Stack::new(1);
        let (layer, image) = (&stack.lowers[0], stack.scratch.path().join("image"));
        let give = |tag: &str| exported(&["--oci", &format!("{}:{tag}", image.display()), text(layer.root())]);
        layer.file("a", "one");
        give("v1");
        give("v2");
        layer.file("a", "two");
        give("v2");
        let files = files(&image);
        let [one, two] = ["v1", "v2"].map(|tag| manifest(&files, tag));
        assert_ne!(one, two);
        let dir = stack.scratch.dir("no-image");
        std::fs::write(dir.join("file"), "x").unwrap();
        let out = export(&["--oci", text(&dir), text(layer.root())]);
        assert_eq!((out.status.code(), self::files(&dir).len()), (Some(1), 1));
    });
}

/// A file of so many MiB that hardly compresses.
pub fn noise(mib: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..mib * MIB / 8).flat_map(|_| next()).collect()
}

#[test]
fn an_export_that_is_killed_leaves_nothing_and_the_next_one_cleans() {
    bounded(|| {
        let stack = Stack::new(1);
        let (layer, image) = (&stack.lowers[0], stack.scratch.path().join("image"));
        exported(&["--oci", &format!("{}:v1", image.display()), text(stack.upper().root())]);
        let before = files(&image);
        layer.file("big", noise(64));
        let undone = || {
            let names = std::fs::read_dir(stack.scratch.path()).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.as_bytes().starts_with(b".plyfs-export.")).count()
        };
        for _ in 0..3 {
            let mut child = Command::new(mount::binary())
                .args(["layer", "export", "--oci", &format!("{}:v2", image.display()), text(layer.root())])
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            assert!(mount::wait_until(|| undone() > 0));
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(undone(), 1);
            assert!(files(&image) == before);
        }
        exported(&["--oci", &format!("{}:v2", image.display()), text(layer.root())]);
        assert_eq!(undone(), 0);
        manifest(&files(&image), "v2");
    });
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    bounded(|| {
        for cut in [true, false] {
            let stack = Stack::new(1);
            let layer = &stack.lowers[0];
            layer.file("big", noise(48));
            let child = Command::new(mount::binary())
                .args(["layer", "export", "--tar", "-", text(layer.root())])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            // The pipe is full.
            std::thread::sleep(Duration::from_millis(1500));
            if cut {
                layer.truncate("big", 1000).unwrap()
            } else {
                layer.append("big", "more").unwrap()
            }
            let out = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(1), "{said}");
            assert!(said.contains("big: it was changed while it was read"), "{said}");
        }
    });
}

#[test]
fn memory_does_not_grow_with_the_layer() {
    within(300, || {
        let stack = Stack::new(1);
        let layer = &stack.lowers[0];
        layer.file("big", noise(160));
        for at in 0..3000 {
            layer.file(&format!("d{}/{at}", at % 30), "x");
        }
        for compress in ["none", "gzip", "zstd"] {
            let image = stack.scratch.path().join(compress);
            let mut child = Command::new(mount::binary())
                .args(["layer", "export", "--oci", text(&image), "--compress", compress, text(layer.root())])
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let mut most = 0;
            while child.try_wait().unwrap().is_none() {
                let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
                let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let peak = peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<usize>().ok());
                most = most.max(peak.unwrap_or_default());
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(most > 0 && most <= 64 * KIB, "{compress}: {most} KiB");
        }
    });
}

#[test]
fn podman_loads_an_image_and_shows_the_view() {
    within(300, || {
        let has = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
        if who() != Who::Root || !has("podman") {
            skip!("podman, and root");
        }
        let stack = Stack::new(2);
        stack.lowers[1]
            .file("a", vec![b'x'; 300 * KIB])
            .file("dir/x", "x")
            .file("dir/y", "y")
            .hard_link("dir/y", "dir/z");
        stack.lowers[1].with_xattr("a", "user.a", b"1").file("gone", "gone").file("hole", "");
        stack.lowers[1].truncate("hole", MIB as u64).unwrap();
        stack.lowers[0].whiteout("gone").file("top", "top");
        stack.age();
        let mount = stack.mount();
        mount.rename("dir", "new").unwrap();
        mount.chmod("a", 0o4755).unwrap();
        mount.chown("top", 100_000, 3_000_000).unwrap();
        for compress in ["gzip", "zstd", "none"] {
            let image = stack.scratch.path().join(compress);
            exported(&["--oci", &format!("{}:v1", image.display()), "--compress", compress, text(&stack.merged)]);
            let root = Scratch::new();
            let dirs = ["root", "run"].map(|name| text(&root.dir(name)).to_owned());
            let podman = |args: &[&str]| {
                let all = ["--root", &dirs[0], "--runroot", &dirs[1], "--storage-driver", "vfs"];
                let out =
                    Command::new("podman").current_dir(stack.scratch.path()).args(all).args(args).output().unwrap();
                let said = String::from_utf8_lossy(&out.stderr);
                assert!(out.status.success(), "{args:?}: {said}");
                String::from_utf8_lossy(&out.stdout).trim().to_owned()
            };
            let id = podman(&["pull", "-q", &format!("oci:{compress}:v1")]);
            let at = podman(&["image", "mount", &id]);
            let mut expected = seen(&stack.merged);
            let mut found = seen(Path::new(&at));
            // Podman gives the root of a layer a mode of its own.
            [&mut expected, &mut found].iter_mut().for_each(|view| drop(view.objects.remove(&b""[..])));
            expected.assert_same(&found, compress);
            podman(&["image", "unmount", &id]);
        }
    });
}

#[test]
fn names_with_odd_bytes_lead_to_layers_and_sizes_are_told() {
    bounded(|| {
        let stack = Stack::new(1);
        let odd = stack.scratch.dir("a:b,c\\d");
        std::fs::write(odd.join("f"), "x").unwrap();
        let archive = stack.scratch.path().join("x.tar");
        let out = export(&["--tar", text(&archive), "--json", text(&odd)]);
        let told = json(&out.stdout);
        assert_eq!((&told["v"], &told["entries"]), (&1.into(), &2.into()));
        assert_eq!(told["bytes"], archive.metadata().unwrap().len());
        assert_eq!(names(&archive), ["f"]);
        assert_eq!(OsStr::new("x.tar"), archive.file_name().unwrap());
    });
}
