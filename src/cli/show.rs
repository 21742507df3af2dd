//! `plyfs show MOUNTPOINT`: the daemon of a mounted view tells its layers and its options as they took effect.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::json::{member, quoted};
use super::report::{Failure, printable};
use crate::base::Errno;
use crate::base::described::Described;
use crate::sys::mount::Flags;
use crate::sys::{ask, mount, mounts};

/// Asks, and writes down what it says.
///
/// # Errors
/// There is no view of plyfs at `at`; its daemon does not answer; this user may not ask.
pub fn show(at: &Path, json: bool) -> Result<String, Failure> {
    let (dir, told) = view_at(at)?;
    let told = as_mounted(told, mount::flags_of(dir.as_fd()).ok());
    Ok(if json { self::json(&told) } else { text(&told) })
}

/// Since the daemon knows of it the view may have been mounted anew, read-only or not.
fn as_mounted(told: Described, flags: Option<Flags>) -> Described {
    let Some(flags) = flags else { return told };
    let mut now = Described::default();
    for (key, value) in told.pairs() {
        let is_access = key == "option" && (value == b"ro" || value == b"rw");
        now.add(
            key,
            if !is_access {
                value
            } else if flags.ro {
                b"ro"
            } else {
                b"rw"
            },
        );
    }
    now
}

/// The process that serves the view at `at`, as it tells.
///
/// # Errors
/// [`is_no_view`]; others where it cannot be asked.
pub fn pid_at(at: &Path) -> Result<Option<u32>, Errno> {
    let (_, told) = ask_at(at)?;
    Ok(told.all("pid").next().and_then(|pid| std::str::from_utf8(pid).ok()?.parse().ok()))
}

/// What the daemon of the view at `at` tells.
///
/// # Errors
/// As [`pid_at`].
pub fn ask(at: &Path) -> Result<Described, Errno> {
    ask_at(at).map(|(_, told)| told)
}

/// Whether only something that is no view of plyfs answers so.
pub fn is_no_view(errno: Errno) -> bool {
    [libc::ENOTTY, libc::ENOSYS, libc::EINVAL, libc::EOPNOTSUPP].contains(&errno.raw())
}

/// What a mount of plyfs is called in the mount table, by either of its names.
const KINDS: [&str; 2] = ["fuse.plyfs", "fuse.fuse-overlayfs"];

/// How long the daemon of a view may take to tell its layers to who only wants to know whether it has one.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where a view of plyfs is mounted in this namespace that has the directory `layer` as one of its layers. A daemon that does
/// not answer is not waited for.
pub fn view_with(layer: &Path) -> Option<String> {
    let views = mounts::table().unwrap_or_default().into_iter().filter(|mount| KINDS.contains(&&*mount.kind));
    let mut at = views.map(|mount| mount.at).filter(|at| {
        let (tell, told) = mpsc::channel();
        let (at, layer) = (at.clone(), layer.to_owned());
        // It ends with the process, if not before.
        let asked = thread::Builder::new().spawn(move || tell.send(has_layer(&at, &layer)));
        asked.is_ok() && told.recv_timeout(PATIENCE).unwrap_or(false)
    });
    at.next().map(|at| at.display().to_string())
}

/// Whether the view at `at` has the directory `layer`, or one in it, as one of its layers, by whatever mount and path.
fn has_layer(at: &Path, layer: &Path) -> bool {
    let Some(wanted) = identity(layer) else { return false };
    let is_it = |above: &Path| identity(above) == Some(wanted);
    ask(at).is_ok_and(|told| told.layers().any(|path| Path::new(OsStr::from_bytes(path)).ancestors().any(is_it)))
}

/// `st_dev` and `st_ino` of what a path leads to.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|stat| (stat.dev(), stat.ino()))
}

/// The directory `at` of a view, and what its daemon tells.
///
/// # Errors
/// As [`show`].
pub fn view_at(at: &Path) -> Result<(OwnedFd, Described), Failure> {
    ask_at(at).map_err(|errno| refused(at, errno))
}

fn ask_at(at: &Path) -> Result<(OwnedFd, Described), Errno> {
    let dir = mount::open_to_ask(at)?;
    let told = Described::from_bytes(ask::ask(dir.as_fd())?);
    if told.all("version").next().is_some() { Ok((dir, told)) } else { Err(Errno::ENOTTY) }
}

