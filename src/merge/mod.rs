//! What the union shows: its stateless part, which asks the layers and decides. It keeps nothing and changes nothing.

mod found;
mod layers;
mod list;
mod lookup;
mod names;
mod parted;
mod places;
mod stack;

pub use found::{Absent, Answer, Data, DirPart, DirView, Found, FoundDir, FoundLeaf, LowerFile, MetaFile};
pub use layers::Layers;
pub use list::{CookieKey, Listed, Listing, Window, is_empty, list, list_some};
pub use lookup::{Rest, lookup, lookup_from, lookup_in, lookup_nameless, lookup_open, lower_has, root_part};
pub use names::NameIndex;
pub use places::{Apartness, LAST, Places, cookie_of, end_of};
pub use stack::{Stack, Traps};
