//! What an apply may do, and what has changed since the session began. All of it is asked before anything is changed, so
//! that no step fails later.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use super::plan::Ground;
use super::reach::{Dirs, Id, open_dir};
use super::{Old, Refusal};
use crate::base::ids::OVERFLOW_ID;
use crate::base::{DiskUid, Errno, Name, Result};
use crate::layer::DirPlace;
use crate::sys::caller::{effective_caps, own_ids};
use crate::sys::stat::{Stat, Time, born_at, may_change_in, protection_at, stat_fd};

/// When an object of the upper layer was made, which is when it was copied up, if it is a copy. `None`: its file system
/// does not tell.
pub(super) fn born(dir: &DirPlace, name: &Name) -> Result<Option<Time>> {
    let wh = |fd: BorrowedFd<'_>| {
        let hidden = crate::format::wh::whiteout_name(name.as_bytes())?;
        born_at(fd, hidden.as_c_str())
    };
    let fd = dir.fd()?;
    match born_at(fd.as_fd(), name.as_c_str()) {
        Err(Errno::ENOENT) if dir.layer.wh_names => wh(fd.as_fd()),
        born => born,
    }
}

/// Whether a lower object may have changed after `since`. Times of a file system are those of the last tick, so that the
/// same one may be later; where nobody tells when it was, it may have.
pub(super) fn is_later(lower: &Stat, since: Option<Time>) -> bool {
    // One that keeps whole seconds may have cut off what makes it later.
    let is = |since: Time| lower.ctime >= since || (lower.ctime.nsec == 0 && lower.ctime.sec >= since.sec);
    since.is_none_or(is)
}

/// Why something may not be done, until its path is known.
pub(super) struct Why(String, &'static str);

impl Why {
    pub fn at(self, path: &[u8]) -> Refusal {
        Refusal::new(path, self.0, self.1)
    }
}

impl From<Errno> for Why {
    fn from(errno: Errno) -> Self {
        Self(errno.to_string(), "")
    }
}

/// `CAP_DAC_OVERRIDE` and `CAP_FOWNER`.
const OVERRIDE: u64 = 1 << 1 | 1 << 3;

/// What this process may do.
pub(super) struct Rights {
    overrides: bool,
    uid: DiskUid,
    /// The directories in which the upper layer and the work directory lie.
    own: HashSet<Id>,
}

impl Rights {
    pub fn new(dirs: &Dirs) -> Result<Self> {
        Ok(Self {
            overrides: effective_caps() & OVERRIDE == OVERRIDE,
            uid: own_ids().0,
            own: dirs.own()?.into_iter().collect(),
        })
    }

    /// Whether names can come and go in a directory of the lower layer.
    pub fn may_change_in(&self, dirs: &Dirs, ground: &Ground) -> std::result::Result<(), Why> {
        let dir = open_dir(dirs.lower.as_fd(), &ground.path)?;
        if let Err(errno) = may_change_in(dir.as_fd()) {
            let reason = match errno {
                Errno::EROFS => "the lower directory is on a read-only file system".to_owned(),
                errno => format!("the lower directory cannot be changed: {errno}"),
            };
            return Err(Why(reason, "apply it as a user who may, or apply other paths"));
        }
        check_flags(dir.as_fd(), c".")
    }

    /// Whether mode and times of an object can be set where it is.
    pub fn may_set(&self, of: &Stat) -> bool {
        of.uid == self.uid || (self.overrides && of.uid.0 != OVERFLOW_ID)
    }

    /// Whether an object of the lower layer can be taken away from its name.
    pub fn may_replace(
        &self,
        dirs: &Dirs,
        (ground, name): (&Ground, &Name),
        old: &Old,
    ) -> std::result::Result<(), Why> {
        if old.stat.ino == 0 {
            return Err(Why("something is mounted there".into(), "unmount that, or apply other paths"));
        }
        if self.own.contains(&old.id) {
            let reason = "the upper layer itself is kept in this directory";
            return Err(Why(reason.into(), "keep the session elsewhere (--store), or apply other paths"));
        }
        let dir = open_dir(dirs.lower.as_fd(), &ground.path)?;
        check_flags(dir.as_fd(), name.as_c_str())?;
        let above = stat_fd(dir.as_fd())?;
        // In a user namespace nobody has a say over ids that it does not have.
        if self.overrides && ![above.uid.0, old.stat.uid.0].contains(&OVERFLOW_ID) {
            return Ok(());
        }
        if above.mode & libc::S_ISVTX != 0 && ![above.uid, old.stat.uid].contains(&self.uid) {
            return Err(Why(
                "it belongs to another user, in a directory with the sticky bit".into(),
                "apply it as root",
            ));
        }
        if old.stat.is_dir() {
            let below = crate::sys::path::open_beneath(dir.as_fd(), name.as_c_str(), crate::sys::path::OFlags::PATH)?;
            may_change_in(below.as_fd())
                .map_err(|errno| Why(format!("the lower directory cannot be moved: {errno}"), ""))?;
        }
        Ok(())
    }
}

/// Refuses what chattr(1) has protected.
fn check_flags(dir: BorrowedFd<'_>, name: &CStr) -> std::result::Result<(), Why> {
    let protection = protection_at(dir, name)?;
    if protection.append || protection.immutable {
        return Err(Why("chattr protects it (+a or +i)".into(), "take the flag away, or apply other paths"));
    }
    Ok(())
}
