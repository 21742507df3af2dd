//! One step as a program does it, under the name that it has in the shared view.

use rustix::fs::{OFlags, fsync};
use rustix::io::Errno;

use crate::common::Tree;
use crate::common::tree::{pwrite_all, write_all};
use crate::model::real::Real;
use crate::model::{Outcome, Step, Subject, content};

/// When the bytes of a write are safe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Safe {
    /// When write(2) has returned: a kill of the daemon leaves the page cache of the layers alone.
    Written,
    /// When fsync(2) has returned.
    Fsynced,
    /// The file is opened with O_SYNC.
    Sync,
}

/// Does the step; a write returns when its bytes are safe.
pub fn perform(real: &mut Real, tree: &Tree, step: &Step, safe: Safe) -> Outcome {
    let flags = if safe == Safe::Sync { OFlags::SYNC } else { OFlags::empty() };
    let fd = match step {
        _ if safe == Safe::Written => return real.apply(step),
        Step::Write(path, at, len, seed) => {
            let fd = tree.open(path, OFlags::WRONLY | flags)?;
            pwrite_all(&fd, &content(*seed, *len), *at as u64)?;
            fd
        }
        Step::Append(path, len, seed) => {
            let fd = tree.open(path, OFlags::WRONLY | OFlags::APPEND | flags)?;
            write_all(&fd, &content(*seed, *len))?;
            fd
        }
        other => return real.apply(other),
    };
    if safe == Safe::Fsynced {
        fsync(&fd)?;
    }
    Ok(Vec::new())
}

/// Whether the step is a write, and so may be done in part.
pub fn is_write(step: &Step) -> bool {
    matches!(step, Step::Write(..) | Step::Append(..) | Step::HeldWrite(..))
}

/// Whether it changes what an object is, and not which names there are.
pub fn changes_objects(step: &Step) -> bool {
    use Step::*;
    is_write(step)
        || matches!(step, Truncate(..) | OpenTruncate(_) | Fallocate(..) | Chmod(..) | Chown(..))
        || matches!(step, SetXattr(..) | RemoveXattr(..) | HeldTruncate(..) | HeldChmod(..))
}

/// What it is called in the report.
pub fn word(step: &Step) -> &'static str {
    use Step::*;
    match step {
        Create(..) | Mkfifo(_) | Symlink(_) => "create",
        Mkdir(..) => "mkdir",
        Link(..) => "link",
        Unlink(_) => "unlink",
        Rmdir(_) => "rmdir",
        Rename(..) => "rename",
        _ if is_write(step) => "write",
        Truncate(..) | OpenTruncate(_) | Fallocate(..) | HeldTruncate(..) => "truncate",
        Chmod(..) | Chown(..) | Utimes(..) | SetXattr(..) | RemoveXattr(..) | HeldChmod(..) => "metadata",
        _ => "read",
    }
}

/// The paths that it names.
pub fn paths(step: &Step) -> Vec<&str> {
    use Step::*;
    match step {
        Create(p, _) | Mkdir(p, _) | Mkfifo(p) | Symlink(p) | Unlink(p) | Rmdir(p) | Read(p) | List(p) => vec![p],
        Write(p, ..) | Append(p, ..) | Truncate(p, _) | OpenTruncate(p) | Fallocate(p, ..) => vec![p],
        Chmod(p, _) | Chown(p, ..) | Utimes(p, _) | SetXattr(p, ..) | RemoveXattr(p, _) | Hold(_, p, _) => vec![p],
        Link(a, b) | Rename(a, b, _) => vec![a, b],
        _ => vec![],
    }
}

/// The same step with other names.
pub fn renamed(step: &Step, name: impl Fn(&str) -> String) -> Step {
    let mut step = step.clone();
    use Step::*;
    match &mut step {
        Create(p, _) | Mkdir(p, _) | Mkfifo(p) | Symlink(p) | Unlink(p) | Rmdir(p) | Read(p) | List(p) => *p = name(p),
        Write(p, ..) | Append(p, ..) | Truncate(p, _) | OpenTruncate(p) | Fallocate(p, ..) => *p = name(p),
        Chmod(p, _) | Chown(p, ..) | Utimes(p, _) | SetXattr(p, ..) | RemoveXattr(p, _) => *p = name(p),
        Hold(_, p, _) => *p = name(p),
        Link(a, b) | Rename(a, b, _) => (*a, *b) = (name(a), name(b)),
        _ => {}
    }
    step
}

/// Whether bytes are a state on the way from `before` to `after`: the first bytes of a write are done; where the kernel
/// holds writes back, any pages of it.
pub fn is_between(seen: &[u8], before: &[u8], after: &[u8], any_pages: bool) -> bool {
    if seen.len() < before.len().min(after.len()) || seen.len() > before.len().max(after.len()) {
        return false;
    }
    // A byte that is not there is like a hole.
    let at = |bytes: &[u8], i: usize| bytes.get(i).copied().unwrap_or(0);
    if any_pages {
        return (0..seen.len()).all(|i| [at(before, i), at(after, i)].contains(&seen[i]));
    }
    let done = (0..seen.len()).take_while(|i| seen[*i] == at(after, *i)).count();
    (done..seen.len()).all(|i| seen[i] == at(before, i))
}

/// Errors by which a program learns that the daemon has died.
pub fn is_death(errno: Errno) -> bool {
    matches!(errno, Errno::NOTCONN | Errno::CONNABORTED | Errno::IO | Errno::INTR | Errno::NODEV)
}
