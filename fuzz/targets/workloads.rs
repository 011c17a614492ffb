//! Fuzzes the target `workloads`: `cargo xtask fuzz workloads`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    culvert_fuzz::run("workloads", input);
});
