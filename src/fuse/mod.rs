//! The adapter for fuser and the mount: they translate and hold no logic of the union.

mod adapter;
mod convert;
pub mod guard;
mod handlers;
mod init;
mod ioctl;
mod keeper;
mod opens;
mod order;
mod prefetch;
mod push;
mod random;
pub mod reattach;
mod relist;
mod reply;
mod requests;
pub mod session;
pub mod settings;
mod splice;
mod store;
mod stream;
mod turns;
mod walk;

pub use adapter::Adapter;
pub use opens::DataPath;
