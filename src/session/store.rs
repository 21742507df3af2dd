//! Where sessions are kept: `STORE/NAME/`, with one pair of `upper` and `work` for each file system in it.
//!
//! | file | holds |
//! |---|---|
//! | `places` | a line for each file system: its number, which one it is (`f_fsid`), and where it is mounted, with newlines and backslashes escaped |
//! | `NUMBER/upper`, `NUMBER/work` | what was changed there |
//! | `step` | a step of all file systems that is being taken, or was broken off ([`super::record`]) |
//! | `root` | an empty directory, on which the view is built |
//! | `lock` | held while the session is in use |
//! | `mounts` | while the session is in use: the mount namespace of its processes, as `/proc/PID/ns/mnt` names it, and the source of its mounts there, which no other has |
//!
//! `.gone-NAME-…` is a session that is being removed.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use crate::base::{Errno, Result};
use crate::sys::caller::own_ids;
use crate::sys::lock;
use crate::sys::mounts::table_of;
use crate::sys::namespace::{self, open_dir};
use crate::union::{Kind, SetupError, remove_tree};

/// The directory that holds the sessions of a user.
#[derive(Debug, Clone)]
pub struct Store(PathBuf);

/// One session, which may be in use.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub name: String,
    /// Where it is kept.
    pub dir: PathBuf,
}

/// A name is a file name, and none that could be taken for a path or a flag.
fn is_name(name: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= 64 && name.chars().all(letters) && !name.starts_with(['.', '-'])
}

impl Store {
    /// The one at `dir`, or that of this user: `$XDG_STATE_HOME/plyfs`, else `~/.local/state/plyfs`.
    ///
    /// # Errors
    /// There is no such directory, and no home.
    pub fn new(dir: Option<PathBuf>) -> std::result::Result<Self, SetupError> {
        let is_given = dir.is_some();
        let dir = dir.or_else(Self::own);
        let none =
            || SetupError { what: "HOME".into(), reason: "it is not set".into(), hint: "use --store DIR".into() };
        let dir = dir.ok_or_else(none)?;
        let failed =
            |reason: String, hint: &str| SetupError { what: dir.display().to_string(), reason, hint: hint.to_owned() };
        let elsewhere = "sessions are kept there; use --store DIR";
        if !is_given {
            // As root with the HOME of somebody else: nothing of root's is to stand there.
            let is_there = dir.ancestors().find_map(|dir| fs::metadata(dir).ok());
            if is_there.is_some_and(|there| there.uid() != own_ids().0.0) {
                return Err(failed("it is below a directory of another user".into(), "use --store DIR"));
            }
        }
        make_private(&dir).map_err(|errno| failed(errno.to_string(), elsewhere))?;
        let dir = fs::canonicalize(&dir).map_err(|error| failed(error.to_string(), elsewhere))?;
        check_own(&dir).map_err(|reason| failed(reason, "use --store DIR"))?;
        Ok(Self(dir))
    }

