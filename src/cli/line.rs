//! The command line: which command, its flags and its words.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::grammar::{self, Word};
use super::options::distance;
use super::report::Failure;
use super::usage::COMMANDS;
use super::work;

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// What most need, or how one command is used.
    Help(Option<Verb>),
    /// All commands, flags and options.
    HelpAll,
    /// Which version it is.
    Version {
        /// In the place of fuse-overlayfs.
        in_place: bool,
    },
    /// A view is mounted.
    Mount(Mount),
    /// What a mounted view is.
    Show {
        /// A directory in it.
        at: OsString,
        /// As one object of JSON.
        json: bool,
    },
    /// A view is unmounted.
    Umount {
        /// Where it is mounted.
        at: OsString,
        /// Also while it is in use.
        lazy: bool,
    },
    /// A command on what a view has changed: the program's name, its word and its own words.
    Work(Vec<OsString>),
    /// How such a command is used.
    HelpWork(String),
    /// Files of the upper layer of which only blocks were copied get the rest.
    Complete {
        /// The options with which the view is mounted.
        words: Vec<Word>,
        /// Everything is logged.
        debug: bool,
    },
}

/// The first word of a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verb {
    Mount,
    Show,
    Umount,
    Complete,
    Help,
}

/// `plyfs … MERGED`
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The first of two places.
    pub source: Option<OsString>,
    /// The mountpoint.
    pub merged: OsString,
    /// Of all `-o`.
    pub words: Vec<Word>,
    /// `-f`
    pub foreground: bool,
    /// `-d`
    pub debug: bool,
    /// It was called as [`fuse-overlayfs`](is_fuse_overlayfs).
    pub in_place: bool,
    /// `-s` of mount(8).
    pub sloppy: bool,
    /// `-f` of mount(8): do everything but the mount.
    pub fake: bool,
    /// `-N` of mount(8).
    pub namespace: Option<OsString>,
    /// `--supervise`
    pub supervise: bool,
}

/// What was read of a command line.
#[derive(Debug, Default)]
struct Line {
    mount: Mount,
    json: bool,
    lazy: bool,
    places: Vec<OsString>,
}

const HELP: &str = "plyfs -o lowerdir=TOP:…:BOTTOM[,upperdir=DIR,workdir=DIR] MERGED, or plyfs --help";

/// Whether mount(8) runs the program, as /sbin/mount.TYPE: flags and exit statuses have another meaning there.
pub fn is_for_mount8(program: &OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| name.as_bytes().starts_with(b"mount."))
}

/// Whether programs that know nothing of plyfs run it, in the place of fuse-overlayfs: docs/containers.md has what is other
/// then.
pub fn is_fuse_overlayfs(program: &OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == "fuse-overlayfs")
}

/// Reads the command line `args`, which begins with the program's name.
///
/// # Errors
/// A flag that is unknown or belongs to another command; words too many, or too few.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Failure> {
    let mut args = args.into_iter().peekable();
    let program = args.next().unwrap_or_default();
    let (for_mount8, in_place) = (is_for_mount8(&program), is_fuse_overlayfs(&program));
    let own_words = !for_mount8 && !in_place;
    if own_words && args.peek().is_some_and(|word| work::has(word)) {
        return Ok(Command::Work([program].into_iter().chain(args).collect()));
    }
    let verb = args.peek().filter(|_| own_words).and_then(|arg| verb_of(arg));
    if verb.is_some() {
        args.next();
    }
    let verb = verb.unwrap_or(Verb::Mount);
    let mut line = Line { mount: Mount { in_place, ..Mount::default() }, ..Line::default() };
    while let Some(arg) = args.next() {
        match arg.as_bytes() {
            b"--" => line.places.extend(args.by_ref()),
            b"--help" => return Ok(help_of(verb)),
            b"--help-all" => return Ok(Command::HelpAll),
            b"--version" => return Ok(Command::Version { in_place }),
            b"--json" if verb == Verb::Show => line.json = true,
            b"--lazy" | b"-l" if verb == Verb::Umount => line.lazy = true,
            b"--debug" => line.mount.debug = true,
            b"--foreground" => line.mount.foreground = true,
            b"--supervise" => line.mount.supervise = true,
            [b'-', b'-', ..] => return Err(unknown_flag(&arg)),
            [b'-', letters @ ..] if !letters.is_empty() => {
                match short(&mut line.mount, letters, &mut args, for_mount8)? {
                    Some(Command::Help(_)) => return Ok(help_of(verb)),
                    Some(command) => return Ok(command),
                    None => {}
                }
            }
            _ => line.places.push(arg),
        }
    }
    if verb == Verb::Mount && own_words {
        check_spelling(&line.mount, &line.places)?;
    }
    line.finish(verb)
}

