//! What is fed with any bytes: the parser of the options, and every decoder of what a layer says. Each target checks what
//! must hold of its answer, too. `tests/fuzz.rs` runs them bounded, `cargo fuzz` (see `Cargo.toml` here) without end.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use plyfs::Name;
use plyfs::cli::grammar;
use plyfs::cli::options::{self, TABLE};
use plyfs::cli::resolve::{Abilities, Manner, resolve};
use plyfs::testing::format::blocks::{Header, MOST_BLOCKS};
use plyfs::testing::format::{
    AufsName, BlocksMark, Decoded, Mark, Metacopy, Namespace, Nlink, Opacity, Origin, OverrideStat, Protattr, Redirect,
    WhiteoutStyle, from_disk, index_name, parse_index_name, to_disk, whiteout_name,
};

pub type Target = fn(&[u8]);

/// All of them by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("options", options),
    ("layers", layers),
    ("redirect", redirect),
    ("origin", origin),
    ("metacopy", metacopy),
    ("nlink", nlink),
    ("protattr", protattr),
    ("words", words),
    ("escape", escape),
    ("wh", wh),
    ("index_name", names_of_the_index),
    ("blocks", blocks),
    ("name", name),
    ("override_stat", override_stat),
];

/// The value of one `-o`, through to the settings.
pub fn options(data: &[u8]) {
    let split = grammar::split_options(data);
    assert!(split.len() <= data.len());
    for word in &split {
        let length = word.value.as_ref().map_or(0, Vec::len);
        assert!(length <= data.len());
        let _ = (word.display(), options::check(word).map_err(|failure| failure.to_string()));
        // Back to text and read again it is the same word, unless its name was no text.
        if !word.key.contains('\u{fffd}') {
            let mut text = word.key.clone().into_bytes();
            word.value.iter().for_each(|value| text.extend([b"=", &value[..]].concat()));
            // What ended with the list may end in a backslash, which would hide nothing.
            assert_eq!(grammar::split_options(&text), std::slice::from_ref(word), "{text:?}");
        }
    }
    // Files are not read here.
    if data.contains(&b'@') {
        return;
    }
    for (sloppy, power) in [(false, true), (true, false)] {
        let abilities = Abilities { mounts_directly: power, ids_are_initial: power };
        let manner = Manner { sloppy, in_place: data.len().is_multiple_of(2) };
        let read = || resolve(&split, Some(OsStr::new("source")), Path::new("/merged"), manner, abilities);
        let (one, two) = (read().map_err(|failure| failure.to_string()), read().map_err(|failure| failure.to_string()));
        assert_eq!(format!("{one:?}"), format!("{two:?}"));
        match one {
            Ok(resolved) => {
                assert!(!resolved.config.lowers.is_empty());
                assert!(resolved.config.lowers.iter().all(|lower| lower.is_absolute()));
                assert!(resolved.mount.threads >= 1);
            }
            Err(failure) => assert_eq!(failure.lines().count(), 1, "{failure}"),
        }
    }
}

/// A list of layers; and any path can be written so that it is read.
pub fn layers(data: &[u8]) {
    if data.first() != Some(&b'@')
        && let Ok(layers) = grammar::layers(data)
    {
        assert!(!layers.lowers.is_empty());
        assert!(layers.lowers.len() + layers.data_only.len() <= data.len());
    }
    assert!(grammar::unescape(data).len() <= data.len());
    let escaped = |path: &[u8]| -> Vec<u8> {
        path.iter().flat_map(|byte| if b"\\,:@".contains(byte) { vec![b'\\', *byte] } else { vec![*byte] }).collect()
    };
    let paths: Vec<&[u8]> = data.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
    if paths.is_empty() {
        return;
    }
    let list = [b"lowerdir=".to_vec(), paths.iter().map(|path| escaped(path)).collect::<Vec<_>>().join(&b':')].concat();
    let words = grammar::split_options(&list);
    assert_eq!(words.len(), 1, "{list:?}");
    let read = grammar::layers(words[0].value.as_deref().unwrap_or_default()).unwrap_or_default();
    assert_eq!(read.lowers, paths.iter().map(|path| PathBuf::from(OsStr::from_bytes(path))).collect::<Vec<_>>());
}

/// The mark `redirect`: leads downwards only, and is written as it was read.
pub fn redirect(data: &[u8]) {
    let Ok(redirect) = Redirect::parse(data) else { return };
    assert_eq!(redirect.encode(), data);
    let parts = match redirect {
        Redirect::Relative(name) => vec![name],
        Redirect::Absolute(path) => path,
    };
    for part in parts {
        assert!(part.as_bytes() != b".." && part.as_bytes() != b"." && !part.as_bytes().contains(&b'/'));
    }
}

/// The mark `origin`.
pub fn origin(data: &[u8]) {
    let _ = Origin::is_upper(data);
    if let Ok(Decoded::Known(origin)) = Origin::decode(data) {
        assert!(origin.fid.len() < data.len());
        let _ = (origin.ino(), origin.node_id());
        assert_eq!(Origin::decode(&origin.encode()), Ok(Decoded::Known(origin.clone())));
        assert!(Origin::is_upper(&origin.encode_upper()) && !Origin::is_upper(&origin.encode()));
        assert_eq!(Origin::decode(&origin.encode_upper()), Ok(Decoded::Known(origin)));
    }
    let Some((kind, rest)) = data.split_first_chunk::<4>() else { return };
    let Some((uuid, fid)) = rest.split_first_chunk::<16>() else { return };
    match Origin::new(i32::from_le_bytes(*kind), *uuid, fid) {
        Some(made) => assert_eq!(Origin::decode(&made.encode()), Ok(Decoded::Known(made))),
        None => assert!(fid.len() > 234 || !(0..256).contains(&i32::from_le_bytes(*kind))),
    }
}

