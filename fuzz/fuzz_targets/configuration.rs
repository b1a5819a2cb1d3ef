//! See [`startgun_fuzz::configuration`].
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| startgun_fuzz::configuration(bytes));