/// The command that a word names.
fn verb_of(word: &OsStr) -> Option<Verb> {
    COMMANDS.iter().find(|command| word == command.word).map(|command| command.verb)
}

/// What `--help` asks for behind this command.
fn help_of(verb: Verb) -> Command {
    Command::Help((verb != Verb::Mount).then_some(verb))
}

impl Line {
    fn finish(self, verb: Verb) -> Result<Command, Failure> {
        let Self { mut mount, json, lazy, places } = self;
        match verb {
            Verb::Mount => return mount.at(places).map(Command::Mount),
            Verb::Complete => {
                let (words, debug) = (std::mem::take(&mut mount.words), std::mem::take(&mut mount.debug));
                only("complete -o OPTIONS", &mount)?;
                return match places.first() {
                    None => Ok(Command::Complete { words, debug }),
                    Some(extra) => Err(one_too_many(extra, "complete -o OPTIONS")),
                };
            }
            Verb::Help => {
                only("help [COMMAND]", &mount)?;
                return help(places);
            }
            Verb::Show | Verb::Umount => {}
        }
        let (word, usage) = match verb {
            Verb::Show => ("show", "show MOUNTPOINT [--json]"),
            _ => ("umount", "umount MOUNTPOINT [-l]"),
        };
        only(usage, &mount)?;
        let [at] = <[OsString; 1]>::try_from(places)
            .map_err(|_| Failure::usage(word, format!("names one directory: {usage}"), HELP))?;
        let at = not_empty(at)?;
        Ok(if verb == Verb::Show { Command::Show { at, json } } else { Command::Umount { at, lazy } })
    }
}

/// Refuses a command that is spelled wrongly, and would be the SOURCE of a mount. A mount without options needs none.
fn check_spelling(mount: &Mount, places: &[OsString]) -> Result<(), Failure> {
    let Some(word) = places.first().filter(|_| mount.words.is_empty()).and_then(|word| word.to_str()) else {
        return Ok(());
    };
    let own = work::commands();
    let known = COMMANDS.iter().map(|command| command.word).chain(own.get_subcommands().map(clap::Command::get_name));
    let near = known.map(|known| (distance(word, known), known)).min();
    match near.filter(|(distance, _)| *distance <= 2 && !Path::new(word).exists()) {
        Some((_, near)) => {
            Err(Failure::usage(word, "no such command", format!("the nearest one is {near}; plyfs help")))
        }
        None => Ok(()),
    }
}

impl Mount {
    fn at(mut self, places: Vec<OsString>) -> Result<Self, Failure> {
        let mut places = places.into_iter();
        (self.source, self.merged) = match (places.next(), places.next(), places.next()) {
            (Some(merged), None, _) => (None, merged),
            // An empty source is none.
            (Some(source), Some(merged), None) => (Some(source).filter(|source| !source.is_empty()), merged),
            (None, ..) => return Err(Failure::usage("MERGED", "no directory to mount on is given", HELP)),
            (.., Some(extra)) => return Err(one_too_many(&extra, "[SOURCE] MERGED and options")),
        };
        self.merged = not_empty(self.merged)?;
        Ok(self)
    }
}

