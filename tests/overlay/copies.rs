//! What copy-up keeps, whoever causes it and however many at once.

use std::process::Command;

use rustix::fs::{OFlags, SeekFrom};

use crate::common::*;
use crate::row::{Row, Stage, row, text, told};

const GIB: u64 = 1 << 30;

/// Sparse files of about 4 GiB, with something at both ends.
fn four_gib(s: &mut Stage) {
    let sizes = [4 * GIB - 1, 4 * GIB, 4 * GIB + 1];
    for (i, size) in sizes.iter().enumerate() {
        let name = format!("f{i}");
        s.lower().file(&name, "begin").truncate(&name, *size).unwrap();
        s.lower().pwrite(&name, size - 3, b"end").unwrap();
    }
    let m = s.up();
    for (i, size) in sizes.iter().enumerate() {
        let name = format!("f{i}");
        m.append(&name, "+").unwrap();
        let fd = m.open(&name, OFlags::RDONLY).unwrap();
        let (mut first, mut last) = ([0; 5], [0; 4]);
        rustix::io::pread(&fd, &mut first, 0).unwrap();
        rustix::io::pread(&fd, &mut last, size - 3).unwrap();
        let st = s.upper().stat(&name).unwrap();
        let (longer, small) = (st.st_size as u64 - size, st.st_blocks * 512 < 1 << 20);
        s.say(format!("{}{} +{longer} sparse {small}", first.escape_ascii(), last.escape_ascii()));
    }
}

fn by_chmod(s: &mut Stage) {
    s.lower().file("f", "data").perm("f", 0o644).file("mine", "data").perm("mine", 0o600);
    s.lower().chown("mine", 1234, 1234).unwrap();
    s.lower().dir("d", 0o755).soft_link("f", "s");
    let m = s.up();
    for bits in [0o000, 0o400, 0o1777, 0o4755, 0o2755, 0o6777, 0o644] {
        m.chmod("f", bits).unwrap();
        m.chmod("d", bits).unwrap();
        s.say(format!("{:o} {:o} {}", m.mode("f"), m.mode("d"), text(&m, "f")));
    }
    let user = as_user(1234, 1234, || [m.chmod("mine", 0o4755), m.chmod("f", 0o777), m.chmod("s", 0o777)].map(told));
    s.say(user.join(" "));
    s.say(format!("{:o}, below {:o}", m.mode("mine"), s.lower().mode("mine")));
}

/// The copy does not fit: it is an error, nothing is left, and the file system of the layer can be unmounted.
fn too_large_for_the_upper(s: &mut Stage) {
    let small = s.stack.scratch.dir("small");
    rustix::mount::mount("tmpfs", &small, "tmpfs", rustix::mount::MountFlags::empty(), c"size=1m,mode=755").unwrap();
    let guard = scratch::Mounted::adopt(&small);
    s.lower().file("big", vec![b'x'; 4 << 20]).file("f", "x");
    let dir = |name: &str| {
        let path = small.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (upper, work) = (dir("upper"), dir("work"));
    let lower = s.lower().root().display();
    let options = format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
    let m = s.try_up(&options).unwrap();
    s.did("append", m.append("big", "+"));
    s.did("append", m.append("f", "+"));
    s.say(format!("big {}", m.stat("big").unwrap().st_size));
    s.list(&Tree::new(&upper), "");
    s.down();
    s.list(&Tree::new(&work), "work");
    s.did("unmount", rustix::mount::unmount(&small, rustix::mount::UnmountFlags::empty()));
    std::mem::forget(guard);
}

/// A program that runs cannot be written, and what is open for writing cannot be run.
fn running_programs(s: &mut Stage) {
    let sleep = std::fs::read("/bin/sleep").unwrap();
    s.lower().file("lower", &sleep).perm("lower", 0o755).file("busy", &sleep).perm("busy", 0o755);
    let m = s.up();
    m.write("upper", &sleep).unwrap();
    m.chmod("upper", 0o755).unwrap();
    for name in ["lower", "upper"] {
        let mut child = Command::new(m.at(name)).arg("60").spawn().unwrap();
        s.did("open", m.open(name, OFlags::WRONLY));
        s.did("truncating open", m.open(name, OFlags::WRONLY | OFlags::TRUNC));
        let path = std::ffi::CString::new(m.at(name).to_str().unwrap()).unwrap();
        s.did("truncate", raw::truncate_path(&path, 5));
        s.did("chmod", m.chmod(name, 0o700));
        child.kill().unwrap();
        child.wait().unwrap();
        s.did("open", m.open(name, OFlags::WRONLY));
    }
    let writer = m.open("busy", OFlags::WRONLY).unwrap();
    let run = |m: &Tree| Command::new(m.at("busy")).arg("0").status().map_err(|e| e.kind());
    s.say(format!("{:?}", run(&m).map(|s| s.success())));
    drop(writer);
    // A process that another thread is about to start has it open for an instant more.
    mount::wait_until(|| run(&m) != Err(std::io::ErrorKind::ExecutableFileBusy));
    s.say(format!("{:?}", run(&m).map(|s| s.success())));
}

/// root of a user namespace of a normal user copies up his own files, and no others.
fn root_of_a_user_namespace(s: &mut Stage) {
    s.lower().file("mine", "x").file("roots", "x").perm("roots", 0o644).dir("d", 0o777);
    s.upper().perm("", 0o777);
    s.lower().chown("mine", 1234, 1234).unwrap();
    let m = s.up();
    let script = "echo y >>mine; echo $?; chmod 600 mine; echo $?; chown 0:0 mine; echo $?; chmod 777 roots; echo $?;
        echo y >>roots; echo $?; touch new; echo $?; mkdir d/new; echo $?; rm -rf d/new; echo $?; chown 1 mine; echo $?";
    let out = Command::new("setpriv")
        .args(["--reuid=1234", "--regid=1234", "--clear-groups", "unshare", "-Ur", "sh", "-c", script])
        .current_dir(m.root())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&out.stdout);
    s.say(told.split_whitespace().collect::<Vec<_>>().join(" "));
    for name in ["mine", "roots", "new"] {
        let st = m.stat(name).unwrap();
        s.say(format!("{name} {}:{} {:o} {}", st.st_uid, st.st_gid, st.st_mode & 0o7777, text(&m, name).trim()));
    }
}

