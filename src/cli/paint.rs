//! Colours of what is printed for people.

use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;

use crate::tool::Letter;

/// When there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Whether text gets colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(bool);

impl Color {
    /// For standard output.
    pub fn paint(self) -> Paint {
        let is_set = |key| std::env::var_os(key).is_some_and(|value: std::ffi::OsString| !value.is_empty());
        let is_dumb = || std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Paint(match self {
            Self::Always => true,
            Self::Never => false,
            // https://no-color.org
            Self::Auto => std::io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb(),
        })
    }
}

impl Paint {
    /// Without colours.
    #[cfg(test)]
    pub const PLAIN: Self = Self(false);

    fn with(self, style: Style, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// What stands out.
    pub fn strong(self, text: &str) -> String {
        self.with(Style::new().bold(), text)
    }

    /// What matters less.
    pub fn faint(self, text: &str) -> String {
        self.with(Style::new().dimmed(), text)
    }

    /// A line about a change.
    pub fn change(self, letter: Letter, text: &str) -> String {
        let color = match letter {
            Letter::Added => AnsiColor::Green,
            Letter::Deleted => AnsiColor::Red,
            Letter::Modified => AnsiColor::Yellow,
            Letter::Renamed => AnsiColor::Cyan,
            Letter::Metadata => AnsiColor::Blue,
            Letter::Retyped => AnsiColor::Magenta,
        };
        self.with(Style::new().fg_color(Some(color.into())), text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_end_where_they_began() {
        let paint = Color::Always.paint();
        assert_eq!(paint.change(Letter::Deleted, "D  x"), "\u{1b}[31mD  x\u{1b}[0m");
        assert_eq!((paint.strong("x"), paint.faint("")), ("\u{1b}[1mx\u{1b}[0m".to_owned(), String::new()));
        assert_eq!(Color::Never.paint().change(Letter::Deleted, "D  x"), "D  x");
    }
}
