//! The adapter for fuser and the mount: they translate and hold no logic of the union.

mod ahead;
pub mod serve;
mod turns;
mod wire;

pub use crate::base::described::Described;
pub use ahead::Guard;
pub use serve::{Adapter, DataPath, Peers};
