//! What a mount is: in one line for the mount table, and in full for `plyfs show`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::grammar::Word;
use super::options::{self, Fate, Key, Source};
use super::report::printable;
use super::resolve::Resolved;
use crate::base::config::{Config, Fsync, Shown, Timeouts, Uuid, Verity, Xino};
use crate::base::described::Described;
use crate::fuse::serve::settings::{MountSettings, Spin};
use crate::union::Union;

/// Bytes of the source in the mount table, at most; some bytes take four there. Programs read lines of 4096 (getmntent(3)).
const MOST_SOURCE: usize = 1024;
/// What stands for layers that have no room.
const MORE: &str = "…";
/// Bytes kept free behind each part, for the keys of layers and [`MORE`].
const ROOM_FOR_MORE: usize = 48;

/// The source in the mount table where the user has named none: the layers and the options that were given, as far as they
/// have room. The kernel's OverlayFS shows them among its options; a FUSE mount can show them in its source only.
pub fn source(config: &Config, words: &[Word]) -> OsString {
    let mut line = Line(Vec::new());
    if let Some(upper) = &config.upper {
        for (key, path) in [("upperdir=", &upper.dir), ("workdir=", &upper.work)] {
            line.add(key.as_bytes(), &escaped(path, b",\\"));
            line.0.push(b',');
        }
    }
    for word in words.iter().filter(|word| is_told(word)) {
        let fits = line.add(b"", word.display().as_bytes());
        line.0.push(b',');
        if !fits {
            break;
        }
    }
    let lowers = config.lowers.iter().enumerate().map(|(at, path)| (if at == 0 { "lowerdir=" } else { ":" }, path));
    let data_only = config.data_only.iter().map(|path| ("::", path));
    for (before, path) in lowers.chain(data_only) {
        if !line.add(before.as_bytes(), &escaped(path, b",:\\")) {
            break;
        }
    }
    // A table that is no text would be a trap for who reads it.
    printable(&line.0).into()
}

/// The source as it grows.
struct Line(Vec<u8>);

impl Line {
    /// Adds a text behind another; false where it has no room, and [`MORE`] stands for it.
    fn add(&mut self, before: &[u8], text: &[u8]) -> bool {
        let fits = room_of(&self.0) + room_of(before) + room_of(text) + ROOM_FOR_MORE <= MOST_SOURCE;
        self.0.extend_from_slice(before);
        self.0.extend_from_slice(if fits { text } else { MORE.as_bytes() });
        fits
    }
}

/// The bytes that a text takes in the mount table.
fn room_of(text: &[u8]) -> usize {
    printable(text).bytes().map(|byte| if b" \t\n\\#".contains(&byte) { 4 } else { 1 }).sum()
}

/// The lower layers of a mounted view as the option of a mount names them.
pub fn lowerdir(told: &Described) -> Vec<u8> {
    let path = |path: &[u8]| layer_path(Path::new(OsStr::from_bytes(path)));
    let lowers: Vec<_> = told.all("lowerdir").map(path).collect();
    let data = told.all("datadir").flat_map(|dir| [b"::".to_vec(), path(dir)].concat());
    [&b"lowerdir="[..], &lowers.join(&b':')].concat().into_iter().chain(data).collect()
}

/// A path as `lowerdir=` takes it.
pub fn layer_path(path: &Path) -> Vec<u8> {
    escaped(path, b",:\\")
}

fn escaped(path: &Path, special: &[u8]) -> Vec<u8> {
    let escape = |&byte: &u8| special.contains(&byte).then_some(b'\\').into_iter().chain([byte]);
    path.as_os_str().as_bytes().iter().flat_map(escape).collect()
}

/// Whether an option is to stand in the source. Not those that name layers, nor those that the mount table shows anyway.
fn is_told(word: &Word) -> bool {
    let Some(option) = options::find(&word.key) else { return false };
    let own = matches!(option.source, Source::Overlay | Source::Fuse | Source::FuseOverlayfs);
    let short = word.value.as_ref().is_none_or(|value| value.len() < 32);
    own && short
        && match option.fate {
            Fate::Honoured(key) => !matches!(
                key,
                Key::LowerDir
                    | Key::LowerDirMore
                    | Key::DataDirMore
                    | Key::UpperDir
                    | Key::WorkDir
                    | Key::FsName
                    | Key::Subtype
                    | Key::AllowOther
                    | Key::DefaultPermissions
                    | Key::Debug
                    | Key::Log
            ),
            _ => false,
        }
}

/// All that `plyfs show` tells of a mount that this process serves.
pub fn describe(resolved: &Resolved, mount: &MountSettings, union: &Union, notes: &[String]) -> Described {
    let (config, mut told) = (&resolved.config, Described::default());
    told.add("version", env!("CARGO_PKG_VERSION"));
    told.add("pid", std::process::id().to_string());
    told.add("mountpoint", mount.mountpoint.as_os_str().as_bytes());
    told.add("source", mount.fsname.as_bytes());
    told.add("type", [b"fuse.", mount.subtype.as_bytes()].concat());
    if let Some(upper) = &config.upper {
        told.add("upperdir", upper.dir.as_os_str().as_bytes());
        told.add("workdir", upper.work.as_os_str().as_bytes());
    }
    config.lowers.iter().for_each(|path| told.add("lowerdir", path.as_os_str().as_bytes()));
    config.data_only.iter().for_each(|path| told.add("datadir", path.as_os_str().as_bytes()));
    for (name, value) in options_of(resolved, mount, union) {
        told.add("option", if value.is_empty() { name.to_owned() } else { format!("{name}={value}") });
    }
    for option in &mount.security {
        told.add("option", option.as_bytes());
    }
    let effect = union.effect();
    told.add("marks", effect.marks);
    told.add("whiteouts", effect.whiteouts);
    notes.iter().chain(union.notes()).for_each(|note| told.add("degraded", note));
    told
}

