//! What the commands that write a layer have in common: where it may be, what is said of it.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::super::commands::print;
use super::super::super::daemon::say;
use super::super::super::report::Failure;
use super::super::super::told::{bytes, grouped};
use crate::base::Errno;
use crate::base::config::Config;
use crate::tool::Layers;
use crate::tool::beside::Taken;
use crate::tool::squash::{Refused, Squashed};
use crate::union;

/// The exit status of what is done, but for a part.
pub(super) const LOSSES: u8 = 4;

/// OUT must not lie in a layer, of which it would become a part.
pub(super) fn check_place<'a>(out: &Path, layers: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), Failure> {
    let above = out.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(above) = above.canonicalize() else { return Ok(()) };
    let holds = |layer: &&PathBuf| layer.canonicalize().is_ok_and(|layer| above.starts_with(layer));
    match layers.into_iter().find(holds) {
        Some(layer) => {
            let reason = format!("it lies in {}", layer.display());
            Err(Failure::usage(out.display().to_string(), reason, "name a place outside of the layers"))
        }
        None => Ok(()),
    }
}

/// No layer must lie in a directory that a mount writes.
pub(super) fn check_above<'a>(
    layers: impl IntoIterator<Item = &'a PathBuf>,
    written: &HashSet<(u64, u64)>,
) -> Result<(), Failure> {
    for layer in layers {
        let Ok(at) = layer.canonicalize() else { continue };
        for above in at.ancestors().skip(1) {
            if std::fs::metadata(above).is_ok_and(|stat| written.contains(&(stat.dev(), stat.ino()))) {
                let reason = format!("it lies in {}, which a mount writes", above.display());
                return Err(Failure::refused(layer.display().to_string(), reason, "unmount that one first"));
            }
        }
    }
    Ok(())
}

/// Opens layers to be copied to OUT. `below` is the empty one below them, which was made beside it.
pub(super) fn gathered(config: &Config, below: &Path, out: &str) -> Result<(Layers, Vec<OwnedFd>), Failure> {
    union::gather(config).map_err(|error| match error.what.contains(&*below.to_string_lossy()) {
        // What is wrong with the empty layer is wrong with its place: a bind mount may show one of the layers.
        true => Failure::usage(out, error.reason, "name a place outside of the layers"),
        false => error.into(),
    })
}

/// Prints what was made: the exit status, which is not that of a failure where only this cannot be written.
pub(super) fn tell_made(made: &str) -> u8 {
    match print(made) {
        Ok(()) => 0,
        Err(failure) => {
            say(&format!("{}: {}, but what was made is in its place", failure.what, failure.reason));
            LOSSES
        }
    }
}

/// Why nothing can be made beside OUT.
pub(super) fn refusal(out: &str, taken: Taken) -> Failure {
    let hint = |errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            "its parent must be a writable directory"
        }
        Errno::ENOSPC | Errno::EDQUOT => "make room on its file system",
        _ => "",
    };
    match taken {
        Taken::There => Failure::refused(out, "it is there already", "name a directory that does not exist"),
        Taken::Busy => Failure::refused(out, "another process is making it", "wait for that one"),
        Taken::Foreign => {
            let reason = "something that no squash of this user has left is beside it, under the name .OUT.plyfs-new";
            Failure::refused(out, reason, "rename or remove that")
        }
        Taken::Failed(errno) => Failure::refused(out, errno.to_string(), hint(errno)),
    }
}

/// Why an object cannot be made.
pub(super) fn refused(Refused { path, reason, hint }: Refused) -> Failure {
    let what = if path.as_os_str().is_empty() { PathBuf::from(".") } else { path };
    Failure::refused(what.display().to_string(), reason, hint)
}

/// What was made.
pub(super) fn text(made: &Squashed) -> String {
    let Squashed { files, linked, directories, hiding, bytes: size, .. } = made;
    let links = if *linked == 0 { String::new() } else { format!(" ({} of them links)", grouped(*linked)) };
    format!(
        "{} files{links} in {} directories, {} whiteouts, {}\n",
        grouped(*files),
        grouped(*directories + 1),
        grouped(*hiding),
        bytes(*size)
    )
}

/// The same for programs, with what else was counted.
pub(super) fn json(made: &Squashed, more: &[(&str, u64)]) -> String {
    let Squashed { files, linked, directories, hiding, bytes, .. } = made;
    let more: String = more.iter().map(|(name, count)| format!(",\"{name}\":{count}")).collect();
    format!(
        "{{\"v\":1,\"files\":{files},\"linked\":{linked},\"directories\":{directories},\"hiding\":{hiding},\"bytes\":{bytes}{more}}}\n"
    )
}
