//! What the command says when it cannot go on: one line with what, why, and what to do.

use std::fmt::Write as _;

use crate::union::SetupError;

/// The end of a command that failed. Printed as `WHAT: REASON (HINT)`, always one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", line(what, reason, hint))]
pub struct Failure {
    /// The option or path that it is about.
    pub what: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to type or look at instead; may be empty.
    pub hint: String,
    /// The exit status: [`Failure::USAGE`] or [`Failure::REFUSED`].
    pub status: u8,
}

impl Failure {
    /// The command itself makes no sense.
    pub const USAGE: u8 = 2;
    /// The command is well formed, and cannot be done.
    pub const REFUSED: u8 = 1;

    /// The command line is wrong.
    pub fn usage(what: impl Into<String>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into(), hint: hint.into(), status: Self::USAGE }
    }

    /// Something that the command line names does not do.
    pub fn refused(what: impl Into<String>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into(), hint: hint.into(), status: Self::REFUSED }
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        Self::refused(error.what, error.reason, error.hint)
    }
}

fn line(what: &str, reason: &str, hint: &str) -> String {
    let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
    one_line(&format!("{what}: {reason}{hint}"))
}

/// `text` with its control characters escaped, so that a path with a newline stays on its line.
pub fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, c| {
        if c.is_control() {
            // Writing to a String cannot fail.
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
        line
    })
}

/// Bytes as text on one line: control characters escaped, and what is no UTF-8 as `\xff`.
pub fn printable(bytes: &[u8]) -> String {
    bytes.utf8_chunks().fold(String::new(), |mut line, chunk| {
        line.push_str(&one_line(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(line, "\\x{byte:02x}");
        }
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_whatever_it_is_about() {
        let failure = Failure::refused("/a\nb", "No such file", "look\tagain");
        assert_eq!(failure.to_string(), r"/a\nb: No such file (look\tagain)");
        assert_eq!(Failure::usage("x", "unknown", "").to_string(), "x: unknown");
    }
}
