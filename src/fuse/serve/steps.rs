//! Steps in the history of a view, as somebody orders them by an ioctl on a directory of it, and what is told of them.

use crate::base::described::Described;
use crate::base::{Errno, Result};
use crate::sys::ask::Ordered;
use crate::sys::caller::own_ids;
use crate::union::{Done, SetupError, Step, Union};

/// The first number of an order.
const COMMIT: u64 = 1;
const UNDO: u64 = 2;
const UNDO_TO: u64 = 3;
const REDO: u64 = 4;
const UNDO_PATHS: u64 = 5;

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
        _ => return Err(Errno::EINVAL),
    })
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

/// Tells the commits of a view, the topmost first, and whether something has changed since.
pub(super) fn tell(union: &Union, told: &mut Described) {
    let Ok(log) = union.log() else { return };
    log.commits.iter().for_each(|logged| told.add("commit", logged.encode()));
    if !log.commits.is_empty() {
        told.add("changed", if log.changed { "yes" } else { "no" });
    }
}
