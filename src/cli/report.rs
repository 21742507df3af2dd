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
    /// What the exit status says.
    pub status: Status,
}

/// What an exit status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The command itself makes no sense.
    Usage,
    /// The command is well formed, and cannot be done.
    Refused,
    /// The system lacks something that has nothing to do with this command: processes, descriptors, memory.
    System,
}

impl Status {
    /// The number: that of this program, or the one that mount(8) expects of its helpers, where 1 is a wrong use and 32 a
    /// failed mount ([mount(8)](https://man7.org/linux/man-pages/man8/mount.8.html)).
    pub fn number(self, for_mount8: bool) -> u8 {
        match (self, for_mount8) {
            (Self::Usage, false) | (Self::System, true) => 2,
            (Self::Refused | Self::System, false) | (Self::Usage, true) => 1,
            (Self::Refused, true) => 32,
        }
    }
}

impl Failure {
    /// The command itself makes no sense.
    pub const USAGE: Status = Status::Usage;
    /// The command is well formed, and cannot be done.
    pub const REFUSED: Status = Status::Refused;

    /// The command line is wrong.
    pub fn usage(what: impl Into<String>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into(), hint: hint.into(), status: Self::USAGE }
    }

    /// Something that the command line names does not do.
    pub fn refused(what: impl Into<String>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into(), hint: hint.into(), status: Self::REFUSED }
    }

    /// The system has no room for what this takes.
    pub fn system(what: impl Into<String>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into(), hint: hint.into(), status: Status::System }
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

    #[test]
    fn a_helper_of_mount_has_other_numbers() {
        let numbers =
            |for_mount8| [Status::Usage, Status::Refused, Status::System].map(|status| status.number(for_mount8));
        assert_eq!((numbers(false), numbers(true)), ([2, 1, 1], [1, 32, 2]));
    }
}
