//! Where sessions are kept: `STORE/NAME/`, with one pair of `upper` and `work` for each file system in it.
//!
//! | file | holds |
//! |---|---|
//! | `places` | a line for each file system: its number, and where it is mounted, with control characters and backslashes escaped |
//! | `NUMBER/upper`, `NUMBER/work` | what was changed there |
//! | `root` | an empty directory, on which the view is built |
//! | `lock` | held while the session is in use |
//! | `mounts` | the mount namespace of the session's processes, as `/proc/PID/ns/mnt` names it |

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::base::{Errno, Result};
use crate::sys::lock;
use crate::sys::namespace::open_dir;
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
        let dir = dir.or_else(Self::own);
        let none =
            || SetupError { what: "HOME".into(), reason: "it is not set".into(), hint: "use --store DIR".into() };
        let dir = dir.ok_or_else(none)?;
        make_private(&dir).map_err(|errno| SetupError {
            what: dir.display().to_string(),
            reason: errno.to_string(),
            hint: "sessions are kept there; use --store DIR".into(),
        })?;
        fs::canonicalize(&dir).map(Self).map_err(|error| SetupError {
            what: dir.display().to_string(),
            reason: error.to_string(),
            hint: String::new(),
        })
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

    /// The session of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<Session> {
        let dir = self.0.join(name);
        (is_name(name) && dir.join("places").exists()).then(|| Session { name: name.to_owned(), dir })
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
        Ok(Session { name: name.to_owned(), dir })
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
    /// Holds the session for this process and those that it forks; `None`: it is in use.
    ///
    /// # Errors
    /// Those of open(2) and flock(2).
    pub fn lock(&self) -> Result<Option<OwnedFd>> {
        let file = private().truncate(false).open(self.dir.join("lock"))?;
        Ok(lock::try_lock(file.as_fd())?.then(|| file.into()))
    }

    /// The file systems that it has changes of: number and place.
    ///
    /// # Errors
    /// Those of reading; `EIO` for a list that is none.
    pub fn places(&self) -> Result<Vec<(usize, PathBuf)>> {
        let text = match fs::read(self.dir.join("places")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| parse_place(line).ok_or(Errno::EIO)).collect()
    }

    /// The upper and the work directory for the file system at `place`; they are made if there are none.
    ///
    /// # Errors
    /// What the system says.
    pub fn layers_for(&self, place: &Path) -> Result<(PathBuf, PathBuf)> {
        let mut places = self.places()?;
        let number = match places.iter().find(|(_, at)| at == place) {
            Some((number, _)) => *number,
            None => {
                let next = places.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
                places.push((next, place.to_owned()));
                next
            }
        };
        let dir = self.dir.join(number.to_string());
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        [&upper, &work].into_iter().try_for_each(|dir| make_private(dir))?;
        let text: Vec<u8> = places.iter().flat_map(|(number, at)| place_line(*number, at)).collect();
        let staged = self.dir.join("places.new");
        write_private(&staged, &text)?;
        fs::rename(staged, self.dir.join("places"))?;
        Ok((upper, work))
    }

    /// Remembers the mount namespace of its processes, in which another command can join them.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_mounts(&self, name: &Path) -> Result<()> {
        write_private(&self.dir.join("mounts"), name.as_os_str().as_bytes())
    }

    /// That mount namespace.
    pub fn mounts(&self) -> Option<PathBuf> {
        fs::read(self.dir.join("mounts")).ok().map(|name| PathBuf::from(std::ffi::OsString::from_vec(name)))
    }

    /// Removes it with all that it has kept.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self) -> Result<()> {
        // Without its list it is no session any more.
        match fs::remove_file(self.dir.join("places")) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        remove_all(&self.dir)
    }
}

/// Removes a tree, in which directories may be closed to their owner: what a program has made.
fn remove_all(dir: &Path) -> Result<()> {
    let fd = open_dir(dir.parent().unwrap_or(dir))?;
    let name = dir.file_name().map(|name| std::ffi::CString::new(name.as_bytes())).ok_or(Errno::EINVAL)?;
    remove_tree(fd.as_fd(), &name.map_err(|_| Errno::EINVAL)?, Kind::Dir)
}

fn place_line(number: usize, at: &Path) -> Vec<u8> {
    let escape = |&byte: &u8| match byte {
        b'\\' => b"\\\\".to_vec(),
        b'\n' => b"\\n".to_vec(),
        byte => vec![byte],
    };
    let at: Vec<u8> = at.as_os_str().as_bytes().iter().flat_map(escape).collect();
    [number.to_string().as_bytes(), b" ", &at, b"\n"].concat()
}

fn parse_place(line: &[u8]) -> Option<(usize, PathBuf)> {
    let (number, escaped) = line.split_at_checked(line.iter().position(|&byte| byte == b' ')?)?;
    let (mut at, mut bytes) = (Vec::new(), escaped.iter().skip(1));
    while let Some(&byte) = bytes.next() {
        at.push(match byte {
            b'\\' if *bytes.next()? == b'n' => b'\n',
            byte => byte,
        });
    }
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, PathBuf::from(std::ffi::OsString::from_vec(at))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_as_it_went() {
        for at in ["/", "/a b", "/a\nb\\n", "/\\"] {
            let line = place_line(7, Path::new(at));
            assert_eq!(parse_place(line.strip_suffix(b"\n").unwrap()), Some((7, PathBuf::from(at))), "{at:?}");
        }
        assert_eq!(parse_place(b"x /"), None);
    }

    #[test]
    fn a_name_is_no_path() {
        for (name, is) in [("a-1.x_Y", true), ("", false), (".", false), ("a/b", false), ("-n", false), ("ä", false)] {
            assert_eq!(is_name(name), is, "{name}");
        }
    }
}
