//! What a comparison of two states of a tree finds.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::base::Errno;
use crate::sys::stat::{Kind, Stat};

/// How an object differs from what was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Letter {
    /// It is gone. A directory is gone with all that was in it.
    Deleted,
    /// It stood under another path. A directory was renamed with all that is in it.
    Renamed,
    /// It was not there.
    Added,
    /// It has other bytes, another target or another device number.
    Modified,
    /// Only its mode, owner, time or extended attributes are others.
    Metadata,
    /// It is an object of another type.
    Retyped,
}

impl Letter {
    /// All of them, in the order of a summary, each with the letter and the word by which it is told.
    pub const ALL: [(Self, char, &'static str); 6] = [
        (Self::Modified, 'M', "modified"),
        (Self::Metadata, 'm', "metadata"),
        (Self::Retyped, 'T', "type"),
        (Self::Renamed, 'R', "renamed"),
        (Self::Deleted, 'D', "deleted"),
        (Self::Added, 'A', "added"),
    ];

    /// The letter.
    pub fn letter(self) -> char {
        Self::ALL.iter().find(|(of, ..)| *of == self).map_or('?', |(_, letter, _)| *letter)
    }

    /// The word.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(of, ..)| *of == self).map_or("?", |(.., word)| *word)
    }
}

/// What of an object differs; of a pair the first is what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The bytes of a file, the target of a symlink, the number of a device.
    Data,
    /// The permission bits.
    Mode(u32, u32),
    /// User and group, as the layers have them.
    Owner((u32, u32), (u32, u32)),
    /// The time of the last modification.
    Times,
    /// Extended attributes, ACLs among them.
    Xattrs,
}

impl What {
    /// The word by which it is told.
    pub fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Mode(..) => "mode",
            Self::Owner(..) => "owner",
            Self::Times => "times",
            Self::Xattrs => "xattrs",
        }
    }
}

/// Sizes in bytes before and after, where there was or is an object that has one.
pub type Sizes = (Option<u64>, Option<u64>);

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What kind of change it is.
    pub letter: Letter,
    /// The path in the view, from its root; of a deleted object the one that it would have.
    pub path: PathBuf,
    /// The path below the upper layer, if it is another one: the object or a directory above it was renamed.
    pub was: Option<PathBuf>,
    /// The type of the object, before for a deleted one.
    pub kind: Kind,
    /// The type that it was, if that is another one.
    pub was_kind: Option<Kind>,
    /// Sizes of files and symlinks. For a deleted directory the sum of its files, if that was asked for.
    pub size: Sizes,
    /// What of the object differs, of one that is there before and after.
    pub what: Vec<What>,
    /// How many objects other than directories are in a renamed directory, or were in a deleted one, if that was asked
    /// for.
    pub files: Option<u64>,
}

/// Something that cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The path in the view.
    pub path: PathBuf,
    /// Why.
    pub errno: Errno,
}

/// All changes of a view.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// In the order of their paths.
    pub changes: Vec<Change>,
    /// What is not known.
    pub troubles: Vec<Trouble>,
}

/// How many changes there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary([usize; Letter::ALL.len()]);

impl Summary {
    /// Of these changes.
    pub fn of<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Self {
        let mut counts = [0; Letter::ALL.len()];
        for change in changes {
            for (count, (letter, ..)) in counts.iter_mut().zip(Letter::ALL) {
                *count += usize::from(letter == change.letter);
            }
        }
        Self(counts)
    }

    /// How many changes there are.
    pub fn total(&self) -> usize {
        self.0.iter().sum()
    }

    /// The kinds of which there are any, each with its word.
    pub fn counts(&self) -> impl Iterator<Item = (usize, &'static str)> {
        self.0.iter().zip(Letter::ALL).filter(|(count, _)| **count > 0).map(|(count, (.., word))| (*count, word))
    }
}

/// The size of an object that has one.
pub(super) fn size_of(stat: &Stat) -> Option<u64> {
    matches!(stat.kind(), Kind::File | Kind::Symlink).then_some(stat.size)
}

/// A path of these bytes.
pub(super) fn path_of(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}
