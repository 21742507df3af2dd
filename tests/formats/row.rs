//! One row: a layer, a question, the answers.

use crate::common::Stack;

/// A row of the table.
pub struct Row {
    /// What is odd about the layers.
    pub name: String,
    /// Mount options, also of the kernel.
    pub options: &'static str,
    /// Options that the binary under test has to know besides.
    pub needs: &'static [&'static str],
    /// The lower layers by number, as in `lowerdir=`.
    pub lowers: &'static str,
    /// Makes the layers.
    pub make: Box<dyn Fn(&Stack)>,
    /// What is asked: see `probe`.
    pub probe: &'static str,
    /// The answer.
    pub ours: &'static str,
    /// Words that must be said on the way.
    pub says: &'static [&'static str],
    /// A word that must be said in one line only.
    pub once: Option<&'static str>,
    /// The bottom layer is on a file system with fs-verity.
    pub fs_verity: bool,
    /// The answer of the kernel's OverlayFS.
    pub kernel: Theirs,
    /// Only root can make or mount it.
    pub root: bool,
}

/// What is known of the kernel's answer.
pub enum Theirs {
    /// Another answer if there is one, and why ours differs.
    Asked(Option<&'static str>, &'static str),
    /// Why it is not asked.
    NotAsked(&'static str),
}

impl Theirs {
    pub fn why(&self) -> &'static str {
        match self {
            Theirs::Asked(_, why) | Theirs::NotAsked(why) => why,
        }
    }
}

/// A row in which the kernel gives the same answer.
pub fn row(
    name: impl Into<String>,
    options: &'static str,
    make: impl Fn(&Stack) + 'static,
    probe: &'static str,
    ours: &'static str,
) -> Row {
    let kernel = Theirs::Asked(None, "");
    let (make, needs, says): (_, &[_], &[_]) = (Box::new(make), &[], &[]);
    let (name, lowers, once, fs_verity, root) = (name.into(), "0:1", None, false, false);
    Row { name, options, needs, lowers, make, probe, ours, says, once, fs_verity, kernel, root }
}

impl Row {
    /// The kernel answers otherwise, and plyfs does not, because …
    pub fn unlike(mut self, kernel: &'static str, why: &'static str) -> Self {
        self.kernel = Theirs::Asked(Some(kernel), why);
        self
    }

    /// The kernel cannot be asked.
    pub fn not_asked(mut self, why: &'static str) -> Self {
        self.kernel = Theirs::NotAsked(why);
        self
    }

    pub fn lowers(mut self, lowers: &'static str) -> Self {
        self.lowers = lowers;
        self
    }

    pub fn says(mut self, words: &'static [&'static str]) -> Self {
        self.says = words;
        self
    }

    pub fn says_once(mut self, word: &'static str) -> Self {
        self.once = Some(word);
        self
    }

    pub fn with_fs_verity(mut self) -> Self {
        (self.fs_verity, self.root) = (true, true);
        self
    }

    pub fn needs(mut self, options: &'static [&'static str]) -> Self {
        self.needs = options;
        self
    }

    pub fn root_only(mut self) -> Self {
        self.root = true;
        self
    }
}
