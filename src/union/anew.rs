//! Opens an empty directory as an upper layer that is written at once, and not by requests.

use super::refusal::{Setup, SetupError};
use super::roots::{Common, For};
use super::setup::{Roots, fd_limit, open_roots, own_namespace, prepare, try_workdir, work_failed};
use crate::base::Errno;
use crate::base::config::Config;
use crate::format::OverrideKey;
use crate::layer::FdCache;
use crate::upper::Upper;

/// Opens the upper layer of `config`, which is empty. `owners`: where the owners and modes of its objects are written.
///
/// # Errors
/// [`SetupError`] names the option or path, the reason and a way out.
pub(crate) fn anew(config: &Config, owners: Option<OverrideKey>) -> Setup<Upper> {
    let Roots { upper, .. } = open_roots(config, For::Copying)?;
    let none = || SetupError::new("upperdir", Errno::EINVAL.to_string(), "");
    let mut roots = upper.ok_or_else(none)?;
    let own = own_namespace(config);
    let mut common = Common::new(config, own, FdCache::new(fd_limit()));
    let found = try_workdir(&roots, None, own).map_err(work_failed)?;
    roots.upper.owners = owners;
    let (upper, _) = prepare(config, roots, found, &mut common, &mut Vec::new())?;
    Ok(upper)
}
