//! The mode of an object that an unprivileged daemon has widened for an instant: a note says what it gets back, should the
//! process end in that instant.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use crate::base::Result;
use crate::sys::path::{OFlags, open_beneath, shown_path};
use crate::sys::stat::{Stat, stat_fd};
use crate::sys::tree;

/// The note in `workdir/work`, of which there is one at a time: a symlink `MODE WIDENED INODE PATH`, as one call makes it whole.
const NOTE: &CStr = c"#mode";

/// The type that [`super::Layer::modes`] guards, by which the order of the locks knows that lock.
#[derive(Debug, Default)]
pub struct Modes(Option<Notes>);

/// Where notes are made.
#[derive(Debug)]
struct Notes {
    work: OwnedFd,
    /// The paths of the upper and the work directory, one of which each object lies beneath.
    roots: [Vec<u8>; 2],
}

impl Modes {
    /// Notes are made in `work`, of objects beneath these directories.
    ///
    /// # Errors
    /// What `/proc` and duplicating a descriptor say.
    pub fn noted(work: BorrowedFd<'_>, [upper, workdir]: [BorrowedFd<'_>; 2]) -> Result<Self> {
        let roots = [shown_path(upper)?, shown_path(workdir)?].map(|path| match path.as_bytes() {
            b"/" => Vec::new(),
            path => path.to_vec(),
        });
        Ok(Self(Some(Notes { work: work.try_clone_to_owned()?, roots })))
    }

    /// Notes that `name` in `dir` has this mode and gets the mode `wide` for an instant. Without a note it is widened, too.
    pub(super) fn note(&self, (dir, name): (BorrowedFd<'_>, &CStr), stat: &Stat, wide: u32) {
        let Some(notes) = &self.0 else { return };
        let noted = || {
            let dir = shown_path(dir)?;
            let beneath = |root: &Vec<u8>| {
                let rest = dir.as_bytes().strip_prefix(root.as_slice())?;
                (rest.is_empty() || rest.starts_with(b"/")).then(|| rest.to_vec())
            };
            let Some(path) = notes.roots.iter().find_map(beneath) else { return Ok(()) };
            let begin = format!("{:o} {wide:o} {} .", stat.mode & 0o7777, stat.ino);
            let text = CString::new([begin.as_bytes(), &path, b"/", name.to_bytes()].concat()).unwrap_or_default();
            tree::symlink_at(&text, notes.work.as_fd(), NOTE).or_else(|_| {
                notes.done()?;
                tree::symlink_at(&text, notes.work.as_fd(), NOTE)
            })
        };
        let noted: Result<()> = noted();
        if let Err(errno) = noted {
            log::debug!("no note of a mode that is widened: {errno}");
        }
    }

    /// The object has its mode again.
    pub(super) fn done(&self) {
        if let Some(notes) = &self.0 {
            let _ = notes.done().or_else(|_| notes.done());
        }
    }
}

impl Notes {
    fn done(&self) -> Result<()> {
        tree::unlink_at(self.work.as_fd(), NOTE)
    }
}

/// Gives an object its mode back that a process had widened when it ended. Only permissions of the owner go by that, as the
/// note may be anybody's.
pub fn narrow_again(work: BorrowedFd<'_>, roots: [BorrowedFd<'_>; 2]) {
    let Some((mode, wide, ino, path)) = tree::readlink_at(work, NOTE).ok().and_then(|note| parsed(&note)) else {
        return;
    };
    if wide & !mode & !0o700 != 0 || mode & !wide != 0 {
        return;
    }
    for root in roots {
        let Ok(object) = open_beneath(root, &path, OFlags::PATH) else { continue };
        let is_it = stat_fd(object.as_fd()).is_ok_and(|stat| (stat.ino, stat.mode & 0o7777) == (ino, wide));
        if is_it && let Err(errno) = tree::chmod_fd(object.as_fd(), mode) {
            log::warn!("{path:?} keeps the mode {wide:o}, which was {mode:o}: {errno}");
        }
    }
}

fn parsed(note: &[u8]) -> Option<(u32, u32, u64, CString)> {
    let mut parts = note.splitn(4, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let mode = u32::from_str_radix(text()?, 8).ok()?;
    let wide = u32::from_str_radix(text()?, 8).ok()?;
    let ino = text()?.parse().ok()?;
    Some((mode, wide, ino, CString::new(parts.next()?).ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::sys::path::open_root;
    use crate::sys::stat::stat_at;

    #[test]
    fn a_mode_that_an_end_has_left_widened_is_narrowed_again_and_none_is_widened() {
        let here = tempfile::tempdir().unwrap();
        let at = |name: &str| here.path().join(name);
        std::fs::create_dir_all(at("upper/d")).unwrap();
        std::fs::create_dir_all(at("upper-work/work")).unwrap();
        let [upper, workdir, work, dir] =
            ["upper", "upper-work", "upper-work/work", "upper/d"].map(|name| open_root(&at(name)).unwrap());
        let roots = [upper.as_fd(), workdir.as_fd()];
        let modes = Modes::noted(work.as_fd(), roots).unwrap();
        let (file, note) = (at("upper/d/f"), at("upper-work/work/#mode"));
        let mode = || std::fs::metadata(&file).unwrap().mode() & 0o7777;
        let set = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        std::fs::write(&file, "x").unwrap();
        set(0o444);
        let stat = stat_at(dir.as_fd(), c"f").unwrap();
        // A note that is there already gives way.
        symlink("x", &note).unwrap();
        modes.note((dir.as_fd(), c"f"), &stat, 0o644);
        set(0o644);
        narrow_again(work.as_fd(), roots);
        assert_eq!(mode(), 0o444);
        set(0o640);
        narrow_again(work.as_fd(), roots);
        assert_eq!(mode(), 0o640, "somebody has given it another mode");
        modes.done();
        assert!(!note.is_symlink());
        for (noted, now) in [("4755 755", 0o755), ("700 755", 0o755), ("777 755", 0o755)] {
            set(now);
            symlink(format!("{noted} {} ./d/f", stat.ino), &note).unwrap();
            narrow_again(work.as_fd(), roots);
            assert_eq!(mode(), now, "{noted}");
            modes.done();
        }
    }
}
