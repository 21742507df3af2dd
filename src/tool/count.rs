//! What is in a directory, all together.

use super::diff::is_gone;
use crate::base::{Name, Result};
use crate::merge::{Answer, CookieKey, DirView, Found, Layers, Listed, Places, Window, list, lookup};
use crate::sys::stat::Kind;

/// What is below a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Objects other than directories.
    pub files: u64,
    /// The sizes of regular files, in bytes.
    pub bytes: u64,
}

/// Counts what is seen below a directory.
///
/// # Errors
/// What the layers' system calls say.
pub(super) fn count(layers: &Layers, dir: &DirView, key: &CookieKey, with_bytes: bool) -> Result<Count> {
    let mut count = Count::default();
    let mut todo = vec![dir.clone()];
    while let Some(dir) = todo.pop() {
        let listing = match list(&dir, key, &Places::default(), Window::WHOLE) {
            Err(errno) if is_gone(errno) => continue,
            listing => listing?,
        };
        for (_, name, listed) in listing.after(0) {
            match listed.kind {
                Some(Kind::Dir) | None => match lookup(&layers.stack, &dir, &name) {
                    Ok(Answer::Found(Found::Dir(child))) => todo.push(child.view),
                    Ok(Answer::Found(Found::Leaf(leaf))) => {
                        count.add(leaf.stat.is_file().then_some(leaf.stat.size));
                    }
                    Ok(Answer::Absent(_)) => {}
                    Err(errno) if is_gone(errno) => {}
                    Err(errno) => return Err(errno),
                },
                Some(Kind::File) if with_bytes => count.add(size(&dir, &name, listed)?),
                Some(_) => count.add(None),
            }
        }
    }
    Ok(count)
}

impl Count {
    fn add(&mut self, bytes: Option<u64>) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes.unwrap_or(0));
    }
}

/// The size of a regular file, from the topmost part that has it.
fn size(dir: &DirView, name: &Name, listed: Listed) -> Result<Option<u64>> {
    let Some((_, part)) = dir.parts(usize::from(listed.slot)).next() else { return Ok(None) };
    Ok(part.place.stat(name)?.map(|stat| stat.size))
}
