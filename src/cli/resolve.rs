//! From words to settings: first what was set is remembered, then contradictions are resolved, in one place.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::data_path::{DataWishes, io};
use super::describe;
use super::grammar::{self, Word};
use super::line::Mount;
use super::log;
use super::options::{self, Key, Source};
use super::owners::OwnerWishes;
use super::report::Failure;
use crate::base::config::{
    Config, Fsync, RedirectDir, Shown, Timeouts, UpperDirs, Uuid, Verity, XattrPermissions, Xino,
};
use crate::fuse::serve::settings::{Flags, MountSettings, Spin};
use crate::sys::mount::{self, Propagation};
use crate::sys::processors;

/// What the process may do, as far as it changes what the options mean.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// It mounts by mount(2): as root, or inside a user namespace.
    pub mounts_directly: bool,
    /// User ids mean what they mean in the initial user namespace.
    pub ids_are_initial: bool,
}

/// How the words are taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Unknown ones are passed over (mount(8)'s `-s`).
    pub sloppy: bool,
    /// As fuse-overlayfs takes them.
    pub in_place: bool,
}

impl From<&Mount> for Manner {
    fn from(command: &Mount) -> Self {
        Self { sloppy: command.sloppy, in_place: command.in_place }
    }
}

/// Everything that the command line says about the view.
#[derive(Debug)]
pub struct Resolved {
    /// For the engine.
    pub config: Config,
    /// For the mount.
    pub mount: MountSettings,
    /// `-o debug`
    pub debug: bool,
    /// `-o supervise`
    pub supervise: bool,
    /// `log=`
    pub log: Option<log::To>,
    /// What was asked for and has no effect.
    pub notes: Vec<String>,
    /// Called in the place of fuse-overlayfs.
    pub in_place: bool,
    /// Words that fuse-overlayfs passes over with a warning.
    pub unknown: Vec<String>,
}

/// What was explicitly set; `None` where nothing was said.
#[derive(Debug, Default)]
struct Wishes {
    lowers: Vec<PathBuf>,
    data_only: Vec<PathBuf>,
    /// `lowerdir=` was given: all layers stand in it.
    lowerdir: bool,
    upper: Option<PathBuf>,
    work: Option<PathBuf>,
    redirect_dir: Option<RedirectDir>,
    index: Option<bool>,
    metacopy: Option<bool>,
    copyup_block: Option<u8>,
    copyup_rate: u64,
    verity: Verity,
    uuid: Uuid,
    xattr_permissions: Option<XattrPermissions>,
    xino: Option<Xino>,
    ino32: bool,
    volatile: bool,
    fsync: Option<Fsync>,
    userxattr: bool,
    noacl: bool,
    static_nlink: bool,
    owners: OwnerWishes,
    timeout: Option<Duration>,
    attr: Option<Duration>,
    entry: Option<Duration>,
    negative: Option<Duration>,
    allow_other: bool,
    fsname: Option<OsString>,
    subtype: Option<OsString>,
    threads: Option<usize>,
    spin: Spin,
    data: DataWishes,
    no_prefetch: bool,
    supervise: bool,
    auto_unmount: bool,
    log: Option<log::To>,
    debug: bool,
    noxattrs: bool,
    security: Vec<OsString>,
    propagation: Vec<Propagation>,
    flags: Flags,
    /// `suid` and `dev` were given, and not taken back by a later `nosuid` or `nodev`.
    suid: bool,
    dev: bool,
    in_place: bool,
    unknown: Vec<String>,
}

