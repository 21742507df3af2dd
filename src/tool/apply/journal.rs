//! What an apply is about to do, written down: `work/incompat/plyfs.apply` in the work directory.
//!
//! | file | holds |
//! |---|---|
//! | `staging` | a line for each directory of the lower layer in which something is staged, before that is made there |
//! | `journal` | all steps. It appears by a rename, when all is staged and synced |
//! | `cleaning` | all that could not be kept. It appears when all steps are made and synced, and the upper layer is about to be cleaned |
//!
//! A line is a word, numbers, and a path to its end, in which newlines and backslashes are escaped.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::reach::{Dirs, Id};
use super::{Clean, Loss};
use crate::base::{Errno, Result};
use crate::merge::Layers;
use crate::sys::caller::own_ids;
use crate::sys::data;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Kind, Time, stat_fd};
use crate::sys::tree::{self, RenameFlags};
use crate::tool::change::path_of;
use crate::upper::{APPLY, INCOMPAT, remove};

const WORK: &CStr = c"work";
const PATH: &CStr = c"work/incompat/plyfs.apply";
const STAGING: &CStr = c"staging";
const JOURNAL: &CStr = c"journal";
const STAGED: &CStr = c"journal.new";
const CLEANING: &CStr = c"cleaning";
/// The most bytes of a journal that are read.
const MOST: u64 = 1 << 32;

/// A name in one of the directories in which things are staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub anchor: usize,
    pub number: u64,
}

/// What stood somewhere when the apply was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Was {
    pub id: Id,
    /// The latest time of change (ctime) of it and, if it is a directory, of all that was in it.
    pub changed: Time,
    /// When its content changed.
    pub mtime: Time,
}

/// One step. Paths are those of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A directory below loses the permissions that are not in `mode`, before anything comes to it.
    Narrow { id: Id, mode: u32, path: Vec<u8> },
    /// A directory is taken from its old path below.
    /// The directory there has the inode number `from`.
    Take { slot: Slot, id: Id, from: u64, was: Vec<u8> },
    /// What is staged is put in its place, in the directory with the inode number `parent`; `old`: what stands there.
    Put { slot: Slot, id: Id, old: Option<Was>, parent: u64, path: Vec<u8> },
    /// An object is taken away.
    Delete { slot: Slot, old: Was, path: Vec<u8> },
    /// An object that is no directory gets its mode and its times.
    Leaf { old: Was, mode: u32, times: [Time; 2], path: Vec<u8> },
    /// A directory gets its attributes, or its times.
    Dir { all: bool, path: Vec<u8> },
}

/// All that is to be done, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Journal {
    /// The root of the lower layer.
    pub lower: Id,
    /// The name of each directory in which things are staged.
    pub token: Vec<u8>,
    /// Where these are in the lower layer.
    pub anchors: Vec<Vec<u8>>,
    pub steps: Vec<Step>,
    pub cleans: Vec<Clean>,
    /// What could not be kept of what is staged.
    pub losses: Vec<Loss>,
}

fn escape(path: &[u8]) -> Vec<u8> {
    let one = |byte: &u8| match byte {
        b'\\' => b"\\\\".to_vec(),
        b'\n' => b"\\n".to_vec(),
        byte => vec![*byte],
    };
    path.iter().flat_map(one).collect()
}

fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let (mut path, mut bytes) = (Vec::new(), text.iter());
    while let Some(&byte) = bytes.next() {
        path.push(match byte {
            b'\\' if *bytes.next()? == b'n' => b'\n',
            byte => byte,
        });
    }
    Some(path)
}

fn line(words: &str, path: &[u8]) -> Vec<u8> {
    [words.as_bytes(), b" ", &escape(path), b"\n"].concat()
}

fn numbers([access, change]: [Time; 2]) -> String {
    format!("{} {} {} {}", access.sec, access.nsec, change.sec, change.nsec)
}

impl Was {
    fn numbers(&self) -> String {
        format!("{} {} {}", self.id.0, self.id.1, numbers([self.changed, self.mtime]))
    }
}

impl Step {
    fn line(&self) -> Vec<u8> {
        let at = |slot: &Slot, id: &Id| format!("{} {} {} {}", slot.anchor, slot.number, id.0, id.1);
        match self {
            Self::Narrow { id, mode, path } => line(&format!("narrow {} {} {mode}", id.0, id.1), path),
            Self::Take { slot, id, from, was } => line(&format!("take {} {from}", at(slot, id)), was),
            Self::Put { slot, id, old, parent, path } => {
                let old = old.unwrap_or_default();
                line(&format!("put {} {} {parent}", at(slot, id), old.numbers()), path)
            }
            Self::Delete { slot, old, path } => {
                line(&format!("delete {} {} {}", slot.anchor, slot.number, old.numbers()), path)
            }
            Self::Leaf { old, mode, times, path } => {
                line(&format!("leaf {} {mode} {}", old.numbers(), numbers(*times)), path)
            }
            Self::Dir { all, path } => line(if *all { "attributes" } else { "times" }, path),
        }
    }
}

