//! JSON as the commands print it, a value at a time.

use std::fmt::Write as _;

/// `"key":"value"`, and the value in base64 where it is no UTF-8.
pub fn member(key: &str, value: &[u8]) -> String {
    let text = format!("{}:{}", quoted(key), quoted(&String::from_utf8_lossy(value)));
    match std::str::from_utf8(value) {
        Ok(_) => text,
        Err(_) => format!("{text},{}:\"{}\"", quoted(&format!("{key}_base64")), base64(value)),
    }
}

/// A string of RFC 8259.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str(r"\\"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32| char::from(DIGITS.get(bits as usize & 63).copied().unwrap_or(b'A'));
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            text.push(if at > group.len() { '=' } else { digit(bits >> (18 - 6 * at)) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_there_whole() {
        for (bytes, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
        assert_eq!(member("p", b"a\"\n"), r#""p":"a\"\u000a""#);
        assert_eq!(member("p", b"\xff"), "\"p\":\"\u{fffd}\",\"p_base64\":\"/w==\"");
    }
}