/// Refuses an empty mountpoint: a script may have made it of a variable that is not set.
fn not_empty(at: OsString) -> Result<OsString, Failure> {
    if at.is_empty() {
        let hint = "an empty word is no directory; is a variable of a script not set?";
        return Err(Failure::usage("\"\"", "the mountpoint is empty", hint));
    }
    Ok(at)
}

/// Refuses flags of `mount` that are left over for another command.
fn only(usage: &str, left: &Mount) -> Result<(), Failure> {
    if *left == Mount::default() {
        return Ok(());
    }
    Err(Failure::usage(usage, "a flag that this command does not have", "plyfs help COMMAND lists those that it has"))
}

fn help(places: Vec<OsString>) -> Result<Command, Failure> {
    let words: Vec<&str> = places.iter().filter_map(|word| word.to_str()).collect();
    let Some(word) = places.first() else { return Ok(Command::Help(None)) };
    if let Some(text) = work::help(&words) {
        return Ok(Command::HelpWork(text));
    }
    if let Some(extra) = places.get(1) {
        return Err(one_too_many(extra, "help [COMMAND]"));
    }
    verb_of(word).map(|verb| Command::Help(Some(verb))).ok_or_else(|| {
        let own = work::commands();
        let words =
            COMMANDS.iter().map(|command| command.word).chain(own.get_subcommands().map(clap::Command::get_name));
        let all = words.collect::<Vec<_>>().join(", ");
        Failure::usage(word.to_string_lossy(), "no such command", format!("there are {all}"))
    })
}

fn one_too_many(extra: &OsStr, usage: &str) -> Failure {
    Failure::usage(extra.to_string_lossy(), format!("one word too many: {usage}"), HELP)
}

fn unknown_flag(flag: &OsStr) -> Failure {
    Failure::usage(flag.to_string_lossy(), "unknown flag", "plyfs --help-all lists all")
}

