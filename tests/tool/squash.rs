//! `plyfs layer squash`: the one layer shows the same as the stack, over whatever lies below, and holds nothing that was
//! deleted.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::FileType;

use crate::common::stack::prefix;
use crate::common::*;
use crate::model::layers::{build, plan, things, words};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, changes};

fn run(words: &[&str], layers: &[&Path], out: &Path) -> Output {
    let mut command = Command::new(mount::binary());
    command.args(["layer", "squash"]).args(words).args(layers).arg(out).output().unwrap()
}

/// Squashes; the layer that was made.
fn squash(words: &[&str], layers: &[&Path], out: &Path) -> Tree {
    let done = run(words, layers, out);
    assert!(done.status.success(), "{words:?} {layers:?}: {}", String::from_utf8_lossy(&done.stderr));
    Tree::new(out)
}

/// The one line with which it is refused; nothing is left.
fn refused(words: &[&str], layers: &[&Path], out: &Path) -> String {
    let done = run(words, layers, out);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success(), "{words:?}");
    let temp = out.with_file_name(format!(".{}.plyfs-new", out.file_name().unwrap().to_str().unwrap()));
    assert!(!temp.exists(), "{said}");
    // What the marks on the way mean may be told before.
    said.lines().last().unwrap_or_default().to_owned()
}

/// What a read-only mount of these layers shows, and which names are one file.
pub fn view(scratch: &Scratch, layers: &[&Path]) -> View {
    let lowers: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    let mount =
        Mount::with(&format!("lowerdir={}", lowers.join(":")), &scratch.dir("view"), &scratch.path().join("log"));
    look(&mount)
}

/// The objects of a tree, whose link counts are those of its names.
pub fn look(tree: &Tree) -> View {
    let names = View::of(tree, Walk { times: true, ..Walk::default() }).same;
    View { same: names, ..View::of(tree, Walk { times: true, without_links: true, ..Walk::default() }) }
}

/// The same by the kernel's OverlayFS.
fn kernel_view(scratch: &Scratch, layers: &[&Path]) -> Option<View> {
    let lowers: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    // One lower layer alone is none for the kernel.
    let empty = scratch.fresh("empty");
    let options = format!("lowerdir={}:{},redirect_dir=follow,metacopy=on", lowers.join(":"), empty.display());
    let mount = Kernel::with(&options, &scratch.dir("kernel")).ok()?;
    Some(View::of(&mount, Walk { times: true, foreign: true, without_links: true, ..Walk::default() }))
}

type Fill = fn(&Stack);

/// Each row: what two layers hold, and what their squash holds: names with `wh` or `opaque`, or a redirect.
#[test]
fn only_what_lies_below_the_squash_is_hidden() {
    bounded(|| {
        let table: [(&str, Fill, &str); 9] = [
            ("a deleted file", |s| _ = (s.lowers[0].whiteout("a"), s.lowers[1].file("a", "x")), "a:wh"),
            ("a whiteout over nothing", |s| _ = s.lowers[0].whiteout("a"), "a:wh"),
            ("a name that is back", |s| _ = (s.lowers[0].file("a", "x"), s.lowers[1].whiteout("a")), "a"),
            (
                "a deleted directory",
                |s| _ = (s.lowers[0].whiteout("d"), s.lowers[1].file("d/x/y", "x").whiteout("d/z")),
                "d:wh",
            ),
            (
                "a directory made again",
                |s| _ = (s.lowers[0].opaque("d").file("d/new", ""), s.lowers[1].file("d/old", "")),
                "d:opaque d/new",
            ),
            (
                "a directory over a whiteout",
                |s| _ = (s.lowers[0].dir("d", 0o755), s.lowers[1].whiteout("d")),
                "d:opaque",
            ),
            (
                "a directory over a file",
                |s| _ = (s.lowers[0].file("d/x", ""), s.lowers[1].file("d", "")),
                "d:opaque d/x",
            ),
            (
                "merged directories",
                |s| _ = (s.lowers[0].file("d/x", "").whiteout("d/y"), s.lowers[1].file("d/y", "").file("d/z", "")),
                "d d/x d/y:wh d/z",
            ),
            (
                "a whiteout in an opaque directory of the layer below",
                |s| _ = (s.lowers[0].dir("d", 0o755), s.lowers[1].opaque("d").file("d/x", "")),
                "d:opaque d/x",
            ),
        ];
        for (what, fill, expected) in table {
            let stack = Stack::read_only(2);
            fill(&stack);
            let layers: Vec<&Path> = stack.lowers.iter().map(|layer| layer.root()).collect();
            let out = squash(&[], &layers, &stack.scratch.path().join("out"));
            assert_eq!(marks(&out).join(" "), expected, "{what}");
            let bottom = squash(&["--bottom"], &layers, &stack.scratch.path().join("bottom"));
            assert!(marks(&bottom).iter().all(|line| !line.contains(':')), "{what}: {:?}", marks(&bottom));
        }
    });
}

