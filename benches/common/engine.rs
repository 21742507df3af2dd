//! The engine without a mount: names, paths, listings.

use plyfs::union::{DirSink, InodeId, ListedEntry};
use plyfs::{Name, Union};

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// The directory that these names lead to; each is looked up, as the kernel does.
pub fn walk(union: &Union, names: &[Name]) -> InodeId {
    names.iter().fold(InodeId::ROOT, |dir, name| union.lookup(dir, name).expect("lookup").expect("a directory").id)
}

/// Takes all entries and counts them.
#[derive(Default)]
pub struct Count(pub usize);

impl DirSink for Count {
    fn add(&mut self, _: &ListedEntry<'_>) -> bool {
        self.0 += 1;
        true
    }
}