/// Many threads begin with the same files at the same time.
fn at_once(s: &mut Stage) {
    for i in 0..60 {
        s.lower().file(&format!("d{}/f{i}", i % 5), vec![b'l'; 10_000 * (i % 4)]);
    }
    let m = s.up();
    std::thread::scope(|scope| {
        for t in 0..6 {
            let m = m.clone();
            scope.spawn(move || {
                for i in 0..60 {
                    let path = format!("d{}/f{i}", i % 5);
                    match t % 3 {
                        0 => m.append(&path, "+").unwrap(),
                        1 => m.chmod(&path, 0o600 + t).unwrap(),
                        _ => m.set_xattr(&path, format!("user.t{t}"), b"x").unwrap(),
                    }
                }
            });
        }
    });
    let wrong = (0..60).filter(|i| {
        let path = format!("d{}/f{i}", i % 5);
        let (text, lower) = (m.read(&path).unwrap(), 10_000 * (i % 4));
        text.len() != lower + 2 || text[..lower].iter().any(|b| *b != b'l') || m.xattrs(&path).unwrap().len() != 2
    });
    s.say(format!("wrong: {}", wrong.count()));
    let left = Tree::new(s.beside(s.work).root()).names("work").unwrap_or_default().len();
    s.say(format!("left in workdir: {left}"));
}

/// Two names of a large file, changed at the same time: both changes are in the one copy.
fn two_names_at_once(s: &mut Stage) {
    s.lower().file("a", vec![b'l'; 16 << 20]).hard_link("a", "b");
    let m = s.up();
    std::thread::scope(|scope| {
        let (one, two) = (m.clone(), m.clone());
        scope.spawn(move || one.chmod("a", 0o600).unwrap());
        scope.spawn(move || two.chown("b", 1, 2).unwrap());
    });
    for name in ["a", "b"] {
        let st = m.stat(name).unwrap();
        s.say(format!("{name} {:o} {}:{} links {}", st.st_mode & 0o7777, st.st_uid, st.st_gid, st.st_nlink));
    }
    s.say(format!("one file {}", m.stat("a").unwrap().st_ino == m.stat("b").unwrap().st_ino));
    m.append("b", "+").unwrap();
    s.say(format!("{}", m.stat("a").unwrap().st_size - (16 << 20)));
}

/// A capability goes with the first write only.
fn capabilities(s: &mut Stage) {
    let mut capability = 0x0200_0001u32.to_le_bytes().to_vec();
    capability.extend([0x80, 0, 0, 0].iter().chain(&[0; 12]));
    for name in ["touched", "opened", "linked", "renamed", "chmod", "chown", "written", "tagged"] {
        s.lower().file(name, "x").with_xattr(name, "security.capability", &capability);
    }
    let m = s.up();
    m.utimes("touched", tree::OLD).unwrap();
    drop(m.open("opened", OFlags::RDWR).unwrap());
    m.link("linked", "link").unwrap();
    m.rename("renamed", "moved").unwrap();
    m.chmod("chmod", 0o700).unwrap();
    m.chown("chown", 1, 1).unwrap();
    m.append("written", "+").unwrap();
    m.set_xattr("tagged", "user.a", b"x").unwrap();
    for name in ["touched", "opened", "linked", "moved", "chmod", "chown", "written", "tagged"] {
        let kept = m.xattr(name, "security.capability").map(|value| value == capability);
        s.say(format!("{name} {}", kept.map_or_else(code, |kept| kept.to_string())));
    }
}

