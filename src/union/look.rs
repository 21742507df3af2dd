//! Opens the layers of a view to be looked at: no lock is taken, no ability is tried, and nothing is written. So that can
//! be done beside the daemon that serves the view.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::indexing::{find_index, need_index};
use super::past::Past;
use super::refusal::{Setup, SetupError};
use super::restack::log_of;
use super::rivals::Rivals;
use super::roots::{Common, For, Root, UpperRoots};
use super::setup::{Roots, fd_limit, open_roots, own_namespace, remembered_style, stack_of};
use crate::base::config::{Config, XattrPermissions};
use crate::base::{Errno, Result};
use crate::format::commits::number;
use crate::format::mark::{Mark, Namespace, WhiteoutStyle};
use crate::layer::{DirPlace, FdCache};
use crate::merge::{self, DirPart, DirView, Layers};
use crate::sys::path::open_root;
use crate::sys::stat::stat_fd;
use crate::sys::xattr;
use crate::upper::commits::{Commits, stand_of};
use crate::upper::taken::is_broken_off;

/// Which changes of a view are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// The commit since which; 0: the lower layers. `None`: the last one below.
    pub from: Option<u64>,
    /// The commit up to which; `None`: up to now.
    pub to: Option<u64>,
    /// The view is one of several of a session, which count their commits together: one that it does not have is the one
    /// before.
    pub of_session: bool,
}

impl Range {
    /// What `A..` and `A..B` mean; `None`: a word is none of these.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let at = word.windows(2).position(|two| two == b"..")?;
        let (from, to) = (word.get(..at)?, word.get(at + 2..)?);
        let to = if to.is_empty() { None } else { Some(number(to)?) };
        Some(Self { from: Some(number(from)?), to, of_session: false })
    }

    /// All changes since the lower layers.
    pub const ALL: Self = Self { from: Some(0), to: None, of_session: false };
}

/// Opens all layers as [`super::Union::open`] would, to be looked at.
///
/// # Errors
/// [`SetupError`] names the option or path, the reason and a way out.
pub fn look(config: &Config) -> Setup<Layers> {
    look_between(config, Range::default())
}

/// As [`look`], even if an undo of paths was broken off in the upper layer.
///
/// # Errors
/// As [`look`].
pub fn look_at_all(config: &Config) -> Setup<Layers> {
    look_for(config, Range::default(), For::Checking).map(|(layers, _)| layers)
}

/// As [`look`], for these changes.
///
/// # Errors
/// As [`look`]; there is no such commit, or the later one does not stand on the earlier one.
pub fn look_between(config: &Config, range: Range) -> Setup<Layers> {
    look_for(config, range, For::Looking).map(|(layers, _)| layers)
}

/// As [`look_between`] for all changes, and holds the upper layer for this process as long as the descriptors are open, as a
/// daemon does.
///
/// # Errors
/// As [`look`]; who has the upper layer.
pub fn hold(config: &Config) -> Setup<(Layers, Vec<OwnedFd>)> {
    look_for(config, Range::ALL, For::Serving)
}

/// As [`hold`], for layers whose objects are copied or linked to elsewhere. No overlay may write one of them.
///
/// # Errors
/// As [`look`]; who writes a layer.
pub fn gather(config: &Config) -> Setup<(Layers, Vec<OwnedFd>)> {
    Rivals::of(config).check_unwritten()?;
    look_for(config, Range::default(), For::Copying)
}

/// As [`gather`], to be repaired: an index that is another layer's is left out.
///
/// # Errors
/// As [`gather`].
pub fn gather_at_all(config: &Config) -> Setup<(Layers, Vec<OwnedFd>)> {
    Rivals::of(config).check_unwritten()?;
    look_for(config, Range::default(), For::Repairing)
}

