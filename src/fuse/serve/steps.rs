//! Steps in the history of a view, as somebody orders them by an ioctl on a directory of it, and what is told of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::described::Described;
use crate::base::{Errno, Result};
use crate::sys::ask::Ordered;
use crate::sys::caller::own_ids;
use crate::union::{Done, LayerChange, LayerPlace, SetupError, Step, Union};

/// The first number of an order.
const COMMIT: u64 = 1;
const UNDO: u64 = 2;
const UNDO_TO: u64 = 3;
const REDO: u64 = 4;
const UNDO_PATHS: u64 = 5;
const ADD_LAYER: u64 = 6;
const REMOVE_LAYER: u64 = 7;

/// The second number of an order to add a layer: its place. Below another one, whose path stands behind that of the layer.
const TOP: u64 = 0;
const BOTTOM: u64 = 1;
const BELOW: u64 = 2;

/// The first number of an answer.
const DONE: u64 = 1;
const REFUSED: u64 = 2;
const RETURNED: u64 = 3;

/// The order for a step.
pub fn order(step: &Step) -> Ordered {
    let (numbers, bytes) = match step {
        Step::Commit { text } => ([COMMIT, 0], text.clone()),
        Step::Undo { to: None } => ([UNDO, 0], Vec::new()),
        Step::Undo { to: Some(to) } => ([UNDO_TO, *to], Vec::new()),
        Step::UndoPaths { paths } => ([UNDO_PATHS, 0], paths.join(&0)),
        Step::Redo => ([REDO, 0], Vec::new()),
        Step::Layers(LayerChange::Remove { dir }) => ([REMOVE_LAYER, 0], dir.as_os_str().as_bytes().to_vec()),
        Step::Layers(LayerChange::Add { dir, seen: (dev, ino), at }) => {
            let (place, below) = match at {
                LayerPlace::Top => (TOP, Path::new("")),
                LayerPlace::Bottom => (BOTTOM, Path::new("")),
                LayerPlace::Below(other) => (BELOW, other.as_path()),
            };
            let paths = [dir.as_path(), below].map(|path| path.as_os_str().as_bytes()).join(&0);
            ([ADD_LAYER, place], [&dev.to_ne_bytes()[..], &ino.to_ne_bytes(), &paths].concat())
        }
    };
    Ordered { numbers, bytes }
}

/// The step that a caller orders.
///
/// # Errors
/// `EPERM`: the caller is neither the daemon's user nor root; `EINVAL`.
pub(super) fn asked(uid: u32, question: &[u8]) -> Result<Step> {
    if uid != 0 && uid != own_ids().0.0 {
        return Err(Errno::EPERM);
    }
    let Ordered { numbers, bytes } = Ordered::from_data(question)?;
    Ok(match numbers {
        [COMMIT, _] => Step::Commit { text: bytes },
        [UNDO, _] => Step::Undo { to: None },
        [UNDO_TO, to] => Step::Undo { to: Some(to) },
        [UNDO_PATHS, _] => Step::UndoPaths { paths: bytes.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect() },
        [REDO, _] => Step::Redo,
        [REMOVE_LAYER, _] => Step::Layers(LayerChange::Remove { dir: path(&bytes) }),
        [ADD_LAYER, place] => Step::Layers(addition(place, &bytes).ok_or(Errno::EINVAL)?),
        _ => return Err(Errno::EINVAL),
    })
}

fn path(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

fn addition(place: u64, bytes: &[u8]) -> Option<LayerChange> {
    let number = |at: usize| bytes.get(at..at + 8)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
    let seen = (number(0)?, number(8)?);
    let mut paths = bytes.get(16..)?.split(|&byte| byte == 0).map(path);
    let (dir, below) = (paths.next()?, paths.next()?);
    let at = match place {
        TOP => LayerPlace::Top,
        BOTTOM => LayerPlace::Bottom,
        BELOW => LayerPlace::Below(below),
        _ => return None,
    };
    dir.is_absolute().then_some(LayerChange::Add { dir, seen, at })
}

/// The refusal of a session, whose next `run` would have the layers that it had.
pub(super) fn of_session(dir: &Path) -> SetupError {
    SetupError {
        what: dir.display().to_string(),
        reason: "a session's layers are the file systems that it covers".to_owned(),
        hint: "plyfs layer add and remove are for views that were mounted".to_owned(),
    }
}

/// The answer to an order.
pub(super) fn answer(done: std::result::Result<Done, SetupError>) -> Vec<u8> {
    let ordered = match done {
        Ok(Done { made, on, returned }) => Ordered {
            numbers: [if returned { RETURNED } else { DONE }, on],
            bytes: made.unwrap_or_default().to_ne_bytes().to_vec(),
        },
        Err(SetupError { what, reason, hint }) => {
            Ordered { numbers: [REFUSED, 0], bytes: [what, reason, hint].join("\0").into_bytes() }
        }
    };
    ordered.to_data()
}

/// What the answer says.
///
/// # Errors
/// Why the step was not taken.
pub fn done(answer: &Ordered) -> std::result::Result<Done, SetupError> {
    if let [kind @ (DONE | RETURNED), on] = answer.numbers {
        let made = answer.bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)).filter(|&made| made != 0);
        return Ok(Done { made, on, returned: kind == RETURNED });
    }
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    let mut parts = text.split('\0').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    Err(SetupError { what: part(), reason: part(), hint: part() })
}

/// Tells of the lower layers as they are now, where they were others when the view was mounted.
pub(super) fn tell_layers(union: &Union, told: Described) -> Described {
    let paths = || union.lower_paths().iter().map(|path| path.as_os_str().as_bytes());
    if told.all("lowerdir").eq(paths()) {
        return told;
    }
    let (mut now, mut is_first) = (Described::default(), true);
    for (key, value) in told.pairs() {
        if key != "lowerdir" {
            now.add(key, value);
        } else if std::mem::take(&mut is_first) {
            paths().for_each(|path| now.add(key, path));
        }
    }
    let is_new = |note: &&String| told.all("degraded").all(|known| known != note.as_bytes());
    union.notes().iter().filter(is_new).for_each(|note| now.add("degraded", note));
    now
}

/// Tells the commits of a view, the topmost first, and whether something has changed since.
pub(super) fn tell(union: &Union, told: &mut Described) {
    let Ok(log) = union.log() else { return };
    log.commits.iter().for_each(|logged| told.add("commit", logged.encode()));
    if !log.commits.is_empty() {
        told.add("changed", if log.changed { "yes" } else { "no" });
    }
}
