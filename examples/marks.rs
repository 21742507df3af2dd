//! Prints what the marks of a layer say: whiteouts, opaque directories, redirects, metadata-only copies, origins.
//!
//! `cargo run --release --example marks -- LAYER`, as whoever may see them: `trusted.overlay.*` is root's to read.
//! docs/layers.md says what each means; `plyfs layer du` what they cost.

use std::error::Error;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{lgetxattr, llistxattr};

/// The largest value of an extended attribute, in bytes.
const MOST: usize = 64 << 10;

/// What a mark says, by the last part of its key.
fn meaning(mark: &str, value: &[u8]) -> String {
    let text = || String::from_utf8_lossy(value).into_owned();
    match mark {
        "opaque" if value == b"y" => "opaque: nothing of the layers below is shown here".to_owned(),
        "opaque" => format!("opaque={}: entries here may be marked as whiteouts", text()),
        "whiteout" => "whiteout: the name is deleted (an empty file that stands for a 0/0 device)".to_owned(),
        "redirect" => format!("redirect: the layers below have it as {}", text()),
        "metacopy" => {
            format!("metacopy: owner, mode and times only; the data is below ({} bytes of mark)", value.len())
        }
        "origin" => format!("origin: copied up from a lower object (a file handle of {} bytes)", value.len()),
        other => format!("{other}: {} bytes", value.len()),
    }
}

fn marks_of(path: &Path, shown: &Path) -> Result<(), Box<dyn Error>> {
    let (mut keys, mut value) = (vec![0; MOST], vec![0; MOST]);
    let length = llistxattr(path, keys.as_mut_slice()).unwrap_or(0);
    for key in keys.get(..length).unwrap_or_default().split(|&byte| byte == 0) {
        let key = String::from_utf8_lossy(key);
        let Some((namespace, mark)) = key.split_once(".overlay.") else { continue };
        let length = lgetxattr(path, &*key, value.as_mut_slice())?;
        println!("{}  {} ({namespace})", shown.display(), meaning(mark, value.get(..length).unwrap_or_default()));
    }
    Ok(())
}

/// Looks at a directory and all below it; no symlink is followed, and nothing is opened but directories.
fn walk(layer: &Path, dir: &Path) -> Result<(), Box<dyn Error>> {
    marks_of(dir, Path::new("/").join(dir.strip_prefix(layer)?).as_path())?;
    let mut entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, stat) = (entry.path(), entry.metadata()?);
        let shown = Path::new("/").join(path.strip_prefix(layer)?);
        if stat.is_dir() {
            walk(layer, &path)?;
        } else if stat.file_type().is_char_device() && stat.rdev() == 0 {
            println!("{}  whiteout: the name is deleted", shown.display());
        } else if entry.file_name().as_bytes().starts_with(b".wh.") {
            println!("{}  whiteout of OCI layers and of file systems without devices", shown.display());
        } else {
            marks_of(&path, &shown)?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let Some(layer) = std::env::args_os().nth(1) else {
        eprintln!("marks: name a layer: marks DIRECTORY");
        return ExitCode::from(2);
    };
    let done = walk(Path::new(&layer), Path::new(&layer));
    done.map_or_else(
        |error| {
            eprintln!("marks: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
