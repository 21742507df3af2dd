//! Other overlays that have the same upper layer or workdir. The kernel's OverlayFS and fuse-overlayfs take no lock
//! that could be seen, and each of two writers would show old data. Before the mount the mount tables and processes
//! that may be read are searched for such overlays; after it this namespace's mount table is, whenever it changes.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::in_use::{self, Tables};
use super::refusal::{Setup, SetupError};
use crate::base::config::Config;
use crate::base::{Result, panics};
use crate::layer::DirId;
use crate::sys::mounts::{self, MountChanges, MountEntry, unescaped};
use crate::sys::others;
use crate::sys::stat::{Stat, stat_path};

/// The directories of one mount, which other overlays must not have.
#[derive(Debug, Default, Clone)]
pub struct Rivals {
    /// The upper and the work directory.
    written: Vec<DirId>,
    /// The path of the upper layer as the user named it, and without symlinks.
    upper: [PathBuf; 2],
    /// The lower layers, with their paths.
    lowers: Vec<(DirId, PathBuf)>,
    /// Layers of others are looked at, too: one may be on a server that does not answer.
    looks: bool,
}

impl Rivals {
    /// The directories of a mount with these settings. A directory that does not exist is left out; opening the layers
    /// reports it.
    pub fn of(config: &Config) -> Self {
        let find = |path: &Path| stat_path(path).ok().map(|stat| id(&stat));
        let written = config.upper.iter().flat_map(|dirs| [&dirs.dir, &dirs.work]);
        let named = config.upper.as_ref().map(|dirs| dirs.dir.clone()).unwrap_or_default();
        let lowers = config.lowers.iter().chain(&config.data_only);
        Self {
            written: written.filter_map(|path| find(path)).collect(),
            upper: [named.clone(), named.canonicalize().unwrap_or(named)],
            lowers: lowers.filter_map(|path| Some((find(path)?, path.clone()))).collect(),
            looks: false,
        }
    }

    /// One lower layer, by its path.
    pub fn of_lower(dir: DirId, path: &Path) -> Self {
        Self { lowers: vec![(dir, path.to_owned())], ..Self::default() }
    }

    /// Looks for other overlays that use these directories. Nothing is changed. Returns a note on each overlay that
    /// shares a layer in a way that can be allowed.
    ///
    /// # Errors
    /// Another overlay writes the same upper layer or workdir.
    pub fn check(&self) -> Setup<Vec<String>> {
        check(self, Shares::Readers)
    }

    /// Looks for other overlays that write one of these directories.
    ///
    /// # Errors
    /// There is one.
    pub fn check_unwritten(&self) -> Setup<()> {
        check(self, Shares::Nobody).map(drop)
    }

    /// Looks for other overlays that have the upper layer, or a directory in it, as any of their layers.
    ///
    /// # Errors
    /// There is one.
    pub fn check_alone(&self) -> Setup<()> {
        check(&Self { looks: true, ..self.clone() }, Shares::Nothing).map(drop)
    }

    /// Whether it is one of these directories.
    fn has(&self, dir: DirId) -> bool {
        self.written.contains(&dir) || self.lowers.iter().any(|(lower, _)| *lower == dir)
    }

    /// Starts a thread that logs when an OverlayFS of the kernel is mounted with one of these directories, where the lower
    /// layers are those that `lowers` tells then. The thread sleeps until the mount table of this namespace changes, and
    /// ends with the process.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn watch(mut self, lowers: impl Fn() -> Vec<(DirId, PathBuf)> + Send + 'static) -> std::io::Result<()> {
        let watch = move || {
            panics::caught(|| {
                if let Err(errno) = look_on(&mut self, &lowers) {
                    log::info!("mounts of others are not looked at any more: {errno}");
                }
            });
        };
        std::thread::Builder::new().name("mounts".to_owned()).spawn(watch).map(drop)
    }
}

/// The upper and work directories of the overlays that are seen from here, but this process's own.
pub fn written() -> HashSet<DirId> {
    let mut all = HashSet::new();
    for Tables { mounts, of } in in_use::tables() {
        let root = of.map(|pid| others::ways_into(pid).0);
        for mount in mounts.iter().filter(|mount| mount.kind == "overlay") {
            let dirs = Dirs::parse(&mount.options, true);
            for path in dirs.upper.iter().chain(&dirs.work) {
                // As in `first_look`; joining leaves an absolute path as it is.
                all.extend(mount.at.ancestors().skip(1).find_map(|base| look(root.as_deref(), &base.join(path))));
            }
        }
    }
    let own = std::process::id();
    let is_other = |pid: u32| pid != own && others::name(pid).is_some_and(|name| name.contains("plyfs"));
    all.extend(others::locks().iter().filter(|lock| is_other(lock.pid)).map(|lock| (lock.device, lock.ino)));
    all
}