/// The names in a layer, with what their marks say.
fn marks(layer: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        for name in layer.names(&dir).unwrap() {
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let mark = |mark: &str| layer.xattr(&path, format!("{}{mark}", prefix())).ok();
            let mut line = path.clone();
            if layer.is_whiteout(&path) {
                line += ":wh";
            }
            if mark("opaque").is_some_and(|value| value == b"y") {
                line += ":opaque";
            }
            if let Some(to) = mark("redirect") {
                line += &format!(":{}", String::from_utf8(to).unwrap());
            }
            line += if mark("metacopy").is_some() { ":metacopy" } else { "" };
            if FileType::from_raw_mode(layer.stat(&path).unwrap().st_mode).is_dir() {
                todo.push(path);
            }
            lines.push(line);
        }
    }
    lines.sort_by_key(|line| line.split(':').next().unwrap().to_owned());
    lines
}

#[test]
fn what_leads_below_the_squash_is_kept_and_what_leads_into_it_is_not() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.lowers[0].file("in", "inside").file("moved/in", "inside").file("moved/deep/in", "inside");
        stack.lowers[1].file("out", "outside").file("moved/out", "outside").file("kept/x", "x");
        stack.age();
        let mut mount = stack.mount();
        if mount.rename("kept", "gone").is_err() {
            return say_skipped("no redirects here");
        }
        ["in", "out"].iter().for_each(|name| mount.chmod(name, 0o600).unwrap());
        mount.rename("out", "out2").unwrap();
        mount.rename("moved", "here").unwrap();
        mount.mkdir("dir", 0o755).unwrap();
        mount.rename("here/deep", "dir/deep").unwrap();
        mount.unmount();
        let path = |name: &str| stack.scratch.path().join(name);
        let (upper, [one, two]) = (stack.upper().root(), [0, 1].map(|at| stack.lowers[at].root()));
        let before = view(&stack.scratch, &[upper, one, two]);
        let out = squash(&[], &[upper, one], &path("out"));
        let marks = marks(&out);
        for mark in ["in", "gone:kept", "here:moved", "out2:out:metacopy", "kept:wh", "out:wh", "moved:wh"] {
            assert!(marks.iter().any(|line| line == mark), "{mark}: {marks:?}");
        }
        view(&stack.scratch, &[out.root(), two]).assert_same(&before, "squashed");
        let said = refused(&["--bottom"], &[upper, one], &path("none"));
        assert!(said.contains("out2: its data is in a layer below"), "{said}");
        let whole = squash(&["--bottom"], &[upper, one, two], &path("whole"));
        look(&whole).objects.iter().filter(|(path, _)| !path.is_empty()).for_each(|(path, object)| {
            assert_eq!(Some(object), before.objects.get(path), "{}", path.escape_ascii());
        });
    });
}

