//! `--help`, `--help-all`, and the list in docs/options.md: all from the tables of commands, flags and options.

use std::fmt::Write as _;

use super::line::Verb;
use super::options::{Fate, Form, Source, Spec, TABLE};
use super::usage::{COMMANDS, FLAGS, Flag, MOST_USED};
use super::work;

const TITLE: &str = "plyfs: a union of read-only lower directories and one writable upper directory\n";
const MOUNT: &str = "  plyfs -o lowerdir=TOP:…:BOTTOM[,upperdir=DIR,workdir=DIR][,OPTION…] MERGED\n";
const ENDING: &str = "
To unmount: plyfs umount MERGED, or umount MERGED, or fusermount3 -u MERGED.
Exit status: 0 the view answers; 1 it cannot be done; 2 a wrong command.
More: plyfs help COMMAND, plyfs --help-all, plyfs(1).
";
const STATUSES: &str = "\
In the background (the default) a mount returns 0 once the view answers; 1 means that it cannot be done, 2 a wrong command. \
By the name mount.TYPE it returns what mount(8) expects: 1 for a wrong use, 2 for what the system lacks, 32 for a failed mount.";

/// The columns of a terminal.
const WIDTH: usize = 80;
/// Where the second column begins.
const SECOND: usize = 26;

/// The groups of options in their order, and their headings.
pub const GROUPS: [(Source, &str); 5] = [
    (Source::Overlay, "Options of the kernel's OverlayFS"),
    (Source::Fuse, "Options of plyfs and FUSE"),
    (Source::FuseOverlayfs, "Options of fuse-overlayfs"),
    (Source::Security, "Options of security modules"),
    (Source::Mount, "Words of mount(8) and fstab(5)"),
];

/// The commands on what a view has changed, in lines that have room on a screen.
const WORK: [(&str, &str); 4] = [
    ("run, drop, status", "sessions: a command whose changes are kept apart"),
    ("diff, where, layer", "what has changed; where it is from; layers as things"),
    ("commit, log, undo, redo", "freeze what has changed; go back and forward"),
    ("apply", "bring what has changed to the lower directory"),
];

/// What `--help` prints: what most need, on one screen of 80 columns.
pub fn text() -> String {
    let mut text = format!("{TITLE}\n{MOUNT}\nCommands:\n");
    for command in &COMMANDS {
        entry(&mut text, command.word, command.brief);
    }
    for (words, brief) in WORK {
        entry(&mut text, words, brief);
    }
    text.push_str("\nFlags:\n");
    // Who reads this knows two of them.
    let is_known = |flag: &&Flag| ["help", "version"].contains(&flag.long.unwrap_or_default());
    let of_mount = FLAGS.iter().filter(|flag| flag.verbs.contains(&Verb::Mount) && !flag.is_for_mount8());
    for flag in of_mount.filter(|flag| !is_known(flag)) {
        entry(&mut text, &flag.shape(), flag.help);
    }
    text.push_str("\nOptions that most need (behind -o, between commas):\n");
    for (shape, help) in MOST_USED {
        entry(&mut text, shape, help);
    }
    text + ENDING
}

/// What `--help-all` prints: every command, flag and option.
pub fn all() -> String {
    let mut text = format!("{TITLE}\n{MOUNT}\nCommands:\n");
    for command in &COMMANDS {
        let _ = writeln!(text, "  plyfs {}", command.form);
        wrap(&mut text, command.about, 6);
    }
    for command in work::commands().get_subcommands() {
        let _ = writeln!(text, "  plyfs {} …  (plyfs help {0})", command.get_name());
        wrap(&mut text, &brief(command), 6);
    }
    text.push_str("\nFlags:\n");
    for flag in FLAGS {
        entry(&mut text, &flag.shape(), &format!("{}{}", flag.help, commands_of(flag)));
    }
    for (source, heading) in GROUPS {
        let _ = write!(text, "\n{heading}:\n");
        for option in TABLE.iter().filter(|option| option.source == source) {
            let fate = match fate(option) {
                fate if fate.is_empty() => fate,
                fate => format!(" [{fate}]"),
            };
            entry(&mut text, &shape(option), &format!("{}{fate}", option.help));
        }
    }
    text.push('\n');
    wrap(&mut text, STATUSES, 0);
    text.push_str(ENDING.split_inclusive('\n').nth(1).unwrap_or_default());
    text
}

/// How one command is used.
pub fn of(verb: Verb) -> String {
    let mut text = String::new();
    for command in COMMANDS.iter().filter(|command| command.verb == verb) {
        let _ = write!(text, "plyfs {}\n\n", command.form);
        wrap(&mut text, command.about, 0);
        for flag in FLAGS.iter().filter(|flag| flag.verbs.contains(&verb) && !is_common(flag)) {
            entry(&mut text, &flag.shape(), flag.help);
        }
        let [done, not] = command.statuses;
        wrap(&mut text, &format!("Status: 0 {done}; 1 {not}; 2 a wrong command."), 0);
    }
    text
}

