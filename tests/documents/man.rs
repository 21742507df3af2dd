//! The man pages: their lists are those of the tables, and the formatters have nothing to say against them.

use std::fmt::Write as _;
use std::process::Command;

use plyfs::cli::help::{self, GROUPS, fate, shape};
use plyfs::cli::options::TABLE;
use plyfs::cli::usage::{COMMANDS, FLAGS, MOST_USED};
use plyfs::cli::work;

use super::{check_blocks, check_file, has, root};
use crate::common::{say_skipped, skip};

const PAGES: [&str; 2] = ["docs/man/plyfs.1", "docs/man/mount.fuse.plyfs.8"];

/// Text in roff: code between backquotes is bold, and no line is longer than a formatter likes, nor a request by chance.
fn roff(text: &str) -> String {
    let plain = |text: &str| text.replace('\\', "\\e").replace('…', "...").replace('\'', "\\(aq");
    let marked: String = text
        .split('`')
        .enumerate()
        .map(|(at, part)| if at % 2 == 1 { format!("\\fB{}\\fR", plain(part)) } else { plain(part) })
        .collect();
    let mut lines = vec![String::new()];
    for word in marked.split_whitespace() {
        if lines.last().is_some_and(|line| line.len() + 1 + word.len() > 78) {
            lines.push(String::new());
        }
        let line = lines.last_mut().unwrap();
        if !line.is_empty() {
            line.push(' ');
        } else if word.starts_with(['.', '\'']) {
            line.push_str("\\&");
        }
        line.push_str(word);
    }
    lines.join("\n") + "\n"
}

/// A name with its value: the name bold, a word that stands for something else in italics.
fn literal(name: &str) -> String {
    let text = name.replace('-', "\\-").replace('…', "...");
    let (name, value) = text.split_once(['=', ' ']).unwrap_or((&text, ""));
    let sign = text.get(name.len()..=name.len()).unwrap_or_default();
    let is_placeholder = value.chars().all(|c| !c.is_ascii_lowercase()) && !value.is_empty() && !value.contains('|');
    match is_placeholder {
        true => format!("\\fB{name}{sign}\\fI{value}\\fR"),
        false => format!("\\fB{name}{sign}{value}\\fR"),
    }
}

fn item(name: &str, text: &str) -> String {
    format!(".TP\n{}\n{}", literal(name), roff(text))
}

fn title(page: &str, section: u8) -> String {
    format!(".TH {page} {section} 2026-11-30 \"plyfs {}\"\n", env!("CARGO_PKG_VERSION"))
}

#[test]
fn the_pages_have_what_the_tables_have() {
    let synopsis: String =
        COMMANDS.iter().map(|command| format!("\\fBplyfs\\fR {}\n", roff(command.form).trim_end())).collect();
    let on_changes = work::commands();
    let on_changes = on_changes.get_subcommands().fold(String::new(), |text, command| {
        let (word, about) = (command.get_name(), roff(&help::brief(command)));
        text + &format!(".TP\n\\fBplyfs {word}\\fR\n{}. See\n.BR plyfs\\-{word} (1).\n", about.trim_end())
    });
    let commands = COMMANDS.iter().fold(String::new(), |mut text, command| {
        let [done, not] = command.statuses;
        let _ = write!(text, ".TP\n\\fBplyfs {}\\fR\n{}", command.word, roff(command.about));
        text + ".br\n" + &roff(&format!("Status: 0 {done}; 1 {not}; 2 a wrong command."))
    });
    let flags: String = FLAGS.iter().map(|flag| item(&flag.shape(), flag.help)).collect();
    let most_used: String = MOST_USED.iter().map(|(shape, help)| item(shape, help)).collect();
    check_blocks(
        PAGES[0],
        &[
            ("title", title("PLYFS", 1)),
            ("synopsis", synopsis),
            ("commands", commands + &on_changes),
            ("flags", flags),
            ("most used", most_used),
        ],
    );
    let options = GROUPS.iter().fold(String::new(), |mut text, (source, heading)| {
        let _ = write!(text, ".SS {}", roff(heading));
        for option in TABLE.iter().filter(|option| option.source == *source) {
            let fate = Some(fate(option)).filter(|fate| !fate.is_empty()).map(|fate| format!(" [{fate}]"));
            text += &item(&shape(option), &format!("{}{}", option.help, fate.unwrap_or_default()));
        }
        text
    });
    check_blocks(PAGES[1], &[("title", title("MOUNT.FUSE.PLYFS", 8)), ("options", options)]);
}

