//! Lower layers that were changed while nothing was mounted, lead to other places, hold data only, or are overlays.

use crate::common::*;
use crate::row::{Row, Stage, row, text};

fn mark(name: &str) -> String {
    format!("{}{name}", stack::prefix())
}

/// A redirect from the root counts below an opaque directory, layer by layer.
fn redirect_below_an_opaque_directory(s: &mut Stage) {
    s.stack.lowers[1].file("a/b/d/foo", "x");
    s.lower().file("a/b/c/bar", "x").opaque("a/b").with_xattr("a/b/c", &mark("redirect"), b"/a/b/d");
    s.upper().dir("r", 0o755).with_xattr("r", &mark("redirect"), b"/a/b/c");
    let m = s.up();
    s.list(&m, "r");
    s.list(&m, "a/b");
}

/// Two directories on one way lead elsewhere, by paths of other lengths than their own.
fn redirects_on_the_way(s: &mut Stage) {
    s.stack.lowers[1].file("deep/z/found", "x").file("deep/y/z/wrong", "x").file("p/q/y/z/wrong", "x");
    s.lower().dir("x/y", 0o755).with_xattr("x", &mark("redirect"), b"/p/q");
    s.lower().with_xattr("x/y", &mark("redirect"), b"/deep");
    s.upper().dir("r", 0o755).with_xattr("r", &mark("redirect"), b"/x/y/z");
    let m = s.up();
    s.list(&m, "r");
}

/// Every way in which a lower layer can change between two mounts.
fn changed_between_mounts(s: &mut Stage) {
    for name in ["f", "meta", "moved", "gone", "type", "grown"] {
        s.lower().file(&format!("d/{name}"), "old").file(name, "old");
    }
    s.lower().file("dir/f", "x").file("renamed/f", "x");
    let m = s.up();
    m.append("f", "+").unwrap();
    m.chmod("meta", 0o600).unwrap();
    m.rename("moved", "there").unwrap();
    m.unlink("gone").unwrap();
    m.chmod("type", 0o600).unwrap();
    m.rename("renamed", "to").unwrap();
    m.chmod("dir", 0o700).unwrap();
    s.down();
    let l = s.lower();
    l.write("f", "new").unwrap();
    l.write("meta", "newer data").unwrap();
    l.write("gone", "back").unwrap();
    l.unlink("type").unwrap();
    l.mkdir("type", 0o755).unwrap();
    l.write("grown", "new file").unwrap();
    l.write("d/added", "x").unwrap();
    l.remove_all("dir").unwrap();
    l.write("dir", "a file now").unwrap();
    l.write("renamed/more", "x").unwrap();
    l.unlink("moved").unwrap();
    let m = s.up();
    for name in ["f", "meta", "type", "there", "grown"] {
        let size = m.stat(name).map_or_else(code, |st| st.st_size.to_string());
        s.say(format!("{name} {} {size}", text(&m, name)));
    }
    for dir in ["d", "dir", "to"] {
        s.list(&m, dir);
    }
    s.did("append", m.append("there", "+"));
    s.did("rm", m.unlink("there"));
}

/// Another lower layer is put below, or one is taken away.
fn other_layers(s: &mut Stage) {
    s.stack.lowers[1].file("d/below", "x").file("f", "below");
    s.lower().file("d/top", "x");
    let m = s.up();
    m.write("d/new", "x").unwrap();
    m.append("f", "+").unwrap();
    m.unlink("d/top").unwrap();
    s.down();
    let removed = s.stack.lowers.pop().unwrap();
    let m = s.up();
    s.list(&m, "d");
    s.say(text(&m, "f"));
    s.down();
    s.stack.lowers.insert(0, removed);
    let m = s.up();
    s.list(&m, "d");
    s.say(text(&m, "f"));
}

