//! Requests and answers: what each request is for the union, the mount, and its life.

pub(in crate::fuse) mod adapter;
pub(in crate::fuse) mod convert;
mod handlers;
mod init;
mod ioctl;
pub(in crate::fuse) mod opens;
pub mod reattach;
mod reply;
mod requests;
pub mod session;
pub mod settings;
mod splice;
