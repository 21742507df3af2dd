//! Finds the files of one layer whose data is in the layers below it, and would be elsewhere over other layers. The walk takes
//! as long as the layer is large, however large those below are.

use crate::base::{Errno, Name, Result};
use crate::inode::Key;
use crate::layer::{ListedName, NameSink, list_names_as_owner, read_leaf_marks};
use crate::merge::{self, Answer, Data, DirPart, DirView, Found, FoundLeaf, Stack};
use crate::sys::stat::{Kind, Stat};

/// One layer that is walked.
pub(super) struct Level<'a> {
    /// The layers as they are.
    pub now: &'a Stack,
    /// The layers as they would be.
    pub then: &'a Stack,
    /// The level of the layer.
    pub level: usize,
    /// The files that were found, and the directories that could not be found again.
    pub changed: Vec<Vec<Name>>,
}

/// The names of a directory that may lead to such a file.
#[derive(Default)]
struct Names(Vec<Name>);

impl NameSink for Names {
    fn wants(&mut self, _: &[u8]) -> bool {
        true
    }

    fn take(&mut self, name: &ListedName<'_>) -> bool {
        if !name.whiteout && matches!(name.kind, None | Some(Kind::Dir | Kind::File)) {
            self.0.extend(Name::new(name.name).ok());
        }
        true
    }
}

impl Level<'_> {
    /// Walks through all that the layer has, from its root on: `now` and `then` in the two stacks.
    ///
    /// # Errors
    /// The directory that cannot be looked through, and why.
    pub fn walk(&mut self, now: &DirView, then: &DirView) -> std::result::Result<(), (Vec<Name>, Errno)> {
        let mut left = vec![(Vec::new(), now.clone(), then.clone())];
        while let Some((path, now, then)) = left.pop() {
            let Some(part) = now.parts(0).map(|(_, part)| part).find(|part| part.level == self.level) else { continue };
            let failed = |errno| (path.clone(), errno);
            let mut names = Names::default();
            let listed = list_names_as_owner(&part.place, part.xattr_whiteouts, &mut names);
            unless_gone(listed.map(drop)).map_err(failed)?;
            for name in names.0 {
                if let Some((now, then)) = self.look(part, (&now, &then), &path, &name).map_err(failed)? {
                    left.push(([&path[..], &[name]].concat(), now, then));
                }
            }
        }
        Ok(())
    }

    /// Looks at one name; the parts of a directory.
    fn look(
        &mut self,
        part: &DirPart,
        (now, then): (&DirView, &DirView),
        path: &[Name],
        name: &Name,
    ) -> Result<Option<(DirView, DirView)>> {
        let mut there = None;
        unless_gone(part.place.stat(name).map(|stat| there = stat))?;
        let Some(stat) = there else { return Ok(None) };
        let counts = stat.is_dir() || (stat.is_file() && has_data_below(part, name, &stat));
        if !counts {
            return Ok(None);
        }
        // What cannot be looked up now loses nothing.
        let Ok(Answer::Found(found)) = merge::lookup(self.now, now, name) else { return Ok(None) };
        match (found, merge::lookup(self.then, then, name)) {
            (Found::Dir(now), Ok(Answer::Found(Found::Dir(then)))) => return Ok(Some((now.view, then.view))),
            (Found::Leaf(now), Ok(Answer::Found(Found::Leaf(then)))) if same_data(&now, &then) => {}
            (Found::Leaf(now), _) if now.meta.is_none() => {}
            _ => self.changed.push([path, std::slice::from_ref(name)].concat()),
        }
        Ok(None)
    }
}

/// What was removed meanwhile has nothing to lose, and what was renamed is seen to have been.
fn unless_gone(done: Result<()>) -> Result<()> {
    match done {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE) => Ok(()),
        done => done,
    }
}

/// A path in words.
pub(super) fn shown(path: &[Name]) -> String {
    let parts = path.iter().map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    parts.collect::<Vec<_>>().join("/")
}

fn has_data_below(part: &DirPart, name: &Name, stat: &Stat) -> bool {
    match read_leaf_marks(&part.place, name, stat, false) {
        Ok(marks) => marks.metacopy.is_some(),
        // A look at it fails, too.
        Err(_) => true,
    }
}

/// Whether two findings of a file have their data in one place.
pub(super) fn same_data(one: &FoundLeaf, other: &FoundLeaf) -> bool {
    match (one.meta.as_ref().map(|meta| &meta.data), other.meta.as_ref().map(|meta| &meta.data)) {
        (Some(Data::At(one)), Some(Data::At(other))) => Key::of(&one.stat) == Key::of(&other.stat),
        (Some(Data::Beneath(one)), Some(Data::Beneath(other))) => one == other,
        (one, other) => one.is_none() && other.is_none(),
    }
}
