//! The target `agent` of `bench/fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| jvpn_fuzz::run("agent", data));
