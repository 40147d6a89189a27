//! A series' out-of-order samples: a small sorted buffer, and the chunks that full ones became.

use super::super::error::Refusal;
use super::super::isolation::Snapshot;
use super::super::open::HistogramKind as _;
use super::super::series::Applied;
use super::Stored;
use crate::chunk::{ChunkError, ChunkWriter, Encoding, Floats, Integers, WrittenChunk};
use crate::model::{Sample, TimeRange, Value};

/// Samples in a buffer: as many as Prometheus's `OutOfOrderCapMax` says by default.
pub(in crate::head) const CAPACITY: usize = 32;

/// A sample in the buffer.
#[derive(Debug)]
struct Held {
    sample: Sample,
    /// The commit that it came with.
    commit: u64,
}

/// A chunk that was a full buffer, or a part of one that held several kinds of samples.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) range: TimeRange,
    pub(super) data: Stored,
    /// How many cuts there were when its samples came.
    pub(super) generation: u64,
    /// The samples of commits that some reader did not see when the chunk was made, each with its commit.
    marks: Option<Box<[(i64, u64)]>>,
    /// Whether those are all of its samples: a reader that sees none of the commits must not see that there is a chunk.
    all_marked: bool,
}

impl Chunk {
    /// Whether a reader sees none of its samples.
    fn is_hidden_from(&self, snapshot: &Snapshot) -> bool {
        let mut marks = self.marks.iter().flat_map(|marks| marks.iter());
        self.all_marked && marks.all(|(_, commit)| !snapshot.sees(*commit))
    }
}

/// What a series has out of order. Absent in most.
#[derive(Debug)]
pub(in crate::head) struct OutOfOrder {
    /// Ascending by time, each time once.
    buffer: Vec<Held>,
    /// In the order of their making, which is that of precedence: what an earlier one has at a time, stays.
    pub(super) chunks: Vec<Chunk>,
    /// How floats without a start timestamp are encoded.
    floats: Encoding,
    /// How many cuts there were before the buffer's samples came.
    generation: u64,
    /// The newest sample that was ever here.
    newest: i64,
}

/// Whether two values are the same, to the bit.
pub(in crate::head) fn same_value(a: &Sample, b: &Value) -> bool {
    match (&a.value, b) {
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (_, Value::Histogram(b)) => Integers::is(a, b),
        (_, Value::FloatHistogram(b)) => Floats::is(a, b),
        _ => false,
    }
}

/// Encodes samples, which ascend: one chunk, unless kinds, counter resets or buckets' bounds part them.
pub(super) fn encode<'a>(
    samples: impl Iterator<Item = &'a Sample>,
    floats: Encoding,
) -> Result<Vec<WrittenChunk>, ChunkError> {
    let mut writer = ChunkWriter::unlimited().with_floats(floats);
    let mut chunks = Vec::with_capacity(1);
    for sample in samples {
        chunks.extend(writer.push(sample)?);
    }
    chunks.extend(writer.finish());
    Ok(chunks)
}

impl OutOfOrder {
    pub(super) fn new(generation: u64, floats: Encoding) -> Self {
        Self { buffer: Vec::new(), chunks: Vec::new(), generation, floats, newest: i64::MIN }
    }

    /// The newest sample that was ever here; `i64::MIN` if there was none.
    pub(in crate::head) fn newest(&self) -> i64 {
        self.newest
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.chunks.is_empty()
    }

    /// From the first to the last sample.
    pub(super) fn span(&self) -> Option<TimeRange> {
        self.span_from(0)
    }

    /// From the first to the last sample that came after the cut `generation`.
    pub(super) fn span_from(&self, generation: u64) -> Option<TimeRange> {
        let buffer = self.buffer.first().zip(self.buffer.last());
        let buffer = buffer.map(|(first, last)| TimeRange::new(first.sample.t, last.sample.t));
        let chunks = self.chunks.iter().filter(|chunk| chunk.generation >= generation);
        let ranges = chunks.map(|chunk| chunk.range).chain(buffer);
        ranges.reduce(|a, b| TimeRange::new(a.min.min(b.min), a.max.max(b.max)))
    }