    /// The sessions in the store of [`Store::new`], by name; none where there is no store yet.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn find_all(dir: Option<PathBuf>) -> Result<Vec<Session>> {
        // A HOME that is not this user's holds no sessions of this user's.
        let passed_over: &[ErrorKind] =
            if dir.is_some() { &[ErrorKind::NotFound] } else { &[ErrorKind::NotFound, ErrorKind::PermissionDenied] };
        let Some(dir) = dir.or_else(Self::own) else { return Ok(Vec::new()) };
        let found = match fs::read_dir(&dir) {
            Err(error) if passed_over.contains(&error.kind()) => return Ok(Vec::new()),
            found => found?,
        };
        let mut all: Vec<Session> = found
            .flatten()
            .filter(|entry| entry.path().join("places").exists())
            .filter_map(|entry| Some(Session { name: entry.file_name().into_string().ok()?, dir: entry.path() }))
            .collect();
        all.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(all)
    }

    /// The directory for this user.
    fn own() -> Option<PathBuf> {
        let from = |key: &str| std::env::var_os(key).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = from("XDG_STATE_HOME").or_else(|| from("HOME").map(|home| home.join(".local/state")));
        state.map(|state| state.join("plyfs"))
    }

    /// The session of this name, if there is one that is this user's.
    pub fn find(&self, name: &str) -> Option<Session> {
        let dir = self.0.join(name);
        let is_there = is_name(name) && check_own(&dir).is_ok() && dir.join("places").exists();
        is_there.then(|| Session { name: name.to_owned(), dir })
    }

    /// Removes what is left of sessions whose removal was broken off.
    pub fn sweep(&self) {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        for gone in entries.filter(|entry| entry.file_name().as_bytes().starts_with(GONE.as_bytes())) {
            let _ = remove_all(&gone.path());
        }
    }

    /// The session of this name, which is made if there is none.
    ///
    /// # Errors
    /// The name is none; what the system says.
    pub fn take(&self, name: &str) -> std::result::Result<Session, SetupError> {
        let failed = |reason: String, hint: &str| SetupError { what: name.to_owned(), reason, hint: hint.to_owned() };
        if !is_name(name) {
            return Err(failed(
                "no name for a session".into(),
                "use letters, digits, dots, dashes and underscores, 64 at most",
            ));
        }
        let dir = self.0.join(name);
        let made = [dir.clone(), dir.join("root")].iter().try_for_each(|dir| make_private(dir));
        made.map_err(|errno| failed(errno.to_string(), "--store DIR keeps sessions elsewhere"))?;
        check_own(&dir).map_err(|reason| failed(reason, "--store DIR keeps sessions elsewhere"))?;
        Ok(Session { name: name.to_owned(), dir })
    }
}

/// The beginning of the name of a session that is being removed.
const GONE: &str = ".gone-";

/// The journal of an apply, in a work directory (`src/tool/apply/journal.rs`).
const PENDING_APPLY: &str = "work/incompat/plyfs.apply";

/// Whether a directory is this user's, who alone can change it: whoever else could would choose what programs see.
fn check_own(dir: &Path) -> std::result::Result<(), String> {
    let stat = fs::symlink_metadata(dir).map_err(|error| error.to_string())?;
    match stat {
        stat if !stat.is_dir() => Err("it is no directory".into()),
        stat if stat.uid() != own_ids().0.0 => Err("it belongs to another user".into()),
        stat if stat.mode() & 0o022 != 0 => Err("others may write to it".into()),
        _ => Ok(()),
    }
}

/// Makes a directory that nobody else can enter, if it is not there.
fn make_private(dir: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    Ok(builder.mode(0o700).recursive(true).create(dir)?)
}

/// How a file is made that nobody else can read, whatever the umask is.
fn private() -> fs::OpenOptions {
    let mut how = fs::OpenOptions::new();
    how.create(true).write(true).mode(0o600);
    how
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(private().truncate(true).open(path)?.write_all(bytes)?)
}

impl Session {
    /// Holds the session for this process and those that it forks; `None`: it is in use. A step that was broken off is ended.
    ///
    /// # Errors
    /// Those of open(2) and flock(2); `ENOENT` for a session that was removed just now.
    pub fn lock(&self) -> Result<Option<OwnedFd>> {
        let path = self.dir.join("lock");
        let file = private().truncate(false).open(&path)?;
        if !lock::try_lock(file.as_fd())? {
            return Ok(None);
        }
        let (held, there) = (file.metadata()?, fs::metadata(&path)?);
        if (held.dev(), held.ino()) != (there.dev(), there.ino()) {
            return Err(Errno::ENOENT);
        }
        super::finish_steps(&self.dir)?;
        Ok(Some(file.into()))
    }

