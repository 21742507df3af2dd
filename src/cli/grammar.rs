//! The words of a command line, with the escapes of the kernel's OverlayFS: `\,` in any option, `\:` between layers,
//! `\\` for the backslash; a quotation mark is a character like any other.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::options::{Form, Source, TABLE};
use super::report::Failure;

/// One `KEY` or `KEY=VALUE` of an option list. The value still has its backslashes: what they escape depends on the
/// option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// What stands before the first `=`; for `KEY+=VALUE` with the plus.
    pub key: String,
    /// What stands behind it.
    pub value: Option<Vec<u8>>,
}

impl Word {
    /// The word as the user wrote it.
    pub fn display(&self) -> String {
        match &self.value {
            Some(value) => format!("{}={}", self.key, String::from_utf8_lossy(value)),
            None => self.key.clone(),
        }
    }
}

/// Splits the value of one `-o` at its unescaped commas. Empty words are skipped.
pub fn split_options(list: &[u8]) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        let end = end_of_word(rest);
        if let Some(text) = rest.get(..end).filter(|text| !text.is_empty()) {
            words.push(word(text));
        }
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    words
}

/// Where the first word of `list` ends.
fn end_of_word(list: &[u8]) -> usize {
    if let Some(end) = end_of_quoted_context(list) {
        return end;
    }
    let mut escaped = false;
    for (at, &byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => return at,
            _ => {}
        }
    }
    list.len()
}

/// SELinux takes its options out of the list before the file system sees it, and it knows quotes:
/// `context="system_u:object_r:container_file_t:s0:c1,c2"`, as podman writes it.
fn end_of_quoted_context(list: &[u8]) -> Option<usize> {
    let security = TABLE.iter().filter(|option| option.source == Source::Security);
    let quoted = security
        .filter_map(|option| list.strip_prefix(option.name.as_bytes()))
        .find_map(|rest| rest.strip_prefix(b"=\""))?;
    let opened = list.len() - quoted.len();
    quoted.iter().position(|&byte| byte == b'"').map(|closed| opened + closed + 1)
}

fn word(bytes: &[u8]) -> Word {
    let mut parts = bytes.splitn(2, |&byte| byte == b'=');
    let (key, value) = (parts.next().unwrap_or_default(), parts.next().map(<[u8]>::to_vec));
    // An option's name has no escapes and is text; another one is unknown, whatever it is.
    Word { key: String::from_utf8_lossy(key).into_owned(), value }
}

/// Takes one level of backslashes off.
pub fn unescape(value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => plain.extend(bytes.next()),
            other => plain.push(other),
        }
    }
    plain
}

/// An unescaped path.
pub fn path(value: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(value)))
}

/// The layers of a `lowerdir=`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// The ordinary ones, the topmost first; at least one.
    pub lowers: Vec<PathBuf>,
    /// The data-only ones below them.
    pub data_only: Vec<PathBuf>,
}

/// The layers of `lowerdir=`: split at unescaped colons, or read from the file behind an `@`. Two colons stand before a
/// data-only layer; a file names ordinary ones only.
///
/// # Errors
/// An empty path, an ordinary layer below a data-only one, a file that cannot be read.
pub fn layers(value: &[u8]) -> Result<Layers, Failure> {
    if let Some(file) = value.strip_prefix(b"@") {
        return Ok(Layers { lowers: layers_in_file("lowerdir", &path(file))?, data_only: Vec::new() });
    }
    let wrong = |reason: &str| {
        let reason = format!("{reason}: {:?}", String::from_utf8_lossy(value));
        Failure::usage("lowerdir", reason, "lowerdir=TOP:…:BOTTOM[::DATA…]; a colon in a path is written \\:")
    };
    let mut layers = Layers::default();
    let mut parts = split_at_colons(value).into_iter();
    while let Some(part) = parts.next() {
        // Between two colons stands nothing.
        let is_data_only = part.is_empty() && !layers.lowers.is_empty();
        let part = if is_data_only { parts.next().unwrap_or_default() } else { part };
        if part.is_empty() {
            return Err(wrong("an empty path"));
        }
        match (is_data_only, layers.data_only.is_empty()) {
            (true, _) => layers.data_only.push(path(part)),
            (false, true) => layers.lowers.push(path(part)),
            (false, false) => return Err(wrong("an ordinary layer below a data-only one")),
        }
    }
    Ok(layers)
}

