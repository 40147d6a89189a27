//! Chunk snapshots: any bytes are a record or refused, and what was decoded, written again, decodes to the same.

use crate::chunk::samples;
use crate::head::snapshot::{Extra, Record, decode, put_exemplars, put_series, put_tombstones};
use crate::model::LabelsBuilder;

/// Decodes `data` as a record of a snapshot, and the chunk in it; and as what stands in the file beside.
pub fn head_snapshot(data: &[u8]) {
    for version in 1..=3 {
        // Not written any more.
        let _ = Extra::parse_body(version, data);
    }
    if let Ok(extra) = Extra::parse_body(4, data) {
        assert_eq!(Extra::parse(&extra.to_bytes()), Ok(extra), "the file beside");
    }
    let mut labels = LabelsBuilder::new();
    let Ok(record) = decode(data, &mut labels) else { return };
    let labels = labels.build();
    let mut bytes = Vec::new();
    match &record {
        Record::Series { reference, open } => {
            let open = open.as_ref().map(|open| (open.range, &open.chunk, &open.last));
            put_series(*reference, labels.iter(), open, &mut bytes);
            if let Some((_, chunk, _)) = open {
                let read = samples(chunk.encoding, &chunk.data).take_while(Result::is_ok).count();
                assert!(read <= usize::from(u16::MAX), "{read} samples");
            }
        }
        Record::Tombstones(all) => put_tombstones(all.iter().map(|it| (it.reference, it.range)), &mut bytes),
        Record::Exemplars(all) => put_exemplars(all.iter().map(|it| (it.reference, &it.exemplar)), &mut bytes),
    }
    let mut labels_again = LabelsBuilder::new();
    let again = decode(&bytes, &mut labels_again);
    let text = |record: &Record| match record {
        // Text does not tell all floats apart: their bits do.
        Record::Series { reference, open } => {
            let last = open.as_ref().map(|open| format!("{:?}", open.last));
            format!("{reference} {:?} {last:?}", open.as_ref().map(|open| (open.range, &open.chunk)))
        }
        other => format!("{other:?}"),
    };
    assert!(again.as_ref().is_ok_and(|again| text(again) == text(&record)), "{record:?}, written and read: {again:?}");
    assert_eq!(labels_again.build(), labels, "labels");
}
