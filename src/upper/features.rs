//! What the upper layer's file system can do. Each ability is tried once in workdir.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use super::WhiteoutStyle;
use crate::base::{Errno, Result};
use crate::format::mark::{Mark, Namespace};
use crate::sys::flags::{is_casefolded, kernel_folds, takes_casefold};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::random::temp_name;
use crate::sys::stat::{stat_at, statfs_fd};
use crate::sys::tree::{self, RenameFlags};
use crate::sys::xattr;

/// The abilities of the upper layer's file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// The namespace in which marks can be written.
    pub marks: Option<Namespace>,
    /// 0/0 character devices can be made.
    pub devices: bool,
    /// A name is found in another spelling: workdir is case-insensitive.
    pub folds: bool,
    /// A directory can be made case-insensitive (`chattr +F`).
    pub takes_casefold: bool,
    /// Names that begin with `.wh.` are refused, as by a fuse-overlayfs 1.x on which the layer stands.
    pub refuses_wh: bool,
    /// `RENAME_EXCHANGE` works.
    pub exchange: bool,
    /// `RENAME_WHITEOUT` works.
    pub rename_whiteout: bool,
    /// An object can have several names.
    pub links: bool,
    /// Once a file's name is on disk, so are the blocks that the file shared before it got the name: a copy that shares
    /// its blocks needs no sync.
    pub orders_clones: bool,
    /// The marks of a metacopy file that has another name than its data do not fit beside its inode.
    pub crowds_marks: bool,
}

/// XFS: `FICLONE` waits until the data of the source is written. The shared blocks, the attributes and the name are
/// changes in one log that is replayed in order, and each write of the log flushes the disk's cache first. Not btrfs,
/// where a sync of the directory may log a new name without the blocks that its file shares.
const ORDERS_CLONES: u64 = 0x5846_5342;

/// ext4: an inode of 256 bytes has room for one mark. Other marks get a block of their own, which costs more than to
/// copy a few bytes of data from memory. Time of 5,000 renames with small data copied, as a share of the time with
/// marks alone: 0.86 on ext4, 1.01 on XFS, 0.97 on tmpfs, 1.15 on btrfs.
const CROWDS_MARKS: u64 = 0xef53;

/// A name in workdir with which an ability is tried; the object under it is removed with the value.
struct Tried<'a>(BorrowedFd<'a>, CString);

impl<'a> Tried<'a> {
    fn new(work: BorrowedFd<'a>) -> Result<Self> {
        Ok(Self(work, temp_name("#probe-")?))
    }

    fn name(&self) -> &CStr {
        &self.1
    }
}

impl Drop for Tried<'_> {
    fn drop(&mut self) {
        let removed = match tree::unlink_at(self.0, &self.1) {
            Err(Errno::EISDIR) => tree::rmdir_at(self.0, &self.1),
            removed => removed,
        };
        match removed {
            Ok(()) | Err(Errno::ENOENT) => {}
            // The next mount empties the directory.
            Err(errno) => log::info!("workdir: {:?} stays: {errno}", self.1),
        }
    }
}

/// The name in capital letters.
fn other_case(name: &CStr) -> Result<CString> {
    CString::new(name.to_bytes().to_ascii_uppercase()).map_err(|_| Errno::EINVAL)
}

impl Features {
    /// Tries each ability in the empty directory `work` of this process; marks in the namespace `wish` first.
    ///
    /// # Errors
    /// What making a file in `work` says: then nothing at all can be written.
    pub fn probe(work: BorrowedFd<'_>, wish: Namespace) -> Result<Self> {
        // No name is used twice: on a server or FUSE a call that fails may have done its work.
        let [a, b, c, d, e] = [(); 5].map(|()| Tried::new(work));
        let (a, b, c, d, e) = (a?, b?, c?, d?, e?);
        drop(tree::create_at(work, a.name(), OFlags::WRONLY, 0o600)?);
        if is_casefolded(work) || stat_at(work, &other_case(a.name())?).is_ok() {
            // A case-insensitive workdir is refused: nothing else matters.
            return Ok(Self { folds: true, ..Self::default() });
        }
        let takes_casefold = kernel_folds() && {
            let dir = Tried::new(work)?;
            tree::mkdir_at(work, dir.name(), 0o700)?;
            takes_casefold(open_beneath(work, dir.name(), OFlags::RDONLY | OFlags::DIRECTORY)?.as_fd())
        };
        let marks = [wish, Namespace::User].into_iter().find(|ns| {
            let key = ns.key(Mark::Whiteout);
            xattr::set_at(work, a.name(), key, b"y", 0).is_ok()
                && xattr::get_at(work, a.name(), key).is_ok_and(|value| value.as_deref() == Some(b"y"))
        });
        let is_device = |tried: &Tried<'_>| stat_at(work, tried.name()).is_ok_and(|stat| stat.is_whiteout());
        let devices = tree::mknod_at(work, b.name(), libc::S_IFCHR, 0).is_ok() && is_device(&b);
        let other = if devices { &b } else { &c };
        if !devices {
            drop(tree::create_at(work, c.name(), OFlags::WRONLY, 0o600)?);
        }
        // Only where whiteouts could have no other form.
        let refuses_wh = !devices && marks.is_none() && {
            let name = CString::new([b".wh.", a.name().to_bytes()].concat()).map_err(|_| Errno::EINVAL)?;
            let wh = Tried(work, name);
            tree::create_at(work, wh.name(), OFlags::WRONLY, 0o600).is_err()
        };
        let links = tree::link_at(work, a.name(), work, e.name()).is_ok();
        let exchange = tree::rename_at(work, a.name(), work, other.name(), RenameFlags::EXCHANGE).is_ok();
        let rename_whiteout =
            devices && tree::rename_at(work, a.name(), work, d.name(), RenameFlags::WHITEOUT).is_ok() && is_device(&a);
        let magic = statfs_fd(work).map_or(0, |fs| fs.magic);
        let (orders_clones, crowds_marks) = (magic == ORDERS_CLONES, magic == CROWDS_MARKS);
        let folds = false;
        let found = Self {
            marks,
            devices,
            folds,
            takes_casefold,
            refuses_wh,
            exchange,
            rename_whiteout,
            links,
            orders_clones,
            crowds_marks,
        };
        Ok(found)
    }