/// Metadata of a file goes on without its data, whatever is done to it.
fn metadata_only(s: &mut Stage) {
    const SIZE: usize = (1 << 20) + 7;
    for name in ["chmod", "chown", "xattr", "rename", "link", "cut", "written", "twice", "one", "dir/in"] {
        s.lower().file(name, vec![b'l'; SIZE]);
    }
    s.lower().hard_link("one", "other");
    let m = s.up();
    m.chmod("chmod", 0o600).unwrap();
    m.chown("chown", 1, 1).unwrap();
    m.set_xattr("xattr", "user.x", b"x").unwrap();
    m.chmod("rename", 0o600).unwrap();
    m.rename("rename", "dir/renamed").unwrap();
    m.link("link", "linked").unwrap();
    m.truncate("cut", 5).unwrap();
    m.chmod("written", 0o600).unwrap();
    m.append("written", "+").unwrap();
    m.chmod("twice", 0o600).unwrap();
    m.chmod("one", 0o600).unwrap();
    m.rename("dir", "moved").unwrap();
    m.chmod("moved/in", 0o600).unwrap();
    let names =
        ["chmod", "chown", "xattr", "moved/renamed", "linked", "cut", "written", "twice", "one", "other", "moved/in"];
    for round in 0..2 {
        let m = s.again();
        for name in names {
            let text = m.read(name).unwrap_or_default();
            let st = m.stat(name).unwrap();
            let data = s.upper().stat(name).map_or("none".into(), |st| (st.st_blocks > 100).to_string());
            let right = text.len() as i64 == st.st_size && text.iter().all(|b| *b == b'l' || *b == b'+');
            let size = st.st_size - SIZE as i64;
            s.say(format!("{name} {size} {right} data {data}"));
        }
        if round == 0 {
            m.append("twice", "+").unwrap();
            m.pwrite("linked", 5, b"l").unwrap();
            m.pwrite("moved/renamed", 1 << 20, b"l").unwrap();
        }
    }
}

/// A chain of files without data through three layers, and sizes that are no whole blocks.
fn chains(s: &mut Stage) {
    for (name, size) in [("a", 0), ("b", 1), ("c", 4095), ("d", 4097), ("e", 100_001)] {
        let data: Vec<u8> = (0..size).map(|i: usize| i as u8).collect();
        s.stack.lowers[2].file(name, &data);
        for layer in &s.stack.lowers[..2] {
            layer.file(name, "").with_xattr(name, &mark("metacopy"), b"").truncate(name, size as u64).unwrap();
        }
    }
    let m = s.up();
    for name in ["a", "b", "c", "d", "e"] {
        m.chmod(name, 0o640).unwrap();
        let same = m.read(name) == s.stack.lowers[2].read(name);
        m.append(name, "tail").unwrap();
        let text = m.read(name).unwrap();
        s.say(format!("{name} {same} {} {}", text.len(), text.ends_with(b"tail")));
    }
}

/// Files of data-only layers are found by redirects alone.
fn data_only(s: &mut Stage) {
    let data = s.beside("data");
    let second = s.beside("data2");
    data.file("blobs/1", "data one").file("both", "first").file("hidden", "x");
    second.file("blobs/2", "data two").file("both", "second");
    let prefix = if s.options() == "userxattr" { "user.overlay." } else { stack::prefix() };
    let hollow = |name: &str, to: &str, size: u64| {
        s.lower().file(name, "").with_xattr(name, &format!("{prefix}metacopy"), b"");
        s.lower().with_xattr(name, &format!("{prefix}redirect"), to.as_bytes()).truncate(name, size).unwrap();
    };
    hollow("one", "/blobs/1", 8);
    hollow("two", "/blobs/2", 8);
    hollow("three", "/both", 5);
    hollow("none", "/nowhere", 5);
    hollow("dir", "/blobs", 5);
    s.lower().file("plain", "x");
    let base = s.lower().root().display();
    let upper = format!("upperdir={},workdir={}", s.upper().root().display(), s.beside(s.work).root().display());
    let layers = format!("lowerdir={base}::{}::{}", data.root().display(), second.root().display());
    let options = s.options();
    let m = s.try_up(&format!("{layers},{upper},{options}")).unwrap();
    s.list(&m, "");
    for name in ["one", "two", "three", "none", "dir", "plain"] {
        s.say(format!("{name} {}", text(&m, name)));
    }
    s.did("stat", m.stat("blobs"));
    s.did("stat", m.stat("hidden"));
    for name in ["one", "three"] {
        s.did("append", m.append(name, "+"));
        s.say(text(&m, name));
    }
    s.did("rename", m.rename("two", "plain"));
    s.say(text(&m, "plain"));
    s.did("rm", m.unlink("none"));
}

