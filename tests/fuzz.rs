//! Any bytes to the parser of the options and to every decoder of what a layer says: the targets of `tests/fuzz`, over
//! their corpus and over bytes that proptest makes, by themselves and from the corpus. `PLYFS_TEST_CASES` for each target.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unsafe_code)]

#[path = "fuzz/targets.rs"]
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Bytes that a target may ask for at once, beside what its input has.
const ROOM: usize = 64 << 10;

struct Largest;

thread_local! {
    /// The largest allocation.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is the system's.
unsafe impl GlobalAlloc for Largest {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Largest = Largest;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs a target; nothing that it makes is larger than its input allows.
fn run(target: fn(&[u8]), bytes: &[u8]) {
    LARGEST.set(0);
    target(bytes);
    let largest = LARGEST.get();
    assert!(largest <= ROOM + 32 * bytes.len(), "{largest} bytes asked for by {} bytes", bytes.len());
}

/// One of the corpus, with some bytes replaced, removed and put in.
fn mutated(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0..3, any::<u8>());
    (prop::sample::select(corpus), prop::collection::vec(edit, 0..6)).prop_map(|(mut bytes, edits)| {
        for (at, kind, byte) in edits {
            let at = at.index(bytes.len() + 1);
            match kind {
                0 => bytes.insert(at, byte),
                _ if at >= bytes.len() => {}
                1 => bytes[at] = byte,
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

/// A list of options whose names are known.
fn list() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof!["[0-9]{1,22}[kKmMgG]?", "[a-z]{0,8}", "(/[a-c:\\\\,]{0,4}){1,3}", "[ -~]{0,12}", ".{0,6}"];
    let word = (prop::sample::select(targets::option_names()), prop::option::of(value));
    prop::collection::vec(word, 0..6).prop_map(|words| {
        let text =
            |(name, value): (&str, Option<String>)| value.map_or(name.to_owned(), |value| format!("{name}={value}"));
        words.into_iter().map(text).collect::<Vec<_>>().join(",").into_bytes()
    })
}

fn bounded(at: usize) {
    let (name, target) = targets::TARGETS[at];
    let corpus = corpus(name);
    assert!(corpus.len() > 3, "{name} has no corpus");
    corpus.iter().for_each(|bytes| run(target, bytes));
    let cases = std::env::var("PLYFS_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(3000);
    let bytes = prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..300),
        4 => mutated(corpus),
        if name == "options" { 4 } else { 0 } => list(),
    ];
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config).run(&bytes, |bytes| {
        run(target, &bytes);
        Ok(())
    });
    checked.unwrap_or_else(|why| panic!("{name}: {why}"));
}

macro_rules! tests {
    ($($test:ident $at:literal)*) => {
        $(#[test]
        fn $test() {
            bounded($at);
        })*

        #[test]
        fn every_target_is_run_and_is_a_binary_of_cargo_fuzz() {
            assert_eq!([$($at),*].len(), targets::TARGETS.len());
            let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/Cargo.toml")).unwrap();
            for (name, _) in targets::TARGETS {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            }
        }
    };
}

tests! {
    any_options_are_settings_or_one_line 0
    any_list_of_layers_is_read_or_refused 1
    any_redirect_leads_downwards_or_is_malformed 2
    any_origin_is_read_as_it_is_written 3
    any_metacopy_is_read_as_it_is_written 4
    any_nlink_gives_a_count_that_a_file_can_have 5
    any_protattr_is_its_letters 6
    any_word_is_a_mark_or_says_nothing 7
    any_attribute_is_stored_under_no_mark_and_found_again 8
    any_wh_name_hides_what_it_says 9
    any_index_name_is_its_origin 10
    any_record_of_blocks_is_bounded 11
    any_name_is_one_component 12
    any_owner_is_read_as_it_is_written 13
}
