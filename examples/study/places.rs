//! Where the layers stand: directories that were named, and file systems made for it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::common::Layers;
use crate::common::images::{BTRFS, EXT4, Image, Kind, Memory, XFS, XFS_WITHOUT_REFLINKS};
use crate::common::layers::make_file;
use crate::{Args, Done};

const KINDS: [Kind; 4] = [EXT4, XFS, XFS_WITHOUT_REFLINKS, BTRFS];

/// What keeps a place there.
enum Made {
    Dir,
    Image { _image: Image },
    Memory { _memory: Memory },
}

pub struct Place {
    /// Its directory, or the kind that was made.
    pub name: String,
    pub file_system: String,
    /// How a whole file is copied within it, where the kernel is asked.
    pub copies: &'static str,
    dir: PathBuf,
    _made: Made,
}

impl Place {
    fn at(name: String, dir: PathBuf, made: Made) -> Self {
        let file_system = mount_of(&dir).map_or_else(|| "unknown".into(), |(kind, _)| kind);
        Self { name, file_system, copies: copies(&dir), dir, _made: made }
    }

    fn on(dir: &Path) -> Done<Self> {
        let dir = fs::canonicalize(dir).map_err(|error| format!("--on {}: {error}", dir.display()))?;
        // Known before anything is measured: it can be written to.
        tempfile::tempdir_in(&dir).map_err(|error| format!("--on {}: {error}", dir.display()))?;
        Ok(Self::at(dir.display().to_string(), dir, Made::Dir))
    }

    fn made(kind: &str, mib: u64) -> Result<Self, String> {
        let name = format!("{kind} in memory");
        if kind == "tmpfs" {
            let memory = Memory::new()?;
            return Ok(Self::at(name, memory.path().to_owned(), Made::Memory { _memory: memory }));
        }
        let kind = *KINDS.iter().find(|one| one.name == kind).ok_or("no such kind")?;
        let image = Image::new(kind, mib)?;
        Ok(Self::at(name, image.path().to_owned(), Made::Image { _image: image }))
    }

    /// Lower files that are all alike, and an upper layer.
    pub fn layers(&self, size: u64, files: usize) -> Layers {
        let layers = Layers::within(&self.dir, 1);
        (0..files).for_each(|number| make_file(&layers.lower(0).join(format!("file{number}")), size, &[]));
        layers
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
    Dir(PathBuf),
    Kind(String),
}

impl Wanted {
    /// # Errors
    /// A kind that nobody knows.
    pub fn all(args: &Args) -> Done<Vec<Self>> {
        let names: Vec<_> = KINDS.iter().map(|kind| kind.name).chain(["tmpfs"]).collect();
        let mut all: Vec<_> = args.on.iter().cloned().map(Self::Dir).collect();
        for kind in &args.make {
            match kind.as_str() {
                "all" => all.extend(names.iter().map(|name| Self::Kind((*name).to_owned()))),
                known if names.contains(&known) => all.push(Self::Kind(known.to_owned())),
                other => return Err(format!("--make {other}: one of {}, all", names.join(", ")).into()),
            }
        }
        if all.is_empty() {
            all.push(Self::Dir(std::env::temp_dir()));
        }
        Ok(all)
    }

    /// # Errors
    /// A directory that cannot be used. A kind that cannot be made is what the inner error says.
    pub fn get(&self, mib: u64) -> Done<Result<Place, String>> {
        match self {
            Self::Dir(dir) => Place::on(dir).map(Ok),
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

fn copies(dir: &Path) -> &'static str {
    let files = || {
        let dir = tempfile::tempdir_in(dir).ok()?;
        fs::write(dir.path().join("from"), [1; 4096]).ok()?;
        Some((File::open(dir.path().join("from")).ok()?, File::create(dir.path().join("to")).ok()?))
    };
    let Some((from, to)) = files() else { return "unknown" };
    if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
        return "reflink";
    }
    let copied = rustix::fs::copy_file_range(&from, None, &to, None, 4096);
    if copied == Ok(4096) { "copy_file_range" } else { "read and write" }
}
