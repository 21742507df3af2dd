//! What hides names in a layer of which neither its marks nor its objects tell.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::base::{DiskUid, Errno, Name, Result};
use crate::format::wh;
use crate::merge::DirPart;
use crate::sys::dirent::names;
use crate::tool::change::path_of;
use crate::tool::diff::join;
use crate::tool::squash::{Paths, Refused, ways};

/// The directories in which unionfs-fuse keeps what it hides, in the root of a branch: since 3.0, and before.
const UNIONFS: [&[u8]; 2] = [b".unionfs-fuse", b".unionfs"];
/// What follows a hidden name there.
const HIDDEN: &[u8] = b"_HIDDEN~";

/// How a layer is read beyond its marks.
#[derive(Debug, Clone, Default)]
pub struct Dialect {
    /// What unionfs-fuse hides, by directory; `None`: it did not write the layer.
    unionfs: Option<Paths>,
    /// The form of whiteouts was said, and need not be the only one.
    is_said: bool,
    /// Whose 0/0 devices stand beside marks that this process does not see; `None`: it sees all marks, or those of who
    /// wrote the layer.
    unseen: Option<DiskUid>,
    /// A whiteout that is an object of its own name, and one that is a `.wh.` file.
    seen: RefCell<[Option<PathBuf>; 2]>,
}

impl Dialect {
    /// A layer that is read by its marks and whiteouts. `is_said`: these may have several forms.
    pub fn plain(is_said: bool) -> Self {
        Self { is_said, ..Self::default() }
    }

    /// The same layer for a process that does not see the marks of this user, of whom nothing else tells in it.
    #[must_use]
    pub fn unseen(self, of: DiskUid) -> Self {
        Self { unseen: Some(of), ..self }
    }

    /// A branch of unionfs-fuse; `None`: the layer has nothing that it hides, or an overlay wrote it, and `.unionfs` is a user's.
    ///
    /// # Errors
    /// What reading it says.
    pub fn unionfs(root: &DirPart, is_said: bool) -> Result<Option<Self>> {
        // In a layer that an overlay wrote these names are not whiteouts either.
        if !is_said && !root.place.layer.wh_names {
            return Ok(None);
        }
        let mut todo = Vec::new();
        for name in UNIONFS {
            let name = Name::new(name)?;
            if let Some(stat) = root.place.stat_on_disk(&name)?.filter(|stat| stat.is_dir()) {
                todo.push((root.place.child(&name, stat.ino), Vec::new()));
            }
        }
        let mut hidden = Paths::new();
        while let Some((dir, path)) = todo.pop() {
            for name in names(dir.open()?.as_fd())? {
                if let Some(of) = name.as_bytes().strip_suffix(HIDDEN).and_then(|of| Name::new(of).ok()) {
                    hidden.entry(path.clone()).or_default().insert(of);
                }
                // What is hidden in a directory `a` is in a directory `a` there.
                if let Some(stat) = dir.stat_on_disk(&name)?.filter(|stat| stat.is_dir()) {
                    let below = join(&path, &name);
                    todo.push((dir.child(&name, stat.ino), below));
                }
            }
        }
        let is_any = !hidden.is_empty();
        Ok(is_any.then(|| Self { unionfs: Some(hidden), is_said, ..Self::default() }))
    }

    /// What is hidden in a directory beyond its whiteouts.
    pub(in crate::tool) fn hidden_in(&self, dir: &[u8]) -> BTreeSet<Name> {
        self.unionfs.as_ref().and_then(|all| all.get(dir)).cloned().unwrap_or_default()
    }

    /// The directories in a directory in which something is hidden, and which the layer need not have.
    pub(in crate::tool) fn dirs_in(&self, dir: &[u8]) -> BTreeSet<Name> {
        self.unionfs.as_ref().map(|all| ways(all, dir)).unwrap_or_default()
    }

    /// Whether a directory of the layer hides those below. To unionfs-fuse an object counts before what hides its name, which
    /// still hides the layers below.
    pub(in crate::tool) fn hides(&self, dir: &[u8], name: &Name) -> bool {
        self.unionfs.as_ref().and_then(|all| all.get(dir)).is_some_and(|names| names.contains(name))
    }

    /// Whether a name is no object that anybody sees.
    pub(in crate::tool) fn is_metadata(&self, dir: &[u8], name: &Name) -> bool {
        self.unionfs.is_some() && dir.is_empty() && UNIONFS.contains(&name.as_bytes())
    }

    /// Refuses a second form of whiteouts, which may be files that users have made.
    pub(in crate::tool) fn check(&self, dir: &DirPart, path: &[u8], name: &Name) -> std::result::Result<(), Refused> {
        if self.is_said {
            return Ok(());
        }
        let at = path_of(&join(path, name));
        let failed = |errno: Errno| Refused { path: at.clone(), reason: errno.to_string(), hint: "" };
        if self.unionfs.is_some() {
            let reason = "the layer has whiteouts of its own beside those of unionfs-fuse".to_owned();
            return Err(Refused { path: at, reason, hint: "--from unionfs, or the marks that count: --from trusted" });
        }
        let object = dir.place.stat_on_disk(name).map_err(failed)?;
        let is_object = object.is_some();
        if object.is_some_and(|stat| stat.is_whiteout() && Some(stat.uid) == self.unseen) {
            let reason =
                "the whiteout is root's, whose marks (trusted.overlay.*) a normal user does not see".to_owned();
            let hint = "convert as root; --from user says that there are none";
            return Err(Refused { path: at, reason, hint });
        }
        let file = Name::new(&[wh::PREFIX, name.as_bytes()].concat()).map_err(failed)?;
        if let Some(stat) =
            dir.place.stat_on_disk(&file).map_err(failed)?.filter(|stat| !stat.is_file() || stat.size > 0)
            && !is_object
        {
            let what = if stat.is_file() { "has data" } else { "is no file" };
            let reason = format!("{}NAME {what}, as no program writes whiteouts", String::from_utf8_lossy(wh::PREFIX));
            let hint = "these are users' files: --from trusted or --from user; whiteouts all the same: --from wh";
            return Err(Refused { path: at, reason, hint });
        }
        let mut seen = self.seen.borrow_mut();
        let [objects, files] = &mut *seen;
        let (own, other) = if is_object { (objects, files) } else { (files, objects) };
        own.get_or_insert(at.clone());
        if let Some(other) = other {
            let wh = String::from_utf8_lossy(wh::PREFIX).into_owned();
            let reason =
                format!("its whiteout and that of {} have two forms, one of which is {wh}NAME files", other.display());
            let hint = "these files are whiteouts, too: --from wh; or a user's: --from trusted or --from user";
            return Err(Refused { path: at, reason, hint });
        }
        Ok(())
    }
}
