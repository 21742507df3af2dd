//! The one table of every `-o` option: ours, those of the kernel's OverlayFS, of fuse-overlayfs and of mount(8).
//!
//! The parser, `--help-all`, docs/options.md, the man pages and the completions come from it, so that what is documented is
//! what happens.

use super::grammar::{self, Word};
use super::report::Failure;

/// One option.
#[derive(Debug)]
pub struct Spec {
    /// Its name; a trailing `*` stands for any rest.
    pub name: &'static str,
    /// What may follow the name.
    pub form: Form,
    /// Where users know it from.
    pub source: Source,
    /// What becomes of it.
    pub fate: Fate,
    /// What it does, in one line: for `--help-all`, docs/options.md and the man page.
    pub help: &'static str,
}

/// What may follow an option's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Nothing.
    Flag,
    /// Nothing, or `=1`, or `=0` for the opposite.
    Switch,
    /// `=` and something that is not empty; the word stands for it in documents.
    Value(&'static str),
    /// `=` and one of these.
    Choice(&'static [&'static str]),
    /// Anything.
    Any,
}

/// Where users know an option from; also the order of `--help-all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The kernel's OverlayFS.
    Overlay,
    /// FUSE, and options of plyfs itself.
    Fuse,
    /// fuse-overlayfs 1.x and 2.0.
    FuseOverlayfs,
    /// The kernel's security modules.
    Security,
    /// mount(8) and fstab(5).
    Mount,
}

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It does what it says.
    Honoured(Key),
    /// Accepted, because there is nothing to do for it.
    Nothing,
    /// Refused by name until it does what it says, except at these values, which say what happens today.
    Later(&'static [&'static str]),
    /// Refused for good: why, and what to do instead.
    Refused(&'static str, &'static str),
}

/// The options that are honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Key {
    LowerDir,
    LowerDirMore,
    UpperDir,
    WorkDir,
    DataDirMore,
    DefaultPermissions,
    RedirectDir,
    Index,
    Metacopy,
    CopyUpBlock,
    CopyUpRate,
    Verity,
    Uuid,
    XattrPermissions,
    Xino,
    Ino32,
    Volatile,
    Fsync,
    UserXattr,
    NoAcl,
    StaticNlink,
    UidMapping,
    GidMapping,
    SquashToRoot,
    SquashToUid,
    SquashToGid,
    Timeout,
    AttrTimeout,
    EntryTimeout,
    NegativeTimeout,
    AllowOther,
    FsName,
    Subtype,
    Threads,
    Spin,
    Io,
    CopyUp,
    Prefetch,
    Supervise,
    AutoUnmount,
    Log,
    Debug,
    NoXattrs,
    Security,
    Ro,
    Rw,
    Suid,
    NoSuid,
    Dev,
    NoDev,
    Exec,
    NoExec,
    Atime,
    NoAtime,
    Sync,
    Async,
    DirSync,
    Propagation,
    Remount,
}

use Fate::{Honoured, Later, Nothing, Refused};
use Form::{Any, Choice, Flag, Switch, Value};
use Source::{Fuse, FuseOverlayfs, Mount, Overlay, Security};

const ON_OFF: Form = Choice(&["on", "off"]);
const ONE_ZERO: Form = Choice(&["1", "0"]);
const PROPAGATION: &str =
    "as mount(8): what is mounted in the view is seen in copies of it or not; not by a normal user's mount";

const fn row(name: &'static str, form: Form, source: Source, fate: Fate, help: &'static str) -> Spec {
    Spec { name, form, source, fate, help }
}

