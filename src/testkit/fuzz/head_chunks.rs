//! Files of head chunks.

use super::block::mend;
use crate::chunk::EncodedChunk;
use crate::head::mapped::format::{HEADER_LEN, chunk_len, put_chunk, put_header, scan};

/// Reads `data` as a file of head chunks, its sums put right. What is sound of it says the same when it is written again,
/// and a file that is cut anywhere gives a part of it.
pub fn head_chunks(data: &[u8]) {
    let mut bytes = data.to_vec();
    let mut at = HEADER_LEN as usize;
    while let Some(len) = bytes.get(at..).and_then(chunk_len).and_then(|len| usize::try_from(len).ok()) {
        let Some(end) = at.checked_add(len).filter(|end| *end <= bytes.len()) else { break };
        mend(&mut bytes, at, end - 4);
        at = end;
    }
    let read = |bytes: &[u8]| {
        let mut all = Vec::new();
        let end = scan(bytes, |found, data| all.push((found, data.to_vec())));
        (all, end)
    };
    let (found, end) = read(&bytes);
    let sound = end.unwrap_or_else(|broken| broken.sound) as usize;
    assert!(sound <= bytes.len());

    let mut again = Vec::new();
    put_header(&mut again);
    for (found, data) in &found {
        let chunk = EncodedChunk { encoding: found.encoding, data: data.clone().into() };
        put_chunk(&mut again, found.series, found.range, &chunk, found.out_of_order);
    }
    let (mut written, end) = read(&again);
    assert_eq!(end, Ok(again.len() as u64));
    // A length may be written longer than it need be, so places differ.
    for ((written, _), (found, _)) in written.iter_mut().zip(&found) {
        written.offset = found.offset;
    }
    assert_eq!(written, found);

    for cut in [sound / 2, sound.saturating_sub(1)] {
        let (part, end) = read(bytes.get(..cut).unwrap_or_default());
        assert_eq!(Some(part.as_slice()), found.get(..part.len()));
        assert!(end.unwrap_or_else(|broken| broken.sound) <= cut as u64);
    }
}
