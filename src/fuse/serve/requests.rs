//! How many requests of each kind came: what a FUSE file system costs.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! requests {
    ($($op:ident $name:literal),* $(,)?) => {
        /// A kind of request ([fuse(4)](https://man7.org/linux/man-pages/man4/fuse.4.html)).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Op { $($op),* }

        const NAMES: &[&str] = &[$($name),*];
    };
}

requests! {
    Lookup "LOOKUP", Forget "FORGET", GetAttr "GETATTR", SetAttr "SETATTR", ReadLink "READLINK", MkNod "MKNOD",
    MkDir "MKDIR", Unlink "UNLINK", RmDir "RMDIR", Symlink "SYMLINK", Rename "RENAME", Link "LINK", Open "OPEN",
    Read "READ", Write "WRITE", Flush "FLUSH", Release "RELEASE", FSync "FSYNC", OpenDir "OPENDIR",
    ReadDir "READDIR", ReadDirPlus "READDIRPLUS", ReleaseDir "RELEASEDIR", FSyncDir "FSYNCDIR", StatFs "STATFS",
    SetXattr "SETXATTR", GetXattr "GETXATTR", ListXattr "LISTXATTR", RemoveXattr "REMOVEXATTR", Access "ACCESS",
    Create "CREATE", Bmap "BMAP", Ioctl "IOCTL", FAllocate "FALLOCATE", LSeek "LSEEK", CopyRange "COPY_FILE_RANGE",
}

/// Counters, one for each kind of request.
#[derive(Debug)]
pub struct Requests([AtomicU64; NAMES.len()]);

impl Default for Requests {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; NAMES.len()])
    }
}

impl Requests {
    /// One more of this kind.
    pub fn count(&self, op: Op) {
        if let Some(counter) = self.0.get(op as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }
}

impl fmt::Display for Requests {
    /// `requests: LOOKUP 3 READ 1 (4 in all)`: those that came, in the order of their numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("requests:")?;
        let mut all = 0;
        for (name, counter) in NAMES.iter().zip(&self.0) {
            let count = counter.load(Relaxed);
            all += count;
            if count > 0 {
                write!(f, " {name} {count}")?;
            }
        }
        write!(f, " ({all} in all)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_counted_by_name() {
        let requests = Requests::default();
        for op in [Op::Lookup, Op::CopyRange, Op::Lookup] {
            requests.count(op);
        }
        assert_eq!(requests.to_string(), "requests: LOOKUP 2 COPY_FILE_RANGE 1 (3 in all)");
    }
}
