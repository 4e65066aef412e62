#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| suki_relay_fuzz::spool::try_one(input));
