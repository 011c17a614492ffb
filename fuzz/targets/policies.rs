//! Fuzzes the target `policies`: `cargo xtask fuzz policies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    culvert_fuzz::run("policies", input);
});
