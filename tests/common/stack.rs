//! A stack of layers in a scratch directory, and how to fill a layer.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::{Kernel, Mount, Scratch, Tree, Who, who};

/// Lower layers (0 is the top one), an upper, a workdir and a mountpoint.
pub struct Stack {
    /// Where all of it is.
    pub scratch: Scratch,
    /// Top first.
    pub lowers: Vec<Layer>,
    /// `None` for a view that nobody can change.
    pub upper: Option<Layer>,
    /// The mountpoint.
    pub merged: PathBuf,
    /// Further `-o` options of plyfs.
    pub options: Vec<String>,
}

impl Stack {
    /// A stack of `lowers` empty lower layers and an upper.
    pub fn new(lowers: usize) -> Self {
        Stack::within(Scratch::new(), lowers)
    }

    /// The same in memory, where the machine has a place for that: nothing waits for a disk.
    pub fn in_memory(lowers: usize) -> Self {
        Stack::within(Scratch::in_memory(), lowers)
    }

    fn within(scratch: Scratch, lowers: usize) -> Self {
        Stack {
            lowers: (0..lowers).map(|i| Layer::new(scratch.dir(&format!("lower{i}")))).collect(),
            upper: Some(Layer::new(scratch.dir("upper"))),
            merged: scratch.dir("merged"),
            options: Vec::new(),
            scratch,
        }
    }

    /// The same without an upper.
    pub fn read_only(lowers: usize) -> Self {
        Stack { upper: None, ..Stack::new(lowers) }
    }

    /// Adds a mount option.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// The upper layer.
    pub fn upper(&self) -> &Layer {
        self.upper.as_ref().unwrap()
    }

    /// Gives everything in all layers the same old times.
    pub fn age(&self) -> &Self {
        self.lowers.iter().chain(&self.upper).for_each(|l| l.age());
        self
    }

    /// The options that name the layers, with the workdir `work`.
    pub fn layer_options(&self, work: &str) -> String {
        let lowers: Vec<_> = self.lowers.iter().map(|l| l.root().to_str().unwrap()).collect();
        let mut options = format!("lowerdir={}", lowers.join(":"));
        if let Some(upper) = &self.upper {
            let work = self.scratch.dir(work);
            options += &format!(",upperdir={},workdir={}", upper.root().display(), work.display());
        }
        options
    }

    /// Mounts it with the binary under test.
    pub fn mount(&self) -> Mount {
        Mount::start(self)
    }

    /// Mounts the same layers with the kernel's OverlayFS, elsewhere; `None` where that is not permitted.
    pub fn mount_kernel(&self) -> Option<Kernel> {
        let at = self.scratch.dir("kernel");
        Kernel::start(&self.layer_options("work"), &at).ok()
    }
}

/// A layer being filled. Parents of a path are made as needed.
pub struct Layer(Tree);

impl Deref for Layer {
    type Target = Tree;
    fn deref(&self) -> &Tree {
        &self.0
    }
}

/// The xattr prefix that this process can write: only root may set `trusted.*`.
pub fn prefix() -> &'static str {
    if who() == Who::Root { "trusted.overlay." } else { "user.overlay." }
}

impl Layer {
    /// A layer at an existing directory.
    pub fn new(root: PathBuf) -> Self {
        Layer(Tree::new(root))
    }

    fn parents(&self, path: &str) {
        if let Some(parent) = Path::new(path).parent() {
            std::fs::create_dir_all(self.at(parent)).unwrap();
        }
    }

    /// A file.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        self.parents(path);
        self.write(path, content).unwrap();
        self
    }

    /// A directory with this mode.
    pub fn dir(&self, path: &str, mode: u32) -> &Self {
        std::fs::create_dir_all(self.at(path)).unwrap();
        self.perm(path, mode)
    }

    /// Sets a mode.
    pub fn perm(&self, path: &str, mode: u32) -> &Self {
        self.chmod(path, mode).unwrap();
        self
    }

    /// A hard link.
    pub fn hard_link(&self, from: &str, to: &str) -> &Self {
        self.parents(to);
        self.link(from, to).unwrap();
        self
    }

    /// A symlink.
    pub fn soft_link(&self, target: &str, path: &str) -> &Self {
        self.parents(path);
        self.symlink(target, path).unwrap();
        self
    }

    /// A fifo.
    pub fn fifo(&self, path: &str) -> &Self {
        self.parents(path);
        self.mknod(path, FileType::Fifo, 0o644, 0).unwrap();
        self
    }

    /// A whiteout as the kernel makes it.
    pub fn whiteout(&self, path: &str) -> &Self {
        self.parents(path);
        self.mknod(path, FileType::CharacterDevice, 0, 0).unwrap();
        self
    }

    /// Makes a directory opaque.
    pub fn opaque(&self, path: &str) -> &Self {
        std::fs::create_dir_all(self.at(path)).unwrap();
        self.set_xattr(path, format!("{}opaque", prefix()), b"y").unwrap();
        self
    }

    /// An xattr.
    pub fn with_xattr(&self, path: &str, name: &str, value: &[u8]) -> &Self {
        self.set_xattr(path, name, value).unwrap();
        self
    }
}
