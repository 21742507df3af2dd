//! Layers as archives that other programs understand: OCI layers, in which whiteouts are `.wh.` files and each object is
//! whole ([OCI image layers](https://github.com/opencontainers/image-spec/blob/main/layer.md)).
//!
//! A layer on disk may only refer to the layers below (redirect, metacopy, blocks, index). So each layer is seen together
//! with those below it: [`walk`] finds what it says, [`entry`] writes that down, [`squeeze`] compresses it.

mod entry;
mod image;
mod squeeze;
mod walk;

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

pub use self::image::{Blob, Image, Place};
pub(super) use self::image::{TAG, architecture, undone};
pub use self::squeeze::{Compression, Digests, OnItsWay, Squeeze, Squeezed, hex};
pub(super) use self::walk::{is_local, is_mark};
use super::Layers;
use crate::merge::DirPart;
use crate::sys::stat::stat_fd;

/// What an archive is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// What the layer at this position says: 0 is the upper one.
    Level(usize),
    /// All that the view shows.
    Merged,
}

/// An object that is not in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The object.
    pub path: PathBuf,
    /// What of it is left out.
    pub what: &'static str,
    /// No archive can hold it, and no program expects that: sockets alone are no loss.
    pub loss: bool,
}

/// What was written.
#[derive(Debug, Default)]
pub struct Exported {
    /// Objects and whiteouts.
    pub entries: u64,
    /// What was left out.
    pub left_out: Vec<LeftOut>,
}

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct Failed {
    /// The object that was being written.
    pub path: PathBuf,
    /// The reason.
    pub why: String,
}

/// An archive that is being written.
pub struct Export<W: Write> {
    archive: entry::Archive<W>,
    /// The first name in the archive of each object that has several.
    links: HashMap<(usize, u64), (Vec<u8>, u64)>,
    done: Exported,
}

impl<W: Write> Export<W> {
    /// An archive that goes to `out`. `until`: no time in it is later (seconds since 1970, `SOURCE_DATE_EPOCH`). `sparse`: holes
    /// take no room, which the format of images does not want.
    pub fn new(out: W, until: Option<i64>, sparse: bool) -> Self {
        let archive = entry::Archive::new(out, until, sparse);
        Self { archive, links: HashMap::new(), done: Exported::default() }
    }

    /// Adds a layer below the directory `before` of the archive.
    ///
    /// # Errors
    /// What cannot be read, or was changed while it was read; what the output says.
    pub fn add(&mut self, layers: &mut Layers, which: Which, before: &[u8]) -> Result<(), Failed> {
        // Each of the lower layers is what it was before there was an upper one.
        let with_index = matches!(which, Which::Level(0) | Which::Merged);
        if with_index {
            layers.stack.index = layers.index.take();
        }
        let done = walk::walk(self, layers, which, before);
        if with_index {
            layers.index = layers.stack.index.take();
        }
        // Numbers of other layers are no longer known by the same address.
        self.links.clear();
        done
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// What the output says.
    pub fn finish(self) -> io::Result<(W, Exported)> {
        Ok((self.archive.finish()?, self.done))
    }
}

/// The device and inode numbers of the roots of the layers that are written.
///
/// # Errors
/// `EMFILE`, `ENFILE`, and what stat says.
pub fn roots(layers: &Layers, which: Which) -> crate::base::Result<Vec<(u64, u64)>> {
    let parts = layers.stack.lowers.iter().chain(&layers.root.upper);
    let written = parts.filter(|part| matches!(which, Which::Merged) || which == Which::Level(part.level));
    let id = |part: &DirPart| stat_fd(part.place.fd()?.as_fd()).map(|stat| (stat.dev, stat.ino));
    written.map(id).collect()
}

/// The positions of the layers of a view, the lowest first: their order in an image.
pub fn levels(layers: &Layers) -> Vec<usize> {
    let lowers = layers.stack.lowers.iter().rev().map(|part| part.level);
    lowers.chain(layers.root.upper.iter().map(|_| 0)).collect()
}