/// Reads the words of all `-o`, in their order: of an option given twice, or with its opposite, the last one counts.
///
/// Paths are made absolute by the current directory.
///
/// # Errors
/// An option that is unknown, malformed, refused or contradicts another; no lower layer.
pub fn resolve(
    words: &[Word],
    source: Option<&OsStr>,
    mountpoint: &Path,
    manner: Manner,
    abilities: Abilities,
) -> Result<Resolved, Failure> {
    let mut wishes = Wishes { in_place: manner.in_place, ..Wishes::default() };
    for word in words {
        if options::find(&word.key).is_none() && (manner.sloppy || manner.in_place) {
            wishes.unknown.extend((!manner.sloppy).then(|| word.display()));
            continue;
        }
        if let Some(key) = options::check(word)? {
            wishes.take(key, word)?;
        }
    }
    wishes.settle((source, words), mountpoint, abilities)
}

impl Wishes {
    fn take(&mut self, key: Key, word: &Word) -> Result<(), Failure> {
        let value = word.value.as_deref().unwrap_or_default();
        match key {
            Key::LowerDir => {
                let layers = grammar::layers(value)?;
                (self.lowers, self.data_only, self.lowerdir) = (layers.lowers, layers.data_only, true);
            }
            // As the kernel; what came before a lowerdir= is given up.
            Key::LowerDirMore | Key::DataDirMore if self.lowerdir => {
                let hint = "lowerdir+= and datadir+= for each layer, or lowerdir=TOP:…:BOTTOM[::DATA…] for all";
                return Err(Failure::usage(word.display(), "cannot follow lowerdir=", hint));
            }
            Key::LowerDirMore if !self.data_only.is_empty() => {
                let hint = "give datadir+= and `::` after all others";
                return Err(Failure::usage(word.display(), "an ordinary layer below a data-only one", hint));
            }
            Key::LowerDirMore => self.lowers.append(&mut grammar::more_layers(&word.key, value)?),
            Key::DataDirMore => self.data_only.append(&mut grammar::more_layers(&word.key, value)?),
            Key::UpperDir => self.upper = Some(grammar::path(value)),
            Key::WorkDir => self.work = Some(grammar::path(value)),
            Key::RedirectDir => self.redirect_dir = Some(redirect_dir(value)),
            Key::Index => self.index = Some(value == b"on"),
            Key::Metacopy => self.metacopy = Some(value == b"on"),
            Key::CopyUpBlock => self.copyup_block = Some(block(word)?),
            Key::CopyUpRate => self.copyup_rate = grammar::size(word)?,
            Key::Verity => self.verity = verity(value),
            Key::Uuid => self.uuid = uuid(value),
            Key::XattrPermissions => self.xattr_permissions = xattr_permissions(value),
            Key::Xino => self.xino = Some(xino(value)),
            Key::Ino32 => self.ino32 = is_on(word),
            Key::Volatile => self.volatile = true,
            Key::Fsync => self.fsync = Some(fsync(value)),
            Key::UserXattr => self.userxattr = true,
            Key::NoAcl => self.noacl = true,
            Key::NoXattrs => self.noxattrs = is_on(word),
            Key::StaticNlink => self.static_nlink = true,
            Key::Timeout => self.timeout = Some(grammar::seconds(word)?),
            Key::AttrTimeout => self.attr = Some(grammar::seconds(word)?),
            Key::EntryTimeout => self.entry = Some(grammar::seconds(word)?),
            Key::NegativeTimeout => self.negative = Some(grammar::seconds(word)?),
            Key::AllowOther => self.allow_other = true,
            Key::FsName => self.fsname = Some(OsString::from_vec(grammar::unescape(value))),
            Key::Subtype => self.subtype = Some(OsString::from_vec(grammar::unescape(value))),
            Key::Threads => self.threads = Some(threads(word)?),
            Key::Spin => self.spin = if value == b"off" { Spin::Off } else { Spin::Auto },
            Key::Prefetch => self.no_prefetch = value == b"off",
            Key::Io => self.data.io = io(value),
            Key::CopyUp => self.data.copy_up_at_open = Some(value == b"open"),
            Key::Supervise => self.supervise = true,
            Key::AutoUnmount => self.auto_unmount = true,
            Key::Propagation => self.propagation.extend(mount::propagation(&word.key)),
            Key::Log => self.log = Some(log::To::parse(value)),
            Key::Debug => self.debug = true,
            Key::Security => {
                self.security.push(OsString::from_vec([word.key.as_bytes(), b"=", value].concat()));
            }
            Key::DefaultPermissions => {}
            _ if self.owners.take(key, word)? => {}
            _ => self.take_flag(key),
        }
        Ok(())
    }