/// All files of a tree, names included, as bytes.
fn bytes_of(root: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            bytes.extend(entry.file_name().as_bytes());
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => todo.push(entry.path()),
                kind if kind.is_file() => bytes.extend(std::fs::read(entry.path()).unwrap()),
                _ => {}
            }
        }
    }
    bytes
}

#[test]
fn a_deleted_secret_is_nowhere_in_the_layer() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.lowers[1].file("etc/key", "SECRET-1").file("etc/conf", "SECRET-2").file("home/SECRET-3", "");
        stack.lowers[0].file("old/log", "SECRET-4");
        let mut mount = stack.mount();
        mount.unlink("etc/key").unwrap();
        mount.write("etc/conf", "public").unwrap();
        ["home", "old"].iter().for_each(|dir| mount.remove_all(dir).unwrap());
        mount.unmount();
        let layers = [stack.upper().root(), stack.lowers[0].root(), stack.lowers[1].root()];
        for word in ["--bottom", "--link", "--json"] {
            let out = squash(&[word], &layers, &stack.scratch.path().join(word));
            let bytes = bytes_of(out.root());
            assert!(!bytes.windows(6).any(|part| part == b"SECRET"), "{word}");
            assert!(bytes.windows(6).any(|part| part == b"public"), "{word}");
        }
    });
}

/// Tests the layers that random histories leave, with what their mount showed at the end.
pub fn of_histories(cases: u64, seed: u64, compare: fn(&Stack, &View) -> Result<(), String>) {
    within(900, move || {
        let test = |(things, ops): &(Vec<Vec<_>>, Vec<Op>)| {
            let stack = build(&plan(things, true));
            let mut mount = stack.mount();
            let mut real = Real::new(&mount);
            for op in ops {
                let step = op.resolve(&real.known());
                let _ = real.apply(&step);
            }
            drop(real);
            let live = look(&mount);
            mount.unmount();
            drop(mount);
            compare(&stack, &live)
        };
        let drawn = (things(), changes(30));
        let words = |(things, _): &(Vec<Vec<_>>, Vec<Op>)| words(&plan(things, true));
        model::check(cases, seed, proptest::strategy::Strategy::boxed(drawn), test, words);
    });
}

#[test]
fn a_squash_of_any_history_shows_the_same() {
    of_histories(30, 223, compare);
}

/// Squashes several parts of a stack, whose view was `live`.
fn compare(stack: &Stack, live: &View) -> Result<(), String> {
    let scratch = &stack.scratch;
    let lowers = stack.lowers.iter().map(|layer| layer.root());
    let layers: Vec<&Path> = std::iter::once(stack.upper().root()).chain(lowers).collect();
    let before = view(scratch, &layers);
    let all = layers.len();
    let check = |what: &str, seen: Option<View>, expected: &View| {
        let difference = seen.and_then(|seen| seen.difference(expected));
        difference.map_or(Ok(()), |difference| Err(format!("{what}:\n{difference}")))
    };
    for (from, to) in [(0, 1), (0, 2), (1, 3), (0, all)] {
        let out = squash(&[], &layers[from..to], &scratch.path().join(format!("out{from}{to}")));
        let after: Vec<&Path> = [&layers[..from], &[out.root()], &layers[to..]].concat();
        check(&format!("{from}..{to}"), Some(view(scratch, &after)), &before)?;
        let kernel = kernel_view(scratch, &after).filter(|_| from == 0);
        let seen = kernel.map(|kernel| (kernel, View { same: Default::default(), ..before.clone() }));
        if let Some((kernel, before)) = seen {
            check(&format!("the kernel, {from}..{to}"), Some(before), &kernel)?;
        }
    }
    // A tree by itself, without marks but on its root.
    let mut out = look(&squash(&["--bottom"], &layers, &scratch.path().join("bottom")));
    bare_root(&mut out);
    check("--bottom", Some(out), &before)?;
    let work = scratch.path().join("work");
    let words = ["--bottom", "--workdir", work.to_str().unwrap()];
    let mut out = look(&squash(&words, &layers, &scratch.path().join("with-work")));
    bare_root(&mut out);
    check("--workdir", Some(out), live)
}

