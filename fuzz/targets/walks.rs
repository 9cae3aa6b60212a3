#![no_main]

#[path = "../bodies/walks.rs"]
mod walks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| walks::check(data));
