//! Fuzzes the target `spiffe_id`: `cargo xtask fuzz spiffe_id`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    culvert_fuzz::run("spiffe_id", input);
});
