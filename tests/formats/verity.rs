//! Digests of metacopy files: of data on a file system with fs-verity, and of data that is hashed to know its digest.

use std::process::Command;
use std::sync::OnceLock;

use crate::common::systems::run;
use crate::common::*;
use crate::metacopy::hollow;
use crate::redirect::mark;
use crate::row::{Row, row};

/// What `fsverity digest --compact` says of a file that holds `data`, with the numbers of the algorithms.
const SHA256: (u8, &str) = (1, "19ad477a0df7ca89471233c29d4234ada4226f8c0df44973656f4b1329628522");
const SHA512: (u8, &str) = (
    2,
    "f526566bcc2aeef30ef7fd34959c487e5c2186ff89a08c61c6f49fd8fd7cd40da0131993acfc1f22b92a517ea07c7e0a3e76bee637be58a6\
     5952098c97a32c24",
);

/// The value of the mark.
fn value((algorithm, hex): (u8, &str), right: bool) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let mut digest: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
    digest[7] ^= u8::from(!right);
    [&[0, digest.len() as u8 + 4, 0, algorithm][..], &digest].concat()
}

/// `f` has its data in the data-only layer; `protect` gives that file fs-verity.
fn layers(value: Vec<u8>, protect: bool) -> impl Fn(&Stack) {
    move |stack| {
        hollow(&stack.lowers[0], "f", &value);
        stack.lowers[0].with_xattr("f", &mark("redirect"), b"/data");
        stack.lowers[1].file("data", "data");
        if protect {
            enable(&stack.lowers[1], "data").unwrap();
        }
    }
}

/// The same without a data-only layer: `f` is a plain file of the bottom layer.
fn plain(protect: bool) -> impl Fn(&Stack) {
    move |stack| {
        stack.lowers[1].file("f", "data");
        if protect {
            enable(&stack.lowers[1], "f").unwrap();
        }
    }
}

fn enable(layer: &Tree, path: &str) -> Result<(), String> {
    run("fsverity", Command::new("fsverity").arg("enable").arg(layer.at(path)))
}

/// Whether there is a file system with fs-verity here.
pub fn usable() -> Result<(), String> {
    static USABLE: OnceLock<Result<(), String>> = OnceLock::new();
    let find = || {
        let scratch = Scratch::in_memory();
        let system = System::native("ext4-verity", &scratch)?;
        let tree = Tree::new(system.root());
        tree.write("file", "x").unwrap();
        enable(&tree, "file").map_err(|why| format!("fs-verity: {}", why.rsplit(": ").next().unwrap_or_default()))
    };
    USABLE.get_or_init(find).clone()
}

const OFF: &str = "redirect_dir=on,metacopy=on,verity=off";
const ON: &str = "redirect_dir=on,metacopy=on,verity=on";
const REQUIRE: &str = "redirect_dir=on,metacopy=on,verity=require";

/// Every kind of digest under every mode, of data with fs-verity (of SHA-256) or without.
fn digests(real: bool) -> Vec<Row> {
    let of = if real { "fs-verity" } else { "a plain file" };
    let (data, refused) = ("file 4; data", "file 4; EIO");
    let mut rows = Vec::new();
    for (kind, value, on, require) in [
        ("the digest", value(SHA256, true), data, data),
        // With fs-verity the kernel knows one digest of a file, and another one is another.
        (
            "the SHA-512 digest",
            value(SHA512, true),
            if real { refused } else { data },
            if real { refused } else { data },
        ),
        ("a wrong digest", value(SHA256, false), refused, refused),
        ("a wrong SHA-512 digest", value(SHA512, false), refused, refused),
        ("no digest", vec![], data, refused),
    ] {
        for (options, answer) in [(OFF, data), (ON, on), (REQUIRE, require)] {
            let mode = options.rsplit(',').next().unwrap();
            let name = format!("{mode}: {kind} of {of}");
            let mut row = row(name, options, layers(value.clone(), real), "stat f; read f", answer).lowers("0::1");
            if answer == refused {
                row = row.says_once("digest");
            } else if options != OFF && !real && !value.is_empty() {
                row = row.unlike(refused, HASHED);
            }
            rows.push(if real { row.with_fs_verity() } else { row });
        }
    }
    rows
}

const HASHED: &str = "the kernel wants fs-verity below, plyfs hashes the file";

fn changes() -> Vec<Row> {
    let chmod = "chmod f; mark f metacopy; read f";
    let wrong = || layers(value(SHA256, false), false);
    vec![
        row("verity=on: an append to data of a wrong digest", ON, wrong(), "append f; stat f", "EIO; file 4")
            .lowers("0::1"),
        row("verity=on: a chmod of a plain file", ON, plain(false), chmod, "ok; 0 bytes; data"),
        row("verity=require: a chmod of a plain file", REQUIRE, plain(false), chmod, "ok; ENODATA; data"),
        row("verity=off: a chmod of fs-verity", OFF, plain(true), chmod, "ok; 0 bytes; data").with_fs_verity(),
        row("verity=on: a chmod of fs-verity", ON, plain(true), chmod, "ok; 36 bytes; data").with_fs_verity(),
        row("verity=require: a chmod of fs-verity", REQUIRE, plain(true), chmod, "ok; 36 bytes; data").with_fs_verity(),
    ]
}

pub fn rows() -> Vec<Row> {
    [digests(false), digests(true), changes()].into_iter().flatten().collect()
}