fn look_for(config: &Config, range: Range, what_for: For) -> Setup<(Layers, Vec<OwnedFd>)> {
    let to = match range.to {
        Some(to) => Some(known(config, to, range.of_session)?),
        None => None,
    };
    let from = match range.from {
        Some(from) => Some(known(config, from, range.of_session)?),
        None => None,
    };
    let what_for = match to {
        Some(0) if from != Some(0) => return Err(no_changes(0, range.from.unwrap_or(0))),
        Some(0) | None => what_for,
        Some(to) => For::LookingAt(to),
    };
    let Roots { lowers, data_only, upper, locks, traps, written, frozen, .. } = open_roots(config, what_for)?;
    let (changed, commits) = changed(from, to, &frozen)?;
    let own = own_namespace(config);
    if let Some(roots) = &upper
        && what_for != For::Checking
    {
        check_done(roots, own)?;
    }
    let mut common = Common { looks: true, written, ..Common::new(config, own, FdCache::new(fd_limit())) };
    common.alone = upper.is_none() && lowers.len() + data_only.len() == 1;
    let upper = match upper {
        Some(UpperRoots { mut upper, work }) => {
            if config.xattr_permissions == Some(XattrPermissions::Parents) {
                upper.carried = upper.owners.take().or(upper.carried);
            }
            let path = upper.path.clone();
            let failed = |errno: Errno| {
                let hint = "the user that looks must be able to read it";
                SetupError::new(format!("upperdir={}", path.display()), errno.to_string(), hint)
            };
            common.namespace = written_in(upper.fd.as_fd(), own).map_err(failed)?;
            Some((upper_part(upper, &common).map_err(failed)?, work))
        }
        None => None,
    };
    let stack = stack_of(config, (lowers, data_only), &common, traps)?;
    let (upper, work) = upper.unzip();
    // A frozen layer has none.
    let index = upper.as_ref().zip(work.as_ref()).filter(|_| config.index != Some(false) && to.is_none());
    let index = match index {
        Some((part, work)) if what_for == For::Copying => need_index(config, part, work.as_fd())?,
        // As a mount does, which goes on without it.
        Some((part, work)) => find_index(part, work.as_fd()).ok().flatten(),
        None => None,
    };
    let root = DirView { upper, redirect: None, lowers: stack.lowers.clone() };
    let layers = Layers { stack, root, index, work, changed, commits };
    // What several layers hold is looked for by all names that it has.
    Ok((if changed > 1 { layers.with_index() } else { layers }, locks))
}

/// Refuses an upper layer in which an undo of paths, or the redo of one, was broken off. Who may not read the work directory is
/// not told.
fn check_done(roots: &UpperRoots, own: Namespace) -> Setup<()> {
    if !is_broken_off(roots.work.as_fd(), own) {
        return Ok(());
    }
    let reason = "an undo or redo of paths was broken off in it";
    let hint = "mount the view once, which goes back to what was before";
    Err(SetupError::new(format!("upperdir={}", roots.upper.path.display()), reason, hint))
}

/// The commit that is meant by a number: that of this number, if there is one.
fn known(config: &Config, number: u64, of_session: bool) -> Setup<u64> {
    let none = |why: String| SetupError::new(format!("commit {number}"), why, "plyfs log tells them");
    let dirs = config.upper.as_ref().ok_or_else(|| none("a view without an upper layer has no commits".into()))?;
    let found = || -> Result<bool> {
        match Commits::open(open_root(&dirs.work)?.as_fd(), own_namespace(config))?.frozen(number) {
            Err(Errno::ENOENT) => Ok(false),
            frozen => frozen.map(|_| true),
        }
    };
    if number == 0 || found().map_err(|errno| none(errno.to_string()))? {
        return Ok(number);
    }
    if !of_session {
        return Err(none("there is none of this number".into()));
    }
    let before = log_of(config)?.commits.iter().map(|commit| commit.number).filter(|&one| one < number).max();
    Ok(before.unwrap_or(0))
}

