//! Opens the layers of a view to be looked at: no lock is taken, no ability is tried, and nothing is written. So that can
//! be done beside the daemon that serves the view.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::past::Past;
use super::refusal::{Setup, SetupError};
use super::roots::{Common, Root, UpperRoots};
use super::setup::{For, Roots, fd_limit, lower_parts, open_roots, own_namespace, remembered_style};
use crate::base::config::{Config, RedirectDir, XattrPermissions};
use crate::base::{Errno, Result};
use crate::format::mark::{Mark, Namespace, WhiteoutStyle};
use crate::layer::{DirPlace, FdCache, IndexDir};
use crate::merge::{self, DirPart, DirView, Layers, Stack};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::stat_fd;
use crate::sys::xattr;

/// Opens all layers as [`super::Union::open`] would, to be looked at.
///
/// # Errors
/// [`SetupError`] names the option or path, the reason and a way out.
pub fn look(config: &Config) -> Setup<Layers> {
    look_for(config, For::Looking).map(|(layers, _)| layers)
}

/// As [`look`], and holds the upper layer for this process as long as the descriptors are open, as a daemon does.
///
/// # Errors
/// As [`look`]; who has the upper layer.
pub fn hold(config: &Config) -> Setup<(Layers, Vec<OwnedFd>)> {
    look_for(config, For::Serving)
}

fn look_for(config: &Config, what_for: For) -> Setup<(Layers, Vec<OwnedFd>)> {
    let Roots { lowers, data_only, upper, locks, traps, written, .. } = open_roots(config, what_for)?;
    let own = own_namespace(config);
    let mut common = Common { looks: true, written, ..Common::new(config, own, FdCache::new(fd_limit())) };
    common.alone = upper.is_none() && lowers.len() + data_only.len() == 1;
    let upper = match upper {
        Some(UpperRoots { mut upper, work }) => {
            if config.xattr_permissions == Some(XattrPermissions::Parents) {
                upper.carried = upper.owners.take();
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
    let lowers = lower_parts(lowers, &common)?.into();
    let data_only = data_only.into_iter().map(|root| root.into_data(&common)).collect::<Setup<Vec<_>>>()?;
    let stack = Stack {
        lowers,
        follow_redirect: config.redirect_dir != Some(RedirectDir::NoFollow),
        follow_metacopy: config.metacopy != Some(false) || !data_only.is_empty(),
        data_only,
        index: None,
        verity: config.verity,
        traps,
    };
    let (upper, work) = upper.unzip();
    let index = upper.as_ref().zip(work.as_ref()).filter(|_| config.index != Some(false));
    let index = index.and_then(|(part, work)| open_index(part, work.as_fd()).ok());
    let root = DirView { upper, redirect: None, lowers: stack.lowers.clone() };
    Ok((Layers { stack, root, index, work }, locks))
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

/// The root of the upper layer, which is read as it was written.
fn upper_part(root: Root, common: &Common) -> Result<DirPart> {
    let past = Past::of(root.fd.as_fd())?;
    let style = remembered_style(root.fd.as_fd(), common.namespace)?.unwrap_or(WhiteoutStyle::Device);
    let wh_names = style == WhiteoutStyle::File || !past.overlay_style;
    let layer = root.layer(common, &past, wh_names, Some(style));
    let ino = stat_fd(root.fd.as_fd())?.ino;
    let (mut part, _) = merge::root_part(&DirPlace::root(layer, root.fd, ino), 0, false)?;
    part.xattr_whiteouts |= style == WhiteoutStyle::Xattr;
    Ok(part)
}

fn open_index(upper: &DirPart, work: BorrowedFd<'_>) -> Result<IndexDir> {
    let fd = open_beneath(work, c"index", OFlags::PATH | OFlags::DIRECTORY)?;
    let ino = stat_fd(fd.as_fd())?.ino;
    Ok(IndexDir::new(DirPlace::root(upper.place.layer.clone(), fd, ino)))
}