pub fn bare_root(view: &mut View) {
    if let Some(root) = view.objects.get_mut(&b""[..]) {
        root.xattrs.retain(|key, _| !key.starts_with(prefix().as_bytes()));
    }
}

/// A layer with an object of each kind, and all that objects can have.
pub fn all_kinds(stack: &Stack) -> Vec<PathBuf> {
    let layer = &stack.lowers[0];
    layer.file("file", vec![1; 5000]).perm("file", 0o4751).with_xattr("file", "user.a", b"1");
    layer.hard_link("file", "dir/link").hard_link("file", "dir/again");
    layer.soft_link("../file", "dir/soft").fifo("fifo").dir("closed", 0o300).dir("sticky", 0o3777);
    layer.mknod("socket", FileType::Socket, 0o640, 0).unwrap();
    layer.file("holes", "").pwrite("holes", 10 << 20, b"end").unwrap();
    layer.file("unreadable", "x").perm("unreadable", 0o200);
    layer.file("escaped", "x").with_xattr("escaped", "user.containers.x", b"1");
    let at = |name: &str| layer.at(name).into_os_string().into_string().unwrap();
    let tool = |words: &[&str]| assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success());
    if who() == Who::Root {
        layer.mknod("device", FileType::BlockDevice, 0o640, 0x0701).unwrap();
        layer.chown("file", 7, 8).unwrap();
        layer.chown("dir/soft", 9, 10).unwrap();
        layer.perm("file", 0o6751);
        layer.with_xattr("dir/soft", "trusted.b", b"2");
        tool(&["setcap", "cap_net_raw+ep", &at("holes")]);
    }
    if who() != Who::Namespace {
        tool(&["setfacl", "-m", "u:12:r", &at("fifo")]);
        tool(&["setfacl", "-m", "d:u:12:rw,d:m::rwx", &at("sticky")]);
    }
    layer.chmod("closed", if who() == Who::User { 0o511 } else { 0o311 }).unwrap();
    stack.age();
    vec![layer.root().to_owned()]
}

#[test]
fn every_kind_of_object_keeps_all_that_it_has() {
    bounded(|| {
        let stack = Stack::read_only(1);
        let layers = all_kinds(&stack);
        let layers: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        if who() == Who::User {
            stack.lowers[0].perm("unreadable", 0o600);
        }
        let before = look(&Tree::new(layers[0]));
        for words in [&[][..], &["--bottom"], &["--link"]] {
            let out = squash(words, &layers, &stack.scratch.path().join(format!("out{}", words.concat())));
            let mut after = look(&out);
            bare_root(&mut after);
            after.assert_same(&before, &format!("{words:?}"));
            let blocks = out.stat("holes").unwrap().st_blocks;
            assert!(blocks < 1000, "{words:?}: the holes are filled: {blocks}");
            let number = |tree: &Tree| tree.stat("file").unwrap().st_ino;
            let is_linked = number(&out) == number(&Tree::new(layers[0]));
            assert_eq!(is_linked, words == ["--link"], "{words:?}");
        }
    });
}

#[test]
fn blocks_that_are_still_below_come_up() {
    bounded(|| {
        let stack = Stack::new(1).option("copyup_block=64K").option("copyup_rate=0");
        let content = model::content(7, 3 << 20);
        stack.lowers[0].file("big", &content);
        let mut mount = stack.mount();
        mount.pwrite("big", 1 << 20, b"changed").unwrap();
        mount.unmount();
        let layers = [stack.upper().root(), stack.lowers[0].root()];
        let at = |name: &str| stack.scratch.path().join(name);
        if !at("work/work/incompat/plyfs.blocks").exists() {
            return say_skipped("no copy-up by blocks here");
        }
        assert!(!run(&[], &layers, &at("none")).status.success(), "without the records");
        let work = at("work");
        let out = squash(&["--workdir", work.to_str().unwrap()], &layers, &at("out"));
        let mut expected = content;
        expected[1 << 20..][..7].copy_from_slice(b"changed");
        assert!(out.read("big").unwrap() == expected);
        let said = refused(&["--workdir", work.to_str().unwrap()], &layers[..1], &at("half"));
        assert!(said.contains("big: a part of its data is in a layer below"), "{said}");
    });
}

