//! When set-user-id, set-group-id and capabilities go: the kernel's OverlayFS says it (else a plain directory of the
//! machine), the view must agree; and so must the mode by which the kernel starts a program, which it may have kept.

use std::collections::BTreeMap;
use std::process::Command;

use rustix::fs::{self as sys, AtFlags, CWD, FallocateFlags, OFlags};
use rustix::io::Result;

use crate::attributes::capability;
use crate::common::*;
use crate::{Ran, not_here};

const MODES: [u32; 8] = [0o4777, 0o2777, 0o6777, 0o6767, 0o2767, 0o4711, 0o6711, 0o777];

type Act = fn(&Tree, &str) -> Result<()>;

/// Everything that may end a privilege.
const ACTS: [(&str, Act); 21] = [
    ("write", |tree, path| tree.pwrite(path, 0, b"y")),
    ("append", |tree, path| tree.append(path, "y")),
    ("write of nothing", |tree, path| tree.pwrite(path, 0, b"")),
    ("write twice", |tree, path| {
        let file = tree.open(path, OFlags::WRONLY)?;
        tree::pwrite_all(&file, b"y", 0).and_then(|()| tree::pwrite_all(&file, b"y", 50))
    }),
    ("write directly", |tree, path| {
        let (file, buffer) = (tree.open(path, OFlags::WRONLY | OFlags::DIRECT)?, vec![b'y'; 3 * 4096]);
        let start = buffer.as_ptr().align_offset(4096);
        tree::pwrite_all(&file, &buffer[start..start + 4096], 0)
    }),
    ("sendfile", |tree, path| {
        let (from, to) = (tree.open("source", OFlags::RDONLY)?, tree.open(path, OFlags::WRONLY)?);
        sys::sendfile(&to, &from, None, 100).map(drop)
    }),
    ("splice", |tree, path| {
        let (read, write) = rustix::pipe::pipe()?;
        rustix::io::write(&write, b"y")?;
        let to = tree.open(path, OFlags::WRONLY)?;
        rustix::pipe::splice(&read, None, &to, Some(&mut 10), 1, rustix::pipe::SpliceFlags::empty()).map(drop)
    }),
    ("truncate to less", |tree, path| tree.truncate(path, 3)),
    ("truncate to the same", |tree, path| tree.truncate(path, 100)),
    ("truncate to nothing", |tree, path| tree.truncate(path, 0)),
    ("truncate by name", |tree, path| {
        // Not by way of a descriptor.
        let path = std::ffi::CString::new(tree.at(path).into_os_string().into_encoded_bytes()).unwrap();
        raw::truncate_path(&path, 5)
    }),
    ("open with O_TRUNC", |tree, path| tree.open(path, OFlags::WRONLY | OFlags::TRUNC).map(drop)),
    ("fallocate", |tree, path| sys::fallocate(tree.open(path, OFlags::RDWR)?, FallocateFlags::empty(), 0, 200)),
    ("punch", |tree, path| {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        sys::fallocate(tree.open(path, OFlags::RDWR)?, how, 0, 50)
    }),
    ("copy_file_range", |tree, path| {
        let (from, to) = (tree.open("source", OFlags::RDONLY)?, tree.open(path, OFlags::WRONLY)?);
        sys::copy_file_range(&from, None, &to, None, 100).map(drop)
    }),
    ("chmod to the same", |tree, path| tree.chmod(path, tree.mode(path))),
    ("chown to the same", |tree, path| {
        let st = tree.stat(path)?;
        tree.chown(path, st.st_uid, st.st_gid)
    }),
    (TO_NOBODY, |tree, path| sys::chownat(CWD, tree.at(path), None, None, AtFlags::SYMLINK_NOFOLLOW)),
    ("chown to his group", |tree, path| {
        let st = tree.stat(path)?;
        tree.chown(path, st.st_uid, GROUP)
    }),
    ("utimes", |tree, path| tree.utimes(path, tree::OLD)),
    ("rename", |tree, path| tree.rename(path, format!("{path}-moved"))),
];

const TO_NOBODY: &str = "chown to no owner and no group";
const OWNER: u32 = 1234;
const GROUP: u32 = 4321;

/// Who does it: his ids, and whether the file is his.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Caller {
    Root,
    Owner,
    Member,
    Other,
}