    /// Ends a step that was broken off, if there is one and nobody uses the session.
    ///
    /// # Errors
    /// As [`Session::lock`].
    pub fn finish_step(&self) -> Result<()> {
        if super::record::is_there(&self.dir) { self.lock().map(drop) } else { Ok(()) }
    }

    /// Where steps of all of its file systems are written down.
    pub fn steps(&self) -> super::Steps {
        super::Steps(self.dir.clone())
    }

    /// Whether something was changed in it.
    pub fn has_changes(&self) -> bool {
        let is_changed = |place: &Place| self.has_changes_at(place) || self.has_commits_at(place);
        self.places().unwrap_or_default().iter().any(is_changed)
    }

    /// Whether something was changed in one of its file systems.
    pub fn has_changes_at(&self, place: &Place) -> bool {
        fs::read_dir(self.dirs(place).0).map_or(true, |mut entries| entries.next().is_some())
    }

    /// Whether an apply of its changes was broken off, whose journal and staged files are in use still.
    pub fn has_pending_apply(&self) -> bool {
        self.places().unwrap_or_default().iter().any(|place| self.has_pending_apply_at(place))
    }

    /// The same of one of its file systems.
    pub fn has_pending_apply_at(&self, place: &Place) -> bool {
        self.dirs(place).1.join(PENDING_APPLY).symlink_metadata().is_ok()
    }

    /// Whether it has commits.
    pub fn has_commits(&self) -> bool {
        self.places().unwrap_or_default().iter().any(|place| self.has_commits_at(place))
    }

    /// Whether a commit has kept changes of one of its file systems.
    pub fn has_commits_at(&self, place: &Place) -> bool {
        fs::read_dir(self.dirs(place).1.join("commits")).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Whether one of its file systems has the commit of this number.
    pub fn has_commit_at(&self, place: &Place, number: u64) -> bool {
        self.dirs(place).1.join(format!("commits/{number}/layer")).is_dir()
    }

    /// The upper and the work directory of a file system.
    pub fn dirs(&self, place: &Place) -> (PathBuf, PathBuf) {
        let dir = self.dir.join(place.number.to_string());
        (dir.join("upper"), dir.join("work"))
    }

    /// The file systems that it has changes of.
    ///
    /// # Errors
    /// Those of reading; `EIO` for a list that is none.
    pub fn places(&self) -> Result<Vec<Place>> {
        let text = match fs::read(self.dir.join("places")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| Place::parse(line).ok_or(Errno::EIO)).collect()
    }

    /// The upper and the work directory for the file system that is mounted at `at` now; they are made if there are none.
    /// `owned`: the upper one gets the owner and the mode of what it is laid over.
    ///
    /// # Errors
    /// What the system says.
    pub fn layers_for(&self, at: &Path, owned: bool) -> Result<(PathBuf, PathBuf)> {
        let mut places = self.places()?;
        let id = namespace::file_system_at(at)?;
        let known = places.iter().find(|place| place.at == at && place.id == id);
        let is_new = known.is_none();
        let number = match known {
            Some(place) => place.number,
            None => {
                let last = places.iter().map(|place| place.number).max();
                let number = last.map_or(Some(0), |last| last.checked_add(1)).ok_or(Errno::EIO)?;
                places.push(Place { number, id, at: at.to_owned() });
                number
            }
        };
        let dir = self.dir.join(number.to_string());
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        make_private(&work)?;
        if !upper.exists() {
            let staged = dir.join("new");
            make_private(&staged)?;
            if owned {
                namespace::own_as(&staged, at)?;
            }
            fs::rename(&staged, &upper)?;
        }
        if is_new {
            let text: Vec<u8> = places.iter().flat_map(Place::line).collect();
            let staged = self.dir.join("places.new");
            write_private(&staged, &text)?;
            fs::rename(staged, self.dir.join("places"))?;
        }
        Ok((upper, work))
    }

    /// The file that tells where its processes are, open: they see another one.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_mounts(&self) -> Result<fs::File> {
        self.forget_mounts()?;
        Ok(private().open(self.dir.join("mounts"))?)
    }

