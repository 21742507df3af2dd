//! What is asked of a mount, in words: `list d; read d/f`. The answers are joined in the same way.

use rustix::fs::{FileType, OFlags};
use rustix::io::Result;

use crate::common::*;

/// Asks one question after the other.
pub fn ask(tree: &Tree, stack: &Stack, questions: &str) -> String {
    let answers: Vec<_> = questions.split("; ").map(|question| one(tree, stack, question)).collect();
    answers.join("; ")
}

fn one(tree: &Tree, stack: &Stack, question: &str) -> String {
    let mut words = question.split(' ');
    let verb = words.next().unwrap();
    // A dot is the root.
    let path = words.next().map_or("", |path| path.strip_prefix('.').unwrap_or(path));
    let done = |result: Result<()>| result.map(|()| "ok".into());
    let answer = match verb {
        "list" => tree.names(path).map(|names| names.join(" ")),
        "stat" => tree.stat(path).map(|st| match FileType::from_raw_mode(st.st_mode) {
            FileType::RegularFile => format!("file {}", st.st_size),
            kind => format!("{kind:?}").to_lowercase(),
        }),
        // Type, mode, owner, and size or device number; a directory's size is not told.
        "attrs" => tree.stat(path).map(|st| {
            let kind = FileType::from_raw_mode(st.st_mode);
            let last = match kind {
                FileType::CharacterDevice | FileType::BlockDevice => {
                    format!("{}:{}", rustix::fs::major(st.st_rdev), rustix::fs::minor(st.st_rdev))
                }
                FileType::Directory => "0".into(),
                _ => st.st_size.to_string(),
            };
            let kind = format!("{kind:?}").to_lowercase();
            format!("{kind} {:o} {}:{} {last}", st.st_mode & 0o7777, st.st_uid, st.st_gid)
        }),
        "mode" => tree.stat(path).map(|st| format!("{:o}", st.st_mode & 0o7777)),
        "link" => tree.readlink(path).map(text),
        "links" => tree.stat(path).map(|st| st.st_nlink.to_string()),
        // A fifo must not be waited for.
        "open" => done(tree.open(path, OFlags::RDONLY | OFlags::NONBLOCK).map(drop)),
        "read" => tree.open(path, OFlags::RDONLY | OFlags::NONBLOCK).and_then(|fd| tree::read_all(&fd)).map(text),
        "append" => done(tree.append(path, "+")),
        "chmod" => done(tree.chmod(path, 0o640)),
        "suid" => done(tree.chmod(path, 0o4755)),
        // Where the data of a copied-up file is.
        "data" => Ok(match stack.upper().xattr(path, format!("{}metacopy", stack::prefix())) {
            Ok(_) => "below".into(),
            Err(_) => "own".into(),
        }),
        "unlink" => done(tree.unlink(path)),
        "mkdir" => done(tree.mkdir(path, 0o755)),
        // A mark whose name is that long.
        "set" => {
            let (prefix, len) = (stack::prefix(), words.next().unwrap().parse::<usize>().unwrap());
            done(tree.set_xattr(path, format!("{prefix}{}", "n".repeat(len - prefix.len())), b"y"))
        }
        "rename" => done(tree.rename(path, words.next().unwrap())),
        "flags" => tree.open(path, OFlags::RDONLY).and_then(rustix::fs::ioctl_getflags).map(|flags| {
            let letters = [(rustix::fs::IFlags::APPEND, "a"), (rustix::fs::IFlags::IMMUTABLE, "i")];
            letters.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, letter)| *letter).collect()
        }),
        "xattrs" => tree.xattrs(path).map(|names| names.iter().map(|name| short(name)).collect::<Vec<_>>().join(" ")),
        // As it stands in the upper layer.
        "mark" => {
            let name = format!("{}{}", stack::prefix(), words.next().unwrap());
            stack.upper().xattr(path, name).map(|value| format!("{} bytes", value.len()))
        }
        // The entries that are left after the mount.
        "index" => Tree::new(stack.scratch.path()).names("work/index").map(|names| names.len().to_string()),
        other => panic!("no such question: {other}"),
    };
    answer.unwrap_or_else(code)
}

fn text(bytes: Vec<u8>) -> String {
    bytes.escape_ascii().to_string()
}

/// A name without the prefix of marks, or its length where it is long.
fn short(name: &[u8]) -> String {
    if name.len() < 100 { text(name.to_vec()).replace(stack::prefix(), "") } else { name.len().to_string() }
}
