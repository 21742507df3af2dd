//! One row: what is asked, the layers it is asked on, and what was seen.

use std::fmt::Display;
use std::path::PathBuf;

use crate::common::stack::Layer;
use crate::common::*;

/// A row of the table.
#[derive(Clone, Copy)]
pub struct Row {
    /// Its name, one word or a few.
    pub id: &'static str,
    /// The numbers of the classes of case that it belongs to; see `classes`.
    pub classes: &'static [u16],
    /// What it asks, in words.
    pub asks: &'static str,
    /// Who answers.
    pub by: By,
}

/// Who answers for a row.
#[derive(Clone, Copy)]
pub enum By {
    /// A function here, run on plyfs and on the kernel's OverlayFS.
    Here(Case),
    /// A test, or a row of another table, by its file and name.
    Covered(&'static str, &'static str),
    /// There is no such thing in plyfs; why, and words of the documents that say so.
    Without(&'static str, &'static str),
}

/// A question with its answer.
#[derive(Clone, Copy)]
pub struct Case {
    /// Mounts, changes and says what it sees.
    pub run: fn(&mut Stage),
    /// The answer: what was said, in one line.
    pub ours: &'static str,
    /// The kernel's answer where it is another, why ours is, and words of the documents that say so.
    pub unlike: Option<(&'static str, &'static str, &'static str)>,
    /// Mount options of both.
    pub options: &'static str,
    /// How many lower layers there are.
    pub lowers: usize,
    /// The file systems of the lower layers by number, then the one of all else; none: one in memory.
    pub systems: &'static [&'static str],
    /// Holds for normal users, too.
    pub users: bool,
}

/// All that the format can hold.
pub const ALL: &str = "redirect_dir=on,index=on,metacopy=on,xino=on";

/// A row in which the kernel's OverlayFS gives the same answer.
pub const fn row(
    classes: &'static [u16],
    id: &'static str,
    asks: &'static str,
    run: fn(&mut Stage),
    ours: &'static str,
) -> Row {
    let case = Case { run, ours, unlike: None, options: ALL, lowers: 1, systems: &[], users: false };
    Row { id, classes, asks, by: By::Here(case) }
}

/// A row that another test answers.
pub const fn covered(classes: &'static [u16], asks: &'static str, file: &'static str, name: &'static str) -> Row {
    Row { id: name, classes, asks, by: By::Covered(file, name) }
}

/// A row about something that plyfs does not have; `words` of the documents say so.
pub const fn without(
    classes: &'static [u16],
    id: &'static str,
    asks: &'static str,
    why: &'static str,
    words: &'static str,
) -> Row {
    Row { id, classes, asks, by: By::Without(why, words) }
}

impl Row {
    /// The kernel answers otherwise; why plyfs does not, and the words of the documents that say so.
    pub const fn unlike(mut self, kernel: &'static str, why: &'static str, words: &'static str) -> Self {
        if let By::Here(case) = &mut self.by {
            case.unlike = Some((kernel, why, words));
        }
        self
    }

    pub const fn options(mut self, options: &'static str) -> Self {
        if let By::Here(case) = &mut self.by {
            case.options = options;
        }
        self
    }

    pub const fn lowers(mut self, lowers: usize) -> Self {
        if let By::Here(case) = &mut self.by {
            case.lowers = lowers;
        }
        self
    }

    /// The file systems of the lower layers, then of the upper one and all other lower layers.
    pub const fn on(mut self, systems: &'static [&'static str]) -> Self {
        if let By::Here(case) = &mut self.by {
            case.systems = systems;
        }
        self
    }

    /// Normal users get the same answer.
    pub const fn users(mut self) -> Self {
        if let By::Here(case) = &mut self.by {
            case.users = true;
        }
        self
    }
}

/// Who is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Plyfs,
    Kernel,
}

/// A mount of either; it ends with the value.
enum Live {
    Plyfs(Mount),
    #[expect(dead_code, reason = "is unmounted when it goes")]
    Kernel(Kernel),
}

/// An overlay that is the first lower layer of another.
struct Below {
    options: String,
    at: PathBuf,
    live: Option<Live>,
}

/// The layers of a case, who mounts them, and what was seen.
pub struct Stage {
    // First: they are unmounted before their mountpoints go.
    _systems: Vec<System>,
    pub side: Side,
    pub stack: Stack,
    /// The name of the workdir.
    pub work: &'static str,
    options: &'static str,
    live: Option<Live>,
    below: Option<Below>,
    said: Vec<String>,
}

/// A result in a word.
pub fn told<T>(result: rustix::io::Result<T>) -> String {
    result.map_or_else(code, |_| "ok".into())
}