    /// Nobody can join it any more.
    ///
    /// # Errors
    /// What the system says.
    pub fn forget_mounts(&self) -> Result<()> {
        match fs::remove_file(self.dir.join("mounts")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A process of the session, if there is one that sees its mounts.
    pub fn somebody(&self) -> Option<Pid> {
        let told = fs::read_to_string(self.dir.join("mounts")).ok()?;
        let (mounts, source) = told.trim_end().split_once('\n')?;
        let sees = |pid: &Pid| {
            let table = table_of(pid.as_raw_nonzero().get().unsigned_abs());
            table.is_ok_and(|table| table.iter().any(|mount| mount.source == source && mount.kind == "fuse.plyfs"))
        };
        namespace::all_in(Path::new(mounts)).into_iter().find(sees)
    }

    /// Removes it with all that it has kept.
    ///
    /// # Errors
    /// What the system says; then the name is free all the same.
    pub fn remove(&self) -> Result<()> {
        let gone = self.dir.with_file_name(format!("{GONE}{}-{}", self.name, std::process::id()));
        fs::rename(&self.dir, &gone)?;
        remove_all(&gone)
    }
}

/// What tells the processes of a session: their mount namespace, and the source of its mounts.
pub(super) fn told(mounts: &Path, source: &str) -> Vec<u8> {
    [mounts.as_os_str().as_bytes(), b"\n", source.as_bytes(), b"\n"].concat()
}

/// Removes a tree, in which directories may be closed to their owner: what a program has made.
fn remove_all(dir: &Path) -> Result<()> {
    let fd = open_dir(dir.parent().unwrap_or(dir))?;
    let name = dir.file_name().map(|name| std::ffi::CString::new(name.as_bytes())).ok_or(Errno::EINVAL)?;
    remove_tree(fd.as_fd(), &name.map_err(|_| Errno::EINVAL)?, Kind::Dir)
}

/// A file system of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its directory in the session.
    pub number: usize,
    /// Which file system it is.
    pub id: u64,
    /// Where it was mounted.
    pub at: PathBuf,
}

impl Place {
    fn line(&self) -> Vec<u8> {
        let escape = |&byte: &u8| match byte {
            b'\\' => b"\\\\".to_vec(),
            b'\n' => b"\\n".to_vec(),
            byte => vec![byte],
        };
        let at: Vec<u8> = self.at.as_os_str().as_bytes().iter().flat_map(escape).collect();
        [format!("{} {:x} ", self.number, self.id).as_bytes(), &at, b"\n"].concat()
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.splitn(3, |&byte| byte == b' ');
        let mut text = || std::str::from_utf8(fields.next()?).ok();
        let (number, id) = (text()?.parse().ok()?, u64::from_str_radix(text()?, 16).ok()?);
        let (mut at, mut bytes) = (Vec::new(), fields.next()?.iter());
        while let Some(&byte) = bytes.next() {
            at.push(match byte {
                b'\\' if *bytes.next()? == b'n' => b'\n',
                byte => byte,
            });
        }
        Some(Self { number, id, at: PathBuf::from(std::ffi::OsString::from_vec(at)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_as_it_went() {
        for at in ["/", "/a b", "/a\nb\\n", "/\\"] {
            let place = Place { number: 7, id: 0xfe, at: at.into() };
            assert_eq!(Place::parse(place.line().strip_suffix(b"\n").unwrap()), Some(place), "{at:?}");
        }
        assert_eq!(Place::parse(b"x 1 /"), None);
        assert_eq!(Place::parse(b"1 /"), None);
    }

    #[test]
    fn a_name_is_no_path() {
        for (name, is) in
            [("a-1.x_Y", true), ("", false), (".", false), ("a/b", false), ("-n", false), ("\u{e4}", false)]
        {
            assert_eq!(is_name(name), is, "{name}");
        }
    }
}
