//! Random samples through every encoding: what is written reads back, in one go or taken up in the middle, at once or one
//! by one; and random bytes are read or refused. The bodies are the fuzz targets'.

use narthex::testkit::fuzz::{
    chunk_float_histogram, chunk_histogram, chunk_histogram_round_trip, chunk_st, chunk_writer, chunk_xor,
    chunk_xor_round_trip, chunk_xor2, chunk_xor2_round_trip,
};
use proptest::prelude::*;

/// Bytes that are often zero, which is what the generators make their most ordinary choices of.
fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![2 => Just(0), 3 => any::<u8>(), 2 => 0_u8..20], 0..len)
}

proptest! {
    #[test]
    fn floats_read_back(data in bytes(1500)) {
        chunk_xor_round_trip(&data);
    }

    #[test]
    fn floats_with_start_timestamps_read_back(data in bytes(1500)) {
        chunk_xor2_round_trip(&data);
    }

    #[test]
    fn histograms_read_back(data in bytes(1500)) {
        chunk_histogram_round_trip(&data);
    }

    #[test]
    fn mixed_samples_are_cut_into_chunks_that_hold_them_all(data in bytes(3000)) {
        chunk_writer(&data);
    }

    #[test]
    fn any_bytes_are_read_or_refused(count in 0_u8..8, data in bytes(300)) {
        let mut data = data;
        // A large count is mostly refused for lack of bits: few samples get further.
        if let Some([high, low]) = data.first_chunk_mut() {
            (*high, *low) = (0, count);
        }
        chunk_xor(&data);
        chunk_xor2(&data);
        chunk_histogram(&data);
        chunk_float_histogram(&data);
        chunk_st(&data);
    }
}