/// Where data stands in a file: `START+LEN` in blocks of 4 KiB.
fn segments(tree: &Tree, path: &str) -> String {
    let fd = tree.open(path, OFlags::RDONLY).unwrap();
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(start) = rustix::fs::seek(&fd, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&fd, SeekFrom::Hole(start)).unwrap();
        found.push(format!("{}+{}", start >> 12, (end - start).div_ceil(4096)));
        at = end;
    }
    if found.is_empty() { "none".into() } else { found.join(" ") }
}

/// A file's name, its size, and where it has data: from where, how much.
type Shape = (&'static str, u64, &'static [(u64, u64)]);

/// Files that are all hole, begin or end with one, have many, or end in the middle of a block.
fn holes(s: &mut Stage) {
    const KIB: u64 = 1 << 10;
    let shapes: [Shape; 7] = [
        ("empty", 1 << 20, &[]),
        ("begin", 1 << 20, &[(512 * KIB, 64 * KIB)]),
        ("end", 1 << 20, &[(0, 64 * KIB)]),
        ("many", 1 << 20, &[(0, 4 * KIB), (64 * KIB, 4 * KIB), (256 * KIB, 8 * KIB), (1020 * KIB, 4 * KIB)]),
        ("ragged", (1 << 20) - 5, &[(8 * KIB, 3), (1000 * KIB, 100)]),
        ("full", 128 * KIB, &[(0, 128 * KIB)]),
        ("large", 1 << 40, &[(1 << 39, 4 * KIB)]),
    ];
    for (name, size, data) in shapes {
        s.lower().file(name, "").truncate(name, size).unwrap();
        for (at, len) in data {
            s.lower().pwrite(name, *at, &vec![b'd'; *len as usize]).unwrap();
        }
    }
    let m = s.up();
    for (name, size, _) in shapes {
        let before = segments(s.lower(), name);
        m.pwrite(name, size - 1, b"+").unwrap();
        let now = segments(s.upper(), name);
        s.say(format!("{name} {before} to {now}"));
    }
}

pub const ROWS: &[Row] = &[
    row(
        &[1],
        "4 GiB",
        "are files of just less than, of and of just more than 4 GiB copied whole?",
        four_gib,
        "beginend+ +1 sparse true; beginend+ +1 sparse true; beginend+ +1 sparse true",
    )
    .on(&["xfs"]),
    row(
        &[4],
        "modes",
        "does a chmod copy up with each mode, and is it refused to others?",
        by_chmod,
        "0 0 data; 400 400 data; 1777 1777 data; 4755 4755 data; 2755 2755 data; 6777 6777 data; \
             644 644 data; ok EPERM EPERM; 4755, below 600",
    ),
    row(
        &[5],
        "no room for the copy",
        "is what a failed copy has taken given back?",
        too_large_for_the_upper,
        "append ENOSPC; append ok; big 4194304; .: f; work: ; unmount ok",
    ),
    row(
        &[13],
        "running programs",
        "can a running program be written to, or an open one run?",
        running_programs,
        "open ETXTBSY; truncating open ETXTBSY; truncate ETXTBSY; chmod ok; open ok; open ETXTBSY; \
             truncating open ETXTBSY; truncate ETXTBSY; chmod ok; open ok; Err(ExecutableFileBusy); Ok(true)",
    ),
    row(
        &[20],
        "root of a user namespace",
        "with whose rights does root of a user namespace copy up?",
        root_of_a_user_namespace,
        "0 0 0 1 2 0 0 0 1; mine 1234:1234 600 xy; roots 0:0 644 x; new 1234:1234 644 ",
    ),
    row(
        &[21],
        "many at once",
        "are files whole that many threads copy up at once?",
        at_once,
        "wrong: 0; left in workdir: 0",
    ),
    row(
        &[32],
        "two names at once",
        "is a file copied once that two threads copy up by two names?",
        two_names_at_once,
        "a 600 1:2 links 2; b 600 1:2 links 2; one file true; 1",
    ),
    row(
        &[64],
        "capabilities",
        "which changes take a capability away?",
        capabilities,
        "touched true; opened true; linked true; moved true; chmod true; chown ENODATA; written ENODATA; \
             tagged true",
    )
    .on(&["ext4"]),
    row(
        &[66],
        "holes",
        "are holes of every kind kept?",
        holes,
        "empty none to 255+1; begin 128+16 to 128+16 255+1; end 0+16 to 0+16 255+1; \
             many 0+1 16+1 64+2 255+1 to 0+1 16+1 64+2 255+1; ragged 2+1 250+1 to 2+1 250+1 255+1; \
             full 0+32 to 0+32; large 134217728+1 to 134217728+1 268435455+1",
    )
    .on(&["xfs"]),
];