    /// The words that mount(8) knows.
    fn take_flag(&mut self, key: Key) {
        let flags = &mut self.flags;
        match key {
            Key::Ro => flags.ro = true,
            Key::Rw => flags.ro = false,
            Key::NoSuid | Key::Suid => {
                self.suid = key == Key::Suid;
                flags.nosuid = !self.suid;
            }
            Key::NoDev | Key::Dev => {
                self.dev = key == Key::Dev;
                flags.nodev = !self.dev;
            }
            Key::NoExec => flags.noexec = true,
            Key::Exec => flags.noexec = false,
            Key::NoAtime => flags.noatime = true,
            Key::Atime => flags.noatime = false,
            Key::Sync => flags.sync = true,
            Key::Async => flags.sync = false,
            Key::DirSync => flags.dirsync = true,
            _ => {}
        }
    }

    /// The one place where options meet.
    fn settle(
        mut self,
        (source, words): (Option<&OsStr>, &[Word]),
        mountpoint: &Path,
        abilities: Abilities,
    ) -> Result<Resolved, Failure> {
        if self.lowers.is_empty() {
            let reason = match self.data_only[..] {
                [] => "no lower layer is given",
                [..] => "no lower layer is given above the data-only ones of datadir+=",
            };
            return Err(Failure::usage("lowerdir", reason, "-o lowerdir=TOP:…:BOTTOM"));
        }
        self.check_numbers()?;
        let data = self.data.settle(self.copyup_block.is_some(), abilities)?;
        let mut flags = self.flags;
        flags.nosuid |= !abilities.mounts_directly;
        flags.nodev |= !abilities.mounts_directly;
        let owners = std::mem::take(&mut self.owners).settle()?;
        let config = self.config(owners, abilities, flags)?;
        flags.ro |= config.upper.is_none();
        let mount = MountSettings {
            mountpoint: mountpoint.to_owned(),
            given: None,
            flags,
            propagation: self.propagation,
            auto_unmount: self.auto_unmount,
            fsname: self.fsname.or(source.map(OsStr::to_owned)).unwrap_or_else(|| describe::source(&config, words)),
            subtype: self.subtype.unwrap_or_else(|| if self.in_place { "fuse-overlayfs" } else { "plyfs" }.into()),
            allow_other: self.allow_other,
            threads: self.threads.unwrap_or_else(default_threads),
            spin: self.spin,
            data,
            prefetch: !self.no_prefetch,
            security: self.security,
        };
        let propagates = !mount.propagation.is_empty();
        let notes = if abilities.mounts_directly { vec![] } else { without_effect(self.suid, self.dev, propagates) };
        Ok(Resolved {
            config,
            mount,
            debug: self.debug,
            supervise: self.supervise,
            log: self.log,
            notes,
            in_place: self.in_place,
            unknown: self.unknown,
        })
    }