/// One more layer, of `lowerdir+=` or `datadir+=`: the path as it stands, as for the kernel. A colon is no separator there
/// and a backslash no escape; only a comma still ends the word.
///
/// # Errors
/// An empty path, a file that cannot be read.
pub fn more_layers(key: &str, value: &[u8]) -> Result<Vec<PathBuf>, Failure> {
    let plain = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    match value.strip_prefix(b"@") {
        Some(file) => layers_in_file(key, &plain(file)),
        None if value.is_empty() => Err(Failure::usage(key, "an empty path", format!("{key}=DIR"))),
        None => Ok(vec![plain(value)]),
    }
}

fn split_at_colons(value: &[u8]) -> Vec<&[u8]> {
    let mut escaped = false;
    value
        .split(|&byte| {
            let separator = byte == b':' && !escaped;
            escaped = byte == b'\\' && !escaped;
            separator
        })
        .collect()
}

/// The paths in a file, one in each line. There are no escapes: any path goes but one with a newline.
fn layers_in_file(key: &str, file: &Path) -> Result<Vec<PathBuf>, Failure> {
    let what = format!("{key}=@{}", file.display());
    let bytes = std::fs::read(file).map_err(|error| {
        Failure::refused(&what, crate::base::Errno::from(error).to_string(), "a file with one path a line")
    })?;
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let layers: Vec<PathBuf> = lines.map(|line| PathBuf::from(OsString::from_vec(line.to_vec()))).collect();
    if layers.is_empty() {
        return Err(Failure::refused(what, "no layer in it", "a file with one path a line"));
    }
    Ok(layers)
}

/// Seconds, fractions allowed.
///
/// # Errors
/// It is no number, or below zero.
pub fn seconds(word: &Word) -> Result<std::time::Duration, Failure> {
    let longest = crate::base::config::Timeouts::FOREVER;
    let text = word.value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse::<f64>().ok())
        .filter(|seconds| *seconds >= 0.0)
        .map(|seconds| std::time::Duration::try_from_secs_f64(seconds).map_or(longest, |time| time.min(longest)))
        .ok_or_else(|| Failure::usage(word.display(), "not a time", format!("{}=SECONDS, such as 1 or 0.5", word.key)))
}

/// A number of bytes, such as 65536, 64K, 64k, 1M, 1MiB or 1G.
///
/// # Errors
/// It is no size.
pub fn size(word: &Word) -> Result<u64, Failure> {
    let text = word.value.as_deref().and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let shift = match &*unit.to_ascii_lowercase() {
        "" => Some(0),
        "k" | "kib" => Some(10),
        "m" | "mib" => Some(20),
        "g" | "gib" => Some(30),
        _ => None,
    };
    let bytes = shift.zip(digits.parse::<u64>().ok()).and_then(|(shift, number)| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| Failure::usage(word.display(), "not a size", format!("{}=64K, or 1M, or bytes", word.key)))
}

