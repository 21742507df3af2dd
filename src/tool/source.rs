//! Changes that stand in several layers: the upper one, and commits beneath it. They are seen as those of one layer.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::Arc;

use super::diff::{join, list_upper};
use crate::base::{Name, Result};
use crate::format::mark::Mark;
use crate::format::{Decoded, Origin, Redirect};
use crate::layer::{DirPlace, Layer, LookedUp, look_up, origin_of, read_dir_marks};
use crate::merge::{DirPart, DirView, FoundLeaf, Layers};
use crate::sys::xattr;

/// The names of a directory in the layers that hold changes, each with whether it is known to be a whiteout. In several
/// layers it takes a lookup to know.
///
/// # Errors
/// What listing a part says.
pub(super) fn names(layers: &Layers, dir: &DirView) -> Result<Vec<(Name, bool)>> {
    let mut parts = layers.sources(dir);
    let mut names = parts.next().map(list_upper).transpose()?.unwrap_or_default();
    let mut known: HashSet<Name> = HashSet::new();
    for part in parts {
        if known.is_empty() {
            known = names.iter().map(|(name, _)| name.clone()).collect();
        }
        names.extend(list_upper(part)?.into_iter().filter(|(name, _)| known.insert(name.clone())));
    }
    if layers.are_several() {
        names.iter_mut().for_each(|(_, whiteout)| *whiteout = false);
    }
    Ok(names)
}

/// Where the lower layers have a directory that is at `path` in the view and has a part there, if it stands elsewhere in the
/// view; `within`: the path there of the directory that it is in.
///
/// # Errors
/// What looking for marks says.
pub(super) fn lower_path(
    layers: &Layers,
    dir: &DirView,
    path: &[u8],
    within: Option<&[u8]>,
) -> Result<Option<Vec<u8>>> {
    if !layers.are_several() {
        return Ok(super::diff::lower_path(dir, within));
    }
    if layers.base_part(dir).is_none() {
        return Ok(None);
    }
    let mut was = path.to_vec();
    for root in layers.sources(&layers.root) {
        was = below(root, &was)?;
    }
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let here = within.map(|within| Ok::<_, crate::base::Errno>(join(within, &Name::new(name)?))).transpose()?;
    Ok(Some(was).filter(|was| here.as_ref() != Some(was)))
}

/// Where the layers below one have what it has at `path`.
fn below(root: &DirPart, path: &[u8]) -> Result<Vec<u8>> {
    let (mut dir, mut to) = (Some(root.place.clone()), Vec::new());
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let name = Name::new(name)?;
        let child = dir.as_ref().map(|dir| child_of(dir, &name)).transpose()?.flatten();
        to = match child.as_ref().and_then(|(_, redirect)| redirect.as_ref()) {
            None => join(&to, &name),
            Some(Redirect::Relative(other)) => join(&to, other),
            Some(Redirect::Absolute(path)) => path.iter().fold(Vec::new(), |at, name| join(&at, name)),
        };
        dir = child.map(|(place, _)| place);
    }
    Ok(to)
}

/// A directory in a directory of one layer, and where its mark leads.
fn child_of(dir: &Arc<DirPlace>, name: &Name) -> Result<Option<(Arc<DirPlace>, Option<Redirect>)>> {
    let stat = match look_up(dir, name, false)? {
        LookedUp::Object(stat) if stat.is_dir() => stat,
        _ => return Ok(None),
    };
    let place = dir.child(name, stat.ino);
    let marks = read_dir_marks(&place, dir.fd()?.as_fd(), name.as_c_str(), true)?;
    Ok(Some((place, marks.redirect)))
}

/// The type and the bytes of a file handle.
type Handle = (u8, Vec<u8>);

/// What the files in commits are copies of.
#[derive(Default)]
pub(super) struct Copies(HashMap<Handle, Option<Origin>>);

impl Copies {
    /// Looks at all files in the commits that hold changes.
    ///
    /// # Errors
    /// What listing them says.
    pub fn of(layers: &Layers) -> Result<Self> {
        let mut copies = Self::default();
        for root in layers.sources(&layers.root).filter(|root| root.level > 0) {
            let mut todo = vec![root.clone()];
            while let Some(dir) = todo.pop() {
                for (name, _) in list_upper(&dir)?.into_iter().filter(|(_, whiteout)| !whiteout) {
                    let Some(stat) = dir.place.stat_on_disk(&name)? else { continue };
                    if stat.is_dir() {
                        todo.push(DirPart { place: dir.place.child(&name, stat.ino), ..dir.clone() });
                    } else if let Some(own) = handle(&dir.place.layer, &dir.place, &name)? {
                        copies.0.insert((own.kind, own.fid), marked_origin(&dir.place, &name)?);
                    }
                }
            }
        }
        Ok(copies)
    }

    /// Makes a file that is seen tell which object of the lower layers it is a copy of, by way of those in commits.
    ///
    /// # Errors
    /// What reading a mark says.
    pub fn follow(&self, layers: &Layers, leaf: &mut FoundLeaf) -> Result<()> {
        if !layers.are_several() {
            return Ok(());
        }
        if leaf.origin.is_none() && !leaf.bare && leaf.place.dir.layer.is_frozen() {
            leaf.origin = marked_origin(&leaf.place.dir, &leaf.place.name)?;
        }
        // A layer's file is a copy of one further down: more steps than layers are somebody's joke.
        for _ in 0..=layers.changed {
            let Some(of) = &leaf.origin else { break };
            let Some(next) = self.0.get(&(of.kind, of.fid.clone())) else { break };
            leaf.origin.clone_from(next);
        }
        Ok(())
    }
}

/// The file handle of an object, as a mark would name it.
fn handle(layer: &Layer, dir: &DirPlace, name: &Name) -> Result<Option<Origin>> {
    let value = origin_of(layer, dir.fd()?.as_fd(), name.as_c_str())?;
    Ok(value.as_deref().and_then(known))
}

/// What the mark on an object of a commit says that it is a copy of.
fn marked_origin(dir: &DirPlace, name: &Name) -> Result<Option<Origin>> {
    let value = xattr::get_at(dir.fd()?.as_fd(), name.as_c_str(), dir.layer.namespace.key(Mark::Origin))?;
    Ok(value.as_deref().and_then(known))
}

fn known(value: &[u8]) -> Option<Origin> {
    match Origin::decode(value) {
        Ok(Decoded::Known(origin)) => Some(origin),
        _ => None,
    }
}
