//! The adapter for fuser and the mount: they translate and hold no logic of the union.

pub mod ahead;
pub mod serve;
mod turns;
mod wire;

pub use serve::adapter::Adapter;
pub use serve::opens::DataPath;
