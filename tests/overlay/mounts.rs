//! What may be mounted, and what a mount is.

use std::process::Command;

use crate::common::*;
use crate::row::{Row, Side, Stage, row, text, without};

/// Two mounts, one upper layer or workdir.
fn in_use(s: &mut Stage) {
    let _m = s.up();
    let (lower, upper, work) = (
        s.lower().root().display().to_string(),
        s.upper().root().display().to_string(),
        s.beside(s.work).root().display().to_string(),
    );
    let (upper2, work2) =
        (s.beside("upper2").root().display().to_string(), s.beside("work2").root().display().to_string());
    for index in ["on", "off"] {
        let mount =
            |s: &Stage, u: &str, w: &str| s.other(&format!("lowerdir={lower},upperdir={u},workdir={w},index={index}"));
        let (a, b, c) = (mount(s, &upper, &work2), mount(s, &upper2, &work), mount(s, &upper2, &work2));
        s.say(format!("index={index}: upper {a}, work {b}, neither {c}"));
    }
    let as_lower = s.other(&format!("lowerdir={upper}:{lower}"));
    s.say(format!("as a lower layer {as_lower}"));
}

/// Layers that meet.
fn overlapping(s: &mut Stage) {
    s.lower().file("sub/deep/f", "x").dir("sub/other", 0o755);
    for dir in ["u/sub", "u/w", "w/u"] {
        s.beside(dir);
    }
    let base = s.upper().root().parent().unwrap().display().to_string();
    let cases = [
        ("lower0", "lower0", "work"),
        ("lower0", "u", "u"),
        ("lower0", "u", "u/w"),
        ("lower0", "w/u", "w"),
        ("lower0", "lower0/sub", "work"),
        ("lower0/sub", "lower0", "work"),
        ("lower0:lower0", "", ""),
        ("lower0:lower0/sub", "", ""),
        ("lower0/sub:lower0", "", ""),
        ("lower0/sub:lower0/sub/deep", "", ""),
        ("lower0/sub:lower0/sub/deep", "u", "work"),
        ("lower0:u/sub", "u", "work"),
    ];
    for (lowers, upper, work) in cases {
        let lower: Vec<_> = lowers.split(':').map(|l| format!("{base}/{l}")).collect();
        let writable =
            if upper.is_empty() { String::new() } else { format!(",upperdir={base}/{upper},workdir={base}/{work}") };
        s.beside("work");
        let done = s.other(&format!("lowerdir={}{writable}", lower.join(":")));
        s.say(format!("{lowers} {upper} {work}: {done}"));
    }
}

/// Without an upper layer everything is read-only, for good.
fn without_an_upper(s: &mut Stage) {
    s.lower().file("f", "x");
    s.stack.upper = None;
    let m = s.up();
    s.did("append", m.append("f", "+"));
    s.did("create", m.write("new", "x"));
    s.did("chmod", m.chmod("f", 0o600));
    s.did("chmod of the same", m.chmod("f", 0o644));
    let done = Command::new("mount").args(["-o", "remount,rw"]).arg(m.root()).output().unwrap();
    s.say(format!("remount {}", done.status.success()));
    s.did("append", m.append("f", "+"));
}

/// What default_permissions adds, and that the mount can go.
fn default_permissions(s: &mut Stage) {
    s.lower().file("f", "x").perm("f", 0o600);
    let options = format!("{},default_permissions", s.layers());
    let m = s.try_up(&options).unwrap();
    s.did("write", m.write("new", "x"));
    s.did("by a user", as_user(1234, 1234, || m.read("f")));
    s.down();
    s.say(format!("mounted {}", mount::is_mounted(&s.stack.merged)));
}

/// Layers with characters in their names that options are made of.
fn odd_paths(s: &mut Stage) {
    let root = s.upper().root().parent().unwrap().to_owned();
    let dir = |name: &str| {
        let path = root.join(name);
        std::fs::create_dir(&path).unwrap();
        Tree::new(path)
    };
    let names =
        ["with:colon", "with,comma", "with space", "with\\backslash", "with\"quote", "with=equals", "tab\there"];
    for name in names {
        let (lower, upper, work) = (dir(name), dir(&format!("{name}-u")), dir(&format!("{name}-w")));
        lower.write("f", "x").unwrap();
        let escaped = |t: &Tree, colon: bool| {
            let text = t.root().to_str().unwrap().replace('\\', "\\\\").replace(',', "\\,");
            if colon { text.replace(':', "\\:") } else { text }
        };
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            escaped(&lower, true),
            escaped(&upper, false),
            escaped(&work, false)
        );
        match s.try_up(&options) {
            Ok(m) => {
                let done = m.append("f", "+");
                s.did(name, done);
                s.say(upper.names("").unwrap().join(" "));
                s.down();
            }
            Err(_) => s.say(format!("{name} refused")),
        }
    }
}

