//! System calls and abilities of FUSE that older kernels lack, and what plyfs does without them.
//!
//! plyfs looks for each of them once, and tells the log once of each that is missing. `PLYFS_ABSENT=WORD,WORD` (or `all`) makes
//! the kernel seem to lack what the words name, for tests and to look into a fault. It cannot add anything.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// The environment variable that hides what the kernel has.
pub const VARIABLE: &str = "PLYFS_ABSENT";

/// What a user notices where it is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// The same is done in another way, which may take longer; or what asks for it is refused.
    Otherwise(&'static str),
    /// Something is not to be had, and nothing else would say so.
    Less(&'static str),
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its word in [`VARIABLE`].
    pub word: &'static str,
    /// Its name in the kernel or in FUSE.
    pub name: &'static str,
    /// The first version of Linux that has it.
    pub since: &'static str,
    /// What plyfs does without it.
    pub without: Without,
}

macro_rules! newer {
    ($($row:ident $word:literal $name:literal $since:literal $how:ident $without:literal)*) => {
        /// Each of them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Newer { $($row),* }

        impl Newer {
            /// Each of them once.
            pub const ALL: &'static [Newer] = &[$(Newer::$row),*];

            /// What is known of it.
            pub const fn row(self) -> Row {
                match self {
                    $(Newer::$row => Row {
                        word: $word, name: $name, since: $since, without: Without::$how($without),
                    },)*
                }
            }
        }
    };
}

newer! {
    RenameFlags "rename-flags" "renameat2(2)" "3.15" Otherwise "removing or replacing a directory takes two steps, and two names cannot be exchanged"
    Memfd "memfd" "memfd_create(2)" "3.17" Otherwise "no --supervise"
    CopyRange "copy-range" "copy_file_range(2)" "4.5" Otherwise "data goes through the daemon's memory"
    Clone "clone" "FICLONE" "4.5" Otherwise "data is copied where it could be shared"
    Statx "statx" "statx(2)" "4.11" Less "chattr +i and +a of what this user cannot read do not count; mounts are known by /proc"
    NoWait "nowait" "RWF_NOWAIT" "4.14" Otherwise "what is in memory is not known: nothing is done because of it"
    OpenTree "open-tree" "open_tree(2) and mount_setattr(2)" "5.12" Otherwise "each step in a layer looks for mounts"
    PidFd "pidfd" "pidfd_open(2)" "5.3" Otherwise "files are not read ahead"
    Verity "measure-verity" "FS_IOC_MEASURE_VERITY" "5.4" Otherwise "verity= hashes each file"
    Openat2 "openat2" "openat2(2)" "5.6" Otherwise "paths are opened one component after the other"
    MountId "mount-id" "STATX_MNT_ID" "5.8" Otherwise "mounts are known by /proc/self/fdinfo"
    CloseRange "close-range" "close_range(2)" "5.9" Otherwise "descriptors are closed by the list in /proc/self/fd"
    Ext4Uuid "ext4-uuid" "EXT4_IOC_GETFSUUID" "6.0" Less "the UUID of an ext4 is read from its device (root), or udev knows it"
    Fchmodat2 "fchmodat2" "fchmodat2(2)" "6.6" Otherwise "modes are set through /proc/self/fd"
    FsUuid "fs-uuid" "FS_IOC_GETFSUUID" "6.9" Less "UUIDs are asked for by each file system's own call; that of a tmpfs is not known"
    FileGetattr "file-getattr" "file_getattr(2)" "6.17" Less "chattr +A and +S of a file that this user cannot read are lost by copy-up"
    XattrAt "xattr-at" "getxattrat(2) and its like" "6.13" Otherwise "attributes are reached through /proc/self/fd"
    ReadDirPlus "readdirplus" "FUSE_DO_READDIRPLUS" "3.9" Less "attributes are asked for one by one, and a number that no layer gives (xino=off) is another in a listing"
    AsyncDio "async-dio" "FUSE_ASYNC_DIO" "3.13" Otherwise "direct reads and writes wait for each other"
    Writeback "writeback" "FUSE_WRITEBACK_CACHE" "3.15" Otherwise "no io=writeback"
    NoOpen "no-open" "FUSE_NO_OPEN_SUPPORT" "3.16" Otherwise "each open and close is a request"
    ParallelDirOps "parallel-dirops" "FUSE_PARALLEL_DIROPS" "4.7" Otherwise "look-ups and listings of one directory wait for each other"
    PosixAcl "posix-acl" "FUSE_POSIX_ACL" "4.9" Less "the ACLs of files are shown and copied, but nobody is judged by them: the mode alone counts"
    CacheSymlinks "cache-symlinks" "FUSE_CACHE_SYMLINKS" "4.20" Otherwise "each readlink is a request"
    MaxPages "max-pages" "FUSE_MAX_PAGES" "4.20" Otherwise "at most 128 KiB are read or written at once"
    NoOpenDir "no-opendir" "FUSE_NO_OPENDIR_SUPPORT" "5.1" Otherwise "each listing begins with a request and is not cached"
    KillPriv "killpriv" "FUSE_HANDLE_KILLPRIV_V2" "5.11" Otherwise "set-user-id is taken from a file by a request of its own"
    NoFlush "no-flush" "FOPEN_NOFLUSH" "5.16" Otherwise "the first close is a request"
    Passthrough "passthrough" "FUSE_PASSTHROUGH" "6.9" Otherwise "no io=passthrough"
    Resend "resend" "FUSE_NOTIFY_RESEND" "6.9" Otherwise "no --supervise, and files are not read ahead"
}

/// The running kernel, such as `6.1.0-50-amd64`.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Whether the kernel is of this version or a later one, by its name.
pub fn release_is_at_least(major: u32, minor: u32) -> bool {
    version(&release()).is_none_or(|version| version >= (major, minor))
}

/// The two numbers at the beginning of a kernel's name.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

const UNKNOWN: u8 = 0;
const THERE: u8 = 1;
const MISSING: u8 = 2;

/// What was found out, in the order of [`Newer::ALL`].
static FOUND: [AtomicU8; Newer::ALL.len()] = [const { AtomicU8::new(UNKNOWN) }; Newer::ALL.len()];

/// Whether the kernel has it. `probe` tries that, the first time only.
#[inline]
pub fn has(newer: Newer, probe: impl FnOnce() -> bool) -> bool {
    match found(newer).load(Relaxed) {
        THERE => true,
        MISSING => false,
        _ => {
            // Nothing is settled before that: another thread would make the call meanwhile.
            let there = !is_wished_away(newer) && probe();
            settle(newer, there);
            there
        }
    }
}

/// Whether it counts as missing: [`VARIABLE`] names it, or the kernel was found to lack it.
#[inline]
pub fn is_absent(newer: Newer) -> bool {
    match found(newer).load(Relaxed) {
        THERE => false,
        MISSING => true,
        _ => {
            let wished = is_wished_away(newer);
            settle(newer, !wished);
            wished
        }
    }
}

fn is_wished_away(newer: Newer) -> bool {
    wished().as_ref().is_ok_and(|set| set & bit(newer) != 0)
}

/// The kernel has shown that it lacks it.
pub fn lacks(newer: Newer) {
    settle(newer, false);
}

#[cold]
fn settle(newer: Newer, there: bool) {
    if there {
        // What another thread found to be missing since stays so.
        let _ = found(newer).compare_exchange(UNKNOWN, THERE, Relaxed, Relaxed);
        return;
    }
    if found(newer).swap(MISSING, Relaxed) == MISSING {
        return;
    }
    let Row { name, since, without, .. } = newer.row();
    match without {
        Without::Otherwise(how) => log::info!("no {name} here (Linux {since}): {how}"),
        Without::Less(what) => log::warn!("no {name} here (Linux {since}): {what}"),
    }
}

#[expect(clippy::indexing_slicing, reason = "a place for each of them")]
fn found(newer: Newer) -> &'static AtomicU8 {
    &FOUND[newer as usize]
}

