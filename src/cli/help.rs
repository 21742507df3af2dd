//! `--help`, and the list in docs/options.md: both from the one table.

use std::fmt::Write as _;

use super::line::Verb;
use super::options::{Fate, Form, Source, Spec, TABLE};

const USAGE: &str = "\
plyfs: a union of read-only lower directories and one writable upper directory

  plyfs -o lowerdir=TOP:…:BOTTOM[,upperdir=DIR,workdir=DIR][,OPTION…] MERGED
  plyfs SOURCE MERGED -o …                 as mount(8) calls it: mount -t fuse.plyfs
  plyfs mount …                            the same, spelled out
  plyfs show MOUNTPOINT [--json]           the layers of a mounted view, and its options as they took effect
  plyfs complete -o …                      not mounted: what copyup_block= left to copy is copied
  plyfs umount MOUNTPOINT [-l]             ends it, as umount and fusermount3 -u do
  plyfs help [COMMAND]                     this, or how one command is used

  -o OPTION,…      options, below; repeatable; `\\,` is a comma in a value
  -f               stay in the foreground
  -d, --debug      the same, and log everything (RUST_LOG=… logs some)
  --supervise      start the daemon again if it dies; the mount and open files go on
  -V, --version    print the version
  -h, --help       print this
  -n -s -v -N NAMESPACE -t TYPE    for mount(8): -s passes over unknown options, -N mounts in another namespace

In the background (the default) it returns 0 once the view answers; 1 means that it cannot be done, 2 a wrong command.
By the name mount.TYPE it returns what mount(8) expects: 1 for a wrong use, 2 for the system's lack, 32 for a failed mount.
";

const MOUNT: &str = "\
plyfs [mount] [SOURCE] MERGED -o lowerdir=TOP:…:BOTTOM[,upperdir=DIR,workdir=DIR][,OPTION…] [-f] [-d] [--supervise]

Mounts a view on the directory MERGED, and returns once it answers. plyfs --help lists flags and options.
Status: 0 mounted (with -f: it was unmounted); 1 it cannot be done; 2 a wrong command.
";
const SHOW: &str = "\
plyfs show MOUNTPOINT [--json]

Asks the daemon of a mounted view for its layers and its options as they took effect.
Status: 0 told; 1 there is no view of plyfs, or it does not tell this user; 2 a wrong command.
";
const UMOUNT: &str = "\
plyfs umount MOUNTPOINT [-l, --lazy]

Unmounts a view, as root or by fusermount3, and waits until its daemon has ended and the layers are free.
-l takes a view that is in use out of the tree at once; who is in it can finish, and nothing is waited for.
Status: 0 unmounted; 1 in use, not permitted, no view of plyfs there, or its daemon goes on; 2 a wrong command.
";
const COMPLETE: &str = "\
plyfs complete -o lowerdir=…,upperdir=DIR,workdir=DIR[,OPTION…] [-d]

Copies what copyup_block= left to copy, so that others can use the upper layer again. The view must not be mounted; the
options are those with which it was.
Status: 0 all is copied; 1 not all; 2 a wrong command.
";
const HELP: &str = "\
plyfs help [mount|show|umount|complete|help]

Lists commands, flags and options, or says how one command is used.
";

/// How one command is used.
pub fn of(verb: Verb) -> String {
    match verb {
        Verb::Mount => MOUNT,
        Verb::Show => SHOW,
        Verb::Umount => UMOUNT,
        Verb::Complete => COMPLETE,
        Verb::Help => HELP,
    }
    .to_owned()
}

/// The groups in their order, and their headings.
const GROUPS: [(Source, &str); 5] = [
    (Source::Overlay, "Options of the kernel's OverlayFS"),
    (Source::Fuse, "Options of plyfs and FUSE"),
    (Source::FuseOverlayfs, "Options of fuse-overlayfs"),
    (Source::Security, "Options of security modules"),
    (Source::Mount, "Words of mount(8) and fstab(5)"),
];

/// What `--help` prints.
pub fn text() -> String {
    let mut text = USAGE.to_owned();
    for (source, heading) in GROUPS {
        let _ = write!(text, "\n{heading}:\n");
        for option in TABLE.iter().filter(|option| option.source == source) {
            let fate = match fate(option) {
                fate if fate.is_empty() => fate,
                fate => format!(" [{fate}]"),
            };
            let _ = writeln!(text, "  {:<34} {}{fate}", shape(option), option.help);
        }
    }
    text
}

/// The list in docs/options.md.
pub fn markdown() -> String {
    let mut text = String::new();
    for (source, heading) in GROUPS {
        let _ = write!(text, "| {heading} | What it means | What happens |\n|---|---|---|\n");
        for option in TABLE.iter().filter(|option| option.source == source) {
            let fate = match fate(option) {
                fate if fate.is_empty() => "honoured".to_owned(),
                fate => fate,
            };
            let shape = shape(option).replace('|', "\\|");
            let _ = writeln!(text, "| `{shape}` | {} | {} |", option.help, fate.replace('|', "\\|"));
        }
        text.push('\n');
    }
    text
}

/// The version, in one line.
pub fn version() -> String {
    format!("plyfs {}\n", env!("CARGO_PKG_VERSION"))
}

fn shape(option: &Spec) -> String {
    match option.form {
        Form::Flag | Form::Any => option.name.to_owned(),
        Form::Value(what) => format!("{}={what}", option.name),
        Form::Choice(choices) => format!("{}={}", option.name, choices.join("|")),
    }
}

/// What happens to an option; nothing for one that is honoured.
fn fate(option: &Spec) -> String {
    match option.fate {
        Fate::Honoured(_) => String::new(),
        Fate::Nothing => "accepted, nothing to do".to_owned(),
        Fate::Later([]) => "refused: not there yet".to_owned(),
        Fate::Later(today) => format!("refused: not there yet, except {}", today.join("|")),
        Fate::Refused(reason, _) => format!("refused: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_readme_name_every_option() {
        let (help, readme) = (text(), markdown());
        for option in TABLE {
            assert!(help.contains(&shape(option)), "{}", option.name);
            assert!(readme.contains(&format!("| `{}", option.name)), "{}", option.name);
        }
        assert_eq!(help.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")).count(), {
            let usage = USAGE.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")).count();
            usage + TABLE.len()
        });
    }

    #[test]
    fn each_command_says_how_it_is_used() {
        for (word, verb) in super::super::line::VERBS {
            assert!(
                of(verb).starts_with("plyfs ") && of(verb).contains(word) && USAGE.contains(&format!("plyfs {word} "))
            );
        }
    }

    #[test]
    fn the_version_is_one_line() {
        assert_eq!(version().lines().count(), 1);
        assert!(version().starts_with("plyfs ") && version().ends_with('\n'));
    }
}
