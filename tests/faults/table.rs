//! What is done while something is wrong.

use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::common::stack::Layer;
use crate::common::*;

type Result<T> = std::result::Result<T, Errno>;

/// A change in a directory.
type Op = (&'static str, fn(&Tree, &str) -> Result<()>);

/// Each of them once in each of the directories `first` and `second` of the lower layer.
pub const OPS: &[Op] = &[
    ("unlink", |t, d| t.unlink(format!("{d}/gone"))),
    ("rmdir", |t, d| t.rmdir(format!("{d}/empty"))),
    ("rename of a file", |t, d| t.rename(format!("{d}/moved"), format!("{d}/moved2"))),
    ("rename of a directory", |t, d| t.rename(format!("{d}/dir"), format!("{d}/dir2"))),
    ("rename over a file", |t, d| t.rename(format!("{d}/other"), format!("{d}/onto"))),
    ("link", |t, d| t.link(format!("{d}/linked"), format!("{d}/linked2"))),
    ("create", |t, d| t.create(format!("{d}/new"), 0o644).map(drop)),
    ("mkdir", |t, d| t.mkdir(format!("{d}/newdir"), 0o755)),
    ("symlink", |t, d| t.symlink("somewhere", format!("{d}/newlink"))),
    ("mknod", |t, d| t.mknod(format!("{d}/fifo"), FileType::Fifo, 0o600, 0)),
    ("write", |t, d| t.pwrite(format!("{d}/written"), 5, b"XXXX")),
    ("truncate", |t, d| t.truncate(format!("{d}/cut"), 3)),
    ("chmod", |t, d| t.chmod(format!("{d}/mode"), 0o600)),
    ("chown", |t, d| t.chown(format!("{d}/owned"), 1234, 1234)),
    ("setxattr", |t, d| t.set_xattr(format!("{d}/attr"), "user.new", b"value")),
];

pub const DIRS: [&str; 2] = ["first", "second"];

/// Files of such a size need room to be copied up.
const SIZE: usize = 200_000;

/// A lower layer with all that the table needs.
pub fn fill(lower: &Layer) {
    for dir in DIRS {
        lower.dir(&format!("{dir}/empty"), 0o755).file(&format!("{dir}/dir/inside"), "inside");
        for file in ["gone", "moved", "other", "onto", "linked", "written", "cut", "mode", "owned", "attr"] {
            lower.file(&format!("{dir}/{file}"), vec![b'x'; SIZE]);
        }
    }
}

/// What came of each.
pub type Done = Vec<(&'static str, Result<()>)>;

/// Does them all; each is there or has changed nothing, as it says.
pub fn run(tree: &Tree, dir: &str) -> Done {
    let at = Tree::new(tree.at(dir));
    OPS.iter()
        .map(|(name, op)| {
            let before = View::of(&at, Walk::default());
            let done = op(tree, dir);
            let same = View::of(&at, Walk::default()).difference(&before);
            assert_eq!(same.is_none(), done.is_err(), "{name}: {done:?}, but{}", same.unwrap_or_default());
            (*name, done)
        })
        .collect()
}

/// The same without a look at what is there: where that cannot be read.
pub fn run_blindly(tree: &Tree, dir: &str) -> Done {
    OPS.iter().map(|(name, op)| (*name, op(tree, dir))).collect()
}

/// Those that failed, in words.
pub fn failed(done: &Done) -> Vec<String> {
    done.iter().filter_map(|(name, done)| done.err().map(|errno| format!("{name}: {}", code(errno)))).collect()
}

/// Does again what failed.
pub fn run_again(tree: &Tree, dir: &str, done: &Done) {
    for ((name, op), (_, done)) in OPS.iter().zip(done) {
        if done.is_err() {
            op(tree, dir).unwrap_or_else(|errno| panic!("{name}, when the cause is gone: {errno:?}"));
        }
    }
}

/// An upper layer and a workdir for `who` on a file system, and where they are mounted.
pub struct Layers {
    pub options: String,
    pub work: PathBuf,
    pub at: PathBuf,
    pub log: PathBuf,
}

impl Layers {
    pub fn new(lower: &Path, on: &Path, scratch: &Scratch, who: &str) -> Self {
        let dir = |name: &str| {
            let dir = on.join(format!("{who}-{name}"));
            std::fs::create_dir(&dir).unwrap();
            dir
        };
        let (upper, work) = (dir("upper"), dir("work"));
        let paths = [lower, &upper, &work].map(|path| path.to_str().unwrap().to_owned());
        let options = format!("lowerdir={},upperdir={},workdir={}", paths[0], paths[1], paths[2]);
        let (at, log) = (scratch.dir(&format!("{who}-merged")), scratch.path().join(format!("{who}-log")));
        Layers { options, work, at, log }
    }

    pub fn mount(&self) -> Mount {
        Mount::with(&self.options, &self.at, &self.log)
    }

    /// The kernel's OverlayFS.
    pub fn mount_kernel(&self) -> Kernel {
        let options = format!("{},index=on,xino=on,redirect_dir=on,metacopy=on", self.options);
        Kernel::with(&options, &self.at).unwrap()
    }

    /// Nothing is in workdir but whiteouts, of which others are links; what was removed while somebody had it goes when the
    /// kernel forgets it.
    pub fn assert_clean(&self, when: &str) {
        let work = Tree::new(self.work.join("work"));
        let left =
            || -> Vec<_> { work.names("").unwrap().into_iter().filter(|name| !work.is_whiteout(name)).collect() };
        assert!(mount::wait_until(|| left().is_empty()), "{when}, in workdir: {:?}", left());
    }
}
