//! Every binary of this crate: the target of its own name.
#![no_main]

mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for (name, target) in targets::TARGETS {
        if *name == env!("CARGO_BIN_NAME") {
            target(data);
        }
    }
});
