//! What is agreed on with the kernel when the session starts.

use fuser::{InitFlags, KernelConfig};

use super::opens::DataPath;
use crate::base::config::Timeouts;
use crate::sys::newer::{self, Newer};
use crate::union::Union;

/// Requests that the kernel may send in the background at a time: RELEASE and read-ahead must not starve behind others.
const MAX_BACKGROUND: u16 = 1024;
/// A file that is handed to the kernel may be on a stacked file system, and this view a layer of another one.
const STACK_DEPTH: u32 = 1;
/// Bytes in one WRITE; the kernel's own limit is 256 pages.
const MAX_WRITE: u32 = 1 << 20;
/// The same before it was told how many pages (`FUSE_MAX_PAGES`).
const OLD_MAX_WRITE: u32 = 1 << 17;

macro_rules! flags {
    ($($newer:ident $flag:ident),*) => { [$((Newer::$newer, InitFlags::$flag)),*] };
}

/// By which flag of INIT the kernel says that it has something.
const FLAGS: [(Newer, InitFlags); 12] = flags! {
    ReadDirPlus FUSE_DO_READDIRPLUS, AsyncDio FUSE_ASYNC_DIO, Writeback FUSE_WRITEBACK_CACHE, NoOpen FUSE_NO_OPEN_SUPPORT,
    ParallelDirOps FUSE_PARALLEL_DIROPS, PosixAcl FUSE_POSIX_ACL, CacheSymlinks FUSE_CACHE_SYMLINKS,
    MaxPages FUSE_MAX_PAGES, NoOpenDir FUSE_NO_OPENDIR_SUPPORT, KillPriv FUSE_HANDLE_KILLPRIV_V2,
    Passthrough FUSE_PASSTHROUGH, Resend FUSE_HAS_RESEND
};

/// What the kernel does by itself, once it was told to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Agreed {
    /// It opens files without asking.
    pub no_open: bool,
    /// It opens directories without asking.
    pub no_opendir: bool,
}

pub fn negotiate(union: &Union, data: DataPath, config: &mut KernelConfig) -> Agreed {
    let mut wished = InitFlags::FUSE_DO_READDIRPLUS
        // Attributes come with the first names of a listing, and with the next ones if somebody asked for some.
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_HAS_IOCTL_DIR;
    let sometimes = [
        (!data.opens_seen, InitFlags::FUSE_NO_OPEN_SUPPORT),
        // O_TRUNC comes with the open: nothing of what it cuts off is copied.
        (data.copy_up_at_open, InitFlags::FUSE_ATOMIC_O_TRUNC),
        (data.writeback, InitFlags::FUSE_WRITEBACK_CACHE),
        (data.passthrough, InitFlags::FUSE_PASSTHROUGH),
        // The daemon then applies default ACLs, and the umask where there is none.
        (union.is_asked_for_acls(), InitFlags::FUSE_POSIX_ACL),
        (union.has_acls(), InitFlags::FUSE_DONT_MASK),
        (union.timeouts().attr != Timeouts::FOREVER, InitFlags::FUSE_AUTO_INVAL_DATA),
    ];
    wished.extend(sometimes.into_iter().filter_map(|(when, flags)| when.then_some(flags)));
    if data.passthrough {
        let _ = config.set_max_stack_depth(STACK_DEPTH);
    }
    let offered = config.capabilities();
    for (newer, flag) in FLAGS {
        // What nobody wishes for, such as passthrough, is not missed.
        let needed = wished.contains(flag) || matches!(newer, Newer::MaxPages | Newer::Resend);
        if needed && (newer::is_absent(newer) || !offered.contains(flag)) {
            newer::lacks(newer);
            wished.remove(flag);
        }
    }
    for flag in wished.iter() {
        if config.add_capabilities(flag).is_err() {
            log::info!("this kernel has no {flag:?}");
        }
    }
    let _ = config.set_max_background(MAX_BACKGROUND);
    let max_write = if newer::is_absent(Newer::MaxPages) { OLD_MAX_WRITE } else { MAX_WRITE };
    let _ = config.set_max_write(max_write);
    Agreed {
        no_open: wished.contains(InitFlags::FUSE_NO_OPEN_SUPPORT),
        no_opendir: wished.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT),
    }
}
