//! The ioctls that the kernel hands on for `chattr(1)` and project ids (`linux/fs.h`).

use crate::base::{Errno, Result};
use crate::union::{Caller, InodeId, Union};

const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC32_GETFLAGS: u32 = 0x8004_6601;
const FS_IOC32_SETFLAGS: u32 = 0x4004_6602;
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;

/// Carries one out; the data that goes back to the caller.
///
/// # Errors
/// `ENOTTY` for any other; as [`Union::get_flags`] and its like.
pub fn answer(union: &Union, caller: &Caller, id: InodeId, command: u32, data: &[u8]) -> Result<Vec<u8>> {
    match command {
        FS_IOC_GETFLAGS | FS_IOC32_GETFLAGS => union.get_flags(id).map(|flags| flags.to_ne_bytes().to_vec()),
        FS_IOC_SETFLAGS | FS_IOC32_SETFLAGS => {
            let flags = data.first_chunk().ok_or(Errno::EINVAL)?;
            union.set_flags(caller, id, u32::from_ne_bytes(*flags)).map(|()| Vec::new())
        }
        FS_IOC_FSGETXATTR => union.get_fsx(id).map(|fsx| fsx.to_vec()),
        FS_IOC_FSSETXATTR => {
            let fsx = data.first_chunk().ok_or(Errno::EINVAL)?;
            union.set_fsx(caller, id, fsx).map(|()| Vec::new())
        }
        _ => Err(Errno::ENOTTY),
    }
}