fn id(stat: &Stat) -> DirId {
    (stat.dev, stat.ino)
}

/// How another overlay uses one of our directories.
#[derive(Debug, PartialEq, Eq)]
enum Shared {
    /// It writes our upper or work directory, under this option.
    Written(&'static str),
    /// Our upper layer is a lower layer of it.
    ItsLower,
    /// It writes one of our lower layers: the number of the layer.
    OurLower(usize),
}

/// The directories of another overlay, by their paths.
#[derive(Debug, Default, PartialEq, Eq)]
struct Dirs {
    upper: Option<PathBuf>,
    work: Option<PathBuf>,
    lowers: Vec<PathBuf>,
}

impl Dirs {
    /// Reads the options of an OverlayFS mount.
    fn parse(options: &[u8], is_escaped: bool) -> Self {
        let mut dirs = Self::default();
        for word in split(options, b',') {
            let Some(at) = word.iter().position(|&byte| byte == b'=') else { continue };
            let (key, value) = word.split_at(at);
            let value = value.get(1..).unwrap_or_default();
            let value = if is_escaped { unescaped(value) } else { value.to_vec() };
            let path = || PathBuf::from(OsString::from_vec(value.clone()));
            match key {
                b"upperdir" => dirs.upper = Some(path()),
                b"workdir" => dirs.work = Some(path()),
                b"lowerdir+" => dirs.lowers.push(path()),
                b"lowerdir" => {
                    let parts = split(&value, b':').into_iter().filter(|part| !part.is_empty());
                    dirs.lowers = parts.map(|part| PathBuf::from(OsStr::from_bytes(part))).collect();
                }
                _ => {}
            }
        }
        dirs
    }

    /// What these directories share with `own`; `look` finds the directory at one of the paths.
    fn shared(&self, own: &Rivals, look: impl Fn(&Path) -> Option<DirId>) -> Option<Shared> {
        let mut below = None;
        for (path, option) in [(&self.upper, "upperdir"), (&self.work, "workdir")] {
            let Some(dir) = path.as_deref().and_then(&look) else { continue };
            if own.written.contains(&dir) {
                return Some(Shared::Written(option));
            }
            below = below.or_else(|| own.lowers.iter().position(|(lower, _)| *lower == dir).map(Shared::OurLower));
        }
        let named = |path: &&Path| !path.as_os_str().is_empty();
        let is_in = |path: &PathBuf| {
            // The directory in which a daemon was started is not known any more.
            (path.is_relative() && own.upper.iter().any(|upper| upper.ends_with(path)))
                || path.ancestors().take_while(named).filter_map(&look).any(|dir| own.written.contains(&dir))
        };
        let all = self.lowers.iter().chain(&self.upper).chain(&self.work);
        let is_lower =
            own.upper.iter().any(|upper| self.lowers.contains(upper)) || (own.looks && all.into_iter().any(is_in));
        below.or(is_lower.then_some(Shared::ItsLower))
    }
}

/// Splits `text` at each separator without a backslash before it.
fn split(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let mut escaped = false;
    let is_end = |byte: &u8| {
        let end = *byte == separator && !escaped;
        escaped = *byte == b'\\' && !escaped;
        end
    };
    text.split(is_end).collect()
}

/// Who may have a lower layer beside us.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shares {
    /// Another overlay that writes it: whoever only reads it is told.
    Readers,
    /// No overlay that writes it.
    Nobody,
    /// The same, and no overlay has our upper layer as a lower one.
    Nothing,
}

