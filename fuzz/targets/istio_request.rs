//! Fuzzes the target `istio_request`: `cargo xtask fuzz istio_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    culvert_fuzz::run("istio_request", input);
});
