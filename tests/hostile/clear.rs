//! When set-user-id, set-group-id and capabilities go: a plain directory of the machine says it, the view must agree.

use std::collections::BTreeMap;

use rustix::fs::{self as sys, FallocateFlags, OFlags};
use rustix::io::Result;

use crate::attributes::capability;
use crate::common::*;
use crate::{Ran, not_here};

const MODES: [u32; 8] = [0o4777, 0o2777, 0o6777, 0o6767, 0o2767, 0o4711, 0o6711, 0o777];

type Act = fn(&Tree, &str) -> Result<()>;

/// Everything that may end a privilege, but for chown(2) to no owner and no group: of that the daemon hears nothing.
const ACTS: [(&str, Act); 16] = [
    ("write", |tree, path| tree.pwrite(path, 0, b"y")),
    ("append", |tree, path| tree.append(path, "y")),
    ("write of nothing", |tree, path| tree.pwrite(path, 0, b"")),
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
    ("chown to his group", |tree, path| {
        let st = tree.stat(path)?;
        tree.chown(path, st.st_uid, GROUP)
    }),
    ("utimes", |tree, path| tree.utimes(path, tree::OLD)),
    ("rename", |tree, path| tree.rename(path, format!("{path}-moved"))),
];

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

/// What each case answers, and the mode and capability that are left.
fn outcomes(tree: &Tree) -> BTreeMap<Key, (Result<()>, u32, bool)> {
    let mut done = BTreeMap::new();
    for key in keys() {
        let (path, act) = (name(&key), ACTS.iter().find(|(name, _)| *name == key.1).unwrap().1);
        let mut result = Ok(());
        key.0.run(|| result = act(tree, &path));
        let left = if tree.has(&path) { path } else { format!("{path}-moved") };
        let capable = tree.xattr(&left, "security.capability").is_ok();
        done.insert(key, (result, tree.mode(&left), capable));
    }
    done
}

fn compare(lower: bool, options: &str) {
    let (stack, mut wrong) = (Stack::new(1).option(options), Vec::new());
    let native = Tree::new(stack.scratch.dir("native"));
    fill(&native);
    if lower {
        fill(&stack.lowers[0]);
        stack.upper().chmod("", 0o777).unwrap();
    } else {
        fill(stack.upper());
    }
    let before = view::layer(stack.lowers[0].root());
    let mount = stack.mount();
    let (ours, theirs) = (outcomes(&mount), outcomes(&native));
    for (key, want) in &theirs {
        let got = &ours[key];
        if got != want {
            wrong.push(format!(
                "{}: {:?} {:o} {}, not {:?} {:o} {}",
                name(key),
                got.0,
                got.1,
                got.2,
                want.0,
                want.1,
                want.2
            ));
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
    println!("{} cases on {layer} files ({options}) as in a plain directory", theirs.len());
}

/// fo1 leaves the owner's set-user-id, fo2 4777 and 6777.
pub fn privileges_of_a_changed_file_go_as_in_a_plain_directory() -> Ran {
    if who() != Who::Root {
        return not_here("four users are needed");
    }
    compare(true, "rw");
    compare(false, "rw");
    Ok(())
}

/// The same in the other ways that data goes.
pub fn privileges_go_in_each_way_that_data_goes() -> Ran {
    if who() != Who::Root || !mount::is_plyfs() {
        return not_here("four users and plyfs are needed");
    }
    for options in ["io=passthrough", "io=writeback", "copyup=open", "metacopy=off", "noacl"] {
        compare(true, options);
    }
    Ok(())
}