fn check(own: &Rivals, shares: Shares) -> Setup<Vec<String>> {
    let (mut notes, mut known) = (Vec::new(), Known::new());
    let upper = format!("upperdir={}", own.upper[0].display());
    let mut take = |shared: Shared, who: String, end: String| match shared {
        Shared::Written(option) => {
            let reason = format!("{who} has it or its workdir as {option}: each would show old data of the other's");
            Err(SetupError::new(&upper, reason, format!("{end}, or use other directories")))
        }
        Shared::ItsLower if shares == Shares::Nothing => {
            let end = if end.is_empty() { "unmount that one first".to_owned() } else { end };
            Err(SetupError::new(own.upper[0].display().to_string(), format!("in use by {who} as a lower layer"), end))
        }
        Shared::ItsLower => {
            notes.push(format!("{upper} is a lower layer of {who}, which may show old data of what is changed here"));
            Ok(())
        }
        Shared::OurLower(at) => {
            let lower = own.lowers.get(at).map(|(_, path)| path.display().to_string()).unwrap_or_default();
            if shares != Shares::Readers {
                let end = if end.is_empty() { "unmount that one first".to_owned() } else { end };
                return Err(SetupError::new(lower, format!("in use by {who}, which writes it"), end));
            }
            notes
                .push(format!("lowerdir={lower} is written by {who}: what is changed there may be seen late or never"));
            Ok(())
        }
    };
    for Tables { mounts, of } in in_use::tables() {
        for mount in mounts.iter().filter(|mount| mount.kind == "overlay") {
            let Some(shared) = first_look(mount, of, &mut known, own) else { continue };
            let at = mount.at.display();
            let (place, end) = match of {
                None => (format!("at {at}"), format!("umount {at}")),
                Some(pid) => {
                    let place = format!("at {at} in the mount namespace of {}", in_use::process(pid));
                    (place, format!("nsenter -t {pid} -m umount {at}"))
                }
            };
            take(shared, format!("the kernel's OverlayFS {place}"), end)?;
        }
    }
    for (pid, shared) in fuse_overlayfs(own) {
        take(shared, in_use::process(pid), "unmount that one first".to_owned())?;
    }
    // No other plyfs can write our upper layer, since it would hold the lock.
    let own_pid = std::process::id();
    for lock in others::locks().into_iter().filter(|lock| lock.pid != own_pid) {
        if let Some(at) = own.lowers.iter().position(|(dir, _)| *dir == (lock.device, lock.ino))
            && others::name(lock.pid).is_some_and(|name| name.contains("plyfs"))
        {
            take(Shared::OurLower(at), in_use::process(lock.pid), String::new())?;
        }
    }
    Ok(notes)
}

/// Each fuse-overlayfs that uses one of our directories.
fn fuse_overlayfs(own: &Rivals) -> impl Iterator<Item = (u32, Shared)> {
    // Any user can give a program this name and pass it paths at which stat(2) never returns.
    let is_one = |pid: &u32| {
        others::name(*pid).is_some_and(|name| name.starts_with("fuse-overlayfs")) && others::is_trusted(*pid)
    };
    let all = others::all().unwrap_or_default().into_iter().filter(is_one);
    all.filter_map(|pid| Some((pid, of_fuse_overlayfs(pid, own)?)))
}

/// The file systems that were looked at, by their `st_dev` and options: `st_dev` alone is soon given to another one.
type Known = HashSet<(u64, Vec<u8>)>;

/// How an OverlayFS mount of the kernel uses our directories, unless the mount was looked at before.
fn first_look(mount: &MountEntry, of: Option<u32>, known: &mut Known, own: &Rivals) -> Option<Shared> {
    if !known.insert((mount.device, mount.options.clone())) {
        return None;
    }
    let root = of.map(|pid| others::ways_into(pid).0);
    let dirs = Dirs::parse(&mount.options, true);
    // A relative path began in the directory of the process that mounted, which may be any above the mountpoint.
    let bases: Vec<&Path> = mount.at.ancestors().skip(1).collect();
    dirs.shared(own, |path| match path.is_absolute() {
        true => look(root.as_deref(), path),
        false => bases
            .iter()
            .map(|base| base.join(path))
            .find_map(|path| look(root.as_deref(), &path).filter(|dir| own.has(*dir))),
    })
}

/// The directory at an absolute path below another process's root.
fn look(root: Option<&Path>, path: &Path) -> Option<DirId> {
    let path = root.map_or_else(|| path.to_owned(), |root| root.join(path.strip_prefix("/").unwrap_or(path)));
    stat_path(&path).ok().filter(Stat::is_dir).map(|stat| id(&stat))
}

/// How a fuse-overlayfs uses our directories, as its command line says.
fn of_fuse_overlayfs(pid: u32, own: &Rivals) -> Option<Shared> {
    let arguments = others::arguments(pid);
    let options: Vec<&[u8]> =
        arguments.iter().map(|word| word.as_bytes().strip_prefix(b"-o").unwrap_or(word.as_bytes())).collect();
    let (root, cwd) = others::ways_into(pid);
    let seen = |base: &Path, path: &Path| look(None, &base.join(path.strip_prefix("/").unwrap_or(path)));
    Dirs::parse(&options.join(&b","[..]), false).shared(own, |path| {
        let base = if path.is_absolute() { &root } else { &cwd };
        // Where its root directory may not be read, its root is taken to be ours.
        seen(base, path).or_else(|| path.is_absolute().then(|| look(None, path)).flatten())
    })
}