#[test]
fn what_cannot_be_squashed_is_refused_in_one_line() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "x").file("sub/x", "x");
        let at = |name: &str| stack.scratch.path().join(name);
        let (upper, lower) = (stack.upper().root(), stack.lowers[0].root());
        let out = at("out");
        for (words, layers, to, expected) in [
            (&[][..], &[lower][..], at("lower0/out"), "it lies in"),
            (&[], &[lower], at("upper"), "it is there already"),
            (&[], &[lower], at("no/out"), "No such file"),
            (&[], &[&*at("none")], out.clone(), "none: No such file"),
            (&[], &[lower, lower], out.clone(), "the same directory"),
        ] {
            let said = refused(words, layers, &to);
            assert!(said.contains(expected), "{expected}: {said}");
        }
        let mount = stack.mount();
        let daemon = mount.pid().unwrap().as_raw_nonzero().to_string();
        let said = refused(&[], &[upper, lower], &out);
        assert!(said.contains("in use by") && said.contains(&daemon), "{said}");
        let said = refused(&["--workdir", at("work").to_str().unwrap()], &[upper, lower], &out);
        assert!(said.contains("in use by") && said.contains(&daemon), "{said}");
        squash(&[], &[lower], &out);
    });
}

/// What squash says on its last line, and its exit status.
fn said(layers: &[&Path], out: &Path) -> (String, i32) {
    let done = run(&[], layers, out);
    let said = String::from_utf8(done.stderr).unwrap();
    (said.lines().last().unwrap_or_default().to_owned(), done.status.code().unwrap())
}

#[test]
fn what_somebody_else_has_beside_the_place_stays() {
    bounded(|| {
        let stack = Stack::read_only(1);
        stack.lowers[0].file("a", "x");
        let (layers, out) = ([stack.lowers[0].root()], stack.scratch.path().join("out"));
        let beside = stack.scratch.path().join(".out.plyfs-new");
        let make: [fn(&Path); 3] = [
            |at| std::fs::create_dir(at).and_then(|()| std::fs::write(at.join("mine"), "x")).unwrap(),
            |at| std::fs::write(at, "x").unwrap(),
            |at| std::os::unix::fs::symlink(".", at).unwrap(),
        ];
        for make in make {
            make(&beside);
            let (line, status) = said(&layers, &out);
            assert!(line.contains("rename or remove that") && status == 1, "{line}");
            assert!(!beside.is_dir() || beside.is_symlink() || beside.join("mine").exists());
            std::fs::remove_file(&beside).or_else(|_| std::fs::remove_dir_all(&beside)).unwrap();
        }
        squash(&[], &layers, &out);
    });
}

#[test]
fn what_a_mount_writes_is_refused_wherever_it_lies() {
    bounded(|| {
        let stack = Stack::new(1);
        let at = |name: &str| stack.scratch.path().join(name);
        ["p/up/x", "p/work", "p/kernel", "p/kwork", "m"].iter().for_each(|dir| {
            std::fs::create_dir_all(at(dir)).unwrap();
        });
        let lower = stack.lowers[0].root();
        let mount = Mount::with(
            &format!(
                "lowerdir={},upperdir={},workdir={}",
                lower.display(),
                at("p/up").display(),
                at("p/work").display()
            ),
            &stack.scratch.dir("view"),
            &at("log"),
        );
        for (layer, expected) in [("p", ": a mount has it"), ("p/up/x", "which a mount writes")] {
            let (line, status) = said(&[&at(layer), lower], &at("out"));
            assert!(line.contains(expected) && status == 1, "{layer}: {line}");
        }
        drop(mount);
        let made = Command::new("mount")
            .args(["-t", "overlay", "overlay", "m", "-o", "lowerdir=p/up,upperdir=p/kernel,workdir=p/kwork"])
            .current_dir(stack.scratch.path())
            .output()
            .unwrap();
        if !made.status.success() {
            return say_skipped("no OverlayFS of the kernel here");
        }
        let told = ["p", "p/kernel"].map(|layer| (layer, said(&[&at(layer), lower], &at("out"))));
        assert!(Command::new("umount").arg(at("m")).status().unwrap().success());
        for (layer, (line, status)) in told {
            assert!((line.contains("writes it") || line.contains("a mount has it")) && status == 1, "{layer}: {line}");
        }
    });
}

