//! User and group ids, in two worlds: as a layer has them, and as the view shows them. The types keep the two apart, so
//! that what translates between them (`union/owners.rs`) can neither be forgotten nor be done twice.

use std::fmt;

/// The id that stands for all ids which a user namespace does not have
/// ([user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html)).
pub const OVERFLOW_ID: u32 = 65534;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )* };
}

ids! {
    /// A user as a layer has it, in this process's user namespace.
    DiskUid
    /// A group as a layer has it, in this process's user namespace.
    DiskGid
    /// A user as the view shows it, and as who asks for something is known. [`u32::MAX`] is no user: the kernel shows it
    /// as the overflow id, and treats the object as a user namespace treats one of an owner that it does not have.
    ViewUid
    /// A group as the view shows it, as [`ViewUid`].
    ViewGid
}
