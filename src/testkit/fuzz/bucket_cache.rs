//! What is kept on a local disk of a bucket: headers of indexes, and the list of blocks.

use std::path::Path;

use bytes::Bytes;

use super::block::{be_u32, mend};
use crate::bucket::{list_written_again, open_header_file};
use crate::codec::Reader;

/// Reads `data` as a kept header. What it says of a pair is what it says of the pairs of a name.
pub fn index_header(data: &[u8]) {
    let mut bytes = data.to_vec();
    let word = |bytes: &[u8], at: usize| bytes.get(at..).and_then(|rest| Reader::new(rest).be_u64().ok());
    let Some(toc) = bytes.len().checked_sub(20) else { return };
    mend(&mut bytes, toc, toc + 16);
    // The index's own table of contents stands before the file's.
    if let Some(index_toc) = toc.checked_sub(52) {
        mend(&mut bytes, index_toc, index_toc + 48);
    }
    let (Some(table), Some(symbols), Some(tail)) = (word(&bytes, 6), word(&bytes, toc), word(&bytes, toc + 8)) else {
        return;
    };
    for section in [symbols, tail] {
        if let Ok(section) = usize::try_from(section)
            && let Some(len) = be_u32(&bytes, section)
        {
            mend(&mut bytes, section + 4, section + 4 + len);
        }
    }
    let size = table.saturating_add((toc as u64).saturating_sub(tail));
    let bytes = Bytes::from(bytes);
    let Ok(header) = open_header_file(Path::new("index-header"), &bytes, "index", size) else { return };
    assert!(header.section_bytes() <= bytes.len() + 52, "more is held than is there");
    for name in header.label_names() {
        let mut places = Vec::new();
        if header.list_places(name, "", |value, place| places.push((value.to_owned(), place))).is_err() {
            continue;
        }
        let values: Result<Vec<_>, _> = header.label_values(name, "").collect();
        assert!(values.is_ok_and(|values| values.iter().eq(places.iter().map(|(value, _)| value))));
        for (value, place) in places.iter().take(100) {
            assert!(place.end.is_none_or(|end| place.offset < end && end <= size), "{place:?}");
            assert_eq!(header.list_place(name, value).ok().flatten().as_ref(), Some(place), "{name}={value:?}");
        }
    }
}

/// Reads `data` as a kept list of blocks. What can be read is the same when it is written and read again.
pub fn bucket_list(data: &[u8]) {
    let mut bytes = data.to_vec();
    if let Some((content, sum)) = bytes.split_last_chunk_mut() {
        *sum = crc32fast::hash(content).to_be_bytes();
    }
    let Ok(written) = list_written_again(&bytes, "b") else { return };
    assert!(list_written_again(&written, "b").is_ok_and(|again| again == written));
}