#[test]
fn a_hint_follows_from_what_the_system_says() {
    bounded(|| {
        let stack = Stack::read_only(1);
        let at = |name: &str| stack.scratch.path().join(name);
        let layer = stack.lowers[0].root();
        stack.lowers[0].file("big", vec![1; 2 << 20]).file(".wh..wh..opq", "");
        if who() == Who::User {
            stack.lowers[0].perm("big", 0);
            let (line, _) = said(&[layer], &at("out"));
            assert!(line.contains("big: ") && line.contains("must be able to read"), "{line}");
            stack.lowers[0].perm("big", 0o600).dir("closed", 0);
            let (line, _) = said(&[layer], &at("out"));
            assert!(line.contains("must be able to read"), "{line}");
            stack.lowers[0].chmod("closed", 0o700).unwrap();
        } else {
            std::fs::create_dir(at("small")).unwrap();
            let tmpfs = |words: &[&str]| Command::new("mount").args(words).arg(at("small")).status().unwrap().success();
            assert!(tmpfs(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"]));
            let (full, _) = said(&[layer], &at("small/out"));
            Command::new("umount").arg(at("small")).status().unwrap();
            let bound = tmpfs(&["--bind", layer.to_str().unwrap()]);
            let (inside, status) = said(&[layer], &at("small/out"));
            assert!(bound && Command::new("umount").arg(at("small")).status().unwrap().success());
            assert!(full.contains("(make room on the file system of OUT)"), "{full}");
            assert!(inside.contains("/out: it lies in") && status == 2, "{inside}");
        }
        let made = run(&[], &[layer], &at("out"));
        assert!(String::from_utf8(made.stdout).unwrap().contains("1 whiteouts"));
    });
}

#[test]
fn a_killed_squash_leaves_nothing_but_what_the_next_one_cleans() {
    within(300, || {
        let stack = Stack::read_only(1);
        for dir in 0..20 {
            for file in 0..100 {
                stack.lowers[0].file(&format!("{dir}/{file}"), "content");
            }
        }
        let layers = [stack.lowers[0].root()];
        let before = look(&Tree::new(layers[0])).objects.len();
        let out = stack.scratch.path().join("out");
        let mut left = 0;
        for round in 0..20_u64 {
            let mut child =
                Command::new(mount::binary()).args(["layer", "squash"]).args(layers).arg(&out).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(round * 8));
            let _ = child.kill();
            child.wait().unwrap();
            left += u64::from(stack.scratch.path().join(".out.plyfs-new").exists());
            if out.exists() {
                assert_eq!(look(&Tree::new(&out)).objects.len(), before, "half a layer");
                std::fs::remove_dir_all(&out).unwrap();
            }
        }
        assert!(left > 0, "none was killed on its way");
        squash(&[], &layers, &out);
        let names: Vec<_> = std::fs::read_dir(stack.scratch.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name.as_bytes().starts_with(b".")), "{names:?}");
        assert_eq!(
            std::fs::metadata(&out).unwrap().mode() & 0o7777,
            std::fs::metadata(layers[0]).unwrap().mode() & 0o7777
        );
    });
}
