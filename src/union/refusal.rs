//! Why layers are refused.

/// Why a union cannot be set up; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct SetupError {
    /// The option or path.
    pub what: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

impl SetupError {
    pub(super) fn new(what: impl Into<String>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into(), hint: hint.into() }
    }
}

/// What a step of the setup came to.
pub(super) type Setup<T> = std::result::Result<T, SetupError>;
