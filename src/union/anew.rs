//! Opens an empty directory as an upper layer that is written at once, and not by requests.

use std::os::fd::AsFd;

use super::refusal::{Setup, SetupError};
use super::roots::{Common, For};
use super::setup::{Roots, fd_limit, open_roots, own_namespace, prepare, try_workdir, work_failed};
use crate::base::Errno;
use crate::base::config::Config;
use crate::format::OverrideKey;
use crate::format::mark::{Mark, Namespace, WhiteoutStyle};
use crate::layer::FdCache;
use crate::sys::xattr;
use crate::upper::{Features, Upper, WorkError};

/// In which form the marks and whiteouts of a layer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    /// The namespace of its marks; `None`: it has none.
    pub marks: Option<Namespace>,
    /// The form of its whiteouts.
    pub style: WhiteoutStyle,
}

/// Opens the upper layer of `config`, which is empty. `owners`: where the owners and modes of its objects are written;
/// `form`: in which form it is; `None`: in the one that its file system takes.
///
/// # Errors
/// [`SetupError`] names the option or path, the reason and a way out.
pub(crate) fn anew(config: &Config, owners: Option<OverrideKey>, form: Option<Form>) -> Setup<Upper> {
    let Roots { upper, .. } = open_roots(config, For::Copying)?;
    let none = || SetupError::new("upperdir", Errno::EINVAL.to_string(), "");
    let mut roots = upper.ok_or_else(none)?;
    let own = own_namespace(config);
    let mut common = Common::new(config, own, FdCache::new(fd_limit()));
    let (workdir, mut features) = try_workdir(&roots, None, own).map_err(work_failed)?;
    roots.upper.owners = owners;
    if let Some(form) = form {
        check(&features, form)?;
        features.marks = form.marks;
        common.markless = own;
        if let Some(namespace) = form.marks {
            let marked = xattr::set_at(roots.upper.fd.as_fd(), c".", namespace.key(Mark::Style), form.style.value(), 0);
            marked.map_err(|errno| work_failed(WorkError::Failed(errno)))?;
        } else if form.style == WhiteoutStyle::File {
            features.devices = false;
        }
    }
    let found = (workdir, features);
    let (upper, _) = prepare(config, roots, found, &mut common, &mut Vec::new())?;
    Ok(upper)
}

/// Refuses a form that the file system does not take, or not from this process.
fn check(features: &Features, form: Form) -> Setup<()> {
    let refuse = |option: &str, reason: &str, hint: &str| Err(SetupError::new(option, reason, hint));
    match form.marks {
        Some(Namespace::Trusted) if features.marks != form.marks => {
            let reason = "trusted.* marks cannot be written here";
            return refuse("--marks trusted", reason, "only root outside of user namespaces can: --marks user");
        }
        Some(Namespace::User) if features.marks != form.marks => {
            let reason = "the file system of the new layer takes no user.* attributes";
            return refuse("--marks user", reason, "choose another place, or --marks wh");
        }
        _ => {}
    }
    if form.style == WhiteoutStyle::Device && !features.devices {
        let reason = "no 0/0 devices can be made where the new layer is";
        return refuse("--whiteouts device", reason, "choose another place, --whiteouts xattr or --whiteouts wh");
    }
    Ok(())
}
