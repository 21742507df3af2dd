//! Opens a layer that joins those of a view that is served, with the checks that a mount makes of all of them.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::ground::{Ground, id, id_of, lies_in};
use super::identity;
use super::refusal::{Setup, SetupError};
use super::rivals::Rivals;
use super::roots::{Common, Identity, Root, UpperRoots, open_layer};
use super::{Union, fit};
use crate::base::config::Xino;
use crate::inode::System;
use crate::layer::{DirId, DirPlace, Folding, Handles, Layer};
use crate::merge::DirPart;
use crate::sys::mounts::PlaceInFs;
use crate::sys::others;
use crate::sys::stat::stat_fd;

/// Where the directories of a union were when it was set up, by whatever mounts they were found.
#[derive(Debug, Default, Clone)]
pub(super) struct Places {
    /// Those of the lower layers that were given, in their order.
    pub lowers: Vec<Option<PlaceInFs>>,
    data_only: Vec<Option<PlaceInFs>>,
    /// The upper and the work directory.
    written: Vec<Option<PlaceInFs>>,
}

impl Places {
    pub fn of((lowers, data_only): (&[Root], &[Root]), upper: Option<&UpperRoots>, ground: &Ground) -> Self {
        let place = |fd: BorrowedFd<'_>| ground.spot(fd).place;
        let all = |roots: &[Root]| roots.iter().map(|root| place(root.fd.as_fd())).collect();
        let written = upper.map(|upper| [upper.upper.fd.as_fd(), upper.work.as_fd()]);
        Self {
            lowers: all(lowers),
            data_only: all(data_only),
            written: written.into_iter().flatten().map(place).collect(),
        }
    }
}

/// A layer that may join.
pub(super) struct Joining {
    /// Its root; the level is set later.
    pub part: DirPart,
    /// Its root hides the layers below.
    pub opaque: bool,
    pub place: Option<PlaceInFs>,
    pub system: System,
    pub common: Common,
    /// What the user is to know of it.
    pub notes: Vec<String>,
}

/// A directory of the view, with its option and path.
struct Other<'a> {
    what: &'static str,
    path: &'a Path,
    id: DirId,
    place: Option<&'a PlaceInFs>,
}

fn what(dir: &Path) -> String {
    format!("lowerdir={}", dir.display())
}

impl Union {
    /// Opens the directory `dir`, which is the one that the asker sees by that name: `seen`.
    pub(super) fn open_joining(&self, dir: &Path, seen: DirId) -> Setup<Joining> {
        let ground = Ground::look();
        let mut root = open_layer("lowerdir", dir)?;
        let failed = |errno: crate::base::Errno| SetupError::new(what(dir), errno.to_string(), "check the path");
        let stat = stat_fd(root.fd.as_fd()).map_err(failed)?;
        if (stat.dev, stat.ino) != seen {
            let reason = "the view's daemon finds another directory there than this command";
            let hint = "its mount namespace is another one: name the directory as it is seen there";
            return Err(SetupError::new(what(dir), reason, hint));
        }
        if others::serves(std::process::id()).contains(&stat.dev) {
            return Err(SetupError::new(what(dir), "it lies in the view itself", "name a directory outside of it"));
        }
        if root.folds {
            return Err(fit::folded(what(dir)));
        }
        let spot = ground.spot(root.fd.as_fd());
        let notes = self.check_beside(dir, (root.fd.as_fd(), seen), spot.place.as_ref())?;
        let place = spot.place;
        let mut notes: Vec<String> = notes.into_iter().collect();
        notes.extend(self.settle_joining(&mut root, stat.dev));
        notes.extend(Rivals::of_lower(seen, dir).check()?);
        root.check_alone(None, self.stands.own)?;
        let system = System {
            dev: stat.dev,
            uuids: [root.identity.written, root.identity.real],
            handles: root.handles,
            lower: true,
        };
        self.check_number(&system, dir)?;
        let common = Common { alone: false, ..self.stands.common.clone() };
        // A layer of lower objects may be below others whatever its place, so that its mark `opaque` is read.
        let (part, opaque) = root.isolate(true).into_lower(&common, 1, true)?;
        Ok(Joining { part, opaque, place, system, common, notes })
    }

    /// Refuses a directory that is, holds or lies in another layer, or lies in what is written. Returns a note where it
    /// holds what is written.
    fn check_beside(
        &self,
        dir: &Path,
        (fd, seen): (BorrowedFd<'_>, DirId),
        place: Option<&PlaceInFs>,
    ) -> Setup<Option<String>> {
        let lies = |other: &Other<'_>| match (place, other.place) {
            (Some(inner), Some(outer)) => inner.is_in(outer),
            _ => lies_in(fd, other.id).unwrap_or(false),
        };
        let holds =
            |other: &Other<'_>| matches!((place, other.place), (Some(outer), Some(inner)) if inner.is_in(outer));
        let refused = |reason: String, hint: &str| Err(SetupError::new(what(dir), reason, hint));
        let mut inside = Vec::new();
        for other in self.others() {
            let (option, path) = (other.what, other.path.display());
            let is_written = matches!(option, "upperdir" | "workdir");
            let hint = "use directories that do not lie in each other, or a copy of one";
            if other.id == seen && !is_written {
                return refused(format!("it is the same directory as {option}={path}"), "name each layer once");
            }
            if is_written && (other.id == seen || lies(&other)) {
                let hint = "a commit is reached by plyfs undo and redo; other layers need directories of their own";
                return refused(format!("it is or lies in {option}: a lower layer must not change"), hint);
            }
            if lies(&other) {
                return refused(format!("it lies in {option}={path}: its objects would have two places"), hint);
            }
            match holds(&other) {
                true if is_written => inside.push(option),
                true => {
                    let reason = format!("{option}={path} lies in it, whose objects would have two places");
                    return refused(reason, hint);
                }
                false => {}
            }
        }
        let it = if inside.len() > 1 { "them" } else { "it" };
        let note = format!("{} holds {}, and is shown without {it}", what(dir), inside.join(" and "));
        Ok((!inside.is_empty()).then_some(note))
    }

