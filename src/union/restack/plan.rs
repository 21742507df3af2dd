//! Where a step leads, without any layer being touched.

use super::Step;
use crate::format::commits::{Stand, Why};
use crate::union::refusal::{Setup, SetupError};

/// The number of a commit: one that is there, or the one that is made by this step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    /// The upper layer as it is now.
    New,
    /// An earlier one; 0: the lower layers.
    Old(u64),
}

impl Number {
    /// The number, where the new commit gets the number `new`.
    pub fn with(self, new: u64) -> u64 {
        match self {
            Self::New => new,
            Self::Old(old) => old,
        }
    }
}

/// Where a step leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Aim {
    /// What is said of the layer that is frozen.
    pub why: Why,
    /// What the next upper layer stands on.
    pub to: Number,
    /// Where a redo leads back to.
    pub tip: Option<Number>,
}

/// What an upper layer stands on, and the commits below that, or below the one to which a redo leads back; the topmost
/// first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standpoint {
    pub stand: Stand,
    pub chain: Vec<u64>,
}

impl Standpoint {
    /// The commit to which undo and redo lead at most.
    fn top(&self) -> u64 {
        self.stand.tip.unwrap_or(self.stand.on)
    }

    /// The commit below `commit`.
    fn below(&self, commit: u64) -> u64 {
        self.chain.iter().copied().find(|&one| one < commit).unwrap_or(0)
    }

    /// The commit on which this layer stands when another one of the same session stands on `commit`.
    pub fn beneath(&self, commit: u64) -> u64 {
        self.below(commit.saturating_add(1))
    }
}

fn refused<T>(what: &str, reason: impl Into<String>, hint: &str) -> Setup<T> {
    Err(SetupError::new(what, reason, hint))
}

/// Where a step leads from `here`. `changed`: something was changed since; `known`: whether there is a commit of this
/// number.
pub(super) fn aim(step: &Step, here: &Standpoint, changed: bool, known: &dyn Fn(u64) -> bool) -> Setup<Aim> {
    let on = here.stand.on;
    // What stands in the upper layer is kept, and a redo leads to it.
    let (why, top) = match changed {
        true => (Why::Undo, Number::New),
        false => (Why::Empty, Number::Old(here.top())),
    };
    match step {
        Step::Commit { .. } if !changed => refused("commit", "nothing has changed since the last one", ""),
        Step::Commit { .. } => Ok(Aim { why: Why::Commit, to: Number::New, tip: None }),
        Step::Undo { to: None } => {
            let to = if changed { on } else { here.below(on) };
            if !changed && on == 0 {
                return refused("undo", "there is nothing to undo", "plyfs log tells what there is");
            }
            Ok(Aim { why, to: Number::Old(to), tip: Some(top) })
        }
        Step::Undo { to: Some(to) } => {
            if *to != 0 && !known(*to) {
                return refused("undo", format!("there is no commit {to}"), "plyfs log tells what there is");
            }
            if !changed && *to == on {
                return refused("undo", format!("the view is what commit {to} has"), "");
            }
            let on_the_way = *to == 0 || here.chain.contains(to);
            let tip = Some(top).filter(|top| on_the_way && *top != Number::Old(*to));
            Ok(Aim { why, to: Number::Old(*to), tip })
        }
        // It leads nowhere: the view stays where it is.
        Step::UndoPaths { .. } => refused("undo", "paths are taken back in one view at a time", ""),
        Step::Layers(_) => refused("layer", "layers join and go in one view at a time", ""),
        Step::Redo => {
            let none = |why| refused("redo", why, "plyfs log tells what there is");
            if changed && here.stand.tip.is_some() {
                return none("the view has changed since the undo: undo goes on from there");
            }
            let above = here.chain.iter().copied().filter(|&one| one > on).min();
            let Some(above) = above.filter(|_| !changed && here.stand.tip.is_some()) else {
                return none("there is nothing to redo");
            };
            let tip = Some(Number::Old(here.top())).filter(|_| above != here.top());
            Ok(Aim { why: Why::Empty, to: Number::Old(above), tip })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(on: u64, tip: Option<u64>, chain: &[u64]) -> Standpoint {
        Standpoint { stand: Stand { on, tip, id: None }, chain: chain.to_vec() }
    }

    fn go(step: &Step, here: &Standpoint, changed: bool) -> Option<(Why, Number, Option<Number>)> {
        let aim = aim(step, here, changed, &|number| number <= 9).ok()?;
        Some((aim.why, aim.to, aim.tip))
    }

    #[test]
    fn undo_goes_back_and_redo_comes_forward() {
        use Number::{New, Old};
        let (commit, undo, redo) = (Step::Commit { text: Vec::new() }, Step::Undo { to: None }, Step::Redo);
        let to = |to| Step::Undo { to: Some(to) };
        let (three, middle) = (at(3, None, &[3, 2, 1]), at(2, Some(3), &[3, 2, 1]));
        for (step, here, changed, expected) in [
            (&commit, &three, true, Some((Why::Commit, New, None))),
            (&commit, &three, false, None),
            (&commit, &middle, true, Some((Why::Commit, New, None))),
            (&undo, &three, true, Some((Why::Undo, Old(3), Some(New)))),
            (&undo, &three, false, Some((Why::Empty, Old(2), Some(Old(3))))),
            (&undo, &middle, false, Some((Why::Empty, Old(1), Some(Old(3))))),
            (&undo, &middle, true, Some((Why::Undo, Old(2), Some(New)))),
            (&undo, &at(1, Some(3), &[3, 2, 1]), false, Some((Why::Empty, Old(0), Some(Old(3))))),
            (&undo, &at(0, Some(3), &[3, 2, 1]), false, None),
            (&undo, &at(0, None, &[]), false, None),
            (&undo, &at(0, None, &[]), true, Some((Why::Undo, Old(0), Some(New)))),
            (&redo, &three, false, None),
            (&redo, &middle, false, Some((Why::Empty, Old(3), None))),
            (&redo, &middle, true, None),
            (&redo, &at(0, Some(3), &[3, 2, 1]), false, Some((Why::Empty, Old(1), Some(Old(3))))),
            (&to(1), &three, false, Some((Why::Empty, Old(1), Some(Old(3))))),
            (&to(3), &three, false, None),
            (&to(3), &three, true, Some((Why::Undo, Old(3), Some(New)))),
            (&to(3), &middle, false, Some((Why::Empty, Old(3), None))),
            (&to(7), &three, false, Some((Why::Empty, Old(7), None))),
            (&to(10), &three, false, None),
            (&to(0), &three, false, Some((Why::Empty, Old(0), Some(Old(3))))),
        ] {
            assert_eq!(go(step, here, changed), expected, "{step:?} from {here:?}, changed: {changed}");
        }
    }

    #[test]
    fn a_file_system_that_came_later_stands_on_what_it_had_then() {
        let late = at(5, None, &[5, 4]);
        for (commit, expected) in [(5, 5), (9, 5), (4, 4), (3, 0), (0, 0)] {
            assert_eq!(late.beneath(commit), expected);
        }
    }
}
