//! Requests and answers: what each request is for the union, the mount, and its life.

mod adapter;
pub mod auto_unmount;
mod convert;
mod handlers;
mod init;
mod ioctl;
mod opens;
pub mod reattach;
mod reply;
mod requests;
pub mod session;
pub mod settings;
mod splice;
pub mod steps;

pub use adapter::{Adapter, Peers};
pub use opens::DataPath;
