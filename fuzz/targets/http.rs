//! Fuzzes the target `http`: `cargo xtask fuzz http`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    culvert_fuzz::run("http", input);
});
