//! Fuzzes the target `authority`: `cargo xtask fuzz authority`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    culvert_fuzz::run("authority", input);
});
