//! See [`startgun_fuzz::frames`].
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| startgun_fuzz::frames(bytes));
