//! Owner, mode and type of objects in attributes (`override_stat`).

use crate::common::Stack;
use crate::common::stack::prefix;
use crate::row::{Row, row};

const CONTAINERS: &str = "user.containers.override_stat";
/// The keys by which a layer may have its marks, the privileged one first.
pub const KEYS: [&str; 3] = ["security.fuseoverlayfs.override_stat", CONTAINERS, "user.fuseoverlayfs.override_stat"];

/// Values that are no mark of a regular file.
const HOSTILE: [&[u8]; 22] = [
    b"",
    b"0:0",
    b"a:0:0644:file",
    b"-1:0:0644:file",
    b"+0:0:0644:file",
    b" 0:0:0644:file",
    b"4294967295:0:0644:file",
    b"4294967296:0:0644:file",
    b"0:18446744073709551616:0644:file",
    b"0:0:0x1ff:file",
    b"0:0:0648:file",
    b"0:0:10755:file",
    b"0:0:1000644:file",
    b"0:0:20666",
    b"0:0:0644:door",
    b"0:0:0644\0:file",
    b"0:0:0755:dir",
    b"0:0:0666:char",
    b"0:0:0666:char-0-0",
    b"0:0:0666:char-4096-0",
    b"0:0:0666:block-0-1048576",
    b"0:0:0666:block-99999999999999999999-0",
];

/// `f` with this content and mark, in a layer whose root is marked.
fn marked(key: &'static str, value: &'static [u8], content: &'static str) -> impl Fn(&Stack) {
    move |stack| {
        stack.lowers[0].with_xattr("", key, b"0:0:0755:dir");
        stack.lowers[0].file("f", content).with_xattr("f", key, value);
        stack.lowers[1].file("f", "below");
    }
}

fn kinds() -> Vec<Row> {
    [
        ("0:0:4640:file", "x", "attrs f; list .", "regularfile 4640 0:0 1; f"),
        ("0:0:640", "x", "attrs f; list .", "regularfile 640 0:0 1; f"),
        // As fuse-overlayfs 1.10 writes it.
        ("0:0:100755", "x", "attrs f", "regularfile 755 0:0 1"),
        ("0:0:0666:char-1-3", "", "attrs f; list .", "characterdevice 666 0:0 1:3; f"),
        ("0:0:0660:block-259-7", "x", "attrs f", "blockdevice 660 0:0 259:7"),
        ("0:0:0622:pipe", "", "attrs f", "fifo 622 0:0 0"),
        ("0:0:0700:socket", "", "attrs f", "socket 700 0:0 0"),
        ("0:0:0777:symlink", "to/it", "attrs f; link f; xattrs f", "symlink 777 0:0 5; to/it; "),
    ]
    .into_iter()
    .map(|(value, content, probe, ours)| row(value, "", marked(CONTAINERS, value.as_bytes(), content), probe, ours))
    .collect()
}

fn hostile() -> Vec<Row> {
    let files = HOSTILE.into_iter().map(|value| {
        row(
            value.escape_ascii().to_string(),
            "",
            marked(CONTAINERS, value, "x"),
            "list .; attrs f; read f; append f",
            "f; EIO; EIO; EIO",
        )
        .says(&["malformed mark override_stat"])
    });
    let targets = ["", "a\0b"].into_iter().map(|content| {
        row(
            format!("symlink in a file with {content:?}"),
            "",
            marked(CONTAINERS, b"0:0:0777:symlink", content),
            "link f",
            "EIO",
        )
    });
    files.chain(targets).collect()
}

/// What somebody else may have written is no privilege in a view of root's, whatever its flags are.
fn doubtful() -> Vec<Row> {
    let open = |value: &'static [u8]| {
        move |stack: &Stack| {
            marked(CONTAINERS, value, "x")(stack);
            stack.lowers[0].perm("f", 0o666);
        }
    };
    let foreign = |stack: &Stack| {
        marked(CONTAINERS, b"0:0:4755:file", "x")(stack);
        stack.lowers[0].chown("f", 5, 5).unwrap();
    };
    let suid = "regularfile 755 0:0 1";
    vec![
        row("set-user-id by an attribute that all may write", "", open(b"0:0:6755:file"), "attrs f", suid),
        row("set-user-id by an attribute of another owner", "", foreign, "attrs f", suid),
        row("device by an attribute that all may write", "", open(b"0:0:0666:block-8-0"), "attrs f", "EIO")
            .says(&["others may write"]),
        row("the same device under nosuid", "nosuid", open(b"0:0:0666:block-8-0"), "attrs f", "EIO")
            .says(&["others may write"]),
        row("set-user-id under nosuid", "nosuid", open(b"0:0:6755:file"), "attrs f", suid),
    ]
    .into_iter()
    .map(Row::root_only)
    .collect()
}

