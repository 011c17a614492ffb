//! Fuzzes the target `csr`: `cargo xtask fuzz csr`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    culvert_fuzz::run("csr", input);
});