    /// The settings of the engine.
    fn config(&self, [uids, gids]: [Shown; 2], abilities: Abilities, flags: Flags) -> Result<Config, Failure> {
        let is_root = abilities.mounts_directly && abilities.ids_are_initial;
        let upper = self.upper_dirs()?;
        let metacopy = self.settle_metacopy(upper.is_some())?;
        let both_off = self.metacopy == Some(false) && self.redirect_dir.is_some_and(|wish| wish != RedirectDir::On);
        let plain = self.in_place || both_off;
        Ok(Config {
            lowers: all_absolute(&self.lowers)?,
            data_only: all_absolute(&self.data_only)?,
            upper,
            fsync: self.settle_fsync()?,
            xino: self.xino.unwrap_or_default(),
            ino32: self.ino32,
            userxattr: self.userxattr,
            wh_names: None,
            redirect_dir: self.redirect_dir,
            // fuse-overlayfs 1.x shows no lower layer below a root directory that has the mark of an index.
            index: self.index.or(plain.then_some(false)),
            metacopy,
            plain,
            copyup_block: self.copyup_block,
            copyup_rate: self.copyup_rate,
            verity: self.verity,
            uuid: self.uuid,
            xattr_permissions: self.xattr_permissions,
            uids,
            gids,
            noacl: self.noacl || self.noxattrs,
            noxattrs: self.noxattrs,
            asked_for_acls: false,
            static_nlink: self.static_nlink,
            suid_view: is_root && !flags.nosuid,
            doubts_marks: is_root,
            timeouts: self.timeouts(),
            names_at_once: None,
        })
    }

    /// `timeout=`, where none of the three is given alone.
    fn timeouts(&self) -> Timeouts {
        let all = self.timeout.unwrap_or(Timeouts::FOREVER);
        Timeouts {
            attr: self.attr.unwrap_or(all),
            entry: self.entry.unwrap_or(all),
            negative: self.negative.unwrap_or(all),
        }
    }

    fn settle_fsync(&self) -> Result<Fsync, Failure> {
        match (self.volatile, self.fsync) {
            (true, Some(Fsync::Auto | Fsync::Strict)) => {
                Err(Failure::usage("volatile", "contradicts fsync=", "give one of the two"))
            }
            (true, _) => Ok(Fsync::Volatile),
            (false, fsync) => Ok(fsync.unwrap_or_default()),
        }
    }

    fn check_numbers(&self) -> Result<(), Failure> {
        if self.ino32 && self.xino == Some(Xino::On) {
            let reason = "contradicts xino=on: numbers of 32 bits have no room for several file systems";
            return Err(Failure::usage("ino32_t=1", reason, "leave one of the two out"));
        }
        Ok(())
    }

    /// What `metacopy` is: a digest is part of its mark, and a metacopy file that was renamed has a redirect.
    ///
    /// As the kernel, but that metacopy and redirects need no `trusted.*` attributes here.
    fn settle_metacopy(&self, has_upper: bool) -> Result<Option<bool>, Failure> {
        let no_redirects = match self.redirect_dir {
            None | Some(RedirectDir::On) => false,
            // Without an upper layer there is nothing more to do for `on`.
            Some(RedirectDir::Follow) => has_upper,
            Some(RedirectDir::NoFollow) => true,
        };
        match self.metacopy {
            Some(true) if no_redirects => Err(Failure::usage(
                "metacopy=on",
                "contradicts redirect_dir=, which is not on",
                "redirect_dir=on, or leave one of the two out",
            )),
            None if no_redirects => Ok(Some(false)),
            said => Ok(said),
        }
    }

    fn upper_dirs(&self) -> Result<Option<UpperDirs>, Failure> {
        match (&self.upper, &self.work) {
            (Some(upper), Some(work)) => Ok(Some(UpperDirs { dir: absolute(upper)?, work: absolute(work)? })),
            (Some(_), None) => {
                let hint = "workdir=DIR, an empty directory on the upper's file system and outside of it";
                Err(Failure::usage("upperdir", "needs a workdir", hint))
            }
            // As the kernel: a work directory without an upper layer is of no use, and does no harm.
            (None, _) => Ok(None),
        }
    }
}

/// What fusermount3 does not let a normal user have.
fn without_effect(suid: bool, dev: bool, propagation: bool) -> Vec<String> {
    let words: Vec<&str> =
        [("suid", suid), ("dev", dev)].iter().filter(|(_, said)| *said).map(|(word, _)| *word).collect();
    let said = words.join(",");
    let safe =
        (!words.is_empty()).then(|| format!("{said}: without effect, a normal user's mounts are nosuid and nodev"));
    let as_it_is =
        "private, shared and the like: without effect, a normal user's mount propagates as what it is mounted in";
    safe.into_iter().chain(propagation.then(|| as_it_is.to_owned())).collect()
}

