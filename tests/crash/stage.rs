//! Layers for one run after the other, and who looks at them afterwards.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use plyfs::config::{Config, Fsync, XattrPermissions};
use plyfs::testing::seam::{Call, traced};

use crate::common::{Kernel, Scratch, view};
use crate::engine::{Engine, View, config};
use crate::rows::Row;

/// Who looks at what was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    Plyfs,
    Kernel,
}

/// The lower layers that all runs share, and a place for their upper layers.
pub struct Stage {
    scratch: Scratch,
    lowers: [PathBuf; 2],
    lowers_before: [view::View; 2],
    fsync: Fsync,
    /// Marks can be written, as the index needs it.
    index: bool,
    /// Where owners and modes are written.
    owners: Option<XattrPermissions>,
}

/// What an operation starts from and what it leads to.
pub struct Views {
    pub before: View,
    pub after: View,
    pub middle: Option<View>,
    /// What the operation answers.
    pub answer: String,
}

impl Stage {
    pub fn new(fsync: Fsync, index: bool, owners: Option<XattrPermissions>) -> Self {
        // Of all that it does here, plyfs only waits for the disk.
        let scratch = Scratch::in_memory();
        let lowers = [scratch.dir("lower"), scratch.dir("below")];
        crate::rows::lowers(lowers.each_ref().map(PathBuf::as_path));
        let lowers_before = lowers.each_ref().map(|lower| view::layer(lower));
        Stage { scratch, lowers, lowers_before, fsync, index, owners }
    }

    /// Whether owners and modes stand in attributes.
    pub fn has_marks(&self) -> bool {
        self.owners.is_some()
    }

    pub fn assert_lowers_unchanged(&self) {
        for (lower, before) in self.lowers.iter().zip(&self.lowers_before) {
            view::layer(lower).assert_same(before, "a lower layer was changed");
        }
    }

    /// No descriptor of what is in the layers is left. Other threads have other layers.
    pub fn has_nothing_open(&self) -> Result<(), String> {
        let open =
            std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
        let left: Vec<_> = open.filter(|target| target.starts_with(self.scratch.path())).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("still open: {left:?}")) }
    }

    /// A new upper layer and workdir.
    pub fn layers(&self) -> Layers<'_> {
        self.layers_over(self.owners)
    }

    fn layers_over(&self, owners: Option<XattrPermissions>) -> Layers<'_> {
        let base = self.scratch.fresh("run");
        for dir in ["upper", "work", "merged"] {
            std::fs::create_dir(base.join(dir)).unwrap();
        }
        Layers { lowers: &self.lowers, base, fsync: self.fsync, index: self.index, owners }
    }

    /// Whether the operation can be done here: not all can where a file system lacks something.
    pub fn allows(&self, row: &Row) -> bool {
        let layers = self.layers();
        let engine = layers.open();
        row.before(&engine).is_ok() && row.middle(&engine).is_ok() && {
            let layers = self.layers();
            let engine = layers.open();
            row.before(&engine).and_then(|()| row.act(&engine)).is_ok()
        }
    }

    /// The calls that the operation makes, and then the end of the engine.
    pub fn calls(&self, row: &Row) -> (Vec<Call>, usize) {
        let layers = self.layers();
        let engine = layers.before(row);
        let (_, of_act) = traced(|| row.act(&engine).unwrap_or_else(|errno| panic!("{}: {errno}", row.name)));
        let (_, of_end) = traced(|| drop(engine));
        let end = of_end.len();
        (of_act, end)
    }

    /// What the reader shows without the operation, and with it.
    pub fn views(&self, row: &Row, reader: Reader) -> Views {
        self.views_over(self.owners, row, reader)
    }

    /// The same where owners are written elsewhere.
    pub fn views_over(&self, owners: Option<XattrPermissions>, row: &Row, reader: Reader) -> Views {
        let mut answer = String::new();
        let mut view = |with: bool| {
            let layers = self.layers_over(owners);
            let engine = layers.before(row);
            if with {
                answer = row.act(&engine).unwrap_or_else(|errno| panic!("{}: {errno}", row.name));
            }
            drop(engine);
            layers.read(reader).unwrap()
        };
        let (before, after) = (view(false), view(true));
        let layers = self.layers_over(owners);
        let engine = layers.before(row);
        let middle = row.middle(&engine).unwrap_or_else(|errno| panic!("{}: {errno}", row.name));
        drop(engine);
        let middle = middle.then(|| layers.read(reader).unwrap());
        assert_eq!(before != after, row.changes(), "{}: {}", row.name, after.difference(&before));
        Views { before, after, middle, answer }
    }
}

