//! Layers for one run after the other, and who looks at them afterwards.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use plyfs::sys::seam::{Call, Plan, with_plan};

use crate::common::{Kernel, Scratch, view};
use crate::engine::{Engine, View};
use crate::rows::Row;

/// Who looks at what was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    Plyfs,
    Kernel,
}

/// The lower layer that all runs share, and a place for their upper layers.
pub struct Stage {
    scratch: Scratch,
    lower: PathBuf,
    lower_before: view::View,
}

/// What an operation starts from and what it leads to.
pub struct Views {
    pub before: View,
    pub after: View,
}

impl Stage {
    pub fn new() -> Self {
        // Of all that it does here, plyfs only waits for the disk.
        let scratch = Scratch::in_memory();
        let lower = scratch.dir("lower");
        crate::rows::lower(&lower);
        let lower_before = view::layer(&lower);
        Stage { scratch, lower, lower_before }
    }

    pub fn assert_lower_unchanged(&self) {
        view::layer(&self.lower).assert_same(&self.lower_before, "the lower layer was changed");
    }

    /// A new upper layer and workdir.
    pub fn layers(&self) -> Layers<'_> {
        let base = self.scratch.fresh("run");
        for dir in ["upper", "work", "merged"] {
            std::fs::create_dir(base.join(dir)).unwrap();
        }
        Layers { lower: &self.lower, base }
    }

    /// How many calls the operation and the end of the engine make.
    pub fn calls(&self, row: &Row) -> u64 {
        self.count(row, Plan::count())
    }

    /// How many of them are of this kind.
    pub fn calls_of(&self, row: &Row, call: Call) -> u64 {
        self.count(row, Plan::count().only(call))
    }

    fn count(&self, row: &Row, plan: Plan) -> u64 {
        let layers = self.layers();
        let engine = layers.before(row);
        let run = || {
            (row.act)(&engine).unwrap_or_else(|errno| panic!("{}: {errno}", row.name));
            drop(engine);
        };
        with_plan(plan, run).1
    }

    /// What the reader shows without the operation, and with it.
    pub fn views(&self, row: &Row, reader: Reader) -> Views {
        let view = |with: bool| {
            let layers = self.layers();
            let engine = layers.before(row);
            if with {
                (row.act)(&engine).unwrap_or_else(|errno| panic!("{}: {errno}", row.name));
            }
            drop(engine);
            layers.read(reader).unwrap()
        };
        let views = Views { before: view(false), after: view(true) };
        assert_ne!(views.before, views.after, "{} changes nothing", row.name);
        views
    }
}

/// The layers of one run; they go with it.
pub struct Layers<'a> {
    lower: &'a Path,
    base: PathBuf,
}

impl Drop for Layers<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.base);
    }
}

impl Layers<'_> {
    pub fn open(&self) -> Engine {
        Engine::over(self.lower, &self.base)
    }

    /// An engine in the state from which the operation starts. No name is known to it that `before` has not used.
    pub fn before(&self, row: &Row) -> Engine {
        let engine = self.open();
        (row.before)(&engine).unwrap_or_else(|errno| panic!("before {}: {errno}", row.name));
        engine
    }

    /// The view of a new mount.
    pub fn read(&self, reader: Reader) -> Result<View, String> {
        match reader {
            Reader::Plyfs => self.open().view().map_err(|errno| format!("not to be read: {errno}")),
            Reader::Kernel => {
                let (lower, base) = (self.lower.display(), self.base.display());
                let layers = format!("lowerdir={lower},upperdir={base}/upper,workdir={base}/work");
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
    let Views { before, after } = views;
    if seen == before || seen == after {
        return Ok(());
    }
    Err(format!("neither\n    before:{}\n    nor after:{}", seen.difference(before), seen.difference(after)))
}
