//! See [`startgun_fuzz::dns_query`].
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| startgun_fuzz::dns_query(bytes));