impl Clean {
    fn line(&self) -> Vec<u8> {
        match self {
            Self::Name(path) => line("name", path),
            Self::Tree(path) => line("tree", path),
            Self::Dir(path) => line("dir", path),
            Self::Stand => line("stand", b""),
            Self::Commit(number) => line(&format!("commit {number}"), b""),
            Self::Index(name) => line("index", name),
            Self::Record(name) => line("record", name),
            Self::Mode(path, mode) => line(&format!("mode {mode}"), path),
            Self::Times(path, times) => line(&format!("back {}", numbers(*times)), path),
        }
    }
}

impl Loss {
    fn line(&self) -> Vec<u8> {
        line("lost", &[self.path.as_os_str().as_bytes(), b"\0", self.what.as_bytes()].concat())
    }

    fn parse(words: &Words<'_>) -> Option<Self> {
        let text = words.path()?;
        let (path, what) = text.split_at_checked(text.iter().position(|byte| *byte == 0)?)?;
        let what = String::from_utf8_lossy(what.strip_prefix(b"\0")?).into_owned();
        Some(Self { path: path_of(path), what })
    }
}

/// The words of a line, one after the other.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn word(&mut self) -> Option<Vec<u8>> {
        let at = self.0.iter().position(|byte| *byte == b' ')?;
        let (word, rest) = self.0.split_at_checked(at)?;
        self.0 = rest.strip_prefix(b" ")?;
        Some(word.to_vec())
    }

    fn number<T: std::str::FromStr>(&mut self) -> Option<T> {
        std::str::from_utf8(&self.word()?).ok()?.parse().ok()
    }

    fn time(&mut self) -> Option<Time> {
        Some(Time { sec: self.number()?, nsec: self.number()? })
    }

    fn id(&mut self) -> Option<Id> {
        Some((self.number()?, self.number()?))
    }

    fn slot(&mut self) -> Option<Slot> {
        Some(Slot { anchor: self.number()?, number: self.number()? })
    }

    fn was(&mut self) -> Option<Was> {
        Some(Was { id: self.id()?, changed: self.time()?, mtime: self.time()? })
    }

    fn path(&self) -> Option<Vec<u8>> {
        unescape(self.0)
    }
}

impl Journal {
    fn encode(&self) -> Vec<u8> {
        let mut text = line(&format!("plyfs-apply 2 {} {}", self.lower.0, self.lower.1), &self.token);
        self.anchors.iter().for_each(|path| text.extend(line("anchor", path)));
        self.steps.iter().for_each(|step| text.extend(step.line()));
        self.cleans.iter().for_each(|clean| text.extend(clean.line()));
        self.losses.iter().for_each(|loss| text.extend(loss.line()));
        text.extend(line("end", b""));
        text
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let text = text.strip_suffix(b"\nend \n")?;
        let mut lines = text.split(|byte| *byte == b'\n');
        let mut first = Words(lines.next()?);
        if (first.word()?.as_slice(), first.number::<u64>()?) != (b"plyfs-apply", 2) {
            return None;
        }
        let (lower, token) = (first.id()?, first.path()?);
        let mut journal = Self { lower, token, ..Self::default() };
        for line in lines {
            journal.take(&mut Words(line))?;
        }
        Some(journal)
    }

    fn take(&mut self, words: &mut Words<'_>) -> Option<()> {
        match words.word()?.as_slice() {
            b"anchor" => self.anchors.push(words.path()?),
            b"narrow" => {
                let (id, mode) = (words.id()?, words.number()?);
                self.steps.push(Step::Narrow { id, mode, path: words.path()? });
            }
            b"take" => {
                let (slot, id, from) = (words.slot()?, words.id()?, words.number()?);
                self.steps.push(Step::Take { slot, id, from, was: words.path()? });
            }
            b"put" => {
                let (slot, id, old, parent) = (words.slot()?, words.id()?, words.was()?, words.number()?);
                let old = (old != Was::default()).then_some(old);
                self.steps.push(Step::Put { slot, id, old, parent, path: words.path()? });
            }
            b"delete" => self.steps.push(Step::Delete { slot: words.slot()?, old: words.was()?, path: words.path()? }),
            b"leaf" => {
                let (old, mode, times) = (words.was()?, words.number()?, [words.time()?, words.time()?]);
                self.steps.push(Step::Leaf { old, mode, times, path: words.path()? });
            }
            b"attributes" => self.steps.push(Step::Dir { all: true, path: words.path()? }),
            b"times" => self.steps.push(Step::Dir { all: false, path: words.path()? }),
            b"name" => self.cleans.push(Clean::Name(words.path()?)),
            b"tree" => self.cleans.push(Clean::Tree(words.path()?)),
            b"dir" => self.cleans.push(Clean::Dir(words.path()?)),
            b"stand" => self.cleans.push(Clean::Stand),
            b"commit" => self.cleans.push(Clean::Commit(words.number()?)),
            b"index" => self.cleans.push(Clean::Index(words.path()?)),
            b"record" => self.cleans.push(Clean::Record(words.path()?)),
            b"mode" => {
                let mode = words.number()?;
                self.cleans.push(Clean::Mode(words.path()?, mode));
            }
            b"lost" => self.losses.push(Loss::parse(words)?),
            b"back" => {
                let times = [words.time()?, words.time()?];
                self.cleans.push(Clean::Times(words.path()?, times));
            }
            _ => return None,
        }
        Some(())
    }
}