    /// The form of whiteouts that this file system takes.
    pub fn whiteout_style(&self) -> WhiteoutStyle {
        match (self.devices, self.marks) {
            (true, _) => WhiteoutStyle::Device,
            (false, Some(_)) => WhiteoutStyle::Xattr,
            (false, None) => WhiteoutStyle::File,
        }
    }

    /// Whether whiteouts of this form can be written here.
    pub fn writes(&self, style: WhiteoutStyle) -> bool {
        match style {
            WhiteoutStyle::Device => self.devices,
            WhiteoutStyle::Xattr => self.marks.is_some(),
            WhiteoutStyle::File => true,
        }
    }

    /// Notes on the abilities that this file system lacks, one line each. `style`: the form of the layer's whiteouts.
    pub fn degraded(&self, style: WhiteoutStyle) -> Vec<String> {
        let mut lines = Vec::new();
        if self.marks.is_none() {
            lines.push(
                "takes no extended attributes: inode numbers may change over a remount, hard links of lower files part, \
                 directories with lower parts cannot be renamed, a change of metadata copies the data, and opaque \
                 directories are written as .wh..wh..opq files"
                    .into(),
            );
        }
        match style {
            WhiteoutStyle::Device => {}
            WhiteoutStyle::File if self.refuses_wh => {
                lines.push(
                    "takes neither device nodes nor .wh.NAME files: what a lower layer shows cannot be removed or renamed"
                        .into(),
                );
            }
            WhiteoutStyle::Xattr => {
                lines.push("takes no device nodes: whiteouts are written as marked empty files".into());
            }
            WhiteoutStyle::File => {
                lines.push("takes no device nodes: whiteouts are written as .wh.NAME files".into());
            }
        }
        if !self.links {
            lines.push("takes no hard links: the names of a lower hard link are files of their own".into());
        }
        if !self.exchange {
            lines.push("has no RENAME_EXCHANGE: removing or replacing a directory takes two steps there".into());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::seam::{Call, Lacking, Lacks, Plan, with_plan};

    /// Of what is tried nothing stays, whatever fails, and whatever stood there before.
    #[test]
    fn a_file_system_that_fails_after_it_has_made_a_device_is_one_without_devices() {
        let here = tempfile::tempdir().unwrap();
        for name in ["#probe-a", "#probe-b", "#probe-c"] {
            std::fs::create_dir(here.path().join(name)).unwrap();
        }
        let work = crate::sys::open_root(here.path()).unwrap();
        let probe = || Features::probe(work.as_fd(), Namespace::User);
        let left = || std::fs::read_dir(here.path()).unwrap().count();
        let found = probe().unwrap();
        assert_eq!(left(), 3);
        let late = Lacking::new(Lacks { devices: true, late: true, ..Lacks::default() });
        let without = probe().unwrap();
        drop(late);
        assert_eq!((without.devices, without.rename_whiteout, without.exchange), (false, false, found.exchange));
        assert_eq!(left(), 3, "a device that was made stays");
        for call in [Call::Create, Call::Mknod, Call::SetXattr, Call::Rename, Call::Stat] {
            for at in 0..3 {
                let _ = with_plan(Plan::fail(at, Errno::EIO).only(call), probe);
                assert_eq!(left(), 3, "{call:?} {at}");
            }
        }
    }
}
