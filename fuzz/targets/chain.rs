//! Fuzzes the target `chain`: `cargo xtask fuzz chain`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    culvert_fuzz::run("chain", input);
});
