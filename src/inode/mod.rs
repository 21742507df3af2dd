//! The live state: the concurrent inode cache, inode numbers, and the locks.

mod adopt;
mod body;
mod common;
mod data;
mod ino;
mod journal;
mod key;
mod locks;
mod names;
mod shards;
mod table;

pub use body::{Body, DirBody, DirState, Inode, LeafBody, LeafObject, LeafState};
pub use common::Common;
pub use data::DataFd;
pub use ino::{InodeId, Numbers, System};
pub use journal::{Journal, Move, Node};
pub use key::Key;
pub use locks::{PairGuard, Topology, is_ancestor, lock_names, lock_up};
pub use names::{Ended, MOST_INDEXED, Names};
pub use table::{HardLinks, Table};