/// An overlay of an overlay, both of the same kind: what one hides and marks the other reads, and neither's marks are seen.
fn nested(s: &mut Stage) {
    s.lower().file("f", "x").file("d/in", "x").file("d/gone", "x").file("o/below", "x").file("r/in", "x");
    s.nest();
    let below = Tree::new(s.lower().root());
    below.unlink("d/gone").unwrap();
    below.remove_all("o").unwrap();
    below.mkdir("o", 0o755).unwrap();
    below.write("o/new", "x").unwrap();
    below.rename("r", "moved").unwrap();
    below.append("f", "+").unwrap();
    let m = s.up();
    let walk = |s: &mut Stage, m: &Tree| ["", "d", "o", "moved"].iter().for_each(|dir| s.list(m, dir));
    walk(s, &m);
    m.append("f", "+").unwrap();
    m.unlink("d/in").unwrap();
    m.rename("moved", "r").unwrap();
    s.say(text(&m, "f"));
    s.list(&m, "r");
    let names: Vec<_> = ["f", "d", "o", "r", ""].iter().flat_map(|path| m.xattrs(path).unwrap()).collect();
    s.say(format!("marks seen: {}", names.len()));
    let m = s.again();
    walk(s, &m);
    s.list(&m, "r");
    s.say(text(&m, "f"));
}

/// Marks of another overlay that are written through a mount come back as they were, one level deeper each time.
fn escapes(s: &mut Stage) {
    s.lower().file("d/f", "x").file("e/f", "x").file("f", "x");
    s.nest();
    let below = Tree::new(s.lower().root());
    let m = s.up();
    for (path, name) in
        [("d", "opaque"), ("f", "metacopy"), ("d", "redirect"), ("e", "overlay.opaque"), ("e", "nothing")]
    {
        s.did(name, m.set_xattr(path, mark(name), b"y"));
    }
    let names = |tree: &Tree, path: &str| {
        let names = tree.xattrs(path).unwrap();
        names.iter().map(|n| n.escape_ascii().to_string().replace(stack::prefix(), "P.")).collect::<Vec<_>>().join(" ")
    };
    for path in ["d", "e", "f"] {
        s.say(names(&m, path));
        let (one, two) = (names(s.upper(), path), names(&below, path));
        s.say(format!("above {one}, below {two}"));
    }
    let m = s.again();
    s.list(&m, "d");
    s.say(text(&m, "f"));
    s.did("remove", m.remove_xattr("e", mark("overlay.opaque")));
    s.say(names(&m, "e"));
}

/// Whiteouts that are marked files, in an overlay whose layer is itself seen through an overlay.
fn marked_whiteouts(s: &mut Stage) {
    s.stack.lowers[1].file("d/f", "x").file("d/g", "x").file("e/f", "x");
    s.lower().file("d/f", "").with_xattr("d/f", &mark("whiteout"), b"").with_xattr("d", &mark("opaque"), b"x");
    s.lower().file("e/f", "").with_xattr("e/f", &mark("whiteout"), b"");
    let m = s.up();
    s.list(&m, "d");
    s.did("stat", m.stat("d/f"));
    s.did("create", m.write("d/f", "new"));
    s.list(&m, "d");
    s.did("rm -r", m.remove_all("d"));
    s.list(&m, "e");
}

