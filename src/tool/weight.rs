//! How much a layer holds.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::diff::is_gone;
use crate::base::Result;
use crate::layer::DirPlace;
use crate::merge::Layers;
use crate::sys::dirent::names;
use crate::sys::stat::Stat;

/// What is in a layer, marks and whiteouts included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    /// Names; the root is none.
    pub objects: u64,
    /// What the objects take on disk, in bytes. A file with several names counts once.
    pub bytes: u64,
}

/// Weighs the upper layer; nothing where there is none. This looks at each object in it.
///
/// # Errors
/// What the layer's system calls say.
pub fn weigh_upper(layers: &Layers) -> Result<Weight> {
    let mut weight = Weight::default();
    let mut seen = HashSet::new();
    let mut todo: Vec<Arc<DirPlace>> = layers.root.upper.iter().map(|part| part.place.clone()).collect();
    while let Some(dir) = todo.pop() {
        match dir.open().and_then(|dir| names(dir.as_fd())) {
            Err(errno) if is_gone(errno) => {}
            names => {
                for name in names? {
                    let Some(stat) = dir.stat_on_disk(&name)? else { continue };
                    weight.add(&stat, &mut seen);
                    if stat.is_dir() {
                        todo.push(dir.child(&name, stat.ino));
                    }
                }
            }
        }
    }
    Ok(weight)
}

impl Weight {
    fn add(&mut self, stat: &Stat, seen: &mut HashSet<u64>) {
        self.objects += 1;
        if stat.is_dir() || stat.nlink < 2 || seen.insert(stat.ino) {
            self.bytes = self.bytes.saturating_add(stat.blocks.saturating_mul(512));
        }
    }
}