/// An upper layer that is an overlay itself.
fn upper_on_an_overlay(s: &mut Stage) {
    s.lower().file("f", "x");
    s.nest();
    let below = Tree::new(s.lower().root());
    for dir in ["u", "w", "l"] {
        below.mkdir(dir, 0o755).unwrap();
    }
    let at = below.root().display();
    s.say(s.other(&format!("lowerdir={at}/l,upperdir={at}/u,workdir={at}/w")));
}

/// Where the data of layers is looked for, by which options.
fn restrictions(s: &mut Stage) {
    let base = s.upper().root().parent().unwrap().display().to_string();
    for dir in ["a", "b", "c"] {
        s.beside(dir).file("f", dir);
    }
    let meta = "metacopy=on,redirect_dir=on";
    let cases = [
        ("lowerdir+=A,lowerdir+=B", "two lowers"),
        ("lowerdir=A:C,lowerdir+=B", "after lowerdir"),
        ("lowerdir+=A,lowerdir=B:C", "before lowerdir"),
        ("lowerdir=A:C,datadir+=B", "data after lowerdir"),
        ("datadir+=A", "data only"),
        ("datadir+=A,lowerdir+=B", "data before a lower"),
        ("lowerdir+=A,datadir+=B", "data after a lower"),
        ("lowerdir+=A,datadir+=B,datadir+=C", "two of data"),
        ("lowerdir+=A:B", "a colon in lowerdir+"),
        ("lowerdir+=:A", "a colon before"),
        ("lowerdir=A::B", "data by colons"),
        ("lowerdir=::A", "data only by colons"),
        ("lowerdir=A::B:C", "a lower after data"),
        ("lowerdir=A:::B", "three colons"),
        ("lowerdir=A:", "a colon at the end"),
        ("lowerdir=:A", "a colon at the start"),
        ("lowerdir+=", "nothing added"),
        ("lowerdir=", "nothing"),
    ];
    for (text, what) in cases {
        let text: String = text
            .chars()
            .map(|c| if c.is_ascii_uppercase() { format!("{base}/{}", c.to_ascii_lowercase()) } else { c.into() })
            .collect();
        let done =
            if s.side == Side::Kernel { by_fsconfig(s, &text, meta) } else { s.other(&format!("{text},{meta}")) };
        s.say(format!("{what}: {done}"));
    }
}

/// The kernel knows `lowerdir+` in the new calls only, which mount(8) makes.
fn by_fsconfig(s: &Stage, text: &str, more: &str) -> &'static str {
    let at = s.stack.scratch.fresh("other");
    let done =
        Command::new("mount").args(["-t", "overlay", "overlay", "-o", &format!("{text},{more}")]).arg(&at).output();
    let done = done.unwrap().status.success();
    if done {
        rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty()).unwrap();
    }
    if done { "mounted" } else { "refused" }
}

/// Options that do not go together.
fn options_that_disagree(s: &mut Stage) {
    for options in [
        "metacopy=on,redirect_dir=off",
        "metacopy=on,redirect_dir=nofollow",
        "userxattr,metacopy=on",
        "userxattr,redirect_dir=on",
        "verity=on,metacopy=off",
        "verity=require",
        "index=on,nfs_export=on,metacopy=on",
        "index=off,nfs_export=on",
        "redirect_dir=maybe",
        "index",
        "nothing=known",
    ] {
        let done = s.other(&format!("{},{options}", s.layers()));
        s.say(format!("{options}: {done}"));
    }
}

/// The layers of an index are others than those that it was made for.
fn mismatch(s: &mut Stage) {
    s.lower().file("a", "x").hard_link("a", "b");
    let m = s.up();
    m.append("a", "+").unwrap();
    s.down();
    let base = s.upper().root().parent().unwrap().display().to_string();
    s.beside("lower9").file("a", "x");
    s.beside("upper9");
    let mount = |s: &Stage, l: &str, u: &str, index: &str| {
        s.other(&format!("lowerdir={base}/{l},upperdir={base}/{u},workdir={base}/work,index={index}"))
    };
    let (lower, upper) = (mount(s, "lower9", "upper", "on"), mount(s, "lower0", "upper9", "on"));
    s.say(format!("another lower {lower}, another upper {upper}"));
    let (lower, upper) = (mount(s, "lower9", "upper", "off"), mount(s, "lower0", "upper9", "off"));
    s.say(format!("without the index: another lower {lower}, another upper {upper}"));
    let m = s.up();
    s.say(text(&m, "b"));
}