/// A file's content, or the error.
pub fn text(tree: &Tree, path: &str) -> String {
    tree.read(path).map_or_else(code, |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

impl Stage {
    /// Empty layers for a case; an error is why there are none here.
    pub fn new(case: &Case, side: Side) -> Result<Self, String> {
        let root = who() == Who::Root;
        // Images of file systems: others may keep the disk busy.
        let scratch = if root { Scratch::in_memory() } else { Scratch::new() };
        let mut systems = Vec::new();
        for kind in if root && case.systems.is_empty() { &["tmpfs"] } else { case.systems } {
            systems.push(System::native(kind, &scratch)?);
        }
        let place = |i: usize| systems.get(i).or(systems.last()).map_or(scratch.path(), System::root);
        // The last file system is not for one lower layer only.
        let own = systems.len().saturating_sub(1);
        let dir = |i: usize, name: &str| {
            let path = place(i).join(name);
            std::fs::create_dir(&path).unwrap();
            Layer::new(path)
        };
        let lowers = (0..case.lowers).map(|i| dir(i.min(own), &format!("lower{i}"))).collect();
        let upper = Some(dir(own, "upper"));
        for i in 0..systems.len().max(1) {
            rustix::fs::chmod(place(i), 0o755.into()).unwrap();
        }
        let merged = scratch.dir("merged");
        let options = if root { case.options } else { "" };
        let stack = Stack { scratch, lowers, upper, merged, options: Vec::new() };
        let (live, below, said) = (None, None, Vec::new());
        Ok(Stage { side, stack, work: "work", options, live, below, said, _systems: systems })
    }

    /// The first lower layer.
    pub fn lower(&self) -> &Layer {
        &self.stack.lowers[0]
    }

    /// The upper layer.
    pub fn upper(&self) -> &Layer {
        self.stack.upper()
    }

    /// The directory beside the upper layer with this name: a workdir.
    pub fn beside(&self, name: &str) -> Layer {
        let path = self.upper().root().with_file_name(name);
        std::fs::create_dir_all(&path).unwrap();
        Layer::new(path)
    }

    /// The options that name the layers.
    pub fn layers(&self) -> String {
        let lowers: Vec<_> = self.stack.lowers.iter().map(|l| l.root().to_str().unwrap()).collect();
        let mut options = format!("lowerdir={}", lowers.join(":"));
        if let Some(upper) = &self.stack.upper {
            options += &format!(",upperdir={}", upper.root().display());
            options += &format!(",workdir={}", self.beside(self.work).root().display());
        }
        options
    }

    fn start(&self, options: &str, at: &std::path::Path) -> Result<Live, String> {
        let options = options.trim_end_matches(',');
        match self.side {
            Side::Plyfs => Mount::try_with(options, at, &self.stack.scratch.path().join("log")).map(Live::Plyfs),
            Side::Kernel => Kernel::with(options, at).map(Live::Kernel).map_err(|e| e.to_string()),
        }
    }

    /// Mounts the layers with these options; what was wrong if it is refused.
    pub fn try_up(&mut self, options: &str) -> Result<Tree, String> {
        assert!(self.live.is_none(), "mounted already");
        self.live = Some(self.start(options, &self.stack.merged)?);
        Ok(Tree::new(&self.stack.merged))
    }

    /// Mounts the layers with the case's options.
    pub fn up(&mut self) -> Tree {
        let options = format!("{},{}", self.layers(), self.options);
        self.try_up(&options).unwrap_or_else(|why| panic!("mount -o {options}: {why}"))
    }

    /// Unmounts; a daemon must end well.
    pub fn down(&mut self) {
        match self.live.take() {
            Some(Live::Plyfs(mut mount)) => {
                let status = mount.unmount().unwrap();
                assert!(status.success(), "the daemon ended with {status}: {}", mount.messages());
            }
            _ => {
                // What another thread of the tests has just started holds a copy of the mount for an instant.
            }
        }
    }

    /// Unmounts and mounts again, an overlay below too.
    pub fn again(&mut self) -> Tree {
        self.down();
        if let Some(mut below) = self.below.take() {
            below.live = None;
            below.live = Some(self.start(&below.options, &below.at).unwrap());
            self.below = Some(below);
        }
        self.up()
    }

    /// The options of the case.
    pub fn options(&self) -> &'static str {
        self.options
    }

    /// Mounts what is not mounted, or mounts it again.
    pub fn again_or_up(&mut self) -> Tree {
        if self.live.is_some() { self.again() } else { self.up() }
    }

    /// Mounts other layers with these options, elsewhere, for a moment: how that ended, in a word.
    pub fn other(&self, options: &str) -> &'static str {
        let at = self.stack.scratch.fresh("other");
        let done = match self.side {
            Side::Plyfs => Mount::try_with(options, &at, &self.stack.scratch.path().join("log-other")).is_ok(),
            Side::Kernel => {
                let data = std::ffi::CString::new(options).unwrap();
                let flags = rustix::mount::MountFlags::empty();
                let done = rustix::mount::mount("overlay", &at, "overlay", flags, data.as_c_str()).is_ok();
                if done {
                    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty()).unwrap();
                }
                done
            }
        };
        if done { "mounted" } else { "refused" }
    }

    /// Puts an overlay of the same kind, with an upper layer of its own, in place of the first lower layer.
    pub fn nest(&mut self) {
        let root = self.lower().root().to_owned();
        let dir = |name: &str| {
            let path = root.with_file_name(name);
            std::fs::create_dir(&path).unwrap();
            path.display().to_string()
        };
        let (upper, work) = (dir("below-upper"), dir("below-work"));
        let options = format!("lowerdir={},upperdir={upper},workdir={work},{}", root.display(), self.options);
        let at = self.stack.scratch.dir("below");
        let live = Some(self.start(&options, &at).unwrap());
        self.stack.lowers[0] = Layer::new(at.clone());
        self.below = Some(Below { options, at, live });
    }

    /// Writes down what was seen.
    pub fn say(&mut self, what: impl Display) {
        self.said.push(what.to_string());
    }

    /// All that was said, in one line, once everything is unmounted.
    pub fn end(mut self) -> String {
        self.down();
        self.below = None;
        std::mem::take(&mut self.said).join("; ")
    }

    /// The names in a directory, or the error.
    pub fn list(&mut self, tree: &Tree, path: &str) {
        let names = tree.names(path).map_or_else(code, |names| names.join(" "));
        self.say(format!("{}: {names}", if path.is_empty() { "." } else { path }));
    }

    /// A result in a word.
    pub fn did<T>(&mut self, what: &str, result: rustix::io::Result<T>) {
        self.say(format!("{what} {}", told(result)));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.live = None;
        self.below = None;
    }
}
