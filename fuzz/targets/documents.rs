//! Fuzzes the target `documents`: `cargo xtask fuzz documents`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    culvert_fuzz::run("documents", input);
});