/// Every option. A name stands once.
#[rustfmt::skip]
pub const TABLE: &[Spec] = &[
    row("lowerdir", Value("TOP:…:BOTTOM[::DATA…]"), Overlay, Honoured(Key::LowerDir), "the lower layers, the topmost first, and behind `::` each data-only layer; `\\:` is a colon in a path; `@FILE` reads one path a line"),
    row("lowerdir+", Value("DIR"), Overlay, Honoured(Key::LowerDirMore), "one more lower layer below those before it, the path as it stands (`\\:` is no escape here); repeatable; not after lowerdir="),
    row("upperdir", Value("DIR"), Overlay, Honoured(Key::UpperDir), "the writable layer; without one every change fails with EROFS"),
    row("workdir", Value("DIR"), Overlay, Honoured(Key::WorkDir), "a directory for unfinished work, on the upper's file system"),
    row("datadir+", Value("DIR"), Overlay, Honoured(Key::DataDirMore), "one more data-only layer below all others, whose files are reached from metacopy files only, the path as it stands; repeatable; not after lowerdir="),
    row("default_permissions", Flag, Overlay, Honoured(Key::DefaultPermissions), "the kernel checks modes and owners; always so"),
    row("redirect_dir", Choice(&["on", "follow", "nofollow", "off"]), Overlay, Honoured(Key::RedirectDir), "on: directories of lower layers can be renamed; follow: they cannot, but renames that a layer has are followed; nofollow, off: those are refused (default: on where the upper layer can hold it, else follow)"),
    row("index", ON_OFF, Overlay, Honoured(Key::Index), "hard links of lower files stay together over a remount (default: on where the layers allow it, and redirect_dir and metacopy are not both off)"),
    row("metacopy", ON_OFF, Overlay, Honoured(Key::Metacopy), "a change of metadata copies no data (default: on where the upper layer can hold it, and redirect_dir is not set otherwise)"),
    row("copyup_block", Value("SIZE"), Fuse, Honoured(Key::CopyUpBlock), "the first write to a file of 16 such blocks or more copies the blocks that it touches, not the file: 4K to 16M (default: off); needs metacopy; until `plyfs complete` the kernel refuses the layer"),
    row("copyup_rate", Value("SIZE"), Fuse, Honoured(Key::CopyUpRate), "bytes a second by which files in use that copyup_block= left incomplete are completed in the background (default: none)"),
    row("nfs_export", ON_OFF, Overlay, Later(&["off"]), "file handles that outlive a mount"),
    row("verity", Choice(&["off", "on", "require"]), Overlay, Honoured(Key::Verity), "on: the digests of metacopy files are checked where there are any; require: one without is refused (default: off); both need metacopy"),
    row("uuid", Choice(&["off", "null", "auto", "on"]), Overlay, Honoured(Key::Uuid), "on: the upper layer gets a UUID of its own; auto: only a fresh one does; null: none does; off: nor do marks name the UUIDs of lower file systems (default: auto)"),
    row("xino", Choice(&["off", "auto", "on"]), Overlay, Honoured(Key::Xino), "where inode numbers of several file systems come from; they are unique in every mode"),
    row("volatile", Flag, Overlay, Honoured(Key::Volatile), "nothing is synced: a crash of the machine may lose the upper layer"),
    row("fsync", Choice(&["auto", "strict", "volatile", "1", "0"]), Overlay, Honoured(Key::Fsync), "auto (1): data is on disk before its name is; strict: metadata too; volatile (0): nothing is synced"),
    row("userxattr", Flag, Overlay, Honoured(Key::UserXattr), "the marks in the upper layer are user.overlay.* attributes; always so without privilege"),
    row("override_creds", Flag, Overlay, Nothing, "layers are reached with the daemon's rights; always so"),
    row("nooverride_creds", Flag, Overlay, Refused("the daemon reaches the layers as itself, it has nobody else's rights", "leave it out"), "layers are reached with the caller's rights"),

    row("allow_other", Flag, Fuse, Honoured(Key::AllowOther), "other users may enter; always so for root and inside a user namespace"),
    row("allow_root", Flag, Fuse, Refused("the kernel only knows allow_other, and a filter in the daemon would let reads and writes through", "use allow_other and the permissions of the directory above"), "root may enter"),
    row("timeout", Value("SECONDS"), Fuse, Honoured(Key::Timeout), "how long the kernel may keep names and attributes (default: for good, layers do not change underneath)"),
    row("attr_timeout", Value("SECONDS"), Fuse, Honoured(Key::AttrTimeout), "how long the kernel may keep attributes (default: timeout=)"),
    row("entry_timeout", Value("SECONDS"), Fuse, Honoured(Key::EntryTimeout), "how long the kernel may keep names (default: timeout=)"),
    row("negative_timeout", Value("SECONDS"), Fuse, Honoured(Key::NegativeTimeout), "how long the kernel may keep that a name does not exist (default: timeout=)"),
    row("fsname", Value("NAME"), Fuse, Honoured(Key::FsName), "the source in the mount table (default: SOURCE, or the layers and options, as far as they have room)"),
    row("subtype", Value("NAME"), Fuse, Honoured(Key::Subtype), "the type in the mount table is fuse.NAME (default: plyfs)"),
    row("io", Choice(&["auto", "stateless", "passthrough", "writeback"]), Fuse, Honoured(Key::Io), "how data goes between programs and layers; docs/options.md says what each way is good for (default: auto, which is stateless unless copyup=open)"),
    row("copyup", Choice(&["lazy", "open"]), Fuse, Honoured(Key::CopyUp), "a file is copied up by its first write, or when it is opened for writing (default: lazy; open with io=writeback)"),
    row("prefetch", ON_OFF, Fuse, Honoured(Key::Prefetch), "small files are read ahead in the order of a listing, large ones around random reads (with stateless opens, Linux 6.9), directories ahead of a walk, and after reads a listing brings new times of access (default: on)"),
    row("supervise", Flag, Fuse, Honoured(Key::Supervise), "a second, small process starts the daemon again if it dies: programs wait a moment and go on; with stateless opens only"),
    row("log", Value("stderr|syslog|off|FILE"), Fuse, Honoured(Key::Log), "where warnings, errors and panics go (RUST_LOG=… says what else): a file is added to (default: syslog, which is the journal where there is one; in the foreground stderr)"),
    row("threads", Value("N"), Fuse, Honoured(Key::Threads), "requests served at once, 1 to 256 (default: the processors, at least 4)"),
    row("spin", Choice(&["auto", "off"]), Fuse, Honoured(Key::Spin), "auto: of two processors that nobody else uses one is kept awake while requests follow each other, which is quicker and takes processor time; off: never (default: auto)"),
    row("auto_unmount", Flag, Fuse, Honoured(Key::AutoUnmount), "when the daemon dies a second, small process unmounts the view (Linux 5.3)"),
    row("clone_fd", Flag, Fuse, Nothing, "threads take turns on one connection"),
    row("max_idle_threads", Value("N"), Fuse, Nothing, "see threads="),
    row("big_writes", Flag, Fuse, Nothing, "writes are as large as the kernel offers"),
    row("nonempty", Flag, Fuse, Nothing, "mount over a directory that is not empty; always allowed"),

    row("noacl", Flag, FuseOverlayfs, Honoured(Key::NoAcl), "POSIX ACLs are not interpreted"),
    row("static_nlink", Flag, FuseOverlayfs, Honoured(Key::StaticNlink), "every directory shows a link count of 1"),
    row("debug", Flag, FuseOverlayfs, Honoured(Key::Debug), "as -d"),
    row("threaded", ONE_ZERO, FuseOverlayfs, Nothing, "see threads="),
    row("writeback", ONE_ZERO, FuseOverlayfs, Nothing, "what the kernel may hold back is decided by what is safe"),
    row("fast_ino", ONE_ZERO, FuseOverlayfs, Nothing, "inode numbers cost nothing here"),
    row("fast_ino_check", ONE_ZERO, FuseOverlayfs, Nothing, "see fast_ino="),
    row("ino32_t", Switch, FuseOverlayfs, Honoured(Key::Ino32), "1: inode numbers have 32 bits, for programs without large-file support; those of further file systems then last as long as the mount only"),
    row("noxattrs", Switch, FuseOverlayfs, Honoured(Key::NoXattrs), "there are no extended attributes, and so no ACLs; a copy-up keeps those of the layers"),
    row("xattr_permissions", Choice(&["0", "1", "2", "parents"]), FuseOverlayfs, Honoured(Key::XattrPermissions), "owners, modes and devices of the upper layer are written as attributes, 1: security.fuseoverlayfs.override_stat, for root only, 2: user.containers.override_stat, parents: as 2, but only of directories of other owners that are copied up for what a normal user changes below them; an upper or lower layer whose root has one of them needs no option (default: 0)"),
    row("uidmapping", Value("LAYER:VIEW:COUNT…"), FuseOverlayfs, Honoured(Key::UidMapping), "COUNT users from LAYER on are shown as those from VIEW on, and set as those of the layer; any number of ranges; others are shown as the overflow id, and cannot be set"),
    row("gidmapping", Value("LAYER:VIEW:COUNT…"), FuseOverlayfs, Honoured(Key::GidMapping), "the same for groups"),
    row("squash_to_root", Flag, FuseOverlayfs, Honoured(Key::SquashToRoot), "as squash_to_uid=0,squash_to_gid=0"),
    row("squash_to_uid", Value("UID"), FuseOverlayfs, Honoured(Key::SquashToUid), "everything is shown as one user's; new files and copies belong to the daemon"),
    row("squash_to_gid", Value("GID"), FuseOverlayfs, Honoured(Key::SquashToGid), "the same for the group"),
    row("plugins", Value("FILE…"), FuseOverlayfs, Refused("no code is loaded from outside", "mount what the plugin serves and name it as a layer"), "layers served by shared libraries"),
    row("kernel_cache", Flag, FuseOverlayfs, Nothing, "the kernel keeps what it has read anyway"),
    row("max_write", Value("BYTES"), FuseOverlayfs, Nothing, "the largest that the kernel offers is used"),
    row("splice_read", Flag, FuseOverlayfs, Nothing, "reads of 64 KiB and more are spliced anyway"),
    row("splice_write", Flag, FuseOverlayfs, Nothing, "writes are copied"),
    row("splice_move", Flag, FuseOverlayfs, Nothing, "a layer's pages stay in its own cache"),

    row("context", Value("CONTEXT"), Security, Honoured(Key::Security), "SELinux: given to the kernel as it stands, quotes and the commas between them included; refused without SELinux"),
    row("fscontext", Value("CONTEXT"), Security, Honoured(Key::Security), "SELinux: given to the kernel as it stands"),
    row("defcontext", Value("CONTEXT"), Security, Honoured(Key::Security), "SELinux: given to the kernel as it stands"),
    row("rootcontext", Value("CONTEXT"), Security, Honoured(Key::Security), "SELinux: given to the kernel as it stands"),

    row("ro", Flag, Mount, Honoured(Key::Ro), "read-only; always so without an upper layer"),
    row("rw", Flag, Mount, Honoured(Key::Rw), "read-write, if there is an upper layer"),
    row("suid", Flag, Mount, Honoured(Key::Suid), "set-user-id bits count; the default for root, and for root only"),
    row("nosuid", Flag, Mount, Honoured(Key::NoSuid), "set-user-id bits do not count; always so for a normal user"),
    row("dev", Flag, Mount, Honoured(Key::Dev), "device files work; the default for root, and for root only"),
    row("nodev", Flag, Mount, Honoured(Key::NoDev), "device files do not work; always so for a normal user"),
    row("exec", Flag, Mount, Honoured(Key::Exec), "programs may be run"),
    row("noexec", Flag, Mount, Honoured(Key::NoExec), "programs may not be run"),
    row("atime", Flag, Mount, Honoured(Key::Atime), "takes back noatime"),
    row("noatime", Flag, Mount, Honoured(Key::NoAtime), "reading changes no access time; it never does, but the mount table says so"),
    row("sync", Flag, Mount, Honoured(Key::Sync), "a write is on disk when it returns"),
    row("async", Flag, Mount, Honoured(Key::Async), "takes back sync"),
    row("dirsync", Flag, Mount, Honoured(Key::DirSync), "a flag in the mount table; fsync= says what is synced"),
    row("private", Flag, Mount, Honoured(Key::Propagation), PROPAGATION),
    row("rprivate", Flag, Mount, Honoured(Key::Propagation), PROPAGATION),
    row("shared", Flag, Mount, Honoured(Key::Propagation), PROPAGATION),
    row("rshared", Flag, Mount, Honoured(Key::Propagation), PROPAGATION),
    row("slave", Flag, Mount, Honoured(Key::Propagation), PROPAGATION),
    row("rslave", Flag, Mount, Honoured(Key::Propagation), PROPAGATION),
    row("unbindable", Flag, Mount, Honoured(Key::Propagation), PROPAGATION),
    row("runbindable", Flag, Mount, Honoured(Key::Propagation), PROPAGATION),
    row("relatime", Flag, Mount, Nothing, "the daemon changes no access times"),
    row("norelatime", Flag, Mount, Nothing, "the daemon changes no access times"),
    row("strictatime", Flag, Mount, Nothing, "the daemon changes no access times"),
    row("nostrictatime", Flag, Mount, Nothing, "the daemon changes no access times"),
    row("diratime", Flag, Mount, Nothing, "the daemon changes no access times"),
    row("nodiratime", Flag, Mount, Nothing, "the daemon changes no access times"),
    row("lazytime", Flag, Mount, Nothing, "the daemon changes no access times"),
    row("nolazytime", Flag, Mount, Nothing, "the daemon changes no access times"),
    row("defaults", Flag, Mount, Nothing, "a word of fstab(5)"),
    row("nofail", Flag, Mount, Nothing, "for the system's start, not for the mount"),
    row("auto", Flag, Mount, Nothing, "for the system's start"),
    row("noauto", Flag, Mount, Nothing, "for the system's start"),
    row("_netdev", Flag, Mount, Nothing, "for the system's start"),
    row("user", Any, Mount, Nothing, "for mount(8), which passes on what follows from it"),
    row("nouser", Flag, Mount, Nothing, "for mount(8)"),
    row("users", Flag, Mount, Nothing, "for mount(8)"),
    row("nousers", Flag, Mount, Nothing, "for mount(8)"),
    row("owner", Flag, Mount, Nothing, "for mount(8)"),
    row("noowner", Flag, Mount, Nothing, "for mount(8)"),
    row("group", Flag, Mount, Nothing, "for mount(8)"),
    row("nogroup", Flag, Mount, Nothing, "for mount(8)"),
    row("silent", Flag, Mount, Nothing, "for mount(8)"),
    row("loud", Flag, Mount, Nothing, "for mount(8)"),
    row("comment", Value("TEXT"), Mount, Nothing, "for whoever reads fstab"),
    row("x-*", Any, Mount, Nothing, "for other programs"),
    row("X-*", Any, Mount, Nothing, "for mount(8)"),
    row("remount", Flag, Mount, Honoured(Key::Remount), "change ro, rw, nosuid, nodev, noexec, exec, noatime, atime, sync, async and dirsync of a mounted view; nothing else, and not by a normal user"),
];

