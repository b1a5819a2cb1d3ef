//! See [`startgun_fuzz::scenario`].
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| startgun_fuzz::scenario(bytes));