/// The layers of one run; they go with it.
pub struct Layers<'a> {
    lowers: &'a [PathBuf; 2],
    base: PathBuf,
    fsync: Fsync,
    index: bool,
    owners: Option<XattrPermissions>,
}

impl Drop for Layers<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.base);
    }
}

impl Layers<'_> {
    pub fn open(&self) -> Engine {
        let config = config(&self.lowers[0], &self.base);
        let index = self.index.then_some(true);
        let (lowers, xattr_permissions) = (self.lowers.to_vec(), self.owners);
        Engine::with(Config { lowers, index, fsync: self.fsync, xattr_permissions, ..config })
    }

    /// An engine in the state from which the operation starts. No name is known to it that `before` has not used.
    pub fn before(&self, row: &Row) -> Engine {
        let engine = self.open();
        row.before(&engine).unwrap_or_else(|errno| panic!("before {}: {errno}", row.name));
        engine
    }

    /// The view of a new mount.
    pub fn read(&self, reader: Reader) -> Result<View, String> {
        match reader {
            Reader::Plyfs => self.open().view().map_err(|errno| format!("not to be read: {errno}")),
            Reader::Kernel => {
                let (lowers, base) = (self.lowers.each_ref().map(|lower| lower.display()), self.base.display());
                let [lower, below] = lowers;
                let layers = format!("lowerdir={lower}:{below},upperdir={base}/upper,workdir={base}/work");
                let at = self.base.join("merged");
                let options = format!("{layers},redirect_dir=on,metacopy=on,index=on,xino=on");
                let _kernel = Kernel::with(&options, &at).map_err(|error| format!("not mounted: {error}"))?;
                Ok(View::of(&at))
            }
        }
    }

    /// When all names of the lower file are gone, its entry in the index goes, too, whatever was counted.
    pub fn empties_its_index(&self) -> Result<(), String> {
        let engine = self.open();
        let view = engine.view().map_err(|errno| errno.to_string())?;
        for path in view.linked() {
            engine.unlink(path).map_err(|errno| format!("unlink of {path}: {errno}"))?;
        }
        drop(engine);
        drop(self.open());
        let left = names(&self.base.join("work/index"));
        if left.is_empty() { Ok(()) } else { Err(format!("all names are gone, the index has {left:?}")) }
    }

    /// Nothing is left in workdir by what came before the last mount.
    pub fn is_tidy(&self) -> Result<(), String> {
        let left = names(&self.base.join("work/work"));
        if left.is_empty() { Ok(()) } else { Err(format!("left in workdir: {left:?}")) }
    }

    /// Nothing is in workdir now but the one whiteout of which others are links.
    pub fn is_clean(&self) -> Result<(), String> {
        let work = self.base.join("work/work");
        let (mut left, mut shared) = (names(&work), 0);
        left.retain(|name| {
            let stat = std::fs::symlink_metadata(work.join(name)).unwrap();
            let marked = rustix::fs::lgetxattr(work.join(name), "trusted.overlay.whiteout", &mut [0u8; 8][..]).is_ok();
            let whiteout = marked || (stat.file_type().is_char_device() && stat.rdev() == 0);
            shared += usize::from(whiteout);
            !whiteout
        });
        if left.is_empty() && shared <= 1 { Ok(()) } else { Err(format!("in workdir: {left:?}, {shared} whiteouts")) }
    }
}

/// Every entry of the index has a name: a link in the upper layer, or a lower name that the upper layer does not cover.
pub fn index_is_tidy(layers: &Layers<'_>, view: &View) -> Result<(), String> {
    let index = layers.base.join("work/index");
    for entry in names(&index) {
        if std::fs::symlink_metadata(index.join(&entry)).unwrap().nlink() > 1 {
            continue;
        }
        let below = |name: &&&str| view.has(name) && !layers.base.join("upper").join(name).exists();
        if crate::rows::LINKED.iter().find(below).is_none() {
            return Err(format!("the index has an entry without a name: {entry}"));
        }
    }
    Ok(())
}

fn names(dir: &Path) -> Vec<String> {
    let listing = std::fs::read_dir(dir).into_iter().flatten();
    listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Whether a view is one of the two.
pub fn check(seen: &View, views: &Views) -> Result<(), String> {
    let Views { before, after, .. } = views;
    // What is filled in place or gets a new entry has a new time before it gets its old one again.
    if seen.is_newer(before) || seen == after || views.middle.as_ref() == Some(seen) {
        return Ok(());
    }
    Err(format!("neither\n    before:{}\n    nor after:{}", seen.difference(before), seen.difference(after)))
}
