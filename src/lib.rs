//! plyfs: a union (overlay) file system in user space.
//!
//! Read-only *lower* layers and one writable *upper* layer become one directory. A path is looked up from the top
//! layer down, a file is copied up on its first change, and a deleted lower name is hidden by a whiteout.
//!
//! The engine ([`Union`]) works on real directories and needs no mount; [`fuse`] serves one to the kernel.
//!
//! # A union without a mount
//! ```
//! use plyfs::union::{Caller, InodeId, WriteHow};
//! use plyfs::{Errno, Name, Union};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let base = tempfile::tempdir()?;
//! let [lower, upper, work] = ["lower", "upper", "work"].map(|dir| base.path().join(dir));
//! for dir in [&lower, &upper, &work] {
//!     std::fs::create_dir(dir)?;
//! }
//! std::fs::write(lower.join("greeting"), "hello")?;
//!
//! let union = Union::builder().lower(&lower).upper(&upper, &work).build()?;
//! let file = union.lookup(InodeId::ROOT, &Name::new(b"greeting")?)?.ok_or(Errno::ENOENT)?;
//! let mut text = [0; 5];
//! assert_eq!(union.read(file.id, 0, &mut text)?, 5);
//! assert_eq!(&text, b"hello");
//!
//! // The first write copies the file up; the lower layer stays as it is.
//! union.write(&Caller::this_process(), file.id, 0, b"HELLO", WriteHow::default())?;
//! assert_eq!(std::fs::read(upper.join("greeting"))?, b"HELLO");
//! assert_eq!(std::fs::read(lower.join("greeting"))?, b"hello");
//! union.forget(file.id, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # A mount in this process
//! ```
//! use std::sync::Arc;
//!
//! use plyfs::Union;
//! use plyfs::fuse::{Adapter, DataPath, Described, serve::session, serve::settings::MountSettings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let base = tempfile::tempdir()?;
//! let [lower, mountpoint] = ["lower", "mountpoint"].map(|dir| base.path().join(dir));
//! std::fs::create_dir(&lower)?;
//! std::fs::create_dir(&mountpoint)?;
//! std::fs::write(lower.join("greeting"), "hello")?;
//!
//! let settings = MountSettings {
//!     mountpoint: mountpoint.canonicalize()?,
//!     flags: Default::default(),
//!     fsname: "plyfs".into(),
//!     subtype: "plyfs".into(),
//!     allow_other: false,
//!     threads: 2,
//!     spin: Default::default(),
//!     prefetch: true,
//!     data: DataPath::default(),
//!     security: Vec::new(),
//!     given: None,
//!     propagation: Vec::new(),
//!     auto_unmount: false,
//! };
//! if let Err(error) = session::preflight(&settings) {
//!     eprintln!("this process cannot mount: {error}");
//!     return Ok(());
//! }
//! let union = Arc::new(Union::builder().lower(&lower).build()?);
//! let (ready, mounted) = std::sync::mpsc::channel();
//! let program = std::thread::spawn(move || {
//!     mounted.recv().map_err(|error| error.to_string())?;
//!     let text = std::fs::read(mountpoint.join("greeting"));
//!     session::unmount(&mountpoint, false)?;
//!     text.map_err(|error| error.to_string())
//! });
//! // Answers requests until the view is unmounted.
//! let adapter = Adapter::new(union, settings.data, Described::default());
//! session::serve(adapter, (&settings, None), None, move || ready.send(()).unwrap_or_default())?;
//! assert_eq!(program.join().map_err(|_| "the program panicked")??, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Floors
//! Imports point downwards only (`tests/house.rs` checks it):
//!
//! ```text
//! cli      options, commands, messages
//! session  a command and the unions that it sees
//! fuse     the adapter for fuser; the mount
//! union    the operations, one file for each verb        tool    diff: what layers tell without a mount
//! inode    the live inodes, their numbers, the locks     merge   what the union shows
//! upper    the only code that changes a layer            layer   one layer as it stands
//! format   the bytes of the marks and what they mean     sys     system calls, the only unsafe
//! base     errors, names, settings
//! ```

mod base;
#[doc(hidden)]
pub mod cli;
mod format;
pub mod fuse;
mod inode;
mod layer;
mod merge;
mod session;
mod sys;
pub mod tool;
pub mod union;
mod upper;

pub use base::{Errno, Name, Result, config};
pub use union::{SetupError, Union};

/// What the tests and benches of this crate need of its lower floors. It is no part of the public interface.
#[doc(hidden)]
pub mod testing {
    pub use crate::base::sync;
    pub use crate::session::{Steps, finish_steps};
    pub use crate::sys::{data, lent, mount, newer, process, seam, xattr};

    /// The marks, for `tests/fuzz`.
    pub mod format {
        pub use crate::format::*;
    }
}
