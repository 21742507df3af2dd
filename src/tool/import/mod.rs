//! Images as layers: each layer of an image is unpacked into a directory that is named by its diff-id, beside the others.
//!
//! It is unpacked elsewhere and renamed when all layers are whole and on the disk: a directory of that name is the layer.

mod archive;
mod implied;
mod source;
mod stream;
mod unpack;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use self::source::{Layer, layers};
pub use self::source::{Source, source_of};
use self::stream::{Room, Stream};
use self::unpack::{As, Unpacked, unpack};
use super::export::{Failed, LeftOut, hex, undone};
use crate::format::mark::Namespace;
use crate::sys::data::syncfs;
use crate::sys::lock::try_lock;
use crate::sys::path::open_root;

/// What begins the name of a directory in which a layer is unpacked.
const UNDONE: &str = ".plyfs-import.";

/// How layers are unpacked.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// The most bytes that all of them together may have.
    pub max: Option<u64>,
    /// As root: owners are given, and marks are `trusted.overlay.*`.
    pub trusted: bool,
    /// Owners can be given, as far as the user namespace has them.
    pub gives_owners: bool,
}

/// A layer that is there.
#[derive(Debug)]
pub struct Imported {
    /// Where it is.
    pub dir: PathBuf,
    /// It was there before.
    pub known: bool,
    /// Entries of its archive.
    pub entries: u64,
    /// What was left out.
    pub left_out: Vec<LeftOut>,
    /// Objects that belong to others in the archive, and to the caller here.
    pub foreign: u64,
}

/// Unpacks the layers of all sources into `to`, the topmost first. A layer that is there already is not unpacked again.
///
/// # Errors
/// What cannot be read, or is not what its digest says; what is not honest; what the file system says. Nothing is changed
/// then, but for layers that other imports have made.
pub fn import(sources: &[Source], to: &Path, how: How) -> Result<Vec<Imported>, Failed> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| Failed { path: path.clone(), why: error.to_string() }
    };
    let mut all = Vec::new();
    for source in sources {
        let found = layers(source).map_err(failed(&source.path))?;
        all.extend(found.into_iter().map(|layer| (source, layer)));
    }
    fs::create_dir_all(to).map_err(failed(to))?;
    let to = fs::canonicalize(to).map_err(failed(to))?;
    let work = Work::new(&to, how);
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(all.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Relaxed);
                    let Some((source, layer)) = all.get(at) else { return };
                    let done = work.layer(at, layer).map_err(failed(&source.path));
                    let is_end = done.is_err();
                    if let Ok(mut results) = results.lock() {
                        results.push((at, done));
                    }
                    if is_end {
                        // What the others have begun they end; they begin nothing more.
                        next.store(all.len(), Relaxed);
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(at, _)| *at);
    let done = results.into_iter().map(|(_, done)| done).collect::<Result<Vec<_>, _>>()?;
    work.settle(done).and_then(|done| work.publish(done)).map_err(failed(&to))
}

/// A layer that was unpacked, or was there.
struct Done {
    diff_id: String,
    /// Where it is until it is renamed, and what holds it for this process.
    staged: Option<(PathBuf, File)>,
    unpacked: Unpacked,
}

/// The directory for the layers, which are unpacked beside their places there: a rename to another directory takes the right
/// to write the directory that is renamed.
struct Work<'a> {
    to: &'a Path,
    begin: String,
    how: How,
    room: Room,
}

impl<'a> Work<'a> {
    fn new(to: &'a Path, how: How) -> Self {
        for old in undone(to, UNDONE) {
            let _ = remove(&old);
        }
        Self { to, begin: format!("{UNDONE}{}.", std::process::id()), how, room: Room::new(how.max) }
    }

    /// A directory for a layer, in which nobody else may come until it is what it is to be.
    fn stage(&self, at: usize) -> io::Result<(PathBuf, File)> {
        let staged = self.to.join(format!("{}{at}", self.begin));
        fs::DirBuilder::new().mode(0o700).create(&staged)?;
        let root = File::open(&staged)?;
        if try_lock(root.as_fd())? { Ok((staged, root)) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn layer(&self, at: usize, layer: &Layer) -> io::Result<Done> {
        if let Some(diff_id) = &layer.diff_id
            && self.place(diff_id).is_dir()
        {
            return Ok(Done { diff_id: diff_id.clone(), staged: None, unpacked: Unpacked::default() });
        }
        let (staged, root) = self.stage(at)?;
        let stream = Stream::new(layer.open()?, self.room.clone())?;
        let (stream, unpacked) = unpack(stream, root.try_clone()?.into(), self.unpacked_as(), &self.room)?;
        let (plain, stored) = stream.finish()?;
        let named = |digest: [u8; 32]| format!("sha256:{}", hex(&digest));
        let (diff_id, digest) = (named(plain), named(stored));
        for (said, found) in [(&layer.digest, &digest), (&layer.diff_id, &diff_id)] {
            if said.as_ref().is_some_and(|said| said != found) {
                let said = said.clone().unwrap_or_default();
                return Err(archive::wrong(&format!("the layer {said} has another digest: {found}")));
            }
        }
        Ok(Done { diff_id, staged: Some((staged, root)), unpacked })
    }

    fn unpacked_as(&self) -> As {
        let marks = if self.how.trusted { Namespace::Trusted } else { Namespace::User };
        As { marks, gives_owners: self.how.gives_owners }
    }

    /// Ends what takes the layers below, the lowest first. A layer that was there before stays as it is.
    fn settle(&self, done: Vec<Done>) -> io::Result<Vec<Done>> {
        let (mut roots, mut all) = (Vec::new(), Vec::new());
        for mut layer in done.into_iter().rev() {
            let place = self.place(&layer.diff_id);
            let path = layer.staged.as_ref().map_or(&place, |(staged, _)| staged);
            roots.insert(0, open_root(path)?);
            implied::settle(&roots, self.unpacked_as(), &mut layer.unpacked)?;
            all.insert(0, layer);
        }
        Ok(all)
    }

    /// Where a layer is to be.
    fn place(&self, diff_id: &str) -> PathBuf {
        self.to.join(diff_id.replace(':', "-"))
    }

    /// Puts all layers in their places. One that comes twice shows nothing below itself.
    fn publish(&self, done: Vec<Done>) -> io::Result<Vec<Imported>> {
        let lock = File::open(self.to)?;
        syncfs(lock.as_fd())?;
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        for Done { diff_id, staged, unpacked } in done {
            if !seen.insert(diff_id.clone()) {
                continue;
            }
            let dir = self.place(&diff_id);
            let known = match staged {
                // A directory that is there is replaced only if it is empty, which no layer with anything in it is.
                Some((staged, _lock)) => match fs::rename(&staged, &dir) {
                    Err(error) if dir.is_dir() => {
                        log::debug!("{}: {error}", dir.display());
                        true
                    }
                    renamed => renamed.map(|()| false)?,
                },
                None => true,
            };
            let Unpacked { entries, left_out, foreign, .. } = unpacked;
            all.push(Imported { dir, known, entries, left_out, foreign });
        }
        lock.sync_all()?;
        Ok(all)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        for left in undone(self.to, &self.begin) {
            let _ = remove(&left);
        }
    }
}

/// Removes what was unpacked: directories may be closed to their owner.
fn remove(dir: &Path) -> io::Result<()> {
    let Err(error) = fs::remove_dir_all(dir) else { return Ok(()) };
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Err(error);
    }
    open_up(dir);
    fs::remove_dir_all(dir)
}

fn open_up(dir: &Path) {
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        let _ = fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        todo.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
}
