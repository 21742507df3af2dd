//! The command: options, messages, and what runs in the background.

pub mod commands;
mod daemon;
mod data_path;
mod describe;
pub mod grammar;
pub mod help;
pub mod options;
pub mod report;
pub mod resolve;
mod show;
mod supervise;