fn bit(newer: Newer) -> u64 {
    1 << newer as u32
}

/// Checks the words of [`VARIABLE`].
///
/// # Errors
/// The first word that names nothing.
pub fn check() -> Result<(), &'static str> {
    wished().as_ref().map(drop).map_err(String::as_str)
}

fn wished() -> &'static Result<u64, String> {
    static WISHED: OnceLock<Result<u64, String>> = OnceLock::new();
    WISHED.get_or_init(|| parse(&std::env::var(VARIABLE).unwrap_or_default()))
}

fn parse(words: &str) -> Result<u64, String> {
    let mut set = 0;
    for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let named = |newer: &&Newer| word == "all" || newer.row().word == word;
        let bits = Newer::ALL.iter().filter(named).fold(0, |bits, &newer| bits | bit(newer));
        if bits == 0 {
            return Err(word.to_owned());
        }
        set |= bits;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_what_is_to_be_missing() {
        let all = Newer::ALL.iter().fold(0, |set, &newer| set | bit(newer));
        for (words, expected) in [
            ("", Ok(0)),
            ("openat2", Ok(bit(Newer::Openat2))),
            (" statx ,,fs-uuid", Ok(bit(Newer::Statx) | bit(Newer::FsUuid))),
            ("all", Ok(all)),
            ("openat2,all", Ok(all)),
            ("openat", Err("openat".to_owned())),
            ("all,x", Err("x".to_owned())),
        ] {
            assert_eq!(parse(words), expected, "{words}");
        }
        let mut words: Vec<&str> = Newer::ALL.iter().map(|newer| newer.row().word).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Newer::ALL.len());
    }

    #[test]
    fn a_version_is_read_from_a_kernels_name() {
        for (release, expected) in
            [("6.1.0-50-amd64", Some((6, 1))), ("7.3-rc7", Some((7, 3))), ("6.18.44-fc", Some((6, 18))), ("x", None)]
        {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn each_is_looked_for_once() {
        let tries = std::cell::Cell::new(0);
        let probe = || {
            tries.set(tries.get() + 1);
            true
        };
        // Of no other test's.
        let first = has(Newer::AsyncDio, probe);
        assert_eq!((has(Newer::AsyncDio, probe), tries.get()), (first, u32::from(first)));
        lacks(Newer::AsyncDio);
        assert!(!has(Newer::AsyncDio, probe) && is_absent(Newer::AsyncDio));
    }

    #[test]
    fn nobody_takes_it_to_be_there_while_another_thread_looks() {
        // Of no other test's.
        let has_it = |probe: &dyn Fn() -> bool| has(Newer::ParallelDirOps, probe);
        let another = || std::thread::scope(|scope| scope.spawn(|| has_it(&|| false)).join().unwrap());
        assert!(!has_it(&|| {
            assert!(!another());
            false
        }));
    }
}