impl Layers {
    /// Whether an apply of the upper layer's changes was broken off.
    ///
    /// # Errors
    /// Those of openat2(2); a work directory that cannot be looked into tells nothing.
    pub fn pending_apply(&self) -> Result<bool> {
        let Some(work) = &self.work else { return Ok(false) };
        match open_beneath(work.as_fd(), PATH, OFlags::PATH) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT | Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// Whether an apply was broken off after it had begun to change something.
///
/// # Errors
/// `EPERM`: the journal belongs to another user; what the system calls say.
pub fn has_begun(dirs: &Dirs) -> Result<bool> {
    match Kept::find(dirs)? {
        Some(kept) => Ok(kept.read(JOURNAL)?.is_some() || kept.cleaning()?.is_some()),
        None => Ok(false),
    }
}

/// Whether the last mount of the upper layer was volatile and did not end in order.
pub fn is_volatile(dirs: &Dirs) -> bool {
    open_beneath(dirs.work.as_fd(), c"work/incompat/volatile", OFlags::PATH).is_ok()
}

/// The directory of a journal, open.
pub(super) struct Kept(OwnedFd);

fn open_to_list(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    open_beneath(at, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

fn make(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    match tree::mkdir_at(at, name, 0o700) {
        Ok(()) => data::fsync(open_to_list(at, c".")?.as_fd())?,
        // The kernel leaves `work` with mode 0000.
        Err(Errno::EEXIST) if name == WORK => tree::chmod_at(at, name, 0o700)?,
        Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    open_to_list(at, name)
}

impl Kept {
    /// Makes the directory, which keeps overlays from mounting the upper layer from now on.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn begin(dirs: &Dirs) -> Result<Self> {
        let work = make(dirs.work.as_fd(), WORK)?;
        let incompat = make(work.as_fd(), INCOMPAT)?;
        Ok(Self(make(incompat.as_fd(), APPLY)?))
    }

    /// Opens the one that an apply has left, which must be this process's own.
    ///
    /// # Errors
    /// `EPERM`: it belongs to another user.
    pub fn find(dirs: &Dirs) -> Result<Option<Self>> {
        match open_to_list(dirs.work.as_fd(), PATH) {
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
            Ok(dir) => {
                let stat = stat_fd(dir.as_fd())?;
                let is_own = stat.uid == own_ids().0 && stat.mode & 0o022 == 0;
                if is_own { Ok(Some(Self(dir))) } else { Err(Errno::EPERM) }
            }
        }
    }

    /// Writes down that something is about to be made at these places.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn note_staging(&self, token: &[u8], anchors: &[Vec<u8>]) -> Result<()> {
        let text: Vec<u8> =
            [line("token", token)].into_iter().chain(anchors.iter().map(|at| line("anchor", at))).flatten().collect();
        self.write(STAGING, &text)
    }

    /// The name and the places of what was staged.
    ///
    /// # Errors
    /// What the system calls say; `EIO` for lines that are none.
    pub fn staging(&self) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
        let Some(text) = self.read(STAGING)? else { return Ok((Vec::new(), Vec::new())) };
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let paths = lines.map(|line| {
            let mut words = Words(line);
            words.word().and_then(|_| words.path()).ok_or(Errno::EIO)
        });
        let mut paths = paths.collect::<Result<Vec<_>>>()?.into_iter();
        Ok((paths.next().unwrap_or_default(), paths.collect()))
    }

    /// From now on the steps are made, by this process or by one that resumes.
    ///
    /// # Errors
    /// What the system calls say; then nothing has begun.
    pub fn commit(&self, journal: &Journal) -> Result<()> {
        self.write(JOURNAL, &journal.encode())
    }

    /// The steps, if they were begun.
    ///
    /// # Errors
    /// What the system calls say; `EIO` for a text that is none.
    pub fn journal(&self) -> Result<Option<Journal>> {
        let text = self.read(JOURNAL)?;
        text.map(|text| Journal::parse(&text).ok_or(Errno::EIO)).transpose()
    }

    /// The steps are made.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn begin_cleaning(&self, losses: &[Loss]) -> Result<()> {
        self.write(CLEANING, &losses.iter().flat_map(Loss::line).collect::<Vec<_>>())
    }

    /// What could not be kept, if the steps are made.
    ///
    /// # Errors
    /// What the system calls say; `EIO` for lines that are none.
    pub fn cleaning(&self) -> Result<Option<Vec<Loss>>> {
        let Some(text) = self.read(CLEANING)? else { return Ok(None) };
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let losses = lines.map(|line| {
            let mut words = Words(line);
            words.word().and_then(|_| Loss::parse(&words)).ok_or(Errno::EIO)
        });
        losses.collect::<Result<_>>().map(Some)
    }

    /// Removes the directory.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn end(self, dirs: &Dirs) -> Result<()> {
        let incompat = open_to_list(dirs.work.as_fd(), c"work/incompat")?;
        // The mark that the steps are made goes last.
        for name in [STAGED, JOURNAL, STAGING, CLEANING] {
            match tree::unlink_at(self.0.as_fd(), name) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        remove(incompat.as_fd(), APPLY, Kind::Dir)?;
        match tree::rmdir_at(open_to_list(dirs.work.as_fd(), WORK)?.as_fd(), INCOMPAT) {
            Ok(()) | Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn write(&self, name: &CStr, text: &[u8]) -> Result<()> {
        match tree::unlink_at(self.0.as_fd(), STAGED) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let file = tree::create_at(self.0.as_fd(), STAGED, OFlags::WRONLY, 0o600)?;
        data::pwrite_all(file.as_fd(), text, 0)?;
        data::fsync(file.as_fd())?;
        tree::rename_at(self.0.as_fd(), STAGED, self.0.as_fd(), name, RenameFlags::empty())?;
        data::fsync(self.0.as_fd())
    }

    fn read(&self, name: &CStr) -> Result<Option<Vec<u8>>> {
        let file = match open_beneath(self.0.as_fd(), name, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::ENOENT) => return Ok(None),
            file => file?,
        };
        let size = stat_fd(file.as_fd())?.size;
        if size > MOST {
            return Err(Errno::EFBIG);
        }
        let mut text = vec![0; usize::try_from(size).map_err(|_| Errno::EFBIG)?];
        let len = data::pread_full(file.as_fd(), &mut text, 0)?;
        text.truncate(len);
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_comes_back_as_it_went() {
        let slot = Slot { anchor: 1, number: 7 };
        let old = Was { id: (1, 3), changed: Time { sec: 1, nsec: 2 }, mtime: Time { sec: -3, nsec: 4 } };
        let journal = Journal {
            lower: (3, u64::MAX),
            token: b".plyfs-apply-x".to_vec(),
            anchors: vec![b"".to_vec(), b"a b\n\\n".to_vec()],
            steps: vec![
                Step::Narrow { id: (1, 2), mode: 0o700, path: b"d".to_vec() },
                Step::Take { slot, id: (1, 2), from: 9, was: b"old name".to_vec() },
                Step::Put { slot, id: (1, 2), old: None, parent: 0, path: b"\xff\n".to_vec() },
                Step::Put { slot, id: (1, 2), old: Some(old), parent: 8, path: b"x".to_vec() },
                Step::Delete { slot, old, path: b"\\".to_vec() },
                Step::Leaf { old, mode: 0o4711, times: [Time { sec: 1, nsec: 2 }; 2], path: b"l".to_vec() },
                Step::Dir { all: true, path: b"".to_vec() },
                Step::Dir { all: false, path: b"a/b".to_vec() },
            ],
            cleans: vec![
                Clean::Name(b"a".to_vec()),
                Clean::Tree(b"b".to_vec()),
                Clean::Dir(b"c".to_vec()),
                Clean::Stand,
                Clean::Commit(12),
                Clean::Index(b"00fb".to_vec()),
                Clean::Record(b"1".to_vec()),
                Clean::Mode(b"c".to_vec(), 0o555),
                Clean::Times(b"c".to_vec(), [Time { sec: -1, nsec: 2 }, Time { sec: 3, nsec: 4 }]),
            ],
            losses: vec![Loss { path: "a b\n".into(), what: "owner 0:0".into() }],
        };
        let text = journal.encode();
        assert_eq!(Journal::parse(&text), Some(journal));
        for len in 0..text.len() {
            assert_eq!(Journal::parse(&text[..len]), None, "cut at {len}");
        }
    }
}
