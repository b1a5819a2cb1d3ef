//! See [`startgun_fuzz::transfer`].
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| startgun_fuzz::transfer(bytes));
