//! `--help`, and the README's list of options: both from the one table.

use std::fmt::Write as _;

use super::options::{Fate, Form, Source, Spec, TABLE};

const USAGE: &str = "\
plyfs: a union of read-only lower directories and one writable upper directory

  plyfs -o lowerdir=TOP:…:BOTTOM[,upperdir=DIR,workdir=DIR][,OPTION…] MERGED
  plyfs SOURCE MERGED -o …                 as mount(8) calls it: mount -t fuse.plyfs
  plyfs mount …                            the same, spelled out
  plyfs show MOUNTPOINT [--json]           the layers of a mounted view, and its options as they took effect
  plyfs complete -o …                      not mounted: what copyup_block= left to copy is copied
  fusermount3 -u MERGED, umount MERGED     ends it

  -o OPTION,…      options, below; repeatable; `\\,` is a comma in a value
  -f               stay in the foreground
  -d, --debug      the same, and log everything (RUST_LOG=… logs some)
  --supervise      start the daemon again if it dies; the mount and open files go on
  -V, --version    print the version
  -h, --help       print this
  -n -s -v -N NAMESPACE -t TYPE    for mount(8): -s passes over unknown options, -N mounts in another namespace

In the background (the default) it returns 0 once the view answers; 1 means that it cannot be done, 2 a wrong command.
";

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

/// The README's list of options.
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
    fn the_version_is_one_line() {
        assert_eq!(version().lines().count(), 1);
        assert!(version().starts_with("plyfs ") && version().ends_with('\n'));
    }
}
