#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narthex::testkit::fuzz::chunk_aggregates(data));
