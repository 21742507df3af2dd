//! Where the layers stand: directories that were named, and file systems made for it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::common::Layers;
use tempfile::TempDir;

use crate::common::images::{BTRFS, EXT4, F2FS, Image, Kind, Memory, XFS, XFS_WITHOUT_REFLINKS};
use crate::extra::Extra;
use crate::{Args, Done};

const KINDS: [Kind; 5] = [EXT4, XFS, XFS_WITHOUT_REFLINKS, BTRFS, F2FS];
/// The upper layer on XFS, the lower one on ext4: what must be read and written.
const APART: &str = "xfs-over-ext4";

/// What keeps a place there.
enum Made {
    Dir,
    Image { _image: Image },
    Memory { _memory: Memory },
    Two { _images: [Image; 2] },
}

pub struct Place {
    /// Its directory, or the kind that was made.
    pub name: String,
    pub file_system: String,
    /// How a whole file is copied within it, where the kernel is asked.
    pub copies: &'static str,
    dir: PathBuf,
    /// Where the lower layer is, if not in `dir`.
    lower: Option<TempDir>,
    // The last to go.
    _made: Made,
}

impl Place {
    fn at(name: String, dir: PathBuf, lower: Option<TempDir>, made: Made) -> Self {
        let kind = |dir: &Path| mount_of(dir).map_or_else(|| "unknown".into(), |(kind, _)| kind);
        let file_system = match &lower {
            Some(lower) => format!("{} over {}", kind(&dir), kind(lower.path())),
            None => kind(&dir),
        };
        let copies = copies(lower.as_ref().map_or(&dir, TempDir::path), &dir);
        Self { name, file_system, copies, dir, lower, _made: made }
    }

    fn on(dir: &Path, lower: Option<&Path>) -> Done<Self> {
        let named = dir.display().to_string();
        let dir = fs::canonicalize(dir).map_err(|error| format!("--on {named}: {error}"))?;
        // Known before anything is measured: it can be written to.
        tempfile::tempdir_in(&dir).map_err(|error| format!("--on {named}: {error}"))?;
        let Some(lower) = lower else { return Ok(Self::at(dir.display().to_string(), dir, None, Made::Dir)) };
        let held = tempfile::tempdir_in(lower).map_err(|error| format!("--lower {}: {error}", lower.display()))?;
        Ok(Self::at(format!("{} over {}", dir.display(), lower.display()), dir, Some(held), Made::Dir))
    }

    fn made(kind: &str, mib: u64) -> Result<Self, String> {
        let name = format!("{kind} in memory");
        if kind == "tmpfs" {
            let memory = Memory::new()?;
            return Ok(Self::at(name, memory.path().to_owned(), None, Made::Memory { _memory: memory }));
        }
        if kind == APART {
            let (upper, lower) = (Image::new(XFS, mib)?, Image::new(EXT4, mib / 2)?);
            let held = tempfile::tempdir_in(lower.path()).map_err(|error| error.to_string())?;
            return Ok(Self::at(name, upper.path().to_owned(), Some(held), Made::Two { _images: [upper, lower] }));
        }
        let kind = *KINDS.iter().find(|one| one.name == kind).ok_or("no such kind")?;
        let image = Image::new(kind, mib)?;
        Ok(Self::at(name, image.path().to_owned(), None, Made::Image { _image: image }))
    }

    /// Lower files that are all alike, and an upper layer.
    ///
    /// # Errors
    /// What the file system does not have, in words.
    pub fn layers(&self, size: u64, files: usize, extra: Extra) -> Result<Layers, String> {
        let layers = match &self.lower {
            Some(held) => Layers::over(&renewed(held.path()).map_err(|error| error.to_string())?, &self.dir),
            None => Layers::within(&self.dir, 1),
        };
        (0..files).try_for_each(|number| extra.make(layers.lower(0), number, size))?;
        Ok(layers)
    }

    /// Bytes.
    pub fn room(&self) -> u64 {
        rustix::fs::statvfs(&self.dir).map_or(0, |stat| stat.f_bavail * stat.f_frsize)
    }

    /// Bytes that were written to the device so far, by whomever.
    pub fn device_bytes(&self) -> Option<u64> {
        let numbers = |dev: u64| {
            let dir = format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(dev), rustix::fs::minor(dev));
            fs::read_to_string(dir).ok()
        };
        let stat = numbers(fs::metadata(&self.dir).ok()?.dev());
        // btrfs has numbers of its own.
        let stat = stat.or_else(|| numbers(fs::metadata(mount_of(&self.dir)?.1).ok()?.rdev()))?;
        Some(stat.split_whitespace().nth(6)?.parse::<u64>().ok()? * 512)
    }
}

/// What a place is made of, before it is made: one at a time takes memory.
pub enum Wanted {
    /// With the directory of the lower layers, if it is another one.
    Dir(PathBuf, Option<PathBuf>),
    Kind(String),
}

impl Wanted {
    /// # Errors
    /// A kind that nobody knows.
    pub fn all(args: &Args) -> Done<Vec<Self>> {
        let names: Vec<_> = KINDS.iter().map(|kind| kind.name).chain(["tmpfs", APART]).collect();
        let dir = |dir: PathBuf| Self::Dir(dir, args.lower.clone());
        let mut all: Vec<_> = args.on.iter().cloned().map(dir).collect();
        for kind in &args.make {
            match kind.as_str() {
                "all" => all.extend(names.iter().map(|name| Self::Kind((*name).to_owned()))),
                known if names.contains(&known) => all.push(Self::Kind(known.to_owned())),
                other => return Err(format!("--make {other}: one of {}, all", names.join(", ")).into()),
            }
        }
        if all.is_empty() {
            all.push(dir(std::env::temp_dir()));
        }
        Ok(all)
    }

    /// # Errors
    /// A directory that cannot be used. A kind that cannot be made is what the inner error says.
    pub fn get(&self, mib: u64) -> Done<Result<Place, String>> {
        match self {
            Self::Dir(dir, lower) => Place::on(dir, lower.as_deref()).map(Ok),
            Self::Kind(kind) => Ok(Place::made(kind, mib).map_err(|why| format!("{kind} in memory: {why}"))),
        }
    }
}

/// The type and the source of the mount on which a path is.
fn mount_of(path: &Path) -> Option<(String, String)> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let (at, mut right) = (left.split(' ').nth(4)?, right.split(' '));
        path.starts_with(at).then_some((at.len(), right.next()?.to_owned(), right.next()?.to_owned()))
    });
    // The last of those at one place covers the others.
    mounts.max_by_key(|(len, ..)| *len).map(|(_, kind, source)| (kind, source))
}

/// The layer in a directory that is there for it, empty.
fn renewed(dir: &Path) -> std::io::Result<PathBuf> {
    let layer = dir.join("layer");
    if layer.exists() {
        fs::remove_dir_all(&layer)?;
    }
    fs::create_dir(&layer)?;
    Ok(layer)
}

fn copies(lower: &Path, upper: &Path) -> &'static str {
    let files = || {
        let (lower, upper) = (tempfile::tempdir_in(lower).ok()?, tempfile::tempdir_in(upper).ok()?);
        fs::write(lower.path().join("from"), [1; 4096]).ok()?;
        Some((File::open(lower.path().join("from")).ok()?, File::create(upper.path().join("to")).ok()?))
    };
    let Some((from, to)) = files() else { return "unknown" };
    if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
        return "reflink";
    }
    let copied = rustix::fs::copy_file_range(&from, None, &to, None, 4096);
    if copied == Ok(4096) { "copy_file_range" } else { "read and write" }
}