/// The shortest pause between two readings of a mount table that changes all the time.
const PAUSE: Duration = Duration::from_secs(1);
const SHARE: u32 = 200;

fn look_on(own: &mut Rivals, lowers: &dyn Fn() -> Vec<(DirId, PathBuf)>) -> Result<()> {
    let changes = MountChanges::open()?;
    let (mut known, mut first) = (Known::new(), true);
    loop {
        let start = Instant::now();
        own.lowers = lowers();
        let (mut new_fuse_overlayfs, table) = (false, mounts::table()?);
        for mount in &table {
            match &*mount.kind {
                "overlay" => {
                    // Mounts from before ours were reported before ours was made.
                    let shared = first_look(mount, None, &mut known, own);
                    if let Some(shared) = shared.filter(|shared| !first || matches!(shared, Shared::Written(_))) {
                        tell(&shared, &format!("the kernel's OverlayFS at {}", mount.at.display()));
                    }
                }
                "fuse.fuse-overlayfs" => new_fuse_overlayfs |= known.insert((mount.device, mount.options.clone())),
                _ => {}
            }
        }
        known.retain(|(device, _)| table.iter().any(|mount| mount.device == *device));
        if new_fuse_overlayfs && !first {
            fuse_overlayfs(own).for_each(|(pid, shared)| tell(&shared, &in_use::process(pid)));
        }
        first = false;
        std::thread::sleep(PAUSE.max(start.elapsed() * SHARE));
        changes.wait()?;
    }
}

fn tell(shared: &Shared, who: &str) {
    match shared {
        Shared::Written(option) => log::error!(
            "{who} was mounted with what this mount writes as its {option}: both show old data and may lose changes; \
             unmount one of the two"
        ),
        Shared::ItsLower => log::warn!("the upper layer is a lower one of {who} now, which may show old data"),
        Shared::OurLower(_) => {
            log::warn!("a lower layer is written by {who} now: what is changed there may be seen late or never");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_told_from_options_as_the_kernel_shows_them() {
        let dirs = |upper: &str, work: &str, lowers: &[&str]| Dirs {
            upper: Some(upper.into()),
            work: Some(work.into()),
            lowers: lowers.iter().map(PathBuf::from).collect(),
        };
        for (options, expected) in [
            ("rw,lowerdir=/l:/m,upperdir=/u,workdir=/w,index=on", dirs("/u", "/w", &["/l", "/m"])),
            ("rw,lowerdir+=/l:x,lowerdir+=/m,upperdir=/u,workdir=/w", dirs("/u", "/w", &["/l:x", "/m"])),
            (r"rw,lowerdir=/l,upperdir=/a\054b\040c,workdir=/w\134", dirs("/a,b c", r"/w\", &["/l"])),
            ("rw,lowerdir=/l::/d,upperdir=u,workdir=w", dirs("u", "w", &["/l", "/d"])),
        ] {
            assert_eq!(Dirs::parse(options.as_bytes(), true), expected, "{options}");
        }
        assert_eq!(Dirs::parse(b"ro,lowerdir", true), Dirs::default());
    }

    #[test]
    fn what_is_written_counts_before_what_is_only_seen() {
        let own = Rivals {
            written: vec![(1, 10), (1, 11)],
            upper: ["/u".into(), "/u".into()],
            lowers: vec![((1, 20), "/l".into()), ((1, 21), "/m".into())],
            looks: false,
        };
        let look = |path: &Path| {
            let known = [("/u", 10), ("/w", 11), ("/l", 20), ("/m", 21)];
            known.iter().find(|(known, _)| Path::new(known) == path).map(|(_, ino)| (1, *ino))
        };
        for (options, expected) in [
            ("lowerdir=/x,upperdir=/u,workdir=/y", Some(Shared::Written("upperdir"))),
            ("lowerdir=/x,upperdir=/m,workdir=/w", Some(Shared::Written("workdir"))),
            ("lowerdir=/x,upperdir=/w,workdir=/y", Some(Shared::Written("upperdir"))),
            ("lowerdir=/x:/u,upperdir=/y,workdir=/z", Some(Shared::ItsLower)),
            ("lowerdir=/x,upperdir=/m,workdir=/z", Some(Shared::OurLower(1))),
            ("lowerdir=/l:/m,upperdir=/y,workdir=/z", None),
            ("lowerdir=/l:/m", None),
        ] {
            assert_eq!(Dirs::parse(options.as_bytes(), true).shared(&own, look), expected, "{options}");
        }
    }
}