    /// The lower layers that were given, with their paths.
    pub fn lower_dirs(&self) -> Vec<(DirId, PathBuf)> {
        let lowers = self.others().into_iter().filter(|other| other.what == "lowerdir");
        lowers.map(|other| (other.id, other.path.to_owned())).collect()
    }

    /// The directories of the view, but for those of commits, which are in the work directory.
    fn others(&self) -> Vec<Other<'_>> {
        let (config, places) = (&self.stands.config, &self.stands.places);
        let id_of = |place: &Arc<DirPlace>| id_of(place).ok();
        let mut others = Vec::new();
        let given = self.stack.lowers.iter().skip(self.stands.frozen.len());
        for ((part, path), place) in given.zip(&config.lowers).zip(&places.lowers) {
            others.extend(id_of(&part.place).map(|id| Other { what: "lowerdir", path, id, place: place.as_ref() }));
        }
        for ((root, path), place) in self.stack.data_only.iter().zip(&config.data_only).zip(&places.data_only) {
            others.extend(id_of(root).map(|id| Other { what: "lowerdir", path, id, place: place.as_ref() }));
        }
        if let (Ok(upper), Some(dirs), Some(workdir)) = (self.upper(), &config.upper, &self.stands.workdir) {
            let [above, work] = [0, 1].map(|at| places.written.get(at).and_then(Option::as_ref));
            others.extend(id_of(&upper.root).map(|id| Other { what: "upperdir", path: &dirs.dir, id, place: above }));
            others.extend(id(workdir.as_fd()).ok().map(|id| Other {
                what: "workdir",
                path: &dirs.work,
                id,
                place: work,
            }));
        }
        others
    }

    /// Finds out by what marks name the layer's file system, and whether its file handles name one object for good.
    fn settle_joining(&self, root: &mut Root, dev: u64) -> Option<String> {
        let layers = || self.stack.lowers.iter().map(|part| &part.place.layer).filter(|layer| !layer.is_frozen());
        // A file system that is there already is named as it was.
        if let Some(same) = layers().find(|layer| layer.dev == dev) {
            root.identity = Identity { real: same.real_uuid, written: same.uuid };
            root.handles = same.handles;
            return None;
        }
        let mut real = identity::uuid_for(self.stands.config.uuid, root.fd.as_fd());
        let nameless = layers().any(|layer| layer.uuid == [0; 16] && layer.real_uuid != [0; 16]);
        let written = if nameless { [0; 16] } else { real };
        if self.upper().is_ok_and(|upper| upper.root.layer.dev == dev && real == [0; 16]) {
            real = self.upper().map_or(real, |upper| upper.root.layer.real_uuid);
        }
        root.identity = Identity { real, written };
        let alike = |layer: &Arc<Layer>| layer.handles.are_lasting() && layer.uuid == written;
        if root.handles.are_lasting() && layers().any(alike) {
            root.handles = Handles::Passing;
            return Some(identity::alike(&root.path));
        }
        None
    }

    fn check_number(&self, system: &System, dir: &Path) -> Setup<()> {
        let is_new = self.stack.lowers.iter().all(|part| part.place.layer.dev != system.dev);
        if self.stands.config.xino == Xino::On && is_new && self.table.systems() >= 64 {
            let reason = "with xino=on inode numbers have no room for another file system";
            return Err(SetupError::new(what(dir), reason, "mount it with the others, by xino=auto"));
        }
        Ok(())
    }

    /// Refuses to join others to an only layer that shows case-insensitive directories, and shows no more of them as long as
    /// the value lives, or from then on if it is [kept](Parted::keep).
    pub(super) fn part_with_folding(&self) -> Setup<Option<Parted>> {
        let Some(only) = self.stack.lowers.first().filter(|part| part.place.layer.folding == Folding::Alone) else {
            return Ok(None);
        };
        if only.place.layer.joined.swap(true, SeqCst) {
            return Ok(None);
        }
        let parted = Parted(Some(only.place.layer.clone()));
        let folds =
            |part: &DirPart| part.place.fd().is_ok_and(|fd| part.place.layer.check_folding(fd.as_fd(), c".").is_err());
        let mut views = self.live_dirs().into_iter().filter_map(|inode| inode.dir().map(|dir| dir.view()).ok());
        if views.any(|view| view.lowers.iter().any(folds)) {
            return Err(fit::folded(what(&only.place.layer.path)));
        }
        Ok(Some(parted))
    }
}

/// A layer that others join, which shows no case-insensitive directories meanwhile.
pub(super) struct Parted(Option<Arc<Layer>>);

impl Parted {
    /// The others have joined.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Parted {
    fn drop(&mut self) {
        if let Some(layer) = &self.0 {
            layer.joined.store(false, SeqCst);
        }
    }
}

/// The path of a lower layer as options name it.
pub(super) fn find(paths: &[PathBuf], dir: &Path) -> Option<usize> {
    paths.iter().position(|path| path == dir)
}