fn refused(at: &Path, errno: Errno) -> Failure {
    let (reason, hint) = match errno.raw() {
        _ if is_no_view(errno) => (
            "no view of plyfs is mounted there, or one of a version that cannot tell".to_owned(),
            "findmnt -t fuse.plyfs lists what is mounted",
        ),
        libc::ENOTCONN | libc::ECONNABORTED => ("its daemon is gone".to_owned(), "plyfs umount ends it"),
        libc::EACCES | libc::EPERM => (
            errno.to_string(),
            "the one who mounted it may ask, and others where they may enter (allow_other, the same user namespace)",
        ),
        libc::ENOTDIR => (errno.to_string(), "name a directory in the view"),
        _ => (errno.to_string(), ""),
    };
    Failure::refused(at.display().to_string(), reason, hint)
}

/// Keys that come once.
const ONCE: [&str; 8] = ["version", "pid", "mountpoint", "source", "type", "workdir", "marks", "whiteouts"];
/// Keys of layers, and their roles.
const LAYERS: [(&str, &str); 3] = [("upperdir", "upper"), ("lowerdir", "lower"), ("datadir", "data")];

/// One line for each thing told: a key, and a value in which control characters, backslashes and what is no UTF-8 are
/// escaped.
fn text(told: &Described) -> String {
    let mut text = String::new();
    for (key, value) in told.pairs() {
        let _ = writeln!(text, "{:<11} {}", printable(key.as_bytes()), printable(&doubled(value)));
    }
    text
}

/// Each backslash twice.
fn doubled(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|&byte| (byte == b'\\').then_some(byte).into_iter().chain([byte])).collect()
}

/// One object. A value that is no UTF-8 stands as text with U+FFFD, and whole in base64 under its key with `_base64`.
pub fn json(told: &Described) -> String {
    let mut fields = vec!["\"v\":1".to_owned()];
    for key in ONCE {
        for value in told.all(key).take(1) {
            match std::str::from_utf8(value).ok().and_then(|text| text.parse::<u32>().ok()) {
                Some(number) if key == "pid" => fields.push(format!("\"pid\":{number}")),
                _ => fields.push(member(key, value)),
            }
        }
    }
    let layers = LAYERS.iter().flat_map(|(key, role)| {
        told.all(key).map(move |path| format!("{{{},{}}}", member("role", role.as_bytes()), member("path", path)))
    });
    fields.push(format!("\"layers\":[{}]", layers.collect::<Vec<_>>().join(",")));
    let options = told.all("option").map(|option| {
        let end = option.iter().position(|&byte| byte == b'=').unwrap_or(option.len());
        let (name, value) = option.split_at(end);
        match value.get(1..) {
            Some(value) => member(&String::from_utf8_lossy(name), value),
            None => format!("{}:true", quoted(&String::from_utf8_lossy(name))),
        }
    });
    fields.push(format!("\"options\":{{{}}}", options.collect::<Vec<_>>().join(",")));
    let degraded = told.all("degraded").map(|note| quoted(&String::from_utf8_lossy(note)));
    fields.push(format!("\"degraded\":[{}]", degraded.collect::<Vec<_>>().join(",")));
    format!("{{{}}}\n", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Described {
        let mut told = Described::default();
        for (key, value) in [
            ("version", &b"1.2"[..]),
            ("pid", b"42"),
            ("mountpoint", b"/m \"x\""),
            ("upperdir", b"/u"),
            ("lowerdir", b"/l\xff\n"),
            ("lowerdir", br"/b\c"),
            ("option", b"rw"),
            ("option", b"index=on"),
            ("degraded", b"upperdir=/u takes none"),
        ] {
            told.add(key, value);
        }
        told
    }

    #[test]
    fn text_has_a_line_for_each_thing_whatever_bytes_it_has() {
        let text = text(&told());
        assert_eq!(text.lines().count(), 9);
        assert!(text.contains("lowerdir    /l\\xff\\n\n") && text.contains(r"/b\\c"), "{text}");
    }

    #[test]
    fn json_has_the_bytes_where_they_are_no_text() {
        let expected = concat!(
            r#"{"v":1,"version":"1.2","pid":42,"mountpoint":"/m \"x\"","layers":[{"role":"upper","path":"/u"},"#,
            r#"{"role":"lower","path":"/l"#,
            "\u{fffd}",
            r#"\u000a","path_base64":"L2z/Cg=="},{"role":"lower","path":"/b\\c"}],"options":{"rw":true,"index":"on"},"#,
            r#""degraded":["upperdir=/u takes none"]}"#,
            "\n"
        );
        assert_eq!(json(&told()), expected);
    }
}