impl Caller {
    fn run(self, act: impl FnOnce() + Send) {
        match self {
            Caller::Root => act(),
            Caller::Owner => as_user(OWNER, OWNER, act),
            Caller::Member => as_user(777, GROUP, act),
            Caller::Other => as_user(999, 999, act),
        }
    }
}

type Key = (Caller, &'static str, u32, bool);

fn name(key: &Key) -> String {
    let (caller, act, mode, capable) = key;
    format!("{caller:?}-{}-{mode:o}{}", act.replace(' ', "-"), if *capable { "-cap" } else { "" })
}

/// All cases, each on a file of its own.
fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    for caller in [Caller::Root, Caller::Owner, Caller::Member, Caller::Other] {
        for (act, _) in ACTS {
            // Capabilities go the same way whatever the mode is.
            keys.extend(MODES.map(|mode| (caller, act, mode, mode == 0o6777 || mode == 0o777)));
        }
    }
    keys
}

fn fill(layer: &Tree) {
    layer.write("source", "s".repeat(100)).unwrap();
    layer.chmod("source", 0o644).unwrap();
    for key in keys() {
        let path = name(&key);
        layer.write(&path, "x".repeat(100)).unwrap();
        layer.chown(&path, OWNER, GROUP).unwrap();
        layer.chmod(&path, key.2).unwrap();
        if key.3 {
            layer.set_xattr(&path, "security.capability", &capability()).unwrap();
        }
    }
    layer.chmod("", 0o777).unwrap();
}

/// What each case answers, and the mode, as the kernel has kept it, and capability that are left.
fn outcomes(tree: &Tree) -> Outcomes {
    let mut done = BTreeMap::new();
    for key in keys() {
        let (path, act) = (name(&key), ACTS.iter().find(|(name, _)| *name == key.1).unwrap().1);
        let mut result = Ok(());
        tree.stat(&path).unwrap();
        key.0.run(|| result = act(tree, &path));
        let left = if key.1 == "rename" && result.is_ok() { format!("{path}-moved") } else { path };
        let mode = Kept::mode(tree, &left).unwrap();
        let capable = tree.xattr(&left, "security.capability").is_ok();
        done.insert(key, (result, mode, capable));
    }
    done
}

/// The same layers for both.
fn fill_layer(stack: &Stack, lower: bool) {
    fill(if lower { &stack.lowers[0] } else { stack.upper() });
    stack.upper().chmod("", 0o777).unwrap();
}

/// Where the view answers otherwise, as the kernel does not say to the daemon what it asks for: the same two requests end
/// a capability before root's write, which leaves the rest, and for his chown(2); and the owner is not asked for first.
fn is_known(key: &Key, got: (Result<()>, u32, bool), want: (Result<()>, u32, bool)) -> bool {
    let (caller, act, mode, capable) = *key;
    let to_nobody = act == TO_NOBODY && got.0.is_ok() && got.1 == mode && !got.2;
    let refused = want.0 == Err(Errno::PERM) && want.1 == mode;
    to_nobody && (refused || (caller == Caller::Root && capable))
}

type Outcomes = BTreeMap<Key, (Result<()>, u32, bool)>;

/// What the kernel's OverlayFS says, or a plain directory where it cannot be mounted.
fn expected(lower: bool) -> Outcomes {
    let stack = Stack::new(1);
    fill_layer(&stack, lower);
    if let Some(kernel) = stack.mount_kernel() {
        return outcomes(&kernel);
    }
    say_skipped("the kernel's OverlayFS: a plain directory stands for it");
    let native = Tree::new(stack.scratch.dir("native"));
    fill(&native);
    outcomes(&native)
}

fn compare(lower: bool, options: &[&str]) {
    let theirs = expected(lower);
    options.iter().filter(|options| is_offered(options)).for_each(|options| compare_with(&theirs, lower, options));
}

