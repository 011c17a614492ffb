//! Fuzzes the target `ca_messages`: `cargo xtask fuzz ca_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    culvert_fuzz::run("ca_messages", input);
});