fn keys() -> Vec<Row> {
    let of = |key: &'static str| {
        let make = move |stack: &Stack| {
            marked(key, b"0:0:0640:file", "x")(stack);
            stack.lowers[0].file("d/plain", "x").perm("d/plain", 0o604).with_xattr("d", key, b"0:0:0711");
        };
        let (probe, ours) =
            ("attrs f; xattrs f; attrs d; mode d/plain", "regularfile 640 0:0 1; ; directory 711 0:0 0; 604");
        let row = row(key, "", make, probe, ours);
        if key.starts_with("security") { row.root_only() } else { row }
    };
    KEYS.into_iter().map(of).collect()
}

fn roots() -> Vec<Row> {
    let elsewhere = |stack: &Stack| {
        stack.lowers[0].file("f", "x").perm("f", 0o640).with_xattr("f", CONTAINERS, b"0:0:4755:file");
    };
    let other = |stack: &Stack| {
        marked(CONTAINERS, b"0:0:0640:file", "x")(stack);
        stack.lowers[0].with_xattr("f", KEYS[2], b"0:0:0777:file");
    };
    let broken = |stack: &Stack| _ = stack.lowers[1].with_xattr("", CONTAINERS, b"0:0:0755:file");
    vec![
        row("the root has none", "", elsewhere, "mode f", "640"),
        row("another than the root's", "", other, "mode f", "640"),
        row("the root's is broken", "", broken, "list .", "refused").says(&["lower1", CONTAINERS]),
    ]
}

/// Copies in an upper layer whose objects are their own.
fn copies() -> Vec<Row> {
    let security = |stack: &Stack| {
        marked(CONTAINERS, b"0:0:0755:file", "x")(stack);
        stack.lowers[0].with_xattr("f", "user.containers.override_security.x", b"y");
        stack.lowers[0].with_xattr("f", "security.y", b"y").with_xattr("f", "user.z", b"y");
    };
    let (file, link) = (marked(CONTAINERS, b"5:6:4640:file", "x"), marked(CONTAINERS, b"5:6:0777:symlink", "to/it"));
    let device = marked(CONTAINERS, b"5:6:0666:char-1-3", "");
    let [plain, again] = [(); 2].map(|()| marked(CONTAINERS, b"0:0:0755:file", "x"));
    vec![
        row("copy of a file", "", file, "append f; attrs f; read f", "ok; regularfile 4640 5:6 2; x+"),
        row("copy of a symlink", "", link, "rename f g; attrs g; link g", "ok; symlink 777 5:6 5; to/it"),
        row("copy of a device", "", device, "chmod f; attrs f", "ok; characterdevice 640 5:6 1:3"),
        row(
            "set-user-id on data of such a layer",
            "",
            plain,
            "suid f; attrs f; data f",
            "ok; regularfile 4755 0:0 1; own",
        ),
        row(
            "a mode on data of such a layer",
            "",
            again,
            "chmod f; attrs f; data f",
            "ok; regularfile 640 0:0 1; below",
        ),
        row("security.*", "", security, "xattrs f; append f; xattrs f", "security.x user.z; ok; security.x user.z"),
    ]
    .into_iter()
    .map(Row::root_only)
    .collect()
}

/// A mark makes no whiteout of a file, nor takes one away, and a malformed one does not get in its way.
fn whiteouts() -> Vec<Row> {
    const VALUES: [&[u8]; 3] = [b"0:0:0644:file", b"0:0:0777:symlink", b"0:0:door"];
    let xattr = |value: &'static [u8]| {
        let make = move |stack: &Stack| {
            stack.lowers[0].with_xattr("", CONTAINERS, b"0:0:0755:dir").dir("d", 0o755);
            stack.lowers[0].with_xattr("d", &format!("{}opaque", prefix()), b"x").file("d/f", "");
            stack.lowers[0]
                .with_xattr("d/f", &format!("{}whiteout", prefix()), b"y")
                .with_xattr("d/f", CONTAINERS, value);
            stack.lowers[1].file("d/f", "below").file("d/g", "below");
        };
        row(format!("whiteout with {}", value.escape_ascii()), "", make, "stat d/f; list d", "ENOENT; g")
    };
    let named = |value: &'static [u8]| {
        let make = move |stack: &Stack| {
            stack.lowers[0].with_xattr("", CONTAINERS, b"0:0:0755:dir");
            stack.lowers[0].file("d/.wh.f", "").with_xattr("d/.wh.f", CONTAINERS, value);
            stack.lowers[0].file("e/.wh..wh..opq", "").with_xattr("e/.wh..wh..opq", CONTAINERS, value);
            stack.lowers[1].file("d/f", "below").file("d/g", "below").file("e/f", "below");
        };
        row(format!(".wh.f with {}", value.escape_ascii()), "", make, "list d; stat d/f; list e", "g; ENOENT; ")
    };
    VALUES.into_iter().map(xattr).chain(VALUES.into_iter().map(named)).collect()
}

pub fn rows() -> Vec<Row> {
    let all = [keys(), roots(), copies(), kinds(), hostile(), doubtful(), whiteouts()].into_iter().flatten();
    let named = |row: Row| Row { name: format!("override_stat: {}", row.name), ..row };
    all.map(|row| named(row).not_asked("it knows no such mark")).collect()
}