    /// How many samples fit before the buffer is full.
    pub(super) fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.buffer.len())
    }

    fn find(&self, t: i64) -> Result<&Held, usize> {
        // Samples that are late are often in order among themselves.
        if self.buffer.last().is_none_or(|last| last.sample.t < t) {
            return Err(self.buffer.len());
        }
        let at = self.buffer.partition_point(|held| held.sample.t < t);
        self.buffer.get(at).filter(|held| held.sample.t == t).ok_or(at)
    }

    /// Whether a sample fits into the buffer; a chunk that has one at its time is found by queries alone.
    ///
    /// # Errors
    /// `Duplicate`.
    pub(super) fn check(&self, t: i64, value: &Value) -> Result<Applied, Refusal> {
        match self.find(t) {
            Ok(held) if same_value(&held.sample, value) => Ok(Applied::Same),
            Ok(_) => Err(Refusal::Duplicate { t }),
            Err(_) => Ok(Applied::Appended),
        }
    }

    /// Puts a sample into the buffer.
    ///
    /// # Errors
    /// `Duplicate`.
    pub(super) fn insert(&mut self, sample: &Sample, commit: u64) -> Result<Applied, Refusal> {
        match self.find(sample.t) {
            Ok(held) if same_value(&held.sample, &sample.value) => Ok(Applied::Same),
            Ok(_) => Err(Refusal::Duplicate { t: sample.t }),
            Err(at) => {
                self.buffer.insert(at, Held { sample: sample.clone(), commit });
                self.newest = self.newest.max(sample.t);
                Ok(Applied::Appended)
            }
        }
    }

    /// The buffer as chunks.
    pub(super) fn encode(&self) -> Result<Vec<WrittenChunk>, ChunkError> {
        encode(self.buffer.iter().map(|held| &held.sample), self.floats)
    }

    /// Empties the buffer: its samples are in `chunks`. Every reader sees the commits below `low`.
    pub(super) fn seal(&mut self, chunks: Vec<(TimeRange, Stored)>, low: u64) {
        let generation = self.generation;
        for (range, data) in chunks {
            let mut samples = self.buffer.iter().filter(|held| range.contains(held.sample.t));
            let unseen = samples.clone().filter(|held| held.commit >= low);
            let marks: Box<[(i64, u64)]> = unseen.map(|held| (held.sample.t, held.commit)).collect();
            let all_marked = samples.all(|held| held.commit >= low);
            let marks = Some(marks).filter(|marks| !marks.is_empty());
            self.chunks.push(Chunk { range, data, generation, marks, all_marked });
        }
        self.buffer.clear();
    }

    /// Empties the buffer into chunks in memory.
    pub(super) fn seal_in_memory(&mut self, low: u64) {
        match self.encode() {
            Ok(chunks) => {
                let chunks = chunks.into_iter().map(|it| {
                    let range = TimeRange::new(it.min_time, it.max_time);
                    (range, Stored::Memory(it.chunk))
                });
                self.seal(chunks.collect(), low);
            }
            // Histograms are checked before they come here.
            Err(error) => tracing::error!(%error, "out-of-order samples that cannot be encoded"),
        }
    }

    /// Notices a cut: what is in the buffer from before it becomes a chunk.
    pub(super) fn touch(&mut self, generation: u64, low: u64) {
        if self.generation != generation {
            if !self.buffer.is_empty() {
                self.seal_in_memory(low);
            }
            self.generation = generation;
        }
    }

    /// Forgets the chunks from before the cut `generation`: blocks have them.
    pub(super) fn drop_before(&mut self, generation: u64) {
        self.chunks.retain(|chunk| chunk.generation >= generation);
        self.chunks.shrink_to_fit();
    }

    /// Forgets the samples in the buffer that lie in `range`, and takes over `rewritten` for the chunks.
    pub(super) fn delete(&mut self, range: TimeRange, rewritten: Vec<(usize, Vec<WrittenChunk>)>) {
        self.buffer.retain(|held| !range.contains(held.sample.t));
        for (index, written) in rewritten.into_iter().rev() {
            let Some(chunk) = self.chunks.get(index) else { continue };
            let (generation, marks, all_marked) = (chunk.generation, chunk.marks.clone(), chunk.all_marked);
            let chunks = written.into_iter().map(|it| {
                let span = TimeRange::new(it.min_time, it.max_time);
                // What is deleted is seen by nobody, whoever sees its commit.
                let left = |(t, _): &&(i64, u64)| span.contains(*t) && !range.contains(*t);
                let marks: Box<[_]> = marks.iter().flat_map(|marks| marks.iter()).filter(left).copied().collect();
                let marks = Some(marks).filter(|marks| !marks.is_empty());
                Chunk { range: span, data: Stored::Memory(it.chunk), generation, marks, all_marked }
            });
            self.chunks.splice(index..=index, chunks);
        }
    }

    /// What `snapshot` sees of the samples in `range` that came after the cut `from`, in order of precedence: calls `each`
    /// with a chunk's range, its data, and what of it must not be seen.
    pub(super) fn read(
        &self,
        snapshot: &Snapshot,
        from: u64,
        range: TimeRange,
        mut each: impl FnMut(TimeRange, Stored, Vec<TimeRange>),
    ) {
        let wanted = |chunk: &&Chunk| chunk.generation >= from && chunk.range.overlaps(&range);
        for chunk in self.chunks.iter().filter(wanted).filter(|chunk| !chunk.is_hidden_from(snapshot)) {
            let marks = chunk.marks.iter().flat_map(|marks| marks.iter());
            let unseen = marks.filter(|(_, commit)| !snapshot.sees(*commit));
            let hide = unseen.map(|(t, _)| TimeRange::new(*t, *t)).collect();
            each(chunk.range, chunk.data.clone(), hide);
        }
        let seen = self.buffer.iter().filter(|held| range.contains(held.sample.t) && snapshot.sees(held.commit));
        // As above: it was checked.
        for it in encode(seen.map(|held| &held.sample), self.floats).unwrap_or_default() {
            each(TimeRange::new(it.min_time, it.max_time), Stored::Memory(it.chunk), Vec::new());
        }
    }

    /// The first file of head chunks that a chunk lies in.
    pub(super) fn first_file(&self) -> Option<u32> {
        let file = |chunk: &Chunk| match &chunk.data {
            Stored::Memory(_) => None,
            Stored::Mapped(_, place) => Some(place.file()),
        };
        self.chunks.iter().filter_map(file).min()
    }

    /// Takes over chunks on the disk that a marker stands for. If they are the buffer, and not merely like it, it is empty
    /// now; else its samples are there twice, which is harmless.
    pub(super) fn map(&mut self, chunks: Vec<(TimeRange, Stored)>, samples: usize) {
        let span = |a: TimeRange, b: TimeRange| TimeRange::new(a.min.min(b.min), a.max.max(b.max));
        let mapped = chunks.iter().map(|(range, _)| *range).reduce(span);
        let buffer = self.buffer.first().zip(self.buffer.last());
        let buffer = buffer.map(|(first, last)| TimeRange::new(first.sample.t, last.sample.t));
        let generation = self.generation;
        let chunks =
            chunks.into_iter().map(|(range, data)| Chunk { range, data, generation, marks: None, all_marked: false });
        self.chunks.extend(chunks);
        self.newest = self.newest.max(mapped.map_or(i64::MIN, |range| range.max));
        if samples == self.buffer.len() && mapped == buffer {
            self.buffer.clear();
        }
    }

    /// Bytes of memory.
    pub(super) fn heap_bytes(&self) -> usize {
        let chunk = |chunk: &Chunk| match &chunk.data {
            Stored::Memory(chunk) => chunk.data.len(),
            Stored::Mapped(..) => 0,
        };
        size_of::<Self>()
            + self.buffer.capacity() * size_of::<Held>()
            + self.chunks.capacity() * size_of::<Chunk>()
            + self.chunks.iter().map(chunk).sum::<usize>()
    }
}