/// The marks that hold owner, mode and type.
pub fn override_stat(data: &[u8]) {
    for on_disk in [0o100_755, 0o040_755] {
        let Ok(read) = OverrideStat::parse(data, (on_disk, 0)) else { continue };
        assert!(read.mode <= 0o7777 && read.uid.0 < u32::MAX && read.gid.0 < u32::MAX && !data.contains(&0));
        assert_eq!(OverrideStat::parse(&read.encode(), (on_disk, 0)), Ok(read));
    }
}

/// The mark `metacopy`.
pub fn metacopy(data: &[u8]) {
    let Ok(metacopy) = Metacopy::parse(data) else { return };
    assert!(data.len() <= 68);
    assert_eq!(Metacopy::parse(&metacopy.encode()), Ok(metacopy.clone()));
    assert!(metacopy.digest.is_none() || metacopy.encode() == data);
}

/// The mark `nlink`: no count of links is made of it that a file cannot have.
pub fn nlink(data: &[u8]) {
    let (counts, value) = data.split_first_chunk::<16>().unwrap_or((&[0xff; 16], data));
    for value in [value, data] {
        let Ok(nlink) = Nlink::parse(value) else { continue };
        assert_eq!(Nlink::parse(&nlink.encode()), Ok(nlink));
        let [upper, lower] = *counts.as_chunks::<8>().0 else { return };
        let (upper, lower) = (u64::from_le_bytes(upper), u64::from_le_bytes(lower));
        for lower in [None, Some(lower)] {
            assert!(nlink.links(upper, lower).is_none_or(|links| links > 0));
        }
    }
}

/// The mark `protattr`.
pub fn protattr(data: &[u8]) {
    let Ok(flags) = Protattr::parse(data) else { return };
    assert_eq!(Protattr::parse(&flags.encode()), Ok(flags));
    assert!(data.len() <= 32 && flags.append == data.contains(&b'a') && flags.immutable == data.contains(&b'i'));
}

/// The marks of one word.
pub fn words(data: &[u8]) {
    let opacity = Opacity::parse(Some(data));
    assert!(opacity == Opacity::None || opacity.value() == data);
    assert!(WhiteoutStyle::parse(data).is_none_or(|style| style.value() == data));
}

/// Names of extended attributes: no user can name a mark of the union's own, and what is stored is found again.
pub fn escape(data: &[u8]) {
    for own in [Namespace::Trusted, Namespace::User] {
        if let Ok(stored) = to_disk(data, own) {
            assert_eq!(from_disk(stored.to_bytes(), own).as_deref(), Some(data), "{stored:?}");
            for mark in Mark::ALL {
                assert!(stored.as_c_str() != own.key(*mark), "{stored:?} is a mark");
            }
        }
        if let Some(said) = from_disk(data, own)
            && let Ok(stored) = to_disk(&said, own)
        {
            assert_eq!(stored.to_bytes(), data, "{said:?}");
        }
    }
}

/// Names that begin with `.wh.`.
pub fn wh(data: &[u8]) {
    if let AufsName::Whiteout(hidden) = AufsName::parse(data)
        && Name::new(data).is_ok()
    {
        assert_eq!(whiteout_name(hidden).map(|name| name.as_bytes().to_vec()), Ok(data.to_vec()));
    }
    if let Ok(whiteout) = whiteout_name(data) {
        assert_eq!(AufsName::parse(whiteout.as_bytes()), AufsName::Whiteout(data));
    }
}

/// Names of entries of the index.
pub fn names_of_the_index(data: &[u8]) {
    if let Ok(origin) = parse_index_name(data) {
        assert!(origin.len() * 2 == data.len());
        assert_eq!(index_name(&origin).map(|name| name.as_bytes().to_vec()), Ok(data.to_ascii_lowercase()));
        let _ = Origin::decode(&origin);
    }
    if let Ok(name) = index_name(data)
        && let Ok(origin) = parse_index_name(name.as_bytes())
    {
        assert_eq!(origin, data);
    }
}

/// The two marks and the record of a file that arrives by blocks: nothing is made as long as they say but for a limit.
pub fn blocks(data: &[u8]) {
    let (short, value) = data.split_at_checked(3).unwrap_or((data, &[]));
    let shift = BlocksMark::shift_in(short);
    if shift.is_some() {
        assert!(Metacopy::parse(short).is_err(), "the kernel would take it for a metacopy");
    }
    if let Some(shift) = shift
        && let Ok((mark, metacopy)) = BlocksMark::parse(shift, value)
    {
        let (again, short_again) = mark.encode(&metacopy);
        assert_eq!((BlocksMark::parse(shift, &again), &short_again[..]), (Ok((mark, metacopy)), short));
    }
    let Some(bytes) = data.first_chunk::<{ Header::LEN }>() else { return };
    if let Ok(header) = Header::parse(bytes) {
        assert!(header.blocks() <= MOST_BLOCKS);
        assert_eq!(Header::parse(&header.encode()), Ok(header));
    }
}

/// A name in a directory.
pub fn name(data: &[u8]) {
    let is_one =
        (1..=255).contains(&data.len()) && data != b"." && data != b".." && !data.iter().any(|b| b"/\0".contains(b));
    match Name::new(data) {
        Ok(name) => assert!(is_one && name.as_bytes() == data && name.as_c_str().to_bytes() == data),
        Err(_) => assert!(!is_one),
    }
}

/// Words from which a list of options can be made.
pub fn option_names() -> Vec<&'static str> {
    TABLE.iter().map(|option| option.name).collect()
}
