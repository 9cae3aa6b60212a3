#![no_main]

#[path = "../bodies/texts.rs"]
mod texts;

libfuzzer_sys::fuzz_target!(|data: &[u8]| texts::check(data));
