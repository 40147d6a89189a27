//! Indexes, segments, tombstones, `meta.json` and matchers.
//!
//! Sums would stop nearly every input at the door, so they are put right first: what is looked for are the bytes that a
//! sum vouches for and that are wrong all the same.

use std::path::Path;

use crate::block::{Block, BlockMeta, BlockRead, BlockWriter, Tombstones, Ulid};
use crate::codec::{Reader, crc32c};
use crate::fs::Env;
use crate::index::{Index, IndexWriter, PostingsSource, SeriesId, postings_for_matchers};
use crate::model::{Labels, MatchOp, Matcher};

/// Overwrites four bytes with the sum of others, if all of them are there.
pub(super) fn mend(bytes: &mut [u8], from: usize, to: usize) {
    if let Some(sum) = bytes.get(from..to).map(crc32c)
        && let Some(place) = bytes.get_mut(to..to.saturating_add(4))
    {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

pub(super) fn be_u32(bytes: &[u8], at: usize) -> Option<usize> {
    Reader::new(bytes.get(at..)?).be_u32().ok().map(|value| value as usize)
}

/// Puts right the sums of an index, as far as its sections can be found.
fn mend_index(bytes: &mut [u8]) {
    let Some(toc) = bytes.len().checked_sub(52) else { return };
    mend(bytes, toc, toc + 48);
    let mut offsets = [0; 6];
    for (number, offset) in offsets.iter_mut().enumerate() {
        let word = bytes.get(toc + 8 * number..).and_then(|rest| Reader::new(rest).be_u64().ok());
        *offset = word.and_then(|word| usize::try_from(word).ok()).unwrap_or(usize::MAX);
    }
    let [symbols, series, label_indices, _, postings, postings_table] = offsets;
    for section in [symbols, postings_table] {
        if let Some(len) = be_u32(bytes, section) {
            mend(bytes, section + 4, section + 4 + len);
        }
    }
    let mut at = series;
    while at < label_indices {
        at = at.next_multiple_of(16);
        let Some(mut record) = bytes.get(at..).map(Reader::new) else { break };
        let Ok(len) = record.uvarint() else { break };
        let Ok(len) = usize::try_from(len) else { break };
        let start = at + record.offset();
        let Some(end) = start.checked_add(len) else { break };
        mend(bytes, start, end);
        at = end.saturating_add(4);
    }
    let mut at = postings.saturating_add(3) & !3;
    while at < postings_table {
        let Some(len) = be_u32(bytes, at) else { break };
        mend(bytes, at + 4, at + 4 + len);
        at += len + 8;
    }
}

/// Opens `data` as an index and reads all that it says. What verifies, and is written again, must say the same.
pub fn index(data: &[u8]) {
    let mut bytes = data.to_vec();
    mend_index(&mut bytes);
    let Ok(index) = Index::open("index", bytes.into()) else { return };
    let verified = index.verify(|_, _, _| Ok(())).is_ok();
    let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
    let ids = index.all().map(crate::index::Postings::into_vec).unwrap_or_default();
    for id in ids.iter().take(1000).copied().chain([0, 1, u32::MAX]) {
        let read = index.series(SeriesId(id), &mut labels, &mut chunks);
        assert_eq!(read.is_ok(), index.labels(SeriesId(id)).is_ok() && read.is_ok());
    }
    let names: Vec<_> = index.label_names().map(str::to_owned).collect();
    for name in names.iter().take(50) {
        let values: Result<Vec<_>, _> = index.label_values(name, "").collect();
        let Ok(values) = values else { continue };
        assert!(values.is_sorted());
        if let Some(middle) = values.get(values.len() / 2) {
            let from: Result<Vec<_>, _> = index.label_values(name, middle).collect();
            assert_eq!(from.ok().as_deref(), values.get(values.len() / 2..));
            for (op, value) in [(MatchOp::Regex, ".+"), (MatchOp::NotEqual, *middle), (MatchOp::NotRegex, "[a-m].*")] {
                if let Ok(matcher) = Matcher::new(op, name.as_str(), value) {
                    let _ = postings_for_matchers(&index, &[matcher]);
                }
            }
        }
    }
    if verified {
        same_when_written_again(&index, &ids);
    }
}

fn same_when_written_again(index: &Index, ids: &[u32]) {
    let (env, _) = Env::simulated(1);
    let path = Path::new("/index");
    let Ok(mut writer) = IndexWriter::create(&env.fs, path) else { return };
    for symbol in index.symbols() {
        assert!(symbol.is_ok_and(|symbol| writer.add_symbol(symbol).is_ok()), "a symbol of a verified index");
    }
    let (mut labels, mut chunks) = (Labels::empty(), Vec::new());
    let mut written = Vec::new();
    for id in ids {
        assert!(index.series(SeriesId(*id), &mut labels, &mut chunks).is_ok());
        // Chunks that overlap, and empty values, can be read and are not written.
        let Ok(id) = writer.add_series(&labels, &chunks) else { return };
        written.push((id, labels.clone(), chunks.clone()));
    }
    assert!(writer.finish().is_ok());
    let again = env.fs.map(path).map_err(drop).and_then(|bytes| Index::open("again", bytes).map_err(drop));
    assert!(again.is_ok(), "an index of our own does not open");
    let Ok(again) = again else { return };
    assert!(again.verify(|_, _, _| Ok(())).is_ok());
    for (id, before, chunks_before) in written {
        assert!(again.series(id, &mut labels, &mut chunks).is_ok());
        assert_eq!((&labels, &chunks), (&before, &chunks_before));
    }
}

/// Reads `data` as the segment of a block; the first eight bytes say where.
pub fn segment(data: &[u8]) {
    let (env, _) = Env::simulated(1);
    let ulid = Ulid::nil();
    let dir = Path::new("/data").join(ulid.to_string());
    let Ok(writer) = BlockWriter::create(&env.fs, Path::new("/data"), BlockMeta::new(ulid, 0, 1)) else { return };
    drop(writer);
    let Some((place, segment)) = data.split_first_chunk() else { return };
    let reference = u64::from_le_bytes(*place);
    let at = (reference & 0xffff_ffff) as usize;
    let mut segment = segment.to_vec();
    if let Some(mut record) = segment.get(at..).map(Reader::new)
        && let Ok(len) = record.uvarint()
        && let Ok(len) = usize::try_from(len)
        && let Some(end) = (at + record.offset()).checked_add(len.saturating_add(1))
    {
        let start = at + record.offset();
        mend(&mut segment, start, end);
    }
    let write = |name: &str, content: &[u8]| {
        let path = dir.join(name);
        path.parent().is_some_and(|parent| env.fs.create_dir_all(parent).is_ok())
            && env.fs.create(&path).and_then(|mut file| file.append(content)).is_ok()
    };
    let Ok(index) = IndexWriter::create(&env.fs, Path::new("/empty")) else { return };
    assert!(index.finish().is_ok());
    let index = env.fs.read(Path::new("/empty")).unwrap_or_default();
    assert!(write("index", &index) && write("meta.json", &BlockMeta::new(ulid, 0, 1).to_json()));
    assert!(write("chunks/000001", &segment));
    let Ok(block) = Block::open(&*env.fs, &dir) else { return };
    assert!(block.verify().is_ok(), "a block without series");
    let meta = |reference| crate::index::ChunkMeta { reference, min_time: 0, max_time: 0 };
    for reference in [reference, reference & 0xffff_ffff, 8] {
        if let Ok((byte, data)) = block.raw_chunk(reference) {
            let chunk = block.chunk(&meta(reference));
            assert!(chunk.is_err() || chunk.is_ok_and(|chunk| chunk.encoding.byte() == byte && chunk.data == data));
        }
    }
}

/// Reads `data` as tombstones. What can be read is the same when it is written and read again.
pub fn tombstones(data: &[u8]) {
    let mut bytes = data.to_vec();
    if let Some(end) = bytes.len().checked_sub(4) {
        mend(&mut bytes, 5, end);
    }
    let file = Path::new("tombstones");
    let Ok(read) = Tombstones::parse(file, &bytes) else { return };
    let again = Tombstones::parse(file, &read.to_bytes());
    assert!(again.as_ref().is_ok_and(|again| *again == read), "{read:?} became {again:?}");
}

/// Reads `data` as a `meta.json`. What can be read is the same when it is written and read again.
pub fn meta_json(data: &[u8]) {
    let file = Path::new("meta.json");
    let Ok(read) = BlockMeta::parse(file, data) else { return };
    let json = read.to_json();
    let again = BlockMeta::parse(file, &json);
    assert!(again.as_ref().is_ok_and(|again| *again == read), "{read:?} became {again:?}");
    assert!(again.is_ok_and(|again| again.to_json() == json));
}

/// Takes the first line for an expression and the others for values: a matcher answers as the automaton alone does.
pub fn matcher(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let pattern = lines.next().unwrap_or_default();
    let Ok(matcher) = Matcher::new(MatchOp::Regex, "name", pattern) else { return };
    let Some(automaton) = Matcher::automaton(pattern) else { return };
    let texts = matcher.set_matches().unwrap_or_default().iter().map(String::as_str).take(100);
    let lines: Vec<_> = lines.collect();
    for value in lines.iter().copied().chain([matcher.prefix(), "", "a"]).chain(texts) {
        let expected = automaton.is_match(value);
        assert_eq!(matcher.matches(value), expected, "{pattern:?} on {value:?}");
        assert!(!expected || value.starts_with(matcher.prefix()), "{pattern:?} on {value:?}");
    }
}