/// Which mode and owner the directories in the workdir have.
fn modes_of_the_workdir(s: &mut Stage) {
    let work = s.beside(s.work);
    work.perm("", 0o755);
    s.lower().file("a", "x").hard_link("a", "b");
    let m = s.up();
    m.append("a", "+").unwrap();
    for dir in ["", "work", "index"] {
        let st = work.stat(dir).unwrap();
        s.say(format!("{dir} {:o} {}:{}", st.st_mode & 0o7777, st.st_uid, st.st_gid));
    }
    s.did("by a user", as_user(1234, 1234, || work.names("work")));
}

/// File handles: of the same mount, as long as the kernel knows the inode; and hand-made ones.
fn handles(s: &mut Stage) {
    s.lower().file("f", "x");
    let m = s.up();
    let mount = m.open("", rustix::fs::OFlags::RDONLY).unwrap();
    let path = std::ffi::CString::new(m.at("f").to_str().unwrap()).unwrap();
    let odd = [(&b"\0\0\0\0"[..], "empty"), (&[0; 16], "zeros"), (&[255; 40], "ones"), (&[0xfb; 64], "odd")];
    for (bytes, what) in odd {
        for kind in [1u32, 0x81, 0xf8] {
            let len = bytes.len() as u32;
            let handle = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), bytes].concat();
            let done = raw::open_handle(&mount, &handle).map(drop);
            assert!(done.is_err(), "{what} {kind}");
        }
    }
    s.say("made by hand: refused");
    let room = raw::file_handle(&path, 0).map(drop);
    let handle = raw::file_handle(&path, 128);
    s.say(format!("without room {}", crate::row::told(room)));
    s.did("made", handle.as_ref().map_err(|e| *e));
    if let Ok(handle) = handle {
        let text = raw::open_handle(&mount, &handle).and_then(|fd| tree::read_all(&fd));
        s.say(text.map_or_else(code, |text| text.escape_ascii().to_string()));
    }
    s.did("alive", m.append("f", "+"));
}