/// The option that a word names.
pub fn find(key: &str) -> Option<&'static Spec> {
    TABLE.iter().find(|option| match option.name.strip_suffix('*') {
        Some(prefix) => key.starts_with(prefix) && key.len() > prefix.len(),
        None => option.name == key,
    })
}

/// Checks a word against the table. `Some` where there is something to do for it.
///
/// # Errors
/// An unknown option (the failure names the nearest known one), a value that it does not take, an option that is refused.
pub fn check(word: &Word) -> Result<Option<Key>, Failure> {
    let Some(option) = find(&word.key) else { return Err(unknown(word)) };
    grammar::check_form(word, option.form)?;
    match option.fate {
        Honoured(key) => Ok(Some(key)),
        Nothing => Ok(None),
        Later(today) if word.value.as_deref().is_some_and(|value| today.iter().any(|is| is.as_bytes() == value)) => {
            Ok(None)
        }
        Later(today) => {
            let hint = match today {
                [] => format!("leave {} out", word.key),
                values => format!("today's behaviour is {}={}", word.key, values.join("|")),
            };
            Err(Failure::usage(word.display(), "not there yet", hint))
        }
        Refused(reason, hint) => Err(Failure::usage(word.display(), reason, hint)),
    }
}

fn unknown(word: &Word) -> Failure {
    let key = &word.key;
    if let Some(known) = find(key.trim()) {
        return Failure::usage(
            format!("{key:?}"),
            "unknown option",
            format!("{} without a blank before it", known.name),
        );
    }
    let near = TABLE.iter().map(|option| option.name).min_by_key(|name| distance(key, name)).unwrap_or_default();
    let path = if word.value.is_none() { "a comma in a path is \\,; " } else { "" };
    Failure::usage(key, "unknown option", format!("{path}the nearest known one is {near}; plyfs --help-all lists all"))
}

