//! The one table of commands and flags; that of the `-o` options is in `options.rs`.
//!
//! `--help`, the man pages and the completions come from the two, so that what is documented is what happens.

use super::line::Verb;

/// One command.
#[derive(Debug)]
pub struct Usage {
    /// Its first word.
    pub word: &'static str,
    /// What it is to the parser.
    pub verb: Verb,
    /// How it is called, behind `plyfs `.
    pub form: &'static str,
    /// What it does, for a list: a few words.
    pub brief: &'static str,
    /// What it does.
    pub about: &'static str,
    /// What its exit statuses 0 and 1 mean; 2 is a wrong command.
    pub statuses: [&'static str; 2],
}

/// One flag.
#[derive(Debug)]
pub struct Flag {
    /// `-f`
    pub short: Option<char>,
    /// `--foreground`
    pub long: Option<&'static str>,
    /// What follows it.
    pub value: Option<&'static str>,
    /// The commands that have it.
    pub verbs: &'static [Verb],
    /// What it does, in one line.
    pub help: &'static str,
}

impl Flag {
    /// Whether only mount(8) has a use for it.
    pub fn is_for_mount8(&self) -> bool {
        self.help.starts_with("for mount(8)")
    }

    /// `-d, --debug`
    pub fn shape(&self) -> String {
        let short = self.short.map(|letter| format!("-{letter}"));
        let long = self.long.map(|word| format!("--{word}"));
        let names: Vec<String> = short.into_iter().chain(long).collect();
        let value = self.value.map(|value| format!(" {value}"));
        names.join(", ") + &value.unwrap_or_default()
    }
}

/// The commands.
pub const COMMANDS: [Usage; 5] = [
    Usage {
        word: "mount",
        verb: Verb::Mount,
        form: "[mount] [SOURCE] MERGED -o OPTION,… [-f] [-d] [--supervise]",
        brief: "mount a view (mount -t fuse.plyfs … does so, too)",
        about: "Mounts a view on the directory MERGED and returns once it answers.",
        statuses: ["mounted (with -f: and unmounted again)", "it cannot be mounted"],
    },
    Usage {
        word: "show",
        verb: Verb::Show,
        form: "show MOUNTPOINT [--json]",
        brief: "a mounted view's layers and options",
        about: "Asks the daemon of a mounted view for its layers and for its options as they took effect.",
        statuses: ["told", "there is no view of plyfs, or it does not tell this user"],
    },
    Usage {
        word: "umount",
        verb: Verb::Umount,
        form: "umount MOUNTPOINT [-l]",
        brief: "unmount a view, and wait for its daemon",
        about: "Unmounts a view, as root or by fusermount3, and waits until its daemon has ended and the layers are free.",
        statuses: ["unmounted", "in use, not permitted, no view of plyfs there, or its daemon goes on"],
    },
    Usage {
        word: "complete",
        verb: Verb::Complete,
        form: "complete -o OPTION,… [-d]",
        brief: "copy what copyup_block= left to copy (not mounted)",
        about: "Copies what copyup_block= left to copy, so that others can use the upper layer again. The view must not be \
                mounted; the options are those with which it was.",
        statuses: ["all is copied", "not all is copied"],
    },
    Usage {
        word: "help",
        verb: Verb::Help,
        form: "help [COMMAND]",
        brief: "this, or how one command is used",
        about: "Prints the help of --help, or says how one command is used.",
        statuses: ["printed", "it cannot be written"],
    },
];

const ALL: &[Verb] = &[Verb::Mount, Verb::Show, Verb::Umount, Verb::Complete, Verb::Help];
const MOUNT: &[Verb] = &[Verb::Mount];

const fn flag(
    short: Option<char>,
    long: Option<&'static str>,
    value: Option<&'static str>,
    verbs: &'static [Verb],
    help: &'static str,
) -> Flag {
    Flag { short, long, value, verbs, help }
}

/// The flags.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    flag(Some('o'), None, Some("OPTION,…"), &[Verb::Mount, Verb::Complete], "options of the view; `\\,` is a comma in a value"),
    flag(Some('f'), Some("foreground"), None, MOUNT, "stay in the foreground, and log to stderr"),
    flag(Some('d'), Some("debug"), None, &[Verb::Mount, Verb::Complete], "log everything, in the foreground (RUST_LOG=…: some)"),
    flag(None, Some("supervise"), None, MOUNT, "start the daemon again if it dies; open files go on"),
    flag(None, Some("json"), None, &[Verb::Show], "print one JSON object"),
    flag(Some('l'), Some("lazy"), None, &[Verb::Umount], "unmount a view in use, too: who is in it can finish"),
    flag(Some('h'), Some("help"), None, ALL, "print this, or how the command is used"),
    flag(None, Some("help-all"), None, ALL, "print every command, flag and option"),
    flag(Some('V'), Some("version"), None, ALL, "print the version"),
    flag(Some('s'), None, None, MOUNT, "for mount(8): pass over unknown options"),
    flag(Some('N'), None, Some("NAMESPACE"), MOUNT, "for mount(8): mount in the mount namespace of this file or process"),
    flag(Some('n'), None, None, ALL, "for mount(8): nothing to do"),
    flag(Some('v'), None, None, ALL, "for mount(8): nothing to do"),
    flag(Some('t'), None, Some("TYPE"), ALL, "for mount(8): nothing to do"),
];

/// The options that most need, each in a few words.
pub const MOST_USED: &[(&str, &str)] = &[
    ("lowerdir=TOP:…:BOTTOM", "the read-only layers; `\\:` is a colon in a path"),
    ("upperdir=DIR", "the writable layer; without one the view is read-only"),
    ("workdir=DIR", "an empty directory on the upper layer's file system"),
    ("ro", "read-only, although there is an upper layer"),
    ("volatile", "sync nothing: a crash of the machine may lose data"),
    ("allow_other", "other users may enter (always so for root)"),
    ("redirect_dir=on|off", "directories of lower layers can be renamed (auto)"),
    ("metacopy=on|off", "chmod and mv of a file copy no data (auto)"),
    ("copyup_block=64K", "a write to a large file copies its blocks only"),
    ("io=passthrough", "root: the kernel reads and writes upper files itself"),
    ("timeout=SECONDS", "layers that others change: how long names are kept"),
    ("log=FILE", "where messages go; or stderr, syslog, off"),
];

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::line;
    use super::*;

    #[test]
    fn each_flag_is_taken_by_the_commands_that_are_said_to_have_it_and_by_no_other() {
        for flag in FLAGS {
            let names = [flag.short.map(|letter| format!("-{letter}")), flag.long.map(|word| format!("--{word}"))];
            for (name, Usage { word, verb, .. }) in
                names.iter().flatten().flat_map(|name| COMMANDS.iter().map(move |command| (name, command)))
            {
                let mut words = vec!["plyfs", word, name];
                words.extend(flag.value.map(|_| "x"));
                words.extend(match verb {
                    Verb::Mount | Verb::Show | Verb::Umount => Some("/m"),
                    Verb::Complete | Verb::Help => None,
                });
                let taken = line::parse(words.iter().map(OsString::from)).is_ok();
                assert_eq!(taken, flag.verbs.contains(verb), "{words:?}");
            }
        }
    }
}
