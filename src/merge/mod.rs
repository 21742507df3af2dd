//! What is seen: the stateless part of the union. It asks layers and decides; it keeps nothing and changes nothing.

mod list;
mod lookup;

pub use list::{CookieKey, Listed, Listing, list};
pub use lookup::{
    Absent, Answer, DirPart, DirView, Found, FoundDir, FoundLeaf, lookup, lookup_from, lower_has, root_part,
};
