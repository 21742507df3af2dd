//! What the marks on a layer's root say of its past: who wrote the layer, and so whose marks count in it.

use std::os::fd::BorrowedFd;

use crate::base::Result;
use crate::format::mark::{Mark, Namespace, WhiteoutStyle};
use crate::sys::xattr;

/// Who wrote a layer, as the marks on its root say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Past {
    /// An overlay wrote it: names that begin with `.wh.` are ordinary files.
    pub overlay_style: bool,
    /// A mount with marks in `trusted.*` wrote it.
    trusted: bool,
    /// A mount with marks in `user.*` wrote it.
    user: bool,
}

impl Past {
    pub fn of(root: BorrowedFd<'_>) -> Result<Self> {
        let keys = xattr::list_at(root, c".")?;
        let has = |ns: Namespace, mark: Mark| keys.iter().any(|key| ns.key(mark).to_bytes() == key.as_slice());
        if has(Namespace::Trusted, Mark::WhNames) || has(Namespace::User, Mark::WhNames) {
            return Ok(Self::default());
        }
        let wrote = |ns: Namespace| [Mark::Origin, Mark::Impure, Mark::Uuid, Mark::Style].iter().any(|&m| has(ns, m));
        let (trusted, user) = (wrote(Namespace::Trusted), wrote(Namespace::User));
        let ours_with_wh = |ns: Namespace| {
            xattr::get_at(root, c".", ns.key(Mark::Style))
                .map(|value| value.as_deref() == Some(WhiteoutStyle::File.value()))
        };
        let wh = ours_with_wh(Namespace::Trusted)? || ours_with_wh(Namespace::User)?;
        Ok(Self { overlay_style: (trusted || user) && !wh, trusted, user })
    }

    /// The namespaces whose whiteouts and opaque marks count in the layer, for a mount whose own namespace is `own`.
    /// The other namespace does not count where only mounts with `own` are known to have written the layer: attributes
    /// in it are then a user's.
    pub fn reads(self, own: Namespace) -> &'static [Namespace] {
        let wrote = |ns: Namespace| if ns == Namespace::Trusted { self.trusted } else { self.user };
        match (own, wrote(own.other()) || !wrote(own)) {
            (Namespace::Trusted, true) => &[Namespace::Trusted, Namespace::User],
            (Namespace::Trusted, false) => &[Namespace::Trusted],
            (Namespace::User, true) => &[Namespace::User, Namespace::Trusted],
            (Namespace::User, false) => &[Namespace::User],
        }
    }
}
