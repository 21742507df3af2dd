//! How data goes between programs and layers: `io=` and `copyup=`, and what they mean together.

use super::report::Failure;
use super::resolve::Abilities;
use crate::fuse::DataPath;

/// `io=`, unless auto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Io {
    Stateless,
    Passthrough,
    Writeback,
}

/// What was said of it.
#[derive(Debug, Default)]
pub(super) struct DataWishes {
    pub io: Option<Io>,
    pub copy_up_at_open: Option<bool>,
}

impl DataWishes {
    /// How data goes. An open that the daemon does not see cannot copy a file up, and a file that the kernel writes back
    /// late must have been copied up before.
    pub(super) fn settle(&self, by_blocks: bool, abilities: Abilities) -> Result<DataPath, Failure> {
        let at_open = self.copy_up_at_open;
        match (self.io, at_open) {
            (Some(Io::Stateless), Some(true)) => {
                let hint = "leave io= out, or use io=passthrough";
                return Err(Failure::usage("copyup=open", "with io=stateless no open is seen", hint));
            }
            (Some(Io::Writeback), Some(false)) => {
                let reason = "io=writeback writes when nobody is left who could be told of an error";
                return Err(Failure::usage("copyup=lazy", reason, "leave copyup= out"));
            }
            (Some(Io::Passthrough), _) if !(abilities.mounts_directly && abilities.ids_are_initial) => {
                let reason = "the kernel lets only root outside of user namespaces do this";
                return Err(Failure::refused("io=passthrough", reason, "leave it out"));
            }
            (Some(Io::Writeback), _) | (_, Some(true)) if by_blocks => {
                let reason = "a file that is opened for writing is copied up whole";
                return Err(Failure::usage("copyup_block", reason, "use copyup=lazy, and not io=writeback"));
            }
            _ => {}
        }
        let (passthrough, writeback) = (self.io == Some(Io::Passthrough), self.io == Some(Io::Writeback));
        let copy_up_at_open = writeback || at_open == Some(true);
        Ok(DataPath { opens_seen: passthrough || copy_up_at_open, passthrough, writeback, copy_up_at_open })
    }
}

/// The value of `io=`.
pub(super) fn io(value: &[u8]) -> Option<Io> {
    match value {
        b"stateless" => Some(Io::Stateless),
        b"passthrough" => Some(Io::Passthrough),
        b"writeback" => Some(Io::Writeback),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Abilities = Abilities { mounts_directly: true, ids_are_initial: true };
    const USER: Abilities = Abilities { mounts_directly: false, ids_are_initial: true };

    fn settled(io_value: &str, at_open: Option<bool>, by_blocks: bool, who: Abilities) -> Result<DataPath, String> {
        let wishes = DataWishes { io: io(io_value.as_bytes()), copy_up_at_open: at_open };
        wishes.settle(by_blocks, who).map_err(|failure| failure.what)
    }

    #[test]
    fn opens_are_seen_where_something_needs_them() {
        let unseen = DataPath::default();
        let open = DataPath { opens_seen: true, copy_up_at_open: true, ..unseen };
        let through = DataPath { opens_seen: true, passthrough: true, ..unseen };
        for (io, at_open, blocks, who, expected) in [
            ("auto", None, false, USER, Ok(unseen)),
            ("stateless", Some(false), true, USER, Ok(unseen)),
            ("auto", Some(true), false, USER, Ok(open)),
            ("writeback", None, false, USER, Ok(DataPath { writeback: true, ..open })),
            ("passthrough", None, true, ROOT, Ok(through)),
            ("passthrough", Some(true), false, ROOT, Ok(DataPath { passthrough: true, ..open })),
            ("passthrough", None, false, USER, Err("io=passthrough")),
            ("stateless", Some(true), false, ROOT, Err("copyup=open")),
            ("writeback", Some(false), false, ROOT, Err("copyup=lazy")),
            ("auto", Some(true), true, ROOT, Err("copyup_block")),
            ("writeback", None, true, ROOT, Err("copyup_block")),
        ] {
            assert_eq!(settled(io, at_open, blocks, who), expected.map_err(str::to_owned), "{io} {at_open:?} {blocks}");
        }
    }
}
