#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narthex::testkit::fuzz::wal_segment_round_trip(data));