/// The lower layer and the view are changed at the same time: what is seen is not said, but nothing breaks.
fn changed_while_mounted(s: &mut Stage) {
    for i in 0..40 {
        s.lower().file(&format!("d{}/f{i}", i % 4), "lower");
    }
    let m = s.up();
    std::thread::scope(|scope| {
        let (lower, view) = (Tree::new(s.lower().root()), m.clone());
        scope.spawn(move || {
            for i in 0..400 {
                let path = format!("d{}/f{}", i % 4, i % 40);
                let _ = match i % 5 {
                    0 => lower.unlink(&path),
                    1 => lower.write(&path, "changed"),
                    2 => lower.rename(&path, format!("d{}/x{i}", (i + 1) % 4)),
                    3 => lower.mkdir(format!("d{}/new{i}", i % 4), 0o755),
                    _ => lower.write(format!("d{}/f{}", i % 4, i % 40), ""),
                };
            }
        });
        scope.spawn(move || {
            for i in 0..400 {
                let path = format!("d{}/f{}", i % 4, (i * 7) % 40);
                let _ = match i % 5 {
                    0 => view.append(&path, "+"),
                    1 => view.rename(&path, format!("d{}/f{}", (i + 1) % 4, i % 40)),
                    2 => view.unlink(&path),
                    3 => view.write(&path, "new"),
                    _ => view.names(format!("d{}", i % 4)).map(drop),
                };
            }
        });
    });
    s.did("alive", m.write("alive", "x"));
    let m = s.again();
    s.say(text(&m, "alive"));
}

/// A directory renamed by one mount, again by the next, and put back.
fn redirects_over_mounts(s: &mut Stage) {
    s.lower().file("a/f", "x").file("a/sub/deep", "x").dir("b", 0o755);
    for (from, to) in [("a", "c"), ("c", "b/c"), ("b/c/sub", "sub"), ("b", "a"), ("a/c", "c")] {
        let m = s.again_or_up();
        s.did("mv", m.rename(from, to));
    }
    let m = s.again();
    for dir in ["", "a", "c", "sub"] {
        s.list(&m, dir);
    }
    m.rename("c", "b").unwrap();
    m.rename("a", "c").unwrap();
    s.did("rmdir", m.rmdir("c"));
    m.mkdir("a", 0o755).unwrap();
    let m = s.again();
    s.list(&m, "");
    s.list(&m, "a");
    s.list(&m, "b");
}

