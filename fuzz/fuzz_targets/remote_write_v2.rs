#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narthex::testkit::fuzz::remote_write_v2(data));