/// How many letters must be inserted, removed or exchanged to make one word of the other (Levenshtein).
pub(super) fn distance(from: &str, to: &str) -> usize {
    // The distances of what was read of `from` to the first letter of `to`, to the first two, and so on.
    let mut row: Vec<usize> = (1..=to.chars().count()).collect();
    let mut last = row.len();
    for (i, a) in from.chars().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (cell, b) in row.iter_mut().zip(to.chars()) {
            left = (diagonal + usize::from(a != b)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, left);
        }
        last = left;
    }
    last
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn checked(word: &str) -> Result<Option<Key>, Failure> {
        check(&grammar::split_options(word.as_bytes())[0])
    }

    #[test]
    fn a_name_stands_once_and_has_its_line() {
        let mut seen = HashSet::new();
        for option in TABLE {
            assert!(seen.insert(option.name), "{} twice", option.name);
            assert!(!option.help.is_empty() && !option.help.contains('\n'), "{}", option.name);
            if let (Form::Choice(choices), Later(today)) = (option.form, option.fate) {
                assert!(today.iter().all(|value| choices.contains(value)), "{}", option.name);
            }
        }
    }

    #[test]
    fn a_later_option_is_refused_by_name_except_at_what_happens_today() {
        for (word, accepted) in [
            ("nfs_export=off", true),
            ("nfs_export=on", false),
            ("noxattrs=0", true),
            ("noxattrs=1", true),
            ("noxattrs", true),
            ("noxattrs=2", false),
            ("xattr_permissions=2", true),
            ("threaded=0", true),
            ("x-systemd.requires=/a", true),
            ("user", true),
            ("user=me", true),
            ("X-mount.mkdir", true),
            ("allow_root", false),
            ("x-", false),
        ] {
            let result = checked(word);
            assert_eq!(result.is_ok(), accepted, "{word}: {result:?}");
            if let Err(failure) = result {
                let name = word.split('=').next().unwrap();
                assert!(failure.to_string().starts_with(name), "{failure}");
                assert_eq!(failure.status, Failure::USAGE);
            }
        }
    }

    #[test]
    fn an_unknown_option_is_answered_with_the_nearest_known_one() {
        for (wrong, near) in [("lowrdir=/a", "lowerdir"), ("volatil", "volatile"), ("no_atime", "noatime")] {
            let failure = checked(wrong).unwrap_err();
            assert!(failure.reason.contains("unknown") && failure.hint.contains(near), "{failure}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn a_value_is_what_the_option_takes() {
        for (word, accepted) in [
            ("ro", true),
            ("ro=1", false),
            ("upperdir", false),
            ("upperdir=", false),
            ("upperdir=/u", true),
            ("xino=auto", true),
            ("xino=maybe", false),
            ("xino", false),
            ("fsync=0", true),
            ("redirect_dir=nofollow", true),
            ("redirect_dir=yes", false),
            ("index=1", false),
            ("metacopy", false),
            ("verity=require", true),
            ("verity=force", false),
            ("uuid=null", true),
            ("uuid=0", false),
            ("datadir+=/x", true),
            ("datadir+=", false),
            ("userxattr=on", false),
        ] {
            assert_eq!(checked(word).is_ok(), accepted, "{word}");
        }
    }
}
