//! The command: options, messages, and what runs in the background.

pub mod commands;
mod daemon;
mod data_path;
mod describe;
pub mod grammar;
pub mod help;
mod json;
mod line;
pub mod log;
pub mod options;
mod owners;
mod paint;
mod progress;
mod remount;
pub mod report;
pub mod resolve;
mod show;
mod supervise;
mod told;
mod umount;
pub mod usage;
mod view;
pub mod work;