/// Checks that `word` has the value that its option takes.
///
/// # Errors
/// A missing value, one too many, or none of the choices.
pub fn check_form(word: &Word, form: Form) -> Result<(), Failure> {
    let key = &word.key;
    match (form, word.value.as_deref()) {
        (Form::Flag | Form::Switch, None) | (Form::Any, _) => Ok(()),
        (Form::Switch, Some(b"1" | b"0")) => Ok(()),
        (Form::Switch, Some(_)) => Err(Failure::usage(word.display(), "no such value", format!("{key}[=1|0]"))),
        (Form::Flag, Some(_)) => Err(Failure::usage(word.display(), "this option takes no value", format!("-o {key}"))),
        (Form::Value(_), Some(value)) if !value.is_empty() => Ok(()),
        (Form::Value(what), _) => Err(Failure::usage(key, "a value is missing", format!("{key}={what}"))),
        (Form::Choice(choices), Some(value)) if choices.iter().any(|choice| choice.as_bytes() == value) => Ok(()),
        (Form::Choice(choices), value) => {
            let reason = if value.is_some() { "no such value" } else { "a value is missing" };
            Err(Failure::usage(word.display(), reason, format!("{key}={}", choices.join("|"))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(list: &str) -> Vec<String> {
        split_options(list.as_bytes()).iter().map(Word::display).collect()
    }

    #[test]
    fn options_are_split_at_commas_that_are_not_escaped() {
        for (list, expected) in [
            ("a,b=c", &["a", "b=c"][..]),
            ("", &[]),
            (",,a,,b,", &["a", "b"]),
            (r"lowerdir=/a\,b,ro", &[r"lowerdir=/a\,b", "ro"]),
            (r"lowerdir=/a\\,ro", &[r"lowerdir=/a\\", "ro"]),
            (r"upperdir=/a\", &[r"upperdir=/a\"]),
            (r#"upperdir="/a,ro""#, &[r#"upperdir="/a"#, r#"ro""#]),
            (r#"context="s0:c1,c2",ro"#, &[r#"context="s0:c1,c2""#, "ro"]),
            (r#"context="s0:c1,ro"#, &[r#"context="s0:c1"#, "ro"]),
            ("context=s0,ro", &["context=s0", "ro"]),
            ("a=b=c", &["a=b=c"]),
            ("lowerdir+=/a", &["lowerdir+=/a"]),
        ] {
            assert_eq!(split(list), expected, "{list}");
        }
    }

    #[test]
    fn layers_are_split_at_colons_that_are_not_escaped() {
        for (value, expected) in [
            ("/a:/b", Some(&["/a", "/b"][..])),
            (r"/a\:b:/c", Some(&["/a:b", "/c"])),
            (r"/a\\:/b", Some(&[r"/a\", "/b"])),
            (r"/a\\\:b", Some(&[r"/a\:b"])),
            (r"/a\,b", Some(&["/a,b"])),
            (r#""/a":/b"#, Some(&[r#""/a""#, "/b"])),
            ("/a::/b", Some(&["/a", "::/b"])),
            ("/a:/b::/c::/d", Some(&["/a", "/b", "::/c", "::/d"])),
            (r"/a::/b\:c", Some(&["/a", "::/b:c"])),
            (r"/a\::/b", Some(&["/a:", "/b"])),
            (r"/a:\:/b", Some(&["/a", ":/b"])),
            ("/a::/b:/c", None),
            ("::/a", None),
            (":::/a", None),
            ("/a:::/b", None),
            ("/a::::/b", None),
            ("/a::", None),
            ("/a::/b:", None),
            ("/a::/b::", None),
            (":/a", None),
            ("/a:", None),
            ("", None),
            (r"\@x", Some(&["@x"])),
            ("./@x", Some(&["./@x"])),
            ("@/no/such/file", None),
        ] {
            let shown = |layers: Layers| {
                let data_only = layers.data_only.iter().map(|path| format!("::{}", path.display()));
                let lowers = layers.lowers.iter().map(|path| path.display().to_string());
                lowers.chain(data_only).collect::<Vec<_>>()
            };
            let expected = expected.map(|paths| paths.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(layers(value.as_bytes()).ok().map(shown), expected, "{value}");
        }
        for path in ["/a::b", r"/a\:b", r"/a\\b", r"/a\,b", r#""/a""#, r"\@x", "./@x"] {
            assert_eq!(more_layers("lowerdir+", path.as_bytes()).unwrap(), [PathBuf::from(path)], "as it stands");
        }
        assert!(more_layers("datadir+", b"").unwrap_err().to_string().starts_with("datadir+"));
    }

    #[test]
    fn a_list_of_layers_is_read_from_a_file_without_escapes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, b"/a:b\n\n/c,d\\e\n/no newline \xff").unwrap();
        let named = [b"@", file.path().as_os_str().as_encoded_bytes()].concat();
        let last = PathBuf::from(OsString::from_vec(b"/no newline \xff".to_vec()));
        let listed = [PathBuf::from("/a:b"), PathBuf::from(r"/c,d\e"), last];
        assert_eq!(layers(&named).unwrap(), Layers { lowers: listed.to_vec(), data_only: Vec::new() });
        assert_eq!(more_layers("datadir+", &named).unwrap(), listed);
        std::fs::write(&file, b"\n").unwrap();
        assert!(layers(&named).unwrap_err().reason.contains("no layer"));
    }

    #[test]
    fn times_are_seconds_with_fractions() {
        let time = |text: &str| seconds(&Word { key: "timeout".into(), value: Some(text.into()) }).ok();
        assert_eq!(time("0"), Some(std::time::Duration::ZERO));
        assert_eq!(time("0.5"), Some(std::time::Duration::from_millis(500)));
        assert_eq!(time("1000000000.0"), Some(std::time::Duration::from_secs(1_000_000_000)));
        assert_eq!(time("1e30"), Some(crate::base::config::Timeouts::FOREVER));
        for wrong in ["", "-1", "NaN", "1s", "x"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units() {
        let bytes = |text: &str| size(&split_options(format!("copyup_block={text}").as_bytes())[0]).ok();
        for (text, expected) in [
            ("4096", 4096),
            ("64K", 65536),
            ("4k", 4096),
            ("1M", 1 << 20),
            ("1m", 1 << 20),
            ("1MiB", 1 << 20),
            ("2G", 1 << 31),
            ("2gib", 1 << 31),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        // `KB` is 1000 to some.
        for text in ["", "K", "-1", "+1", "1T", "1.5M", "1KB", "1 K", "0x10", "99999999999G", "1\u{212a}"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