/// How many layers hold the changes from one commit to another, and the commits among them; `frozen` are those beneath the topmost layer.
fn changed(from: Option<u64>, to: Option<u64>, frozen: &[u64]) -> Setup<(usize, Vec<u64>)> {
    let Some(from) = from else { return Ok((1, to.into_iter().collect())) };
    if to == Some(from) {
        return Ok((0, Vec::new()));
    }
    let beneath = if from == 0 { Some(frozen.len()) } else { frozen.iter().position(|&commit| commit == from) };
    let Some(beneath) = beneath else { return Err(no_changes(to.unwrap_or(0), from)) };
    Ok((1 + beneath, to.into_iter().chain(frozen.iter().take(beneath).copied()).collect()))
}

/// The later state does not stand on the earlier one.
fn no_changes(to: u64, from: u64) -> SetupError {
    let what = if to == 0 { "the view".to_owned() } else { format!("commit {to}") };
    let hint = "name first the one on which the other stands: plyfs log --json tells";
    SetupError::new(format!("{from}.."), format!("{what} does not stand on commit {from}"), hint)
}

/// The namespace in which an upper layer's marks were written, as those on its root tell.
fn written_in(root: BorrowedFd<'_>, own: Namespace) -> Result<Namespace> {
    let keys = xattr::list_at(root, c".")?;
    let has = |namespace: Namespace| {
        let marks = [Mark::Style, Mark::WhNames, Mark::Impure, Mark::Origin, Mark::Uuid];
        marks.iter().any(|&mark| keys.iter().any(|key| namespace.key(mark).to_bytes() == key.as_slice()))
    };
    Ok(if !has(own) && has(own.other()) { own.other() } else { own })
}

/// What the marks on a layer's root tell of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// Only mounts with `user.*` marks wrote it.
    pub by_user: bool,
    /// It is an upper layer that stands on a commit, and is a part of what it shows.
    pub on_commit: bool,
    /// It is an upper layer from which undo or redo leads to commits.
    pub has_commits: bool,
}

/// Reads the marks on the root of a layer, which need not be one.
///
/// # Errors
/// What opening and reading it says.
pub(crate) fn marks_on(path: &std::path::Path) -> Result<Written> {
    let root = open_root(path)?;
    let by_user = written_in(root.as_fd(), Namespace::Trusted)? == Namespace::User;
    let stands = [Namespace::Trusted, Namespace::User].map(|namespace| stand_of(root.as_fd(), namespace));
    let [trusted, user] = stands;
    let stands = [trusted?, user?];
    let on_commit = stands.iter().any(|stand| stand.on > 0);
    Ok(Written { by_user, on_commit, has_commits: on_commit || stands.iter().any(|stand| stand.tip.is_some()) })
}

/// The root of the upper layer, which is read as it was written.
fn upper_part(root: Root, common: &Common) -> Result<DirPart> {
    let past = Past::of(root.fd.as_fd())?;
    let style = remembered_style(root.fd.as_fd(), common.namespace)?.unwrap_or(WhiteoutStyle::Device);
    let wh_names = style == WhiteoutStyle::File || !past.overlay_style;
    let layer = root.layer(common, &past, common.wh_names.unwrap_or(wh_names), Some(style));
    let ino = stat_fd(root.fd.as_fd())?.ino;
    let (mut part, _) = merge::root_part(&DirPlace::root(layer, root.fd, ino), 0, false)?;
    part.xattr_whiteouts |= style == WhiteoutStyle::Xattr;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_commit_two_dots_and_perhaps_another_commit() {
        let range = |from, to| Some(Range { from: Some(from), to, of_session: false });
        for (word, expected) in [("0..", range(0, None)), ("2..13", range(2, Some(13)))] {
            assert_eq!(Range::parse(word.as_bytes()), expected);
        }
        for word in ["", "..", "..3", "1", "1.2", "1...2", "a..b", "./1..2", "1..2/", "-1..2", "01..2"] {
            assert_eq!(Range::parse(word.as_bytes()), None, "{word}");
        }
    }
}