fn compare_with(theirs: &Outcomes, lower: bool, options: &str) {
    let (stack, mut wrong) = (Stack::new(1).option(options), Vec::new());
    fill_layer(&stack, lower);
    let before = view::layer(stack.lowers[0].root());
    let mount = stack.mount();
    let ours = outcomes(&mount);
    for (key, want) in theirs {
        let got = &ours[key];
        if got != want && !is_known(key, *got, *want) {
            let tell = |(result, mode, capable): (Result<()>, u32, bool)| format!("{result:?} {mode:o} {capable}");
            wrong.push(format!("{}: {}, not {}", name(key), tell(*got), tell(*want)));
        }
        // What lies in the layer is what is shown.
        let left = [format!("{}-moved", name(key)), name(key)].into_iter().find(|path| stack.upper().has(path));
        if let Some(path) = left.filter(|path| stack.upper().mode(path) != got.1) {
            wrong.push(format!("{path}: {:o} in the upper layer, {:o} in the view", stack.upper().mode(&path), got.1));
        }
    }
    drop(mount);
    view::layer(stack.lowers[0].root()).assert_same(&before, "the lower layer");
    let layer = if lower { "lower" } else { "upper" };
    assert!(wrong.is_empty(), "{} of {} {layer} files ({options}):\n{}", wrong.len(), theirs.len(), wrong.join("\n"));
    println!("{} cases on {layer} files ({options}) as elsewhere", theirs.len());
}

/// fo1 leaves the owner's set-user-id, fo2 4777 and 6777.
pub fn privileges_of_a_changed_file_go_as_in_a_plain_directory() -> Ran {
    if who() != Who::Root {
        return not_here("four users are needed");
    }
    compare(true, &["rw"]);
    compare(false, &["rw"]);
    Ok(())
}

/// The same in the other ways that data goes.
pub fn privileges_go_in_each_way_that_data_goes() -> Ran {
    if who() != Who::Root || !mount::is_plyfs() {
        return not_here("four users and plyfs are needed");
    }
    compare(true, &["io=passthrough", "io=writeback", "copyup=open", "metacopy=off", "noacl"]);
    Ok(())
}

/// And for files that stand in the upper layer.
pub fn privileges_of_an_upper_file_go_in_each_way_that_data_goes() -> Ran {
    if who() != Who::Root || !mount::is_plyfs() {
        return not_here("four users and plyfs are needed");
    }
    compare(false, &["io=passthrough", "io=writeback", "copyup=open"]);
    Ok(())
}

/// What each way of changing a program leaves it able to do.
const WAYS: [&str; 5] = ["rw", "io=passthrough", "io=writeback", "copyup=open", "copyup_block=4K"];

/// A user writes a program of his own over one of root's that anybody may write to, in one write; or a byte at the end of
/// one that was opened for him. Then he starts it.
pub fn a_program_that_a_user_has_written_runs_as_that_user() -> Ran {
    let Ok(mut program) = std::fs::read("/usr/bin/id") else { return not_here("a program id is needed") };
    if who() != Who::Root || !mount::is_plyfs() {
        return not_here("two users and plyfs are needed");
    }
    program.resize(1 << 20, 0);
    for options in WAYS.into_iter().filter(|options| is_offered(options)) {
        let stack = Stack::new(1).option(options);
        let mut cases = Vec::new();
        for (layer, name) in [(&stack.lowers[0], "lower"), (stack.upper(), "upper")] {
            for (mode, handed) in [(0o4777, false), (0o2777, false), (0o6777, false), (0o4755, true), (0o6755, true)] {
                let path = format!("{name}-{mode:o}");
                layer.file(&path, &program).perm(&path, mode);
                cases.push((path, handed));
            }
        }
        let mount = stack.mount();
        for (path, handed) in cases {
            let starts = |what: &str, ids: &[&str]| {
                let started = Command::new(mount.at(&path)).output().unwrap();
                let said = String::from_utf8_lossy(&started.stdout).into_owned();
                assert_eq!(
                    ids.iter().all(|id| !said.contains(id)),
                    what == "after",
                    "{path} {what} ({options}): {said}"
                );
            };
            let id = if path.contains("2777") { "egid=0(root)" } else { "euid=0(root)" };
            as_user(999, 999, || starts("before", &[id]));
            let file = mount.open(&path, OFlags::WRONLY).unwrap();
            as_user(999, 999, || {
                if handed {
                    tree::pwrite_all(&file, b"x", (1 << 20) - 1).unwrap();
                } else {
                    mount.pwrite(&path, 0, &program).unwrap();
                }
            });
            drop(file);
            as_user(999, 999, || starts("after", &["egid=0(root)", "euid=0(root)"]));
        }
    }
    Ok(())
}