/// The options as they took effect; a flag has no value.
fn options_of(resolved: &Resolved, mount: &MountSettings, union: &Union) -> Vec<(&'static str, String)> {
    let (config, flags) = (&resolved.config, mount.flags);
    let mut all = vec![(if flags.ro { "ro" } else { "rw" }, String::new())];
    all.extend(words_of(config, mount, union).map(|(name, word)| (name, word.to_owned())));
    let Timeouts { attr, entry, negative } = config.timeouts;
    for (name, time) in [("attr_timeout", attr), ("entry_timeout", entry), ("negative_timeout", negative)] {
        let is_forever = time == Timeouts::FOREVER;
        all.push((name, if is_forever { "forever".to_owned() } else { time.as_secs_f64().to_string() }));
    }
    all.push(("threads", mount.threads.to_string()));
    all.push(("spin", if mount.spin == Spin::Off { "off" } else { "auto" }.to_owned()));
    all.extend(resolved.log.iter().map(|log| ("log", log.word())));
    if let Some(shift) = config.copyup_block {
        all.push(("copyup_block", (1_u64 << shift).to_string()));
        all.push(("copyup_rate", config.copyup_rate.to_string()));
    }
    all.extend(owners_of(config));
    all.extend(union.effect().xattr_permissions.map(|value| ("xattr_permissions", value.to_owned())));
    let set = [
        ("ino32_t=1", config.ino32),
        ("userxattr", config.userxattr),
        ("noacl", config.noacl),
        ("noxattrs", config.noxattrs),
        ("static_nlink", config.static_nlink),
        ("supervise", resolved.supervise),
        ("auto_unmount", mount.auto_unmount),
        ("allow_other", mount.allow_other),
        ("nosuid", flags.nosuid),
        ("nodev", flags.nodev),
        ("noexec", flags.noexec),
        ("noatime", flags.noatime),
        ("sync", flags.sync),
        ("dirsync", flags.dirsync),
    ];
    all.extend(set.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, String::new())));
    all
}

/// The options that say whose the objects are.
fn owners_of(config: &Config) -> impl Iterator<Item = (&'static str, String)> {
    let word = |shown: &Shown, map, all| match shown {
        Shown::Same => None,
        Shown::Mapped(ids) => Some((map, ids.to_string())),
        Shown::All(id) => Some((all, id.to_string())),
    };
    let users = word(&config.uids, "uidmapping", "squash_to_uid");
    users.into_iter().chain(word(&config.gids, "gidmapping", "squash_to_gid"))
}

/// The options that are one of several words.
fn words_of(
    config: &Config,
    mount: &MountSettings,
    union: &Union,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    let (effect, data) = (union.effect(), mount.data);
    let on_off = |on: bool| if on { "on" } else { "off" };
    let verity = match config.verity {
        Verity::Off => "off",
        Verity::On => "on",
        Verity::Require => "require",
    };
    let uuid = match config.uuid {
        Uuid::Off => "off",
        Uuid::Null => "null",
        Uuid::Auto => "auto",
        Uuid::On => "on",
    };
    let xino = match config.xino {
        Xino::Off => "off",
        Xino::Auto => "auto",
        Xino::On => "on",
    };
    let fsync = match config.fsync {
        Fsync::Auto => "auto",
        Fsync::Strict => "strict",
        Fsync::Volatile => "volatile",
    };
    let io = match (data.passthrough, data.writeback, data.opens_seen) {
        (true, ..) => "passthrough",
        (_, true, _) => "writeback",
        (.., true) => "auto",
        _ => "stateless",
    };
    [
        ("redirect_dir", effect.redirect_dir),
        ("index", on_off(effect.index)),
        ("metacopy", on_off(effect.metacopy)),
        ("verity", verity),
        ("uuid", uuid),
        ("xino", xino),
        ("fsync", fsync),
        ("io", io),
        ("copyup", if data.copy_up_at_open { "open" } else { "lazy" }),
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::config::UpperDirs;
    use crate::cli::grammar::split_options;

    #[test]
    fn the_source_names_layers_as_options_do_and_is_cut_between_two() {
        let mut config = Config { lowers: vec!["/a:b".into(), "/c,d".into()], ..Config::default() };
        let line =
            |config: &Config, words: &str| source(config, &split_options(words.as_bytes())).into_string().unwrap();
        assert_eq!(line(&config, "ro,fsname=x,lowerdir=/z"), r"lowerdir=/a\:b:/c\,d");
        config.data_only = vec!["/data".into()];
        config.upper = Some(UpperDirs { dir: r"/u\p".into(), work: "/w".into() });
        let words = "redirect_dir=on,volatile,allow_other,noexec,x-y";
        assert_eq!(
            line(&config, words),
            r"upperdir=/u\\p,workdir=/w,redirect_dir=on,volatile,lowerdir=/a\:b:/c\,d::/data"
        );
        config.lowers = (0..500).map(|at| format!("/layers/number {at}").into()).collect();
        let long = line(&config, words);
        assert!(long.ends_with(":…") && room_of(long.as_bytes()) <= MOST_SOURCE && long.len() > 700, "{long}");
        // A path that has no room by itself.
        config.lowers = vec!["/x".repeat(2000).into()];
        assert!(line(&config, "").ends_with("lowerdir=…"));
    }
}
