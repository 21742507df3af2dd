//! The lists in the completions are those of the tables.

use plyfs::cli::options::{Fate, Form, Spec, TABLE};
use plyfs::cli::usage::{COMMANDS, FLAGS, Flag, Usage};

use super::check_blocks;

/// The options that are worth a completion: those that do something.
fn options() -> impl Iterator<Item = &'static Spec> {
    TABLE.iter().filter(|option| matches!(option.fate, Fate::Honoured(_)))
}

/// The words that an option takes.
fn values(option: &Spec) -> Vec<&'static str> {
    match option.form {
        Form::Choice(choices) => choices.to_vec(),
        Form::Value(what) if what.contains('|') => {
            what.split('|').filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect()
        }
        _ => Vec::new(),
    }
}

fn with_sign(option: &Spec) -> String {
    format!("{}{}", option.name, if matches!(option.form, Form::Flag | Form::Switch) { "" } else { "=" })
}

/// The first clause of a help text.
fn brief(help: &str) -> &str {
    help.split("; ").next().and_then(|clause| clause.split(" (default").next()).unwrap_or(help)
}

/// A single-quoted word of bash and zsh.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn flags_of(command: &Usage) -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().filter(move |flag| flag.verbs.contains(&command.verb) && !flag.is_for_mount8())
}

fn names(flag: &Flag) -> Vec<String> {
    let short = flag.short.map(|letter| format!("-{letter}"));
    short.into_iter().chain(flag.long.map(|word| format!("--{word}"))).collect()
}

/// A `case` of bash and zsh with an arm for each word.
fn case(function: &str, arms: impl Iterator<Item = (String, String)>, other: &str) -> String {
    let arms: String = arms.map(|(word, does)| format!("    {word}) {does} ;;\n")).collect();
    format!("{function}() {{\n    case $1 in\n{arms}{other}    esac\n}}\n")
}

#[test]
fn bash_completes_from_the_tables() {
    let words: Vec<&str> = COMMANDS.iter().map(|command| command.word).collect();
    let flags = COMMANDS.iter().map(|command| {
        let all: Vec<String> = flags_of(command).flat_map(names).collect();
        (command.word.to_owned(), format!("printf %s '{}'", all.join(" ")))
    });
    let commands = format!("_plyfs_commands=({})\n{}", words.join(" "), case("_plyfs_flags", flags, ""));
    let names: String = options().map(|option| format!("    {}\n", with_sign(option))).collect();
    let values = options().filter(|option| !values(option).is_empty());
    let values =
        values.map(|option| (option.name.to_owned(), format!("printf %s '{}'", self::values(option).join(" "))));
    let options = format!("_plyfs_options=(\n{names})\n{}", case("_plyfs_values", values, ""));
    check_blocks("docs/completions/plyfs.bash", &[("commands", commands), ("options", options)]);
}

#[test]
fn zsh_completes_from_the_tables() {
    let bracketed = |text: &str| text.replace('\\', "").replace('[', "(").replace(']', ")").replace(':', r"\:");
    let commands: String = COMMANDS
        .iter()
        .map(|command| format!("    {}\n", quoted(&format!("{}:{}", command.word, command.brief))))
        .collect();
    let flags = COMMANDS.iter().map(|command| {
        let specs = flags_of(command).map(|flag| {
            let help = bracketed(flag.help);
            match (&names(flag)[..], flag.value) {
                ([name], Some(_)) => format!("        {}\n", quoted(&format!("*{name}+[{help}]:options:_plyfs_words"))),
                ([name], None) => format!("        {}\n", quoted(&format!("{name}[{help}]"))),
                (both, _) => {
                    format!("        '({})'{{{}}}{}\n", both.join(" "), both.join(","), quoted(&format!("[{help}]")))
                }
            }
        });
        (command.word.to_owned(), format!("flags=(\n{}    )", specs.collect::<String>()))
    });
    let options: String = options()
        .map(|option| {
            let (name, help) = (option.name, bracketed(brief(option.help)));
            let repeated = if name.ends_with('+') { "*" } else { "" };
            let value = match option.form {
                _ if name == "lowerdir" => ":layers:_plyfs_layers".to_owned(),
                _ if name == "log" => ":log:_plyfs_logs".to_owned(),
                Form::Value("DIR") => ":directory:_files -S \"\" -/".to_owned(),
                Form::Choice(choices) => format!(":value:({})", choices.join(" ")),
                Form::Value(what) => format!(":{what}: "),
                Form::Flag | Form::Switch | Form::Any => String::new(),
            };
            format!("    {}\n", quoted(&format!("{repeated}{name}[{help}]{value}")))
        })
        .collect();
    let data = format!(
        "_plyfs_commands=(\n{commands})\n{}_plyfs_options=(\n{options})\n",
        case("_plyfs_flags_of", flags, "    *) return 1 ;;\n")
    );
    check_blocks("docs/completions/_plyfs", &[("data", data)]);
}

#[test]
fn fish_completes_from_the_tables() {
    let plain = |text: &str| text.replace('\\', r"\\").replace('\'', r"\'");
    let names: String = options()
        .map(|option| format!("printf '%s\\t%s\\n' '{}' '{}'\n", with_sign(option), plain(brief(option.help))))
        .collect();
    let values: String = options()
        .filter(|option| !values(option).is_empty())
        .map(|option| format!("case {}\n    string split ' ' '{}'\n", option.name, values(option).join(" ")))
        .collect();
    let words: Vec<&str> = COMMANDS.iter().map(|command| command.word).collect();
    let not_mount: Vec<&str> = words.iter().copied().filter(|word| *word != "mount").collect();
    let mut flags = String::new();
    for command in &COMMANDS {
        let (word, brief) = (command.word, plain(command.brief));
        flags += &format!("complete -c plyfs -n 'test (count (commandline -opc)) -eq 1' -a {word} -d '{brief}'\n");
    }
    for command in &COMMANDS {
        let condition = match command.word {
            "mount" => format!("not __fish_seen_subcommand_from {}", not_mount.join(" ")),
            word => format!("__fish_seen_subcommand_from {word}"),
        };
        for flag in flags_of(command) {
            let short = flag.short.map(|letter| format!(" -s {letter}")).unwrap_or_default();
            let long = flag.long.map(|word| format!(" -l {word}")).unwrap_or_default();
            let value = flag.value.map(|_| " -x -a '(__plyfs_list)'").unwrap_or_default();
            flags += &format!("complete -c plyfs -n '{condition}'{short}{long} -d '{}'{value}\n", plain(flag.help));
        }
    }
    flags += &format!("complete -c plyfs -n '__fish_seen_subcommand_from help' -x -a '{}'\n", words.join(" "));
    check_blocks("docs/completions/plyfs.fish", &[("options", names), ("values", values), ("flags", flags)]);
}
