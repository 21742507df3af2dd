//! Where an object of the view comes from: which layer gives what of it, and what is hidden below and by what.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::data_of;
use crate::base::{Name, Result};
use crate::format::Redirect;
use crate::layer::{DirPlace, Layer, LookedUp, Place, look_up, read_dir_marks};
use crate::merge::{Answer, DirPart, DirView, Found, FoundDir, FoundLeaf, Layers, lookup};
use crate::sys::stat::{Kind, Stat};

/// What the layers have of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// The path in the view.
    pub path: PathBuf,
    /// The type of the object; `None`: nothing is seen.
    pub kind: Option<Kind>,
    /// What is seen first, then what is hidden, each from the top down.
    pub parts: Vec<Part>,
}

/// What one layer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The position of the layer: 0 is the upper one.
    pub level: usize,
    /// What the layer is.
    pub role: Role,
    /// Where the object is, by the path by which the layer was named.
    pub at: PathBuf,
    /// What of the object is seen; nothing of a hidden one.
    pub gives: Vec<Gives>,
    /// The marks on it that lead elsewhere or hide something.
    pub marks: Vec<String>,
    /// By what it is hidden.
    pub hidden_by: Option<Hider>,
}

/// What a layer is in its view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Role {
    Upper,
    Lower,
    DataOnly,
}

impl Role {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Upper => "upper",
            Self::Lower => "lower",
            Self::DataOnly => "data",
        }
    }
}

/// A part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// Mode, owner, times, extended attributes.
    Metadata,
    /// The bytes of a file, the target of a symlink.
    Data,
    /// The blocks that were written, of a file whose other data is below.
    Blocks,
    /// Names in a directory.
    Listing,
}

/// What hides an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hider {
    /// The position of the layer; `None`: several layers above.
    pub level: Option<usize>,
    /// `whiteout`, `opaque`, `redirect`, `object` (one that is no directory), `above` (something at a directory above).
    pub what: &'static str,
}

/// Finds out what the layers have of a path, which may be the root.
///
/// # Errors
/// `EINVAL` for a path with `..`; what the layers' system calls say.
pub fn whereabouts(layers: &Layers, path: &Path) -> Result<Whereabouts> {
    let names = path.iter().map(|part| Name::new(part.as_encoded_bytes())).collect::<Result<Vec<_>>>()?;
    let mut found = Whereabouts { path: path.to_owned(), kind: None, parts: Vec::new() };
    let Some((name, dirs)) = names.split_last() else {
        found.kind = Some(Kind::Dir);
        found.parts = dir_parts(layers, &layers.root);
        return Ok(found);
    };
    let mut dir = Some(layers.root.clone());
    for name in dirs {
        dir = match dir.map(|dir| lookup(&layers.stack, &dir, name)).transpose()? {
            Some(Answer::Found(Found::Dir(dir))) => Some(dir.view),
            _ => None,
        };
    }
    if let Some(dir) = &dir {
        match lookup(&layers.stack, dir, name)? {
            Answer::Found(Found::Dir(FoundDir { view, .. })) => {
                found.kind = Some(Kind::Dir);
                found.parts = dir_parts(layers, &view);
            }
            Answer::Found(Found::Leaf(leaf)) => {
                found.kind = Some(leaf.stat.kind());
                found.parts = leaf_parts(layers, &leaf)?;
            }
            Answer::Absent(_) => {}
        }
        found.hidden_in(layers, dir, name)?;
    }
    found.hidden_elsewhere(layers, &names)?;
    Ok(found)
}

impl Whereabouts {
    /// Adds what the directory's own parts have under the name and do not show.
    fn hidden_in(&mut self, layers: &Layers, dir: &DirView, name: &Name) -> Result<()> {
        // What is seen and is no directory hides all below it.
        let mut hider = None;
        for (_, part) in dir.parts(0) {
            let at = path_of(&part.place, Some(name));
            let seen = self.parts.iter().find(|seen| seen.at == at && seen.hidden_by.is_none());
            match look_up(&part.place, name, part.xattr_whiteouts)? {
                LookedUp::Nothing => {}
                LookedUp::Whiteout => {
                    let mark = Part { marks: vec!["whiteout".into()], ..hidden(layers, &part.place.layer, at, None) };
                    self.parts.push(mark);
                    hider.get_or_insert(Hider { level: Some(part.level), what: "whiteout" });
                }
                LookedUp::Object(stat) if seen.is_some() => {
                    let what = what_hides(part, name, &stat)?;
                    hider = hider.or(what.map(|what| Hider { level: Some(part.level), what }));
                }
                LookedUp::Object(_) => {
                    let by = hider.clone().or_else(|| {
                        // The index shows a copy of it, or a directory above it leads elsewhere.
                        let top = self.parts.first().filter(|top| top.hidden_by.is_none())?;
                        Some(Hider { level: Some(top.level), what: "object" })
                    });
                    self.parts.push(hidden(layers, &part.place.layer, at, by));
                }
            }
        }
        Ok(())
    }

