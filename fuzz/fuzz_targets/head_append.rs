#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narthex::testkit::fuzz::head_append(data));
