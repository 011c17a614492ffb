//! Fuzzes the target `token`: `cargo xtask fuzz token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    culvert_fuzz::run("token", input);
});