/// What the words of a `remount` make of a mounted view.
#[derive(Debug)]
pub struct Remount {
    /// All of its flags.
    pub flags: Flags,
    /// What becomes of its propagation.
    pub propagation: Vec<Propagation>,
    /// The options that stay as they are.
    pub left: Vec<String>,
}

/// Reads the words of a `remount` of a view that has the flags `now`.
///
/// # Errors
/// A word that is unknown, malformed or refused.
pub fn changed(words: &[Word], sloppy: bool, now: Flags) -> Result<Remount, Failure> {
    let (mut wishes, mut left) = (Wishes { flags: now, ..Wishes::default() }, Vec::new());
    let asked = words.iter().filter(|word| !OF_FUSE.contains(&&*word.key));
    for word in asked.filter(|word| !sloppy || options::find(&word.key).is_some()) {
        match options::check(word)? {
            Some(Key::Remount) | None => {}
            Some(key) if options::find(&word.key).is_some_and(|option| option.source == Source::Mount) => {
                wishes.take(key, word)?;
            }
            Some(_) => left.push(word.key.clone()),
        }
    }
    Ok(Remount { flags: wishes.flags, propagation: wishes.propagation, left })
}

/// What the mount table says of each FUSE mount, which mount(8) repeats for a view that is in no fstab.
const OF_FUSE: [&str; 6] = ["user_id", "group_id", "default_permissions", "allow_other", "max_read", "blksize"];

fn is_on(word: &Word) -> bool {
    word.value.as_deref() != Some(b"0")
}

/// The size of a block, as a power of two.
fn block(word: &Word) -> Result<u8, Failure> {
    let size = grammar::size(word)?;
    let shift = size.trailing_zeros() as u8;
    if size.is_power_of_two() && (12..=24).contains(&shift) {
        return Ok(shift);
    }
    Err(Failure::usage(word.display(), "not the size of a block", "a power of two from 4K to 16M"))
}

fn redirect_dir(value: &[u8]) -> RedirectDir {
    match value {
        b"on" => RedirectDir::On,
        b"follow" => RedirectDir::Follow,
        _ => RedirectDir::NoFollow,
    }
}

fn xattr_permissions(value: &[u8]) -> Option<XattrPermissions> {
    XattrPermissions::ALL.into_iter().find(|option| option.value().as_bytes() == value)
}

fn verity(value: &[u8]) -> Verity {
    match value {
        b"on" => Verity::On,
        b"require" => Verity::Require,
        _ => Verity::Off,
    }
}

fn uuid(value: &[u8]) -> Uuid {
    match value {
        b"off" => Uuid::Off,
        b"null" => Uuid::Null,
        b"on" => Uuid::On,
        _ => Uuid::Auto,
    }
}

fn xino(value: &[u8]) -> Xino {
    match value {
        b"off" => Xino::Off,
        b"on" => Xino::On,
        _ => Xino::Auto,
    }
}

fn fsync(value: &[u8]) -> Fsync {
    match value {
        b"volatile" | b"0" => Fsync::Volatile,
        b"strict" => Fsync::Strict,
        _ => Fsync::Auto,
    }
}

fn threads(word: &Word) -> Result<usize, Failure> {
    let text = word.value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok())
        .filter(|threads| (1..=256).contains(threads))
        .ok_or_else(|| Failure::usage(word.display(), "not a number of threads", "threads=1 to 256"))
}

/// A request may wait for a disk or a copy-up: some more than one must get through even on one processor.
fn default_threads() -> usize {
    processors::count().clamp(4, 64)
}

fn all_absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    paths.iter().map(|path| absolute(path)).collect()
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::refused(path.display().to_string(), error.to_string(), ""))
}

#[cfg(test)]
mod tests;
