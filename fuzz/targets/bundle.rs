//! Fuzzes the target `bundle`: `cargo xtask fuzz bundle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    culvert_fuzz::run("bundle", input);
});
