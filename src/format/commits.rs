//! What a commit is on disk: a frozen upper layer, `workdir/commits/N/layer`, with a file `about` beside it.
//!
//! The mark `plyfs.on` on the root of an upper layer, frozen or not, says which commit the layer stands on, as a parent in
//! Git: `N`, or `N T` where an undo has left the commit T, to which a redo leads back. A layer without the mark stands on
//! the lower layers. Behind them may stand `#` and the id of the commit N, 32 hexadecimal digits, which is the third word in
//! the first line of `about`: so a commit of the same number in another work directory is none of this layer's.

use super::Malformed;

/// Where an upper layer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stand {
    /// The number of the commit below it; 0: the lower layers.
    pub on: u64,
    /// The commit from which an undo came down.
    pub tip: Option<u64>,
    /// The id of the commit below it; `None`: not known.
    pub id: Option<u128>,
}

impl Stand {
    /// Reads the value of the mark.
    ///
    /// # Errors
    /// [`Malformed`] for what is not one or two decimal numbers, and an id.
    pub fn parse(value: &[u8]) -> Result<Self, Malformed> {
        let malformed = Malformed { mark: "plyfs.on", why: "not the numbers of commits" };
        let (value, id) = match value.windows(2).position(|two| two == b" #") {
            None => (value, None),
            Some(at) => {
                let (numbers, id) = value.split_at(at);
                (numbers, Some(id.get(2..).and_then(parse_id).ok_or(malformed)?))
            }
        };
        let mut numbers = value.split(|&byte| byte == b' ').map(number);
        let on = numbers.next().flatten().ok_or(malformed)?;
        match (numbers.next(), numbers.next()) {
            (None, _) => Ok(Self { on, tip: None, id }),
            (Some(Some(tip)), None) => Ok(Self { on, tip: Some(tip), id }),
            _ => Err(malformed),
        }
    }

    /// The value to write.
    pub fn encode(self) -> String {
        let numbers = self.tip.map_or_else(|| self.on.to_string(), |tip| format!("{} {tip}", self.on));
        self.id.map_or_else(|| numbers.clone(), |id| format!("{numbers} #{id:032x}"))
    }
}

/// Reads the id of a commit.
fn parse_id(text: &[u8]) -> Option<u128> {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let text =
        std::str::from_utf8(text).ok().filter(|text| text.len() == 32 && text.bytes().all(|byte| is_digit(&byte)));
    u128::from_str_radix(text?, 16).ok()
}

/// Reads the number of a commit as a name in `workdir/commits`, and as a user types it.
pub fn number(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.len() < 20 && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|text| plain && (*text == "0" || !text.starts_with('0')))?;
    text.parse().ok()
}

/// Why a layer was frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Why {
    /// Somebody wanted a commit.
    #[default]
    Commit,
    /// It was left by an undo, which throws nothing away.
    Undo,
    /// Nothing was in it: it goes.
    Empty,
    /// An undo of single paths has taken them out of the upper layer; they are the text, see [`About::paths`].
    Paths,
}

/// What is known of a commit: the file `about`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// When it was made, in seconds since 1970.
    pub seconds: u64,
    /// Why it was made.
    pub why: Why,
    /// Its random id; `None`: it is of a version without ids.
    pub id: Option<u128>,
    /// What its maker says of it.
    pub text: Vec<u8>,
}

/// What no path has in it: no component is empty.
const BETWEEN_PATHS: &[u8] = b"//";

/// The longest text in bytes: what an order to a daemon has room for.
pub const MOST_TEXT: usize = 4000;

impl About {
    /// Reads the file. What cannot be understood is left out: a commit is one whatever is said of it.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut lines = bytes.splitn(2, |&byte| byte == b'\n');
        let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let mut words = first.split(' ');
        let seconds = words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
        let why = match words.next() {
            Some("undo") => Why::Undo,
            Some("empty") => Why::Empty,
            Some("paths") => Why::Paths,
            _ => Why::Commit,
        };
        let id = words.next().and_then(|word| parse_id(word.as_bytes()));
        Self { seconds, why, id, text: lines.next().unwrap_or_default().to_vec() }
    }

    /// Whether an undo has made it, and nobody has said anything of it.
    pub fn is_by_undo(&self) -> bool {
        matches!(self.why, Why::Undo | Why::Paths)
    }

    /// The paths that an undo has taken out of the upper layer, from its root on; none of any other commit.
    pub fn paths(&self) -> Vec<&[u8]> {
        let (mut paths, mut rest) = (Vec::new(), &self.text[..]);
        while self.why == Why::Paths && !rest.is_empty() {
            let end = rest.windows(2).position(|two| two == BETWEEN_PATHS).unwrap_or(rest.len());
            let (path, behind) = rest.split_at(end);
            paths.push(path);
            rest = behind.strip_prefix(BETWEEN_PATHS).unwrap_or_default();
        }
        paths.retain(|path| !path.is_empty());
        paths
    }

    /// The text for these paths.
    pub fn of_paths(paths: &[Vec<u8>]) -> Vec<u8> {
        paths.join(BETWEEN_PATHS)
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let why = match self.why {
            Why::Commit => "commit",
            Why::Undo => "undo",
            Why::Empty => "empty",
            Why::Paths => "paths",
        };
        let id = self.id.map(|id| format!(" {id:032x}")).unwrap_or_default();
        [format!("{} {why}{id}\n", self.seconds).as_bytes(), &self.text].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_comes_back_as_it_went() {
        for (value, stand) in [
            ("0", Stand { on: 0, tip: None, id: None }),
            ("7", Stand { on: 7, tip: None, id: None }),
            ("7 12", Stand { on: 7, tip: Some(12), id: None }),
            ("7 #000000000000000000000000000000ff", Stand { on: 7, tip: None, id: Some(255) }),
            ("7 12 #00000000000000000000000000000000", Stand { on: 7, tip: Some(12), id: Some(0) }),
        ] {
            assert_eq!(Stand::parse(value.as_bytes()), Ok(stand));
            assert_eq!(stand.encode(), value);
        }
    }

    #[test]
    fn what_is_no_number_is_no_stand() {
        let long = "9".repeat(40);
        for value in [
            "", " ", "7 ", " 7", "07", "+7", "-1", "7 8 9", "../7", "7/../8", "7\n", "7\0", &long, "1 x", "7 #",
            "7 #ff", " #", "7  #",
        ] {
            assert!(Stand::parse(value.as_bytes()).is_err(), "{value:?}");
        }
    }

    #[test]
    fn what_is_said_of_a_commit_comes_back() {
        for why in [Why::Commit, Why::Undo, Why::Empty, Why::Paths] {
            for id in [None, Some(u128::MAX)] {
                let about = About { seconds: 1_800_000_000, why, id, text: b"a\nb\xff".to_vec() };
                assert_eq!(About::parse(&about.encode()), about);
            }
        }
        for paths in [&[&b"a"[..]][..], &[b"a/b", b"c"], &[b"\n", b"d/e/f", b"\xff"]] {
            let owned: Vec<_> = paths.iter().map(|path| path.to_vec()).collect();
            let about = About { seconds: 7, why: Why::Paths, id: None, text: About::of_paths(&owned) };
            assert_eq!(About::parse(&about.encode()).paths(), paths);
        }
        for junk in [&b""[..], b"\xff\xfe", b"x y z"] {
            assert_eq!(About::parse(junk), About::default());
        }
    }
}