/// What a command on changes does, in a few words.
pub fn brief(command: &clap::Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// Which commands have a flag that not all have, for a list of all flags.
fn commands_of(flag: &Flag) -> String {
    if is_common(flag) || flag.verbs == [Verb::Mount] {
        return String::new();
    }
    let words = COMMANDS.iter().filter(|command| flag.verbs.contains(&command.verb)).map(|command| command.word);
    format!(" ({})", words.collect::<Vec<_>>().join(", "))
}

/// Whether all commands have a flag, or only mount(8) gives it.
fn is_common(flag: &Flag) -> bool {
    flag.verbs.len() == COMMANDS.len() || flag.is_for_mount8()
}

/// A line of two columns; the second goes on below itself where it is long.
fn entry(text: &mut String, name: &str, help: &str) {
    let mut second = String::new();
    wrap(&mut second, help, SECOND);
    if name.chars().count() + 4 > SECOND {
        let _ = writeln!(text, "  {name}");
        text.push_str(&second);
    } else {
        let _ = write!(text, "  {name:<width$}{}", second.trim_start(), width = SECOND - 2);
    }
}

/// Adds a paragraph of at most [`WIDTH`] columns that begins `indent` columns to the right.
fn wrap(text: &mut String, paragraph: &str, indent: usize) {
    let mut column = 0;
    for word in paragraph.split(' ') {
        let len = word.chars().count();
        if column > 0 && column + 1 + len <= WIDTH {
            let _ = write!(text, " {word}");
            column += 1 + len;
        } else {
            let end = if column > 0 { "\n" } else { "" };
            let _ = write!(text, "{end}{:indent$}{word}", "");
            column = indent + len;
        }
    }
    text.push('\n');
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

/// The version, in one line; before it, in the place of fuse-overlayfs, that of which it does what is asked for: programs
/// look for it there.
pub fn version(in_place: bool) -> String {
    let of_other = if in_place { "fuse-overlayfs: version 1.16\n" } else { "" };
    format!("{of_other}plyfs {}\n", env!("CARGO_PKG_VERSION"))
}

/// An option with what may follow its name: `index=on|off`.
pub fn shape(option: &Spec) -> String {
    match option.form {
        Form::Flag | Form::Any => option.name.to_owned(),
        Form::Switch => format!("{}[=1|0]", option.name),
        Form::Value(what) => format!("{}={what}", option.name),
        Form::Choice(choices) => format!("{}={}", option.name, choices.join("|")),
    }
}

/// What happens to an option; nothing for one that is honoured.
pub fn fate(option: &Spec) -> String {
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
    use super::super::options;
    use super::*;

    #[test]
    fn every_option_flag_and_command_is_named_where_all_are() {
        let (help, listed) = (all(), markdown());
        let has_entry = |name: &str| help.lines().any(|line| line.trim_end().split("  ").any(|part| part == name));
        for option in TABLE {
            assert!(has_entry(&shape(option)), "{}", option.name);
            assert!(listed.contains(&format!("| `{}", option.name)), "{}", option.name);
        }
        for flag in FLAGS {
            assert!(has_entry(&flag.shape()), "{}", flag.shape());
        }
        for command in &COMMANDS {
            assert!(has_entry(&format!("plyfs {}", command.form)), "{}", command.word);
        }
    }

    #[test]
    fn what_most_need_are_options() {
        for (shape, _) in MOST_USED {
            let name = shape.split('=').next().unwrap();
            assert!(options::find(name).is_some_and(|option| matches!(option.fate, Fate::Honoured(_))), "{name}");
        }
    }

    #[test]
    fn help_fits_a_screen_and_each_text_its_columns() {
        let lines = text().lines().count();
        assert!((24..=40).contains(&lines), "{lines} lines");
        for help in [text(), all()].into_iter().chain(COMMANDS.iter().map(|command| of(command.verb))) {
            for line in help.lines() {
                assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
            }
        }
    }

    #[test]
    fn each_command_on_changes_is_in_one_line_of_the_help() {
        let mut listed: Vec<&str> = WORK.iter().flat_map(|(words, _)| words.split(", ")).collect();
        let all = work::commands();
        let mut known: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).collect();
        listed.sort_unstable();
        known.sort_unstable();
        assert_eq!(listed, known);
    }

    #[test]
    fn each_command_says_how_it_is_used() {
        for command in &COMMANDS {
            let text = of(command.verb);
            assert!(text.starts_with("plyfs ") && text.contains(command.word) && text.contains("Status: 0 "), "{text}");
        }
    }

    #[test]
    fn a_paragraph_is_cut_between_words() {
        let mut text = String::new();
        wrap(&mut text, &"word ".repeat(20), 4);
        assert!(text.lines().all(|line| line.starts_with("    word") && line.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.matches("word").count(), 20);
    }

    #[test]
    fn the_version_is_one_line() {
        assert_eq!(version(false).lines().count(), 1);
        assert!(version(false).starts_with("plyfs ") && version(false).ends_with('\n'));
        assert_eq!(version(true).lines().next(), Some("fuse-overlayfs: version 1.16"));
    }
}