pub const ROWS: &[Row] = &[
    row(
        &[57],
        "a redirect below an opaque directory",
        "does a path from the root count below an opaque directory?",
        redirect_below_an_opaque_directory,
        "r: bar foo; a/b: c",
    )
    .lowers(2),
    row(
        &[57],
        "redirects on the way of a redirect",
        "where does a path lead on which two directories lead elsewhere?",
        redirects_on_the_way,
        "r: found",
    )
    .lowers(2),
    row(
        &[52, 46],
        "redirects over mounts",
        "is a directory right that was renamed by several mounts?",
        redirects_over_mounts,
        "mv ok; mv ok; mv ok; mv ok; mv ok; .: a c sub; a: ; c: f; sub: deep; rmdir ok; .: a b sub; a: ; \
             b: f",
    )
    .on(&["ext4"]),
    row(
        &[31, 42, 45],
        "lowers changed between mounts",
        "what is shown of lower layers that were changed offline?",
        changed_between_mounts,
        "f old+ 4; meta new 3; type EIO EIO; there EIO EIO; \
             grown new file 8; d: added f gone grown meta moved type; dir: ; to: f more; append EIO; rm EIO",
    )
    .on(&["ext4"])
    .unlike(
        "f old+ 4; meta newer data 3; type EIO EIO; there EIO EIO; \
                 grown new file 8; d: added f gone grown meta moved type; dir: ; to: f more; append EIO; rm EIO",
        "the copy has the length that it had; a file without data does not hide the listing",
        "A lower file that was changed while nothing was mounted",
    ),
    row(
        &[31, 37],
        "other lower layers",
        "what is shown over other lower layers?",
        other_layers,
        "d: new; below+; d: below new; below+",
    )
    .lowers(2)
    .on(&["ext4"])
    .options("index=off,redirect_dir=on,metacopy=on"),
    row(
        &[19],
        "lowers changed while mounted",
        "does a mount live whose lower layer is changed?",
        changed_while_mounted,
        "alive ok; x",
    )
    .on(&["ext4"]),
    row(
        &[60],
        "metadata only",
        "which changes copy data, and is it right after them?",
        metadata_only,
        "chmod 0 true data false; chown 0 true data false; xattr 0 true data false; \
             moved/renamed 0 true data false; linked 0 true data false; cut -1048578 true data false; \
             written 1 true data true; twice 0 true data false; one 0 true data false; \
             other 0 true data none; moved/in 0 true data false; chmod 0 true data false; \
             chown 0 true data false; xattr 0 true data false; moved/renamed 0 true data true; \
             linked 0 true data true; cut -1048578 true data false; written 1 true data true; \
             twice 1 true data true; one 0 true data false; other 0 true data none; \
             moved/in 0 true data false",
    )
    .on(&["ext4"]),
    row(
        &[60],
        "chains without data",
        "is data found through several layers, of any size?",
        chains,
        "a true 4 true; b true 5 true; c true 4099 true; d true 4101 true; e true 100005 true",
    )
    .lowers(3),
    row(
        &[79, 85],
        "data-only layers",
        "is data found in data-only layers, and nothing else of them?",
        data_only,
        ".: dir none one plain three two; one data one; two data two; three first; none EIO; dir EIO; \
             plain x; stat ENOENT; stat ENOENT; append ok; data one+; append ok; first+; rename ok; data two; \
             rm ok",
    )
    .unlike(
        ".: dir none one plain three two; one data one; two data two; three first; none ENOENT; \
                 dir ENOENT; plain x; stat ENOENT; stat ENOENT; append ok; data one+; append ok; first+; \
                 rename ok; data two; rm ok",
        "the kernel does not ask when a file is opened",
        "data of a metacopy file that is missing is `EIO` from the first read",
    ),
    row(
        &[88],
        "data-only layers with userxattr",
        "is data found there without metacopy=on?",
        data_only,
        ".: dir none one plain three two; one data one; two data two; three first; none EIO; dir EIO; \
             plain x; stat ENOENT; stat ENOENT; append ok; data one+; append ok; first+; rename ok; data two; \
             rm ok",
    )
    .options("userxattr")
    .unlike(
        ".: dir none one plain three two; one data one; two data two; three first; none ENOENT; \
                 dir ENOENT; plain x; stat ENOENT; stat ENOENT; append ok; data one+; append ok; first+; \
                 rename ok; data two; rm ok",
        "the kernel does not ask when a file is opened",
        "data of a metacopy file that is missing is `EIO` from the first read",
    ),
    row(
        &[29, 84],
        "nested",
        "is an overlay right over another of its kind?",
        nested,
        ".: d f moved o; d: in; o: new; moved: in; x++; r: in; marks seen: 0; .: d f o r; d: ; o: new; \
             moved: ENOENT; r: in; x++",
    )
    .on(&["ext4"]),
    row(
        &[84, 26],
        "escaped marks",
        "are marks of an overlay inside kept apart from those of the mount?",
        escapes,
        "opaque ok; metacopy ok; redirect ok; overlay.opaque ok; nothing ok; P.opaque P.redirect; \
             above P.origin P.overlay.opaque P.overlay.redirect, below ; P.nothing P.overlay.opaque; \
             above P.origin P.overlay.nothing P.overlay.overlay.opaque, below ; P.metacopy; \
             above P.metacopy P.origin P.overlay.metacopy, below ; d: f; x; remove ok; P.nothing",
    )
    .on(&["ext4"]),
    row(
        &[84],
        "marked whiteouts",
        "do marked files hide where a mark says that there are some?",
        marked_whiteouts,
        "d: g; stat ENOENT; create ok; d: f g; rm -r ok; e: f",
    )
    .lowers(2)
    .unlike(
        "d: g; stat ENOENT; create ok; d: f g; rm -r ENOTEMPTY; e: f",
        "the kernel does not see that the directory is empty",
        "what a listing shows can also be looked up",
    ),
];