    /// Adds what layers have at the path, and what something at a directory above it hides.
    fn hidden_elsewhere(&mut self, layers: &Layers, names: &[Name]) -> Result<()> {
        let Some((name, dirs)) = names.split_last() else { return Ok(()) };
        for root in layers.stack.lowers.iter() {
            let mut dir = Some(root.place.clone());
            for component in dirs {
                let Some(above) = dir.take() else { break };
                let stat = above.stat(component)?.filter(Stat::is_dir);
                dir = stat.map(|stat| above.child(component, stat.ino));
            }
            let Some(dir) = dir else { continue };
            let at = path_of(&dir, Some(name));
            let is_known = self.parts.iter().any(|part| part.at == at);
            if let (false, LookedUp::Object(_)) = (is_known, look_up(&dir, name, root.xattr_whiteouts)?) {
                let by = Hider { level: None, what: "above" };
                self.parts.push(hidden(layers, &dir.layer, at, Some(by)));
            }
        }
        Ok(())
    }
}

/// Why an object that is seen hides those of its name below.
fn what_hides(part: &DirPart, name: &Name, stat: &Stat) -> Result<Option<&'static str>> {
    if !stat.is_dir() {
        return Ok(Some("object"));
    }
    let marks = read_dir_marks(&part.place.child(name, stat.ino), part.place.fd()?.as_fd(), name.as_c_str(), true)?;
    Ok(if marks.opaque { Some("opaque") } else { marks.redirect.map(|_| "redirect") })
}

fn hidden(layers: &Layers, layer: &Arc<Layer>, at: PathBuf, hidden_by: Option<Hider>) -> Part {
    let (level, role) = level_of(layers, layer);
    Part { level, role, at, gives: Vec::new(), marks: Vec::new(), hidden_by }
}

fn dir_parts(layers: &Layers, view: &DirView) -> Vec<Part> {
    let parts = view.parts(0).enumerate().map(|(count, (_, part))| {
        let top = count == 0;
        let gives = if top { vec![Gives::Metadata, Gives::Listing] } else { vec![Gives::Listing] };
        let marks = view.redirect.iter().filter(|_| top).map(redirect_mark).collect();
        Part { gives, marks, ..hidden(layers, &part.place.layer, path_of(&part.place, None), None) }
    });
    parts.collect()
}

fn leaf_parts(layers: &Layers, leaf: &FoundLeaf) -> Result<Vec<Part>> {
    let part = |place: &Place, gives, marks| {
        let at = match &layers.stack.index {
            Some(index) if Arc::ptr_eq(index.dir(), &place.dir) => {
                Path::new("workdir/index").join(place.name.as_os_str())
            }
            _ => path_of(&place.dir, Some(&place.name)),
        };
        Part { gives, marks, ..hidden(layers, &place.dir.layer, at, None) }
    };
    let Some(meta) = &leaf.meta else {
        return Ok(vec![part(&leaf.place, vec![Gives::Metadata, Gives::Data], Vec::new())]);
    };
    let (mut gives, mut marks) = (vec![Gives::Metadata], vec!["metacopy".to_owned()]);
    gives.extend(meta.blocks.as_ref().map(|_| Gives::Blocks));
    marks.extend(meta.redirect.as_ref().map(redirect_mark));
    let (data, _) = data_of(layers, leaf)?;
    Ok(vec![part(&leaf.place, gives, marks), part(&data, vec![Gives::Data], Vec::new())])
}

fn redirect_mark(redirect: &Redirect) -> String {
    format!("redirect={}", String::from_utf8_lossy(&redirect.encode()))
}

/// The position of a layer, and what it is there. Data-only layers follow the lower ones.
fn level_of(layers: &Layers, layer: &Arc<Layer>) -> (usize, Role) {
    let is = |place: &Arc<DirPlace>| Arc::ptr_eq(&place.layer, layer);
    if layers.root.upper.as_ref().is_some_and(|part| is(&part.place)) {
        return (0, Role::Upper);
    }
    let lowers = &layers.stack.lowers;
    if let Some(part) = lowers.iter().find(|part| is(&part.place)) {
        return (part.level, Role::Lower);
    }
    let at = layers.stack.data_only.iter().position(is).unwrap_or_default();
    (layers.stack.last() + 1 + at, Role::DataOnly)
}

/// The path of a directory, or of a name in it, by the path by which its layer was named.
fn path_of(dir: &Arc<DirPlace>, name: Option<&Name>) -> PathBuf {
    let mut names: Vec<Name> = name.into_iter().cloned().collect();
    let mut next = dir.parent();
    while let Some((parent, name)) = next {
        names.push(name);
        next = parent.parent();
    }
    let relative = names.iter().rev().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/');
    if relative.is_empty() { dir.layer.path.clone() } else { dir.layer.path.join(OsString::from_vec(relative)) }
}
