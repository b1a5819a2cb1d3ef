//! See [`startgun_fuzz::datagrams`].
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| startgun_fuzz::datagrams(bytes));