/// Reads the letters behind one `-`. A letter with a value takes the rest of the word, or the next argument.
fn short(
    mount: &mut Mount,
    letters: &[u8],
    args: &mut impl Iterator<Item = OsString>,
    for_mount8: bool,
) -> Result<Option<Command>, Failure> {
    for (at, &letter) in letters.iter().enumerate() {
        match letter {
            b'f' if for_mount8 => mount.fake = true,
            b'f' => mount.foreground = true,
            b'd' => mount.debug = true,
            b's' => mount.sloppy = true,
            b'n' | b'v' => {}
            b'h' => return Ok(Some(Command::Help(None))),
            b'V' => return Ok(Some(Command::Version { in_place: mount.in_place })),
            b'o' | b't' | b'N' => {
                let value = match letters.get(at + 1..) {
                    None | Some([]) => args.next().map(OsString::into_vec),
                    Some(rest) => Some(rest.to_vec()),
                };
                let flag = format!("-{}", char::from(letter));
                let value =
                    value.ok_or_else(|| Failure::usage(flag, "a value is missing", "plyfs --help-all lists all"))?;
                match letter {
                    b'o' => mount.words.append(&mut grammar::split_options(&value)),
                    b'N' => mount.namespace = Some(OsString::from_vec(value)),
                    // The type by which mount(8) found this program.
                    _ => {}
                }
                return Ok(None);
            }
            other => return Err(unknown_flag(OsStr::new(&format!("-{}", char::from(other))))),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, Failure> {
        parse(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from))
    }

    fn mounted(line: &str) -> Mount {
        match parsed(line) {
            Ok(Command::Mount(mount)) => mount,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn each_form_of_the_command_means_the_same_mount() {
        let plain = mounted("plyfs -o lowerdir=/l,ro /m");
        assert_eq!((plain.source.as_deref(), &*plain.merged), (None, OsStr::new("/m")));
        for line in [
            "plyfs mount -o lowerdir=/l,ro /m",
            "plyfs /m -o lowerdir=/l,ro",
            "plyfs -olowerdir=/l -o ro /m",
            "plyfs -o lowerdir=/l -n -v -t fuse.plyfs /m -o ro",
            "plyfs -o lowerdir=/l,ro -- /m",
            "/sbin/mount.plyfs -o lowerdir=/l,ro /m",
        ] {
            assert_eq!(mounted(line), plain, "{line}");
        }
        let helper = mounted("plyfs overlay /m -o lowerdir=/l,ro");
        assert_eq!(helper, Mount { source: Some("overlay".into()), ..mounted("plyfs -o lowerdir=/l,ro /m") });
    }

    #[test]
    fn flags_may_stand_alone_or_together() {
        let mount = mounted("plyfs -fds -N /proc/1/ns/mnt /m");
        assert!(mount.foreground && mount.debug && mount.sloppy && !mount.fake);
        assert_eq!(mount.namespace.as_deref(), Some(OsStr::new("/proc/1/ns/mnt")));
        assert!(mounted("/sbin/mount.fuse.plyfs -f s /m").fake);
        for (line, command) in [
            ("plyfs -V", Command::Version { in_place: false }),
            ("plyfs --version", Command::Version { in_place: false }),
            ("/usr/bin/fuse-overlayfs --version", Command::Version { in_place: true }),
            ("plyfs -h", Command::Help(None)),
            ("plyfs mount --help /m", Command::Help(None)),
            ("plyfs help", Command::Help(None)),
            ("plyfs --help-all", Command::HelpAll),
            ("plyfs show -h", Command::Help(Some(Verb::Show))),
            ("plyfs help umount", Command::Help(Some(Verb::Umount))),
            ("plyfs umount --help", Command::Help(Some(Verb::Umount))),
            ("plyfs umount /m", Command::Umount { at: "/m".into(), lazy: false }),
            ("plyfs umount -l /m", Command::Umount { at: "/m".into(), lazy: true }),
            ("plyfs umount -- -l", Command::Umount { at: "-l".into(), lazy: false }),
            ("plyfs show /m --json", Command::Show { at: "/m".into(), json: true }),
            ("plyfs complete -d", Command::Complete { words: vec![], debug: true }),
        ] {
            assert_eq!(parsed(line), Ok(command), "{line}");
        }
        assert_eq!(mounted("fuse-overlayfs show /m").source.as_deref(), Some(OsStr::new("show")));
        assert_eq!(mounted("/sbin/mount.plyfs umount /m").source.as_deref(), Some(OsStr::new("umount")));
    }

    #[test]
    fn an_empty_word_is_no_place() {
        let parsed = |words: &[&str]| parse(words.iter().map(OsString::from));
        for words in
            [&["plyfs", "-o", "ro", ""][..], &["plyfs", "x", ""], &["plyfs", "umount", ""], &["plyfs", "show", ""]]
        {
            assert!(parsed(words).unwrap_err().reason.contains("empty"), "{words:?}");
        }
        assert_eq!(parsed(&["plyfs", "", "/m"]), parsed(&["plyfs", "/m"]));
    }

    #[test]
    fn a_command_that_makes_no_sense_is_answered_with_status_2() {
        for line in [
            "plyfs",
            "plyfs -o",
            "plyfs -o ro",
            "plyfs -x /m",
            "plyfs --what /m",
            "plyfs a b c",
            "plyfs mount",
            "plyfs umount",
            "plyfs umount a b",
            "plyfs umount -f /m",
            "plyfs umount -o ro /m",
            "plyfs umount --json /m",
            "plyfs show -l /m",
            "plyfs show -o ro /m",
            "plyfs complete --supervise",
            "plyfs complete /m",
            "plyfs help nothing",
            "plyfs help show umount",
            "plyfs help -f",
        ] {
            let failure = parsed(line).unwrap_err();
            assert_eq!(failure.status, Failure::USAGE, "{line}");
            assert!(!failure.hint.is_empty(), "{line}");
        }
    }
}
