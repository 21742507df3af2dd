//! The lists in the completions are those of the tables.

use plyfs::cli::options::{Fate, Form, Spec, TABLE};
use plyfs::cli::usage::{COMMANDS, FLAGS, Flag};
use plyfs::cli::{help, work};

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

/// A command, whichever table it stands in.
struct Command {
    word: String,
    brief: String,
    flags: Vec<Switch>,
}

/// A flag of a command.
struct Switch {
    short: Option<char>,
    long: Option<String>,
    value: Option<String>,
    help: String,
}

impl From<&Flag> for Switch {
    fn from(flag: &Flag) -> Self {
        let (long, value) = (flag.long.map(str::to_owned), flag.value.map(str::to_owned));
        Self { short: flag.short, long, value, help: flag.help.to_owned() }
    }
}

impl From<&clap::Arg> for Switch {
    fn from(arg: &clap::Arg) -> Self {
        let value = arg.get_value_names().filter(|_| arg.get_action().takes_values()).map(|names| names[0].to_string());
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        Self { short: arg.get_short(), long: arg.get_long().map(str::to_owned), value, help }
    }
}

impl Switch {
    fn names(&self) -> Vec<String> {
        let short = self.short.map(|letter| format!("-{letter}"));
        short.into_iter().chain(self.long.iter().map(|word| format!("--{word}"))).collect()
    }

    /// Whether the words of the view's options follow it.
    fn has_options(&self) -> bool {
        self.short == Some('o') && self.long.is_none()
    }
}

fn commands() -> Vec<Command> {
    let own = COMMANDS.iter().map(|command| Command {
        word: command.word.to_owned(),
        brief: command.brief.to_owned(),
        flags: FLAGS
            .iter()
            .filter(|flag| flag.verbs.contains(&command.verb) && !flag.is_for_mount8())
            .map(Switch::from)
            .collect(),
    });
    let mut all = work::commands();
    all.build();
    let on_changes =
        all.get_subcommands().flat_map(|command| std::iter::once(command).chain(command.get_subcommands()));
    let on_changes = on_changes.map(|command| Command {
        // As `layer du` is called.
        word: command.get_bin_name().unwrap().trim_start_matches("plyfs ").to_owned(),
        brief: help::brief(command),
        flags: command.get_arguments().filter(|arg| !arg.is_positional()).map(Switch::from).collect(),
    });
    own.chain(on_changes).collect()
}

/// The words that may stand behind `plyfs`, and those behind `plyfs layer`.
fn words(all: &[Command]) -> [Vec<&str>; 2] {
    let (own, of_layer): (Vec<&str>, Vec<&str>) =
        all.iter().map(|command| &*command.word).partition(|w| !w.contains(' '));
    [own, of_layer.into_iter().map(|word| word.trim_start_matches("layer ")).collect()]
}

/// A `case` of bash and zsh with an arm for each word.
fn case(function: &str, arms: impl Iterator<Item = (String, String)>, other: &str) -> String {
    let pattern = |word: String| if word.contains(' ') { quoted(&word) } else { word };
    let arms: String = arms.map(|(word, does)| format!("    {}) {does} ;;\n", pattern(word))).collect();
    format!("{function}() {{\n    case $1 in\n{arms}{other}    esac\n}}\n")
}

#[test]
fn bash_completes_from_the_tables() {
    let all = commands();
    let [words, of_layer] = words(&all);
    let flags = all.iter().map(|command| {
        let flags: Vec<String> = command.flags.iter().flat_map(Switch::names).collect();
        (command.word.clone(), format!("printf %s '{}'", flags.join(" ")))
    });
    let lists = format!("_plyfs_commands=({})\n_plyfs_of_layer=({})\n", words.join(" "), of_layer.join(" "));
    let commands = format!("{lists}{}", case("_plyfs_flags", flags, ""));
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
    let all = commands();
    let list = |of_layer: bool| -> String {
        let those = all.iter().filter(|command| command.word.contains(' ') == of_layer);
        let word = |command: &Command| command.word.trim_start_matches("layer ").to_owned();
        those.map(|command| format!("    {}\n", quoted(&format!("{}:{}", word(command), command.brief)))).collect()
    };
    let (commands, of_layer) = (list(false), list(true));
    let flags = all.iter().map(|command| {
        let specs = command.flags.iter().map(|flag| {
            let help = bracketed(&flag.help);
            match (&flag.names()[..], &flag.value) {
                ([name], Some(_)) if flag.has_options() => {
                    format!("        {}\n", quoted(&format!("*{name}+[{help}]:options:_plyfs_words")))
                }
                ([name], Some(value)) => format!("        {}\n", quoted(&format!("*{name}=[{help}]:{value}:_files"))),
                ([name], None) => format!("        {}\n", quoted(&format!("{name}[{help}]"))),
                (both, value) => {
                    let (name, spec) = (both.join(" "), value.as_ref().map(|value| format!(":{value}:_files")));
                    let spec = quoted(&format!("[{help}]{}", spec.unwrap_or_default()));
                    format!("        '({name})'{{{}}}{spec}\n", both.join(","))
                }
            }
        });
        (command.word.clone(), format!("flags=(\n{}    )", specs.collect::<String>()))
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
        "_plyfs_commands=(\n{commands})\n_plyfs_of_layer=(\n{of_layer})\n{}_plyfs_options=(\n{options})\n",
        case("_plyfs_flags_of", flags, "    *) return 1 ;;\n")
    );
    check_blocks("docs/completions/_plyfs", &[("data", data)]);
}

/// What fish asks of a line of `plyfs layer`.
const IN_LAYER: &str = "__fish_seen_subcommand_from layer";

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
    let all = commands();
    let [words, of_layer] = words(&all);
    let not_mount: Vec<&str> = words.iter().copied().filter(|word| *word != "mount").collect();
    let mut flags = String::new();
    for command in &all {
        let (word, brief) = (&command.word, plain(&command.brief));
        let condition = match word.strip_prefix("layer ") {
            None => "test (count (commandline -opc)) -eq 1".to_owned(),
            Some(_) => format!("{IN_LAYER}; and not __fish_seen_subcommand_from {}", of_layer.join(" ")),
        };
        let word = word.trim_start_matches("layer ");
        flags += &format!("complete -c plyfs -n '{condition}' -a {word} -d '{brief}'\n");
    }
    for command in &all {
        let condition = match &*command.word {
            "mount" => format!("not __fish_seen_subcommand_from {}", not_mount.join(" ")),
            word => match word.strip_prefix("layer ") {
                None => format!("__fish_seen_subcommand_from {word}"),
                Some(word) => format!("{IN_LAYER}; and __fish_seen_subcommand_from {word}"),
            },
        };
        for flag in &command.flags {
            let short = flag.short.map(|letter| format!(" -s {letter}")).unwrap_or_default();
            let long = flag.long.as_ref().map(|word| format!(" -l {word}")).unwrap_or_default();
            let value = match &flag.value {
                Some(_) if flag.has_options() => " -x -a '(__plyfs_list)'",
                Some(_) => " -r",
                None => "",
            };
            flags += &format!("complete -c plyfs -n '{condition}'{short}{long} -d '{}'{value}\n", plain(&flag.help));
        }
    }
    flags += &format!("complete -c plyfs -n '__fish_seen_subcommand_from help' -x -a '{}'\n", words.join(" "));
    check_blocks("docs/completions/plyfs.fish", &[("options", names), ("values", values), ("flags", flags)]);
}
