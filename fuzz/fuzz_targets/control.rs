//! See [`startgun_fuzz::control`].
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| startgun_fuzz::control(bytes));