/// The commands on changes have a page each.
fn own_pages() -> Vec<(String, String)> {
    let mut all = work::commands();
    all.build();
    let page = |command: &clap::Command| {
        // As `plyfs layer du` is called.
        let name = command.get_bin_name().unwrap().replace(' ', "-");
        let man = clap_mangen::Man::new(command.clone()).title(name.to_uppercase()).date("2026-11-30");
        let mut text = Vec::new();
        man.source(format!("plyfs {}", env!("CARGO_PKG_VERSION"))).render(&mut text).unwrap();
        // The synopsis of clap_mangen names flags without what they take.
        let usage = command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").replace('\\', "\\e").replace('-', "\\-");
        let text = String::from_utf8(text).unwrap();
        let (before, rest) = text.split_once(".SH SYNOPSIS\n").unwrap();
        let (_, after) = rest.split_once(".SH DESCRIPTION\n").unwrap();
        let text = format!("{before}.SH SYNOPSIS\n{usage}\n.SH DESCRIPTION\n{after}");
        (format!("docs/man/{name}.1"), text)
    };
    let own = all.get_subcommands();
    own.flat_map(|command| std::iter::once(command).chain(command.get_subcommands())).map(page).collect()
}

#[test]
fn each_command_on_changes_has_a_page() {
    for (page, text) in own_pages() {
        if root().join(PAGES[0]).exists() {
            check_file(&page, &text);
        }
    }
}

#[test]
fn the_formatters_find_nothing_wrong() {
    if !root().join(PAGES[0]).exists() {
        skip!("the sources are closed to this user");
    }
    for (program, args, hint) in [
        ("mandoc", &["-T", "lint", "-W", "style"][..], "apt-get install mandoc"),
        ("groff", &["-man", "-ww", "-Tutf8", "-z", "-Kutf8"], "apt-get install groff"),
    ] {
        if !has(program) {
            say_skipped(&format!("no {program} ({hint})"));
            continue;
        }
        // mandoc has an opinion on how clap's generator writes its headings; groff has none.
        let own = own_pages().into_iter().map(|(page, _)| page).filter(|_| program == "groff");
        for page in PAGES.into_iter().map(str::to_owned).chain(own) {
            let out = Command::new(program).args(args).arg(root().join(page)).output().unwrap();
            let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            let said: Vec<&str> = said.lines().filter(|line| !is_of_the_machine(line)).collect();
            assert!(said.is_empty(), "{program}: {}", said.join("\n"));
        }
    }
}

/// mandoc looks for the pages that a page refers to among those that are installed.
fn is_of_the_machine(line: &str) -> bool {
    line.contains("referenced manual not found")
}

#[test]
fn a_name_and_its_value_are_told_apart() {
    for (name, expected) in [
        ("index=on|off", r"\fBindex=on|off\fR"),
        ("upperdir=DIR", r"\fBupperdir=\fIDIR\fR"),
        ("-o OPTION,…", r"\fB\-o \fIOPTION,...\fR"),
        ("-d, --debug", r"\fB\-d, \-\-debug\fR"),
        ("ro", r"\fBro\fR"),
    ] {
        assert_eq!(literal(name), expected);
    }
    assert_eq!(roff(r"a `\:` isn't"), "a \\fB\\e:\\fR isn\\(aqt\n");
}