/// The number of the file system as statfs(2) tells it.
fn number_of_the_file_system(s: &mut Stage) {
    let fsid = |m: &Tree| {
        let out = Command::new("stat").args(["-f", "-c", "%i"]).arg(m.root()).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    let m = s.up();
    let one = fsid(&m);
    let m = s.again();
    let same = fsid(&m) == one;
    s.say(format!("kept {same}, there {}", !one.trim_matches('0').is_empty()));
}

const HANDLES_ASKS: &str = "do file handles outlive the caches and the mount?";

pub const ROWS: &[Row] = &[
    row(
        &[36, 65],
        "in use",
        "can an upper layer or workdir be mounted twice?",
        in_use,
        "index=on: upper refused, work refused, neither mounted; index=off: upper refused, work refused, \
             neither mounted; as a lower layer mounted",
    )
    .on(&["ext4"])
    .unlike(
        "index=on: upper refused, work refused, neither mounted; index=off: upper mounted, work mounted, \
                 neither mounted; as a lower layer mounted",
        "two that write to one layer ruin it",
        "Two daemons never share an upper layer or a workdir",
    ),
    row(
        &[65],
        "layers that meet",
        "which layers may lie in each other?",
        overlapping,
        "lower0 lower0 work: refused; lower0 u u: refused; lower0 u u/w: refused; lower0 w/u w: refused; \
             lower0 lower0/sub work: mounted; lower0/sub lower0 work: refused; lower0:lower0  : refused; \
             lower0:lower0/sub  : refused; lower0/sub:lower0  : refused; lower0/sub:lower0/sub/deep  : \
             refused; lower0/sub:lower0/sub/deep u work: refused; lower0:u/sub u work: refused",
    )
    .on(&["ext4"])
    .options("index=off"),
    row(
        &[35],
        "no upper layer",
        "is a view without an upper layer read-only for good?",
        without_an_upper,
        "append EROFS; create EROFS; chmod EROFS; chmod of the same EROFS; remount false; append EROFS",
    )
    .lowers(2)
    .options(""),
    row(
        &[9],
        "default_permissions",
        "does the mount go in order?",
        default_permissions,
        "write ok; by a user EACCES; mounted false",
    ),
    row(
        &[83],
        "odd paths",
        "can layers have any names?",
        odd_paths,
        "with:colon ok; f; with,comma ok; f; with space ok; f; with\\backslash ok; f; with\"quote ok; f; \
             with=equals ok; f; tab\there ok; f",
    ),
    row(&[22], "an overlay as upper layer", "may the upper layer be on an overlay?", upper_on_an_overlay, "mounted")
        .on(&["ext4"])
        .unlike(
            "refused",
            "it can hold all that is needed",
            "| OverlayFS | trusted | marked file | yes | no data | parted | kept | kept | no | refuses | yes |",
        ),
    row(
        &[86, 85],
        "lowerdir+ and datadir+",
        "how do the options for layers go together?",
        restrictions,
        "two lowers: mounted; after lowerdir: refused; before lowerdir: mounted; data after lowerdir: \
             refused; data only: refused; data before a lower: refused; data after a lower: mounted; \
             two of data: mounted; a colon in lowerdir+: refused; a colon before: refused; data by colons: \
             mounted; data only by colons: refused; a lower after data: refused; three colons: refused; \
             a colon at the end: refused; a colon at the start: refused; nothing added: refused; nothing: \
             refused",
    ),
    row(
        &[60, 86],
        "options that disagree",
        "which options do not go together?",
        options_that_disagree,
        "metacopy=on,redirect_dir=off: refused; metacopy=on,redirect_dir=nofollow: refused; \
             userxattr,metacopy=on: mounted; userxattr,redirect_dir=on: mounted; verity=on,metacopy=off: \
             mounted; verity=require: mounted; index=on,nfs_export=on,metacopy=on: refused; \
             index=off,nfs_export=on: refused; redirect_dir=maybe: refused; index: refused; nothing=known: \
             refused",
    )
    .unlike(
        "metacopy=on,redirect_dir=off: refused; metacopy=on,redirect_dir=nofollow: refused; \
                 userxattr,metacopy=on: refused; userxattr,redirect_dir=on: refused; verity=on,metacopy=off: \
                 mounted; verity=require: mounted; index=on,nfs_export=on,metacopy=on: refused; \
                 index=off,nfs_export=on: refused; redirect_dir=maybe: refused; index: refused; nothing=known: \
                 refused",
        "plyfs has all of them with userxattr",
        "A normal user has `redirect_dir`, `metacopy` and `index`, too; \
                 with `userxattr` the kernel has none of them",
    ),
    row(
        &[37],
        "an index of other layers",
        "is an index refused that is for other layers?",
        mismatch,
        "another lower refused, another upper refused; without the index: another lower mounted, \
             another upper mounted; x+",
    )
    .on(&["ext4"]),
    row(
        &[23],
        "modes of the workdir",
        "who may look into the workdir?",
        modes_of_the_workdir,
        " 755 0:0; work 700 0:0; index 700 0:0; by a user EACCES",
    )
    .on(&["ext4"])
    .unlike(
        " 755 0:0; work 0 0:0; index 0 0:0; by a user EACCES",
        "a daemon without privilege looks into them, too",
        "The directories in workdir are 0700",
    ),
    row(
        &[74],
        "handles made by hand",
        "does a broken file handle do harm?",
        handles,
        "made by hand: refused; without room EOVERFLOW; made ok; x; alive ok",
    )
    .on(&["ext4"])
    .unlike(
        "made by hand: refused; without room EOPNOTSUPP; made EOPNOTSUPP; alive ok",
        "the kernel makes them for any FUSE file system",
        "File handles (name_to_handle_at(2))",
    ),
    row(
        &[81],
        "uuid=on",
        "is the number of the file system kept?",
        number_of_the_file_system,
        "kept true, there false",
    )
    .on(&["ext4"])
    .options("uuid=on")
    .unlike("kept true, there true", "FUSE has no field for it", "statfs(2) tells no number of the file system"),
    row(
        &[81],
        "uuid=null",
        "is the number of the file system kept?",
        number_of_the_file_system,
        "kept true, there false",
    )
    .on(&["ext4"])
    .options("uuid=null")
    .unlike("kept true, there true", "FUSE has no field for it", "statfs(2) tells no number of the file system"),
    without(
        &[50, 51, 52, 53, 54, 55, 58, 62, 68, 69],
        "nfs_export",
        HANDLES_ASKS,
        "nfs_export=on is refused by name",
        "file handles that outlive a mount | refused: not there yet, except off",
    ),
];
